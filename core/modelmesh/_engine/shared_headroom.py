"""What providers say of their rate limits, passed between processes: strategies of all choose by the same figures.

Only what changed materially since anybody told it is told, so that the number of messages follows the limits and not
the number of requests or processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from modelmesh._engine.kept_headroom import KeptHeadroom, is_material
from modelmesh.interfaces.provider import RateLimitStatus

if TYPE_CHECKING:
    from modelmesh._engine.provider_service import ProviderService
    from modelmesh._engine.shared_facts import Fact, SharedFacts


class SharedHeadroom:
    """Tells other processes what answers said of rate limits, and takes theirs over.

    Args:
        facts: How processes tell one another.
        providers: By configured name.
        kept: Where what is told is written down besides.
    """

    def __init__(
        self, facts: SharedFacts, providers: Mapping[str, ProviderService], kept: KeptHeadroom | None = None
    ) -> None:
        self._facts = facts
        self._providers = providers
        self._kept = kept
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
            if self._kept is not None:
                self._kept.note(provider, now)
            return {"provider": name, "status": asdict(now)}

        self._facts.tell("headroom", name, fact, lost=self._forget)

    def _forget(self, said: Fact) -> None:
        """Have the next answer told, whatever it says: others may not have heard this one."""
        self._known.pop(said["provider"], None)

    def _take(self, said: Fact) -> None:
        provider = self._providers[said["provider"]]
        status = RateLimitStatus(**said["status"])
        self._known[provider.name] = status
        provider.take_rate_limits(status, told=False)
