"""Batches: handed to a provider that takes them, otherwise carried out by the mesh, request by request.

A job of the mesh lives in the state store: its requests, each answer as it comes, and how far it is. With a store that
survives a restart a job does so, too: whoever starts next goes on where it ended. An item that was on its way when a
process died may be asked twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from modelmesh.errors import ModelMeshError
from modelmesh.interfaces.observability import Severity

if TYPE_CHECKING:
    from modelmesh._engine.provider_service import ProviderService
    from modelmesh._engine.telemetry import Telemetry
    from modelmesh.interfaces.runtime import Clock, Random
    from modelmesh.interfaces.state_store import StateStore, StoreLock

QUEUED, IN_PROGRESS, COMPLETED, FAILED, CANCELLED = "queued", "in_progress", "completed", "failed", "cancelled"
ENDED = frozenset({COMPLETED, FAILED, CANCELLED, "expired"})
"""States a job does not leave."""

CONCURRENCY = 8
"""Requests of one job that are on their way at once."""

_LOCK_SECONDS = 60.0
_RENEW_SECONDS = 20.0

Ask = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Answers one request of a capability, in OpenAI's shape both ways."""


@dataclass(slots=True)
class Job:
    """A job as it is kept.

    Attributes:
        id: Unique.
        capability: What was asked for.
        total: Requests.
        status: One of the states above.
        completed: Requests that were answered.
        failed: Requests that nobody answered.
        created_at: Unix time.
        model: Configured ID of the model, for jobs a provider carries out; empty otherwise.
        provider: Configured ID of that provider; empty otherwise.
        provider_job: The provider's own ID of the job; empty otherwise.
    """

    id: str
    capability: str
    total: int
    status: str = QUEUED
    completed: int = 0
    failed: int = 0
    created_at: float = 0.0
    model: str = ""
    provider: str = ""
    provider_job: str = ""


class Batches:
    """Keeps jobs and carries out those that no provider takes.

    Args:
        store: Where jobs live.
        clock: Time.
        random: For IDs.
        telemetry: Told of trouble.
        providers: By configured ID, for the jobs they carry out.
        ask: Answers one request; it goes the whole way through the router.
    """

    def __init__(
        self,
        store: StateStore,
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
        providers: Mapping[str, ProviderService],
        ask: Ask,
    ) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._telemetry = telemetry
        self._providers = providers
        self._ask = ask
        self._cancelled: set[str] = set()

    def move_to(self, providers: Mapping[str, ProviderService], ask: Ask) -> None:
        """Go on with the providers and the router of another configuration; jobs on their way do, too."""
        self._providers, self._ask = providers, ask

    # --- beginning ------------------------------------------------------------------

    async def note(self, capability: str, total: int, *, model: str, provider: str, provider_job: str) -> Job:
        """Keep a job that a provider carries out, so that it can be asked after."""
        job = Job(provider_job, capability, total, QUEUED, 0, 0, self._clock.time(), model, provider, provider_job)
        await self._save(job)
        return job

    async def create(self, capability: str, payloads: Sequence[Mapping[str, Any]]) -> Job:
        """Keep a new job of the mesh; `run` carries it out."""
        job = Job(
            f"batch_{int(self._random.random() * 2**64):016x}", capability, len(payloads), created_at=self._clock.time()
        )
        await self._store.save(_requests_key(job.id), json.dumps(list(payloads)).encode())
        await self._save(job)
        return job

    async def unfinished(self) -> list[str]:
        """IDs of the mesh's jobs that have not ended."""
        found: list[str] = []
        for key in await self._store.list("batch/"):
            if key.endswith("/job"):
                job = await self.find(key.split("/")[1])
                if job is not None and not job.provider_job and job.status not in ENDED:
                    found.append(job.id)
        return found

    async def resume(self) -> None:
        """Go on with the jobs that an earlier process left unfinished."""
        try:
            await asyncio.gather(*(self.run(job_id) for job_id in await self.unfinished()))
        except ModelMeshError as error:
            self._telemetry.trace(Severity.ERROR, "batch", "unfinished jobs could not be read", error=str(error))

    # --- carrying out ---------------------------------------------------------------------

    async def run(self, job_id: str) -> None:
        """Carry a job out, or go on with it; nothing happens where another process does already."""
        lock = await self._store.lock(f"batch/{job_id}", expires_in=_LOCK_SECONDS)
        if lock is None:
            return
        holder = _Holder(self._store, self._clock, lock)
        try:
            await self._carry_out(job_id, holder)
        except ModelMeshError as error:
            self._telemetry.trace(
                Severity.ERROR, "batch", f"job {job_id} stopped; it can go on later", error=str(error)
            )
        finally:
            await holder.give_back()

    async def _carry_out(self, job_id: str, holder: _Holder) -> None:
        job = await self.find(job_id)
        record = await self._store.load(_requests_key(job_id))
        if job is None or record is None or job.status in ENDED:
            return
        payloads: list[dict[str, Any]] = json.loads(record.data)
        done = {int(key.rsplit("/", 1)[1]) for key in await self._store.list(f"batch/{job_id}/item/")}
        job.status = IN_PROGRESS
        await self._save(job)
        left = iter([place for place in range(len(payloads)) if place not in done])

        async def worker() -> None:
            for place in left:
                if job_id in self._cancelled or not await holder.keep():
                    return
                await self._item(job, place, payloads[place])

        await asyncio.gather(*(worker() for _ in range(min(CONCURRENCY, len(payloads)))))
        if not holder.is_held:
            return
        if job_id in self._cancelled:
            job.status = CANCELLED
        elif job.completed + job.failed >= job.total:
            job.status = FAILED if job.failed == job.total else COMPLETED
        await self._save(job)

    async def _item(self, job: Job, place: int, payload: Mapping[str, Any]) -> None:
        try:
            result: dict[str, Any] = {"response": await self._ask(job.capability, payload)}
        except ModelMeshError as error:
            result = {"error": {"type": type(error).__name__, "message": str(error)}}
        await self._store.save(_item_key(job.id, place), json.dumps(result).encode())
        if "response" in result:
            job.completed += 1
        else:
            job.failed += 1
        await self._save(job)

    # --- asking ---------------------------------------------------------------------------------

    async def find(self, job_id: str) -> Job | None:
        """Return a job, or None when there is none of this ID."""
        record = await self._store.load(f"batch/{job_id}/job")
        return None if record is None else Job(**json.loads(record.data))

    async def status(self, job_id: str) -> Job | None:
        """Return a job as it stands now, asking the provider that carries it out."""
        job = await self.find(job_id)
        if job is None or not job.provider_job or job.status in ENDED:
            return job
        ask = getattr(self._providers[job.provider].connector, "get_batch", None)
        if ask is None:
            return job
        said: Mapping[str, Any] = await ask(job.provider_job)
        job.status = str(said.get("status", job.status))
        job.completed = int(said.get("completed", job.completed))
        job.failed = int(said.get("failed", job.failed))
        await self._save(job)
        return job

    async def results(self, job: Job) -> list[dict[str, Any] | None]:
        """Return what came of each request so far, in their order: ``response`` or ``error``; None where none yet."""
        if job.provider_job:
            ask = getattr(self._providers[job.provider].connector, "get_batch_results", None)
            given: Sequence[Any] = [] if ask is None else await ask(job.provider_job)
            return [*given, *[None] * (job.total - len(given))]
        results: list[dict[str, Any] | None] = [None] * job.total
        for key in await self._store.list(f"batch/{job.id}/item/"):
            record = await self._store.load(key)
            if record is not None:
                results[int(key.rsplit("/", 1)[1])] = json.loads(record.data)
        return results

    async def cancel(self, job: Job) -> Job:
        """Send no further request of a job; those on their way are let finish."""
        if job.status in ENDED:
            return job
        if job.provider_job:
            stop = getattr(self._providers[job.provider].connector, "cancel_batch", None)
            if stop is not None:
                await stop(job.provider_job)
        self._cancelled.add(job.id)
        job.status = CANCELLED
        await self._save(job)
        return job

    async def _save(self, job: Job) -> None:
        if job.id in self._cancelled and job.status == IN_PROGRESS:
            job.status = CANCELLED
        await self._store.save(f"batch/{job.id}/job", json.dumps(asdict(job)).encode())


class _Holder:
    """Holds a job's lock for as long as it is worked on."""

    def __init__(self, store: StateStore, clock: Clock, lock: StoreLock) -> None:
        self._store = store
        self._clock = clock
        self._lock: StoreLock | None = lock
        self._since = clock.monotonic()
        self._renewing = asyncio.Lock()

    @property
    def is_held(self) -> bool:
        return self._lock is not None

    async def keep(self) -> bool:
        """Renew the lock where it is time; return whether it is still held."""
        if self._clock.monotonic() - self._since < _RENEW_SECONDS:
            return self.is_held
        async with self._renewing:
            if self._lock is not None and self._clock.monotonic() - self._since >= _RENEW_SECONDS:
                name = self._lock.name
                await self._store.unlock(self._lock)
                self._lock = await self._store.lock(name, expires_in=_LOCK_SECONDS)
                self._since = self._clock.monotonic()
        return self.is_held

    async def give_back(self) -> None:
        if self._lock is not None:
            await self._store.unlock(self._lock)
            self._lock = None


def _requests_key(job_id: str) -> str:
    return f"batch/{job_id}/requests"


def _item_key(job_id: str, place: int) -> str:
    return f"batch/{job_id}/item/{place:08d}"
