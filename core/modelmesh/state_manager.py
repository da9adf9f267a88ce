"""StateManager: health, usage and rests survive a restart.

The whole mesh is one record of the state store, with a format number. It is read at start, where rests are
shortened by the time that passed, and written as the sync policy says. A store that fails never fails a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from modelmesh.errors import ModelMeshError, StateStoreError
from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.state_store import StoreLock
from modelmesh.passed_over import PassedOver
from modelmesh.state import ModelState, ProviderState
from modelmesh.state_encoding import StateEncoding, decode

if TYPE_CHECKING:
    from modelmesh._engine.pool import CapabilityPool
    from modelmesh._engine.provider_service import ProviderService
    from modelmesh._engine.registry import ModelRegistry
    from modelmesh._engine.telemetry import Telemetry
    from modelmesh.interfaces.runtime import Clock
    from modelmesh.interfaces.state_store import StateStore

Part = TypeVar("Part")

FORMAT = 1
KEY = "state/mesh"
CORRUPT_KEY = "state/mesh.corrupt"
ROUTING_KEY = "state/routing"
"""Where processes that share a store keep who rests just now, whatever the sync policy."""
COALESCE_SECONDS = 0.1
"""Changes within this time are one write, under the policy ``immediate``."""
WRITING_SECONDS = 5.0
"""After which a process that holds the lock of the state is taken for dead: a write takes a moment."""

TELL_AGAIN_SECONDS = 60.0
"""After which trouble with writing that goes on is told again, however often it is tried meanwhile."""

SyncPolicy = Literal["in-memory", "sync-on-boundary", "periodic", "immediate"]


@dataclass(slots=True)
class StandbyState:
    """A model that rests in a pool.

    Attributes:
        reason: Why.
        remaining: Seconds until it may return, when this was taken; None until somebody recovers it.
        ejections: Rests in a row.
        limits: The limits it may rest for, each with its amount; where they are others, the rest is over.
    """

    reason: str
    remaining: float | None
    ejections: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class PersistedPoolState:
    """A pool as it is kept: who takes traffic, who rests and why, and how often that changed."""

    active_models: list[str] = field(default_factory=list)
    standby_models: dict[str, StandbyState] = field(default_factory=dict)
    rotation_count: int = 0


@dataclass(slots=True)
class SystemState:
    """A whole mesh as it is kept; ``timestamp`` is the Unix time it was taken at."""

    models: dict[str, ModelState] = field(default_factory=dict)
    providers: dict[str, ProviderState] = field(default_factory=dict)
    pools: dict[str, PersistedPoolState] = field(default_factory=dict)
    timestamp: float = 0.0
    version: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {
            "version": self.version,
            "timestamp": self.timestamp,
            "models": {name: state.to_dict() for name, state in self.models.items()},
            "providers": {name: state.to_dict() for name, state in self.providers.items()},
            "pools": {
                name: {
                    "active_models": pool.active_models,
                    "standby_models": {
                        model: {
                            "reason": each.reason,
                            "remaining": each.remaining,
                            "ejections": each.ejections,
                            "limits": dict(each.limits),
                        }
                        for model, each in pool.standby_models.items()
                    },
                    "rotation_count": pool.rotation_count,
                }
                for name, pool in self.pools.items()
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SystemState:
        """Read what `to_dict` wrote.

        Raises:
            StateStoreError: It was written by a newer version.
            ValueError: It is no such state; says where.
        """
        version: Any = data.get("version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ValueError("the state has no version")
        if version > FORMAT:
            raise StateStoreError(
                f"the saved state has format {version}, which a newer version wrote; this one reads up to {FORMAT}."
                " Upgrade, or reset the state with `modelmesh state reset`"
            )
        try:
            return cls(
                _each(data, "models", ModelState.from_dict),
                _each(data, "providers", ProviderState.from_dict),
                _each(data, "pools", _pool_of),
                _seconds(data["timestamp"]),
                version,
            )
        except KeyError as error:
            raise ValueError(f"the state is not complete: {error} is missing") from None
        except (TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"the state has a part of the wrong kind: {error}") from None


def _each(data: Mapping[str, Any], kind: str, read: Callable[[Any], Part]) -> dict[str, Part]:
    """Read every model, provider or pool; an error says which one is none."""
    parts = {}
    for name, part in data[kind].items():
        try:
            parts[name] = read(part)
        except KeyError as error:
            raise ValueError(f"the state is not complete: {error} is missing in {kind}.{name}") from None
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"the state is wrong in {kind}.{name}: {error}") from None
    return parts


def _pool_of(data: Mapping[str, Any]) -> PersistedPoolState:
    return PersistedPoolState(
        list(data["active_models"]),
        {
            model: StandbyState(
                str(each["reason"]),
                None if each["remaining"] is None else _seconds(each["remaining"]),
                int(each.get("ejections", 0)),
                dict(each.get("limits", {})),
            )
            for model, each in data["standby_models"].items()
        },
        int(data.get("rotation_count", 0)),
    )


def _seconds(value: Any) -> float:
    """Read a time; JSON of Python's knows numbers that are none."""
    seconds = float(value)
    if not isfinite(seconds):
        raise ValueError(f"the state has a time that is none: {seconds}")
    return seconds


@dataclass(slots=True)
class SyncStatus:
    """How far what is kept lies behind; times are Unix times, None when there is none.

    Attributes:
        last_sync: When state was last written.
        next_sync: When it is written next, under ``periodic``.
        pending_changes: Whether anything changed since, as 0 or 1.
        locked: Whether somebody writes just now.
        lock_owner: Not known across processes; None.
    """

    last_sync: float | None = None
    next_sync: float | None = None
    pending_changes: int = 0
    locked: bool = False
    lock_owner: str | None = None


class StateManager:
    """Reads and writes a mesh's state.

    Args:
        store: Where it is kept.
        registry: The models.
        providers: By ID.
        pools: By name.
        clock: Time.
        telemetry: Told of trouble.
        policy: When state is written.
        interval: Seconds between writes under ``periodic``.
        lock_timeout: Seconds to wait for another process that writes; None to write without asking.
        lock_retry: Seconds between two looks.
        encoding: How it is written; whatever way it was written before is read.
    """

    def __init__(
        self,
        store: StateStore,
        registry: ModelRegistry,
        providers: Mapping[str, ProviderService],
        pools: Mapping[str, CapabilityPool],
        clock: Clock,
        telemetry: Telemetry,
        *,
        policy: SyncPolicy,
        interval: float = 300.0,
        lock_timeout: float | None = 30.0,
        lock_retry: float = 1.0,
        encoding: StateEncoding | None = None,
    ) -> None:
        self._store = store
        self._registry = registry
        self._providers = providers
        self._pools = pools
        self._clock = clock
        self._telemetry = telemetry
        self.policy = policy
        self._interval = interval
        self._lock_timeout = lock_timeout
        self._lock_retry = lock_retry
        self._encoding = encoding or StateEncoding()
        self._last_sync: float | None = None
        self._seen: object = None
        self._saving = False
        self._version: int | None = None  # of the record that was read or written last; None before the first look
        self._trouble, self._told_at = "", 0.0

    # --- taking and applying ------------------------------------------------------------

    def snapshot(self) -> SystemState:
        """Return the state of the mesh now."""
        return SystemState(
            {model.name: model.state for model in self._registry.list_models()},
            {name: provider.state for name, provider in self._providers.items()},
            {name: _persisted(pool) for name, pool in self._pools.items()},
            self._clock.time(),
        )

    def apply(self, state: SystemState) -> PassedOver:
        """Make the mesh what a state says; return the models, providers and pools it does not have."""
        passed = max(0.0, self._clock.time() - state.timestamp)
        for name, saved in state.models.items():
            model = self._registry.get_model(name)
            if model is not None:
                _copy(saved, model.state)
                model.state.cooldown_remaining = max(0.0, saved.cooldown_remaining - passed)
        for name, kept in state.providers.items():
            provider = self._providers.get(name)
            if provider is not None:
                _copy(kept, provider.state)
                if not (kept.available and kept.auth_valid):
                    provider.deactivated = "restored"
        for name, pool_state in state.pools.items():
            pool = self._pools.get(name)
            if pool is None:
                continue
            for model_id, standby in pool_state.standby_models.items():
                member = pool.members.get(model_id)
                if member is None or (standby.limits and standby.limits != member.limits_behind(standby.reason)):
                    continue
                left = None if standby.remaining is None else standby.remaining - passed
                pool.restore(model_id, standby.reason, rest=left, ejections=standby.ejections, known_for=passed)
        for model in self._registry.list_models():
            model.settle_status()
        for provider in self._providers.values():
            # A provider none of whose models rests any longer may be called.
            if provider.deactivated is not None and not any(
                not member.active for model in provider.models for member in model.members
            ):
                provider.deactivated = None
                provider.state.available = provider.state.auth_valid = True
            provider.count_active()
        models = {model.name for model in self._registry.list_models()}
        return PassedOver.of(state, models, self._providers, self._pools)

    # --- the store -----------------------------------------------------------------------------

    async def load(self) -> SystemState | None:
        """Read the saved state and apply it; None when there is none.

        A record that cannot be read is kept aside and traced, and the mesh begins anew.

        Raises:
            StateStoreError: The store does not answer, or raised whatever else, or a newer version wrote the state.
        """
        try:
            return await self._load()
        except ModelMeshError:
            raise
        except Exception as error:
            raise self._store_erred("reading the state from", error) from error

    async def _load(self) -> SystemState | None:
        record = await self._store.load(KEY)
        state = None
        try:
            if record is not None:
                state = SystemState.from_dict(decode(record.data))
        except ValueError as error:
            assert record is not None
            await self._store.save(CORRUPT_KEY, record.data)
            self._telemetry.trace(
                Severity.WARNING,
                "storage",
                f"the saved state cannot be read; it is kept as {CORRUPT_KEY!r}, and the mesh begins anew",
                error=str(error),
            )
        self._version = 0 if record is None else record.version
        if state is None:
            return None
        passed = self.apply(state)
        told: dict[str, Any] = {
            "models": len(state.models) - len(passed.models),
            "age_seconds": round(self._clock.time() - state.timestamp, 1),
        }
        if passed:  # no trouble: a configuration changes
            told["passed_over"] = str(passed)
        self._telemetry.trace(Severity.INFO, "storage", "state is restored", told)
        return state

    async def save(self) -> bool:
        """Write the state; trouble is traced and returned as False, never raised."""
        seen = self._mark()
        self._saving = True
        try:
            lock = await self._lock()
            try:
                # A mesh that was given another store while it ran did not begin with what is there; and while
                # processes are upgraded one by one, a newer one may have written it since.
                found = await self._store.stat(KEY)
                if found is not None and found.version != self._version:
                    await refuse_newer(self._store)
                saved = await self._store.save(KEY, self._encoding.encode(self.snapshot().to_dict()))
                self._version = None if saved is None else saved.version
            finally:
                if lock is not None:
                    await self._store.unlock(lock)
        except Exception as error:  # a store may raise anything, and the mesh's end goes on without it
            known = error if isinstance(error, ModelMeshError) else self._store_erred("writing the state to", error)
            self._tell(str(known))
            return False
        finally:
            self._saving = False
        self._seen = seen
        self._last_sync = self._clock.time()
        self._trouble = ""
        return True

    def _tell(self, trouble: str) -> None:
        """Trace that state could not be written; under the policy ``immediate`` that is tried ten times a second."""
        now = self._clock.monotonic()
        if trouble != self._trouble or now >= self._told_at + TELL_AGAIN_SECONDS:
            self._trouble, self._told_at = trouble, now
            self._telemetry.trace(Severity.ERROR, "storage", "state could not be saved", error=trouble)

    def _store_erred(self, during: str, error: Exception) -> StateStoreError:
        """Build the error that says which store raised what, where, and in which words."""
        from modelmesh._engine.origin import store_erred

        return store_erred(error, type(self._store), during=during, redact=self._telemetry.dispatcher.redactor.text)

    async def _lock(self) -> StoreLock | None:
        """Take the lock that keeps two processes from writing at once, where they could."""
        if self._lock_timeout is None or not self._store.guarantees.shared_between_processes:
            return None
        ends_at = self._clock.monotonic() + self._lock_timeout
        while True:
            lock = await self._store.lock(KEY, expires_in=WRITING_SECONDS)
            if lock is not None:
                return lock
            if self._clock.monotonic() >= ends_at:
                raise StateStoreError("another process has held the lock of the state for too long")
            await self._clock.sleep(self._lock_retry)

    async def sync(self) -> bool:
        """Write what is to be written now under the policy; return whether it was."""
        if self.policy == "periodic":
            due = self._last_sync is None or self._clock.time() - self._last_sync >= self._interval
            return due and await self.save()
        if self.policy == "immediate":
            return self._mark() != self._seen and await self.save()
        return False

    async def run(self) -> None:
        """Write in the background for as long as it runs; ends at once under policies that do not."""
        self._seen = self._mark()
        while self.policy in ("periodic", "immediate"):
            await self._clock.sleep(self._interval if self.policy == "periodic" else COALESCE_SECONDS)
            if self.policy == "periodic":
                await self.save()
            else:
                await self.sync()

    def get_sync_status(self) -> SyncStatus:
        """Say when state was written and whether there is more to write."""
        following = None
        if self.policy == "periodic":
            following = (self._last_sync or self._clock.time()) + self._interval
        return SyncStatus(self._last_sync, following, int(self._mark() != self._seen), self._saving)

    def _mark(self) -> object:
        """Return something that differs whenever the state does."""
        return (
            tuple(pool.rotation_events for pool in self._pools.values()),
            tuple((model.state.quota_used, model.state.last_failure) for model in self._registry.list_models()),
        )


def store_raised(error: Exception, cls: type) -> StateStoreError:
    """Build the error for what a store raised and its author did not foresee, in the mesh's own words."""
    from modelmesh._engine.origin import store_erred

    return store_erred(error, cls)


async def refuse_newer(store: StateStore) -> None:
    """See to it that nobody's state is overwritten that only a newer version can read.

    Raises:
        StateStoreError: A newer version wrote the state in the store; or the store does not answer.
    """
    record = await store.load(KEY)
    if record is not None:
        with suppress(ValueError):  # what nobody can read is no loss
            SystemState.from_dict(decode(record.data))


def _persisted(pool: CapabilityPool) -> PersistedPoolState:
    standby = {
        name: StandbyState(
            member.reason or "",
            member.cooldown_remaining,
            member.ejections,
            member.limits_behind(member.reason or ""),
        )
        for name, member in pool.members.items()
        if not member.active
    }
    return PersistedPoolState(
        [name for name, member in pool.members.items() if member.active], standby, pool.rotation_events
    )


def _copy(saved: Any, live: Any) -> None:
    for name, value in saved.to_dict().items():
        setattr(live, name, value)
