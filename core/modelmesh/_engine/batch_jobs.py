"""Jobs of batches as a state store keeps them: each job, its requests, and each answer as it comes.

Keys begin with ``batch/`` and the job's ID. With a store that survives a restart jobs do so, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from modelmesh.errors import InvalidRequestError
from modelmesh.interfaces.provider import ModelPricing

if TYPE_CHECKING:
    from modelmesh.interfaces.runtime import Clock, Random
    from modelmesh.interfaces.state_store import StateStore

QUEUED, IN_PROGRESS, COMPLETED, FAILED, CANCELLED = "queued", "in_progress", "completed", "failed", "cancelled"
EXPIRED = "expired"
ENDED = frozenset({COMPLETED, FAILED, CANCELLED, EXPIRED})
"""States a job does not leave."""
STATES = ENDED | {QUEUED, IN_PROGRESS}

Asked = tuple[dict[str, Any], dict[str, Any]]
"""One request of a batch: its body in OpenAI's shape, and its metadata."""


@dataclass(slots=True)
class Claimed:
    """What a provider's batch holds of one account of the ledger.

    Attributes:
        account: Its name.
        unit: ``requests``, ``tokens`` or ``nano_usd``; empty where what was claimed is final.
        unpriced: Nano-USD that an answer without a price is counted as.
    """

    account: str
    unit: str
    unpriced: int = 0


@dataclass(slots=True)
class Carrier:
    """Who carries a job out for the mesh, on what terms. Terms are those of its submission, whatever changes later.

    Attributes:
        model: Configured ID of the model.
        provider: Configured ID of its provider.
        pool: The pool it came through.
        wire_name: The provider's own name of the model.
        job: The provider's own ID of the job.
        pricing: What a request in a batch costs; None if not known.
        claimed: What it holds of limits, under the job's ID.
        tokens_in: Input of all requests, as estimated.
        tokens_out: Output of all requests, as estimated.
        is_settled: Whether what it took has been booked.
    """

    model: str
    provider: str
    pool: str
    wire_name: str
    job: str
    pricing: ModelPricing | None
    claimed: list[Claimed]
    tokens_in: int
    tokens_out: int
    is_settled: bool = False


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
        carrier: Who carries it out; None for the mesh itself.
        cost: USD, once a carrier's batch has ended; None before, and when the price is not known.
        version: Of the record it was read from; 0 before it is kept.
    """

    id: str
    capability: str
    total: int
    status: str = QUEUED
    completed: int = 0
    failed: int = 0
    created_at: float = 0.0
    carrier: Carrier | None = None
    cost: float | None = None
    version: int = field(default=0, compare=False)


class Jobs:
    """Reads and writes jobs.

    Args:
        store: Where.
        clock: Time.
        random: For IDs.
    """

    def __init__(self, store: StateStore, clock: Clock, random: Random) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._numbers = count(1)

    def new(self, capability: str, total: int) -> Job:
        """Return a job that is not kept yet."""
        # Drawn with each job rather than at the start: what a mesh draws there, all its later draws would follow.
        job_id = f"batch_{int(self._random.random() * 2**48):012x}_{next(self._numbers):x}"
        return Job(job_id, capability, total, created_at=self._clock.time())

    async def find(self, job_id: str) -> Job | None:
        """Return a job, or None when there is none of this ID."""
        record = await self._store.load(f"batch/{job_id}/job")
        return None if record is None else _read(record.data, record.version)

    async def save(self, job: Job, *, only_unchanged: bool = False) -> bool:
        """Keep a job as it is now.

        Args:
            job: What.
            only_unchanged: Whether to do so only if nobody has since it was read.

        Returns:
            Whether it was kept.
        """
        data = json.dumps(asdict(replace(job, version=0))).encode()
        expected = job.version if only_unchanged else None
        record = await self._store.save(f"batch/{job.id}/job", data, expected_version=expected)
        if record is not None:
            job.version = record.version
        return record is not None

    async def unfinished(self) -> list[str]:
        """IDs of the mesh's own jobs that have not ended."""
        found: list[str] = []
        for key in await self._store.list("batch/"):
            if key.endswith("/job"):
                job = await self.find(key.removeprefix("batch/").removesuffix("/job"))
                if job is not None and job.carrier is None and job.status not in ENDED:
                    found.append(job.id)
        return found

    # --- what the mesh's own jobs consist of ----------------------------------------

    async def keep_requests(self, job: Job, asked: Sequence[Asked]) -> None:
        """Keep what is to be asked.

        Raises:
            InvalidRequestError: JSON has no form for something in it.
        """
        await self._store.save(_requests_key(job.id), f"[{','.join(map(_as_json, range(len(asked)), asked))}]".encode())

    async def requests(self, job_id: str) -> list[Asked] | None:
        """Return what is to be asked; None when there is no such job of the mesh."""
        record = await self._store.load(_requests_key(job_id))
        return None if record is None else [(each["payload"], each["metadata"]) for each in json.loads(record.data)]

    async def keep_result(self, job: Job, place: int, result: Mapping[str, Any]) -> None:
        """Keep what came of one request."""
        await self._store.save(f"{_items_key(job.id)}{place:08d}", json.dumps(result).encode())

    async def results(self, job: Job) -> list[dict[str, Any] | None]:
        """Return what came of each request so far; None where nothing has yet."""
        results: list[dict[str, Any] | None] = [None] * job.total
        for key in await self._store.list(_items_key(job.id)):
            record = await self._store.load(key)
            if record is not None:
                results[int(key.rsplit("/", 1)[1])] = json.loads(record.data)
        return results

    async def ask_to_stop(self, job_id: str) -> None:
        """Tell whoever carries a job out to ask nothing more; a word of its own, so that no other write undoes it."""
        await self._store.save(_stop_key(job_id), b"1")

    async def is_to_stop(self, job_id: str) -> bool:
        """Whether somebody, in any process, has cancelled a job of the mesh."""
        return await self._store.stat(_stop_key(job_id)) is not None


def _read(data: bytes, version: int) -> Job:
    kept = json.loads(data)
    carrier = kept.pop("carrier")
    if carrier is not None:
        pricing = carrier["pricing"]
        carrier["pricing"] = None if pricing is None else ModelPricing(**pricing)
        carrier["claimed"] = [Claimed(**each) for each in carrier["claimed"]]
        carrier = Carrier(**carrier)
    return Job(**{**kept, "carrier": carrier, "version": version})


def _as_json(place: int, asked: Asked) -> str:
    payload, metadata = asked
    try:
        return json.dumps({"payload": payload, "metadata": metadata})
    except (TypeError, ValueError, RecursionError) as error:
        # Names types and never values.
        raise InvalidRequestError(
            f"request {place + 1} of the batch cannot be kept as JSON, its metadata included: {error}"
        ) from None


def _requests_key(job_id: str) -> str:
    return f"batch/{job_id}/requests"


def _items_key(job_id: str) -> str:
    return f"batch/{job_id}/item/"


def _stop_key(job_id: str) -> str:
    return f"batch/{job_id}/stop"
