"""Batches: handed to a provider that takes them, otherwise carried out by the mesh, request by request.

A job of the mesh lives in the state store: its requests, each answer as it comes, and how far it is. With a store that
survives a restart a job does so, too: whoever starts next goes on where it ended. An item that was on its way when a
process died may be asked twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelmesh._engine.batch_jobs import CANCELLED, COMPLETED, ENDED, FAILED, IN_PROGRESS, Asked, Job, Jobs
from modelmesh.errors import ModelMeshError
from modelmesh.interfaces.observability import Severity

if TYPE_CHECKING:
    from modelmesh._engine.limits import Limits
    from modelmesh._engine.provider_batches import ProviderBatches
    from modelmesh._engine.provider_service import ProviderService
    from modelmesh._engine.telemetry import Telemetry
    from modelmesh.interfaces.runtime import Clock
    from modelmesh.interfaces.state_store import StateStore, StoreLock

CONCURRENCY = 8
"""Requests of one job that are on their way at once."""

_LOCK_SECONDS = 60.0
_RENEW_SECONDS = 20.0

Ask = Callable[[str, Mapping[str, Any], Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Answers one request of a capability, in OpenAI's shape both ways, with its metadata."""


class Batches:
    """Keeps jobs and carries out those that no provider takes.

    Attributes:
        carriers: The providers that take some.

    Args:
        store: Where locks are.
        jobs: Where jobs live.
        clock: Time.
        telemetry: Told of trouble.
        carriers: The providers that take some.
        ask: Answers one request; it goes the whole way through the router.
    """

    def __init__(
        self, store: StateStore, jobs: Jobs, clock: Clock, telemetry: Telemetry, carriers: ProviderBatches, ask: Ask
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._clock = clock
        self._telemetry = telemetry
        self.carriers = carriers
        self._ask = ask
        self._cancelled: set[str] = set()

    def move_to(self, providers: Mapping[str, ProviderService], limits: Limits, ask: Ask) -> None:
        """Go on with the providers and the router of another configuration; jobs on their way do, too."""
        self.carriers.move_to(providers, limits)
        self._ask = ask

    # --- beginning ------------------------------------------------------------------

    async def create(self, capability: str, asked: Sequence[Asked]) -> Job:
        """Keep a new job of the mesh; `run` carries it out.

        Raises:
            InvalidRequestError: JSON has no form for something in it.
        """
        job = self._jobs.new(capability, len(asked))
        await self._jobs.keep_requests(job, asked)
        await self._jobs.save(job)
        return job

    async def resume(self) -> None:
        """Go on with the jobs that an earlier process left unfinished."""
        try:
            await asyncio.gather(*(self.run(job_id) for job_id in await self._jobs.unfinished()))
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
        job = await self._jobs.find(job_id)
        asked = await self._jobs.requests(job_id)
        if job is None or asked is None or job.status in ENDED:
            return
        done = {place: each for place, each in enumerate(await self._jobs.results(job)) if each is not None}
        # Counted anew: a process may have died between a result and the job's own record.
        job.completed = sum("response" in result for result in done.values())
        job.status, job.failed = IN_PROGRESS, len(done) - job.completed
        await self._save(job)
        left = iter([place for place in range(len(asked)) if place not in done])

        async def worker() -> None:
            for place in left:
                if await self._is_cancelled(job_id) or not await holder.keep():
                    return
                await self._item(job, place, asked[place])

        await asyncio.gather(*(worker() for _ in range(min(CONCURRENCY, len(asked)))))
        if not holder.is_held:
            return
        if await self._is_cancelled(job_id):
            job.status = CANCELLED
        elif job.completed + job.failed >= job.total:
            job.status = FAILED if job.failed == job.total else COMPLETED
        await self._save(job)

    async def _item(self, job: Job, place: int, asked: Asked) -> None:
        try:
            result: dict[str, Any] = {"response": await self._ask(job.capability, *asked)}
        except ModelMeshError as error:
            result = {"error": {"type": type(error).__name__, "message": str(error)}}
        except Exception as error:  # of a hook or a middleware: one request fails, the others go on
            # The text of a foreign exception may hold anything, so only its type is kept.
            result = {"error": {"type": type(error).__name__, "message": "the request could not be made"}}
        await self._jobs.keep_result(job, place, result)
        if "response" in result:
            job.completed += 1
        else:
            job.failed += 1
        await self._save(job)

    async def _save(self, job: Job) -> None:
        if job.status == IN_PROGRESS and await self._is_cancelled(job.id):
            job.status = CANCELLED
        await self._jobs.save(job)

    async def _is_cancelled(self, job_id: str) -> bool:
        if job_id not in self._cancelled and await self._jobs.is_to_stop(job_id):
            self._cancelled.add(job_id)
        return job_id in self._cancelled

    # --- asking ---------------------------------------------------------------------------------

    async def status(self, job_id: str) -> Job | None:
        """Return a job as it stands now, asking the provider that carries it out; None if there is none of this ID.

        Raises:
            ProviderError: The provider cannot be asked.
        """
        job = await self._jobs.find(job_id)
        if job is None or job.carrier is None:
            return job
        return await self.carriers.refresh(job, job.carrier)

    async def results(self, job_id: str) -> list[dict[str, Any] | None] | None:
        """Return what came of each request so far, in their order: ``response`` or ``error``; None where none yet.

        Returns:
            None for the whole if there is no job of this ID.

        Raises:
            ProviderError: The provider cannot be asked.
        """
        job = await self.status(job_id)
        if job is None:
            return None
        return await (self._jobs.results(job) if job.carrier is None else self.carriers.results(job, job.carrier))

    async def cancel(self, job_id: str) -> Job | None:
        """Send no further request of a job; those on their way are let finish. None if there is none of this ID.

        Raises:
            ProviderError: The provider cannot be asked, or has no way to cancel a batch.
        """
        job = await self.status(job_id)
        if job is None or job.status in ENDED:
            return job
        if job.carrier is not None:
            return await self.carriers.cancel(job, job.carrier)
        await self._jobs.ask_to_stop(job.id)
        self._cancelled.add(job.id)
        job.status = CANCELLED
        await self._jobs.save(job)
        return job


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
