"""What providers said of their rate limits, written down: for processes that start later, and for people who ask.

One record a provider, written off the request's path, when what is left has changed materially and at most once a
second. Whoever writes last knows most; nothing is lost that the next answer would not bring.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from modelmesh.errors import ModelMeshError
from modelmesh.interfaces.provider import RateLimitStatus

if TYPE_CHECKING:
    from modelmesh._engine.loop_thread import LoopThread
    from modelmesh._engine.provider_service import ProviderService
    from modelmesh.interfaces.runtime import Clock
    from modelmesh.interfaces.state_store import StateStore

MATERIAL_SHARE = 0.05
"""Part of a limit by which what remains must have changed to be told."""

PACE_SECONDS = 1.0
"""Between two records of one provider."""

LONGEST_LOOK_SECONDS = 300.0
"""How far back the present pace is taken from."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a provider said, and when.

    Attributes:
        at: Unix time.
        status: As it stood then.
    """

    at: float
    status: RateLimitStatus

    @property
    def resets_at(self) -> float | None:
        """Unix time at which the window is fresh; None when the provider did not say."""
        return None if self.status.reset_seconds is None else self.at + self.status.reset_seconds


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest word of a provider and an earlier one of the same window, for the pace between them."""

    newest: Sighting
    since: Sighting

    def followed_by(self, newest: Sighting) -> Seen:
        """Return it with a newer word."""
        since, before = self.since, self.newest
        over = before.resets_at is not None and newest.at >= before.resets_at
        if over or newest.at - since.at > LONGEST_LOOK_SECONDS or _has_more(newest.status, before.status):
            since = newest
        return Seen(newest, since)

    def runs_out_at(self) -> float | None:
        """Return when nothing is left if it goes on like this; None when that is not before the window's end."""
        moments = [
            moment
            for moment in (
                self._runs_out(self.since.status.requests_remaining, self.newest.status.requests_remaining),
                self._runs_out(self.since.status.tokens_remaining, self.newest.status.tokens_remaining),
            )
            if moment is not None
        ]
        ends = self.newest.resets_at
        first = min(moments, default=None)
        return None if first is None or (ends is not None and first >= ends) else first

    def _runs_out(self, before: int | None, left: int | None) -> float | None:
        passed = self.newest.at - self.since.at
        if left == 0:
            return self.newest.at
        if before is None or left is None or passed <= 0 or before <= left:
            return None
        return self.newest.at + left * passed / (before - left)

    def as_of(self, now: float) -> RateLimitStatus:
        """Return the status as it has to be by now: the window runs on, and is fresh once it is over."""
        status, ends = self.newest.status, self.newest.resets_at
        if ends is None:
            return status
        if now < ends:
            # Written by a clock that is ahead, it would hold for longer than the provider ever said.
            return replace(status, reset_seconds=min(status.reset_seconds or 0.0, ends - now))
        return RateLimitStatus(
            status.requests_limit, status.tokens_limit, None, status.requests_limit, status.tokens_limit
        )


class KeptHeadroom:
    """Writes sightings to the store, and reads them there.

    Args:
        store: Where.
        providers: By configured name.
        clock: Time.
        loop: Where it is written.
    """

    def __init__(
        self, store: StateStore, providers: Mapping[str, ProviderService], clock: Clock, loop: LoopThread
    ) -> None:
        self._store = store
        self._providers = providers
        self._clock = clock
        self._loop = loop
        self._seen: dict[str, Seen] = {}
        self._waiting: set[str] = set()
        self._written_at: dict[str, float] = {}

    def attach(self) -> None:
        """Hear of every answer from now on, where nobody else does who passes it on."""
        for provider in self._providers.values():
            provider.on_rate_limits = self.note

    def note(self, provider: ProviderService, status: RateLimitStatus) -> None:
        """Note what an answer said; runs on the request's path, and mostly ends at one of the comparisons."""
        name = provider.name
        seen = self._seen.get(name)
        if name in self._waiting or not is_material(None if seen is None else seen.newest.status, status):
            return
        self._waiting.add(name)
        with suppress(ModelMeshError):  # the mesh is being shut down, and writes what waits
            self._loop.start(self._write(name))

    async def _write(self, name: str) -> None:
        wait = self._written_at.get(name, float("-inf")) + PACE_SECONDS - self._clock.monotonic()
        if wait > 0:
            await self._clock.sleep(wait)
        await self._save(name)

    async def finish(self) -> None:
        """Write what still waits."""
        for name in list(self._waiting):
            await self._save(name)

    async def _save(self, name: str) -> None:
        if name not in self._waiting:
            return
        self._waiting.discard(name)
        self._written_at[name] = self._clock.monotonic()
        status = self._providers[name].rate_limits
        if status is None:
            return
        sighting = Sighting(self._clock.time(), status)
        before = self._seen.get(name)
        seen = self._seen[name] = Seen(sighting, sighting) if before is None else before.followed_by(sighting)
        with suppress(ModelMeshError):  # the next answer says it again
            await self._store.save(_key(name), json.dumps(asdict(seen)).encode())

    async def read(self) -> dict[str, Seen]:
        """Return what is written of each provider.

        Raises:
            StateStoreError: The store does not answer.
        """
        found: dict[str, Seen] = {}
        for name in self._providers:
            record = await self._store.load(_key(name))
            seen = None if record is None else _parsed(record.data)
            if seen is not None:
                found[name] = seen
        return found

    async def restore(self) -> None:
        """Let strategies know what earlier processes were told, for windows that still run."""
        with suppress(ModelMeshError):
            now = self._clock.time()
            for name, seen in (await self.read()).items():
                provider, ends = self._providers[name], seen.newest.resets_at
                if provider.rate_limits is None and ends is not None and now < ends:
                    provider.take_rate_limits(seen.as_of(now), told=False)


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


def _has_more(now: RateLimitStatus, before: RateLimitStatus) -> bool:
    pairs = (
        (now.requests_remaining, before.requests_remaining),
        (now.tokens_remaining, before.tokens_remaining),
    )
    return any(new is not None and old is not None and new > old for new, old in pairs)


def _key(name: str) -> str:
    return f"headroom/{name}"


def _parsed(data: bytes) -> Seen | None:
    """Read a record; what cannot be read is as if it were not there."""
    try:
        record = json.loads(data)
        return Seen(_sighting(record["newest"]), _sighting(record["since"]))
    except (ValueError, KeyError, TypeError):
        return None


def _sighting(record: Mapping[str, Any]) -> Sighting:
    return Sighting(float(record["at"]), RateLimitStatus(**record["status"]))
