"""ScriptedBatchProvider: a scripted provider that takes whole batches, and carries them out when a test says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelmesh.errors import InvalidRequestError, ProviderError
from modelmesh.interfaces.provider import ProviderRequest
from modelmesh_cdk.testing.scripted import ScriptedProvider


@dataclass(slots=True)
class ScriptedBatch:
    """One batch as the provider keeps it.

    Attributes:
        model: As the provider names it.
        payloads: What was asked.
        results: What came of each request so far; None where nothing has yet.
        status: As `ScriptedBatchProvider.get_batch` says it.
    """

    model: str
    payloads: Sequence[Mapping[str, Any]]
    results: list[dict[str, Any] | None] = field(default_factory=list)
    status: str = "queued"


class ScriptedBatchProvider(ScriptedProvider):
    """Takes batches besides what a `ScriptedProvider` does; nothing happens to them until `work` or `expire`.

    Each request of a batch meets the next step of the script, as a request by itself would.

    Attributes:
        batches: By ID.
        trouble: Raised by each of the batch methods while it is set.
    """

    batches: dict[str, ScriptedBatch]
    trouble: BaseException | None

    def __init__(self, *args: Any, **parameters: Any) -> None:
        super().__init__(*args, **parameters)
        self.batches = {}
        self.trouble = None

    # --- what a test does -----------------------------------------------------------

    async def work(self, job_id: str | None = None, *, requests: int | None = None) -> None:
        """Carry out so many requests of a batch; of all batches, and all of their requests, unless told otherwise."""
        for batch in self.batches.values() if job_id is None else [self.batches[job_id]]:
            if batch.status in ("queued", "in_progress"):
                batch.status = "in_progress"
                await self._carry_out(batch, len(batch.payloads) if requests is None else requests)

    def expire(self, job_id: str) -> None:
        """Let a batch's time be over."""
        self.batches[job_id].status = "expired"

    # --- what the mesh does -----------------------------------------------------------

    async def submit_batch(self, model: str, payloads: Sequence[Mapping[str, Any]]) -> str:
        """Take a batch."""
        self._stumble()
        job_id = f"scripted-batch-{len(self.batches) + 1}"
        self.batches[job_id] = ScriptedBatch(model, list(payloads), [None] * len(payloads))
        return job_id

    async def get_batch(self, job_id: str) -> Mapping[str, Any]:
        """Say how far a batch is."""
        batch = self._found(job_id)
        done = [result for result in batch.results if result is not None]
        completed = sum("response" in result for result in done)
        return {"status": batch.status, "completed": completed, "failed": len(done) - completed}

    async def get_batch_results(self, job_id: str) -> Sequence[Mapping[str, Any] | None]:
        """Return what came of each request so far."""
        return list(self._found(job_id).results)

    async def cancel_batch(self, job_id: str) -> None:
        """Carry out no more of a batch."""
        batch = self._found(job_id)
        if batch.status in ("queued", "in_progress"):
            batch.status = "cancelled"

    # --- inside -------------------------------------------------------------------------

    async def _carry_out(self, batch: ScriptedBatch, requests: int) -> None:
        left = [place for place, result in enumerate(batch.results) if result is None]
        for place in left[:requests]:
            try:
                answered = await self.complete(ProviderRequest(batch.model, batch.payloads[place]))
                batch.results[place] = {"response": answered.data}
            except ProviderError as error:
                batch.results[place] = {"error": {"type": type(error).__name__, "message": error.message}}
        if None not in batch.results:
            batch.status = "completed"

    def _found(self, job_id: str) -> ScriptedBatch:
        self._stumble()
        if job_id not in self.batches:
            raise InvalidRequestError(f"there is no batch {job_id!r}", status_code=404)
        return self.batches[job_id]

    def _stumble(self) -> None:
        if self.trouble is not None:
            raise self.trouble
