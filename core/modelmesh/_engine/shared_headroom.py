"""What providers say of their rate limits, passed between processes: strategies of all choose by the same figures.

Only what changed materially since anybody told it is told, so that the number of messages follows the limits and not
the number of requests or processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from modelmesh.interfaces.provider import RateLimitStatus

if TYPE_CHECKING:
    from modelmesh._engine.provider_service import ProviderService
    from modelmesh._engine.shared_facts import Fact, SharedFacts

MATERIAL_SHARE = 0.05
"""Part of a limit by which what remains must have changed to be told."""


class SharedHeadroom:
    """Tells other processes what answers said of rate limits, and takes theirs over."""

    def __init__(self, facts: SharedFacts, providers: Mapping[str, ProviderService]) -> None:
        self._facts = facts
        self._providers = providers
        self._known: dict[str, RateLimitStatus] = {}
        self._waiting: set[str] = set()

    def attach(self) -> None:
        """Hear of every change from now on."""
        for provider in self._providers.values():
            provider.on_rate_limits = self._note
        self._facts.on("headroom", self._take)

    def _note(self, provider: ProviderService, status: RateLimitStatus) -> None:
        """Note what an answer said; runs on the request's path, and mostly ends at one of the comparisons."""
        name = provider.name
        if name in self._waiting or not is_material(self._known.get(name), status):
            return
        self._waiting.add(name)

        def fact() -> Fact | None:
            self._waiting.discard(name)
            now = provider.rate_limits
            if now is None or not is_material(self._known.get(name), now):
                return None  # somebody else has told it meanwhile
            self._known[name] = now
            return {"provider": name, "status": asdict(now)}

        self._facts.tell("headroom", name, fact)

    def _take(self, said: Fact) -> None:
        provider = self._providers[said["provider"]]
        status = RateLimitStatus(**said["status"])
        self._known[provider.name] = status
        provider.take_rate_limits(status, told=False)


def is_material(before: RateLimitStatus | None, now: RateLimitStatus) -> bool:
    """Whether what remains is so different that others would choose differently."""
    if before is None:
        return True
    return _differ(before.requests_remaining, now.requests_remaining, now.requests_limit) or _differ(
        before.tokens_remaining, now.tokens_remaining, now.tokens_limit
    )


def _differ(before: int | None, now: int | None, limit: int | None) -> bool:
    if before is None or now is None:
        return before is not now
    if (before <= 0) is not (now <= 0):
        return True
    return abs(before - now) >= max(1.0, MATERIAL_SHARE * (limit or before))
