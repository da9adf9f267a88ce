"""Batches: a provider's where it takes them, otherwise the mesh's own, which survive a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh._engine.batches import CONCURRENCY, Batches
from modelmesh.errors import CapabilityNotFoundError, ProviderServerError
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, FakeRandom, ScriptedProvider
from modelmesh_cdk.testing.scripted import answer, fail
from modelmesh_plugins.state_stores.memory import MemoryStateStore


@pytest.fixture
def mesh() -> Iterator[Callable[[Any], ModelMesh]]:
    """Build meshes of one model over a provider, and shut them down."""
    built: list[ModelMesh] = []

    def make(provider: Any, **model: Any) -> ModelMesh:
        one = ModelMesh(environ={})
        built.append(one)
        one.initialize(
            {
                "providers": {"p": {"instance": provider}},
                "models": {"m": {"provider": "p", "capabilities": ["chat-completion"], **model}},
                "pools": {"chat-completion": {"retry": {"max_attempts": 0}}},
            }
        )
        return one

    yield make
    for one in built:
        one.shutdown()


def asked(number: int) -> CompletionRequest:
    """Return a request whose text is a number."""
    return CompletionRequest([{"role": "user", "content": str(number)}])


class Echo(ScriptedProvider):
    """Answers with what it was asked, and sees to it that few are asked at once."""

    async def complete(self, request: Any) -> Any:
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        await asyncio.sleep(0)
        self.active -= 1
        self.requests.append(request)
        response = await super().complete(request)
        response.data["choices"][0]["message"]["content"] = request.last_text
        return response


def ended(mesh: ModelMesh, job_id: str) -> Any:
    """Wait until a batch has ended."""
    router = mesh.get_router()
    for _ in range(2_000):
        progress = router.get_batch(job_id)
        if progress.status not in ("queued", "in_progress"):
            return progress
    raise AssertionError(f"the batch never ended: {progress}")


def contents(results: list[dict[str, Any] | None]) -> list[str]:
    """Return the text of each answer."""
    return [result["response"]["choices"][0]["message"]["content"] for result in results if result is not None]


def test_the_mesh_carries_out_what_no_provider_takes(mesh: Any) -> None:
    """Every request is answered, in order, a few at a time, and the progress says so."""
    provider = Echo()
    here = mesh(provider)
    router = here.get_router()

    job = router.batch("chat-completion", [asked(number) for number in range(40)])
    progress = ended(here, job.job_id)

    assert (job.status, job.request_count) == ("queued", 40)
    assert (progress.status, progress.completed, progress.failed) == ("completed", 40, 0)
    assert contents(router.get_batch_results(job.job_id)) == [str(number) for number in range(40)]
    assert 1 < provider.most_active <= CONCURRENCY


def test_a_request_that_nobody_answers_is_an_error_of_its_own(mesh: Any) -> None:
    """The others are answered, and the result tells which one failed and why."""
    failing = fail(ProviderServerError("boom", status_code=500))
    here = mesh(ScriptedProvider([failing], default=answer("fine")))
    router = here.get_router()

    job = router.batch("chat-completion", [asked(number) for number in range(3)])
    progress = ended(here, job.job_id)
    results = router.get_batch_results(job.job_id)

    assert (progress.status, progress.completed, progress.failed) == ("completed", 2, 1)
    assert [result["error"]["type"] for result in results if result and "error" in result] == [
        "AllProvidersExhaustedError"
    ]


def test_a_batch_that_nobody_answers_has_failed(mesh: Any) -> None:
    """Its status is not ``completed``."""
    here = mesh(ScriptedProvider(default=fail(ProviderServerError("boom", status_code=500))))

    job = here.get_router().batch("chat-completion", [asked(1), asked(2)])

    assert ended(here, job.job_id).status == "failed"


def test_an_unknown_capability_is_told_at_once(mesh: Any) -> None:
    """Not by each request of the batch."""
    with pytest.raises(CapabilityNotFoundError):
        mesh(ScriptedProvider()).get_router().batch("chat-completon", [asked(1)])


def test_an_unknown_batch_is_a_key_error(mesh: Any) -> None:
    """With its ID."""
    with pytest.raises(KeyError, match="batch_nowhere"):
        mesh(ScriptedProvider()).get_router().get_batch("batch_nowhere")


class Native(ScriptedProvider):
    """Takes batches itself."""

    async def submit_batch(self, model: str, payloads: list[dict[str, Any]]) -> str:
        self.given = (model, len(payloads))
        return "theirs-1"

    async def get_batch(self, job_id: str) -> dict[str, Any]:
        return {"status": "completed", "completed": 2, "failed": 0}

    async def get_batch_results(self, job_id: str) -> list[dict[str, Any]]:
        return [{"response": {"choices": []}}, {"response": {"choices": []}}]


def test_a_provider_that_takes_batches_is_handed_them(mesh: Any) -> None:
    """Its own status and results are asked for."""
    provider = Native()
    here = mesh(provider, batch=True)
    router = here.get_router()

    job = router.batch("chat-completion", [asked(1), asked(2)])
    progress = router.get_batch(job.job_id)

    assert (job.job_id, job.model, job.provider) == ("theirs-1", "m", "p")
    assert provider.given == ("m", 2)
    assert (progress.status, progress.completed) == ("completed", 2)
    assert len(router.get_batch_results(job.job_id)) == 2


# --- the parts alone, where a restart and a cancellation can be held still ------------------------


class Bench:
    """Batches over one store, with a counter of what was asked."""

    def __init__(self, store: MemoryStateStore, stop_after: int | None = None) -> None:
        self.asked: list[str] = []
        self._stop_after = stop_after
        self.batches = Batches(store, FakeClock(), FakeRandom(0.5), _quiet(), {}, self._ask)

    async def _ask(self, capability: str, payload: Any) -> dict[str, Any]:
        self.asked.append(payload["text"])
        if self._stop_after is not None and len(self.asked) >= self._stop_after:
            raise asyncio.CancelledError  # the process ends here
        await asyncio.sleep(0)
        return {"text": payload["text"]}


def _quiet() -> Any:
    class Quiet:
        def trace(self, *args: Any, **facts: Any) -> None: ...

    return Quiet()


def test_a_batch_goes_on_after_a_restart_where_it_ended() -> None:
    """What was answered before is not asked again."""
    store = MemoryStateStore()
    payloads = [{"text": str(number)} for number in range(30)]

    async def first() -> str:
        bench = Bench(store, stop_after=20)
        job = await bench.batches.create("chat", payloads)
        with pytest.raises(asyncio.CancelledError):
            await bench.batches.run(job.id)
        return job.id

    async def second(job_id: str) -> tuple[list[str], Any, list[Any]]:
        bench = Bench(store)
        await bench.batches.resume()
        job = await bench.batches.find(job_id)
        assert job is not None
        return bench.asked, job, await bench.batches.results(job)

    job_id = asyncio.run(first())
    kept = len(asyncio.run(store.list(f"batch/{job_id}/item/")))
    asked_again, job, results = asyncio.run(second(job_id))

    assert 0 < kept < 30
    assert len(asked_again) == 30 - kept
    assert (job.status, [result["response"]["text"] for result in results]) == (
        "completed",
        [str(number) for number in range(30)],
    )


def test_a_cancelled_batch_asks_nothing_more() -> None:
    """Those on their way finish; the status stays cancelled."""
    store = MemoryStateStore()

    async def scenario() -> tuple[int, Any]:
        bench = Bench(store)
        job = await bench.batches.create("chat", [{"text": str(number)} for number in range(100)])
        running = asyncio.ensure_future(bench.batches.run(job.id))
        for _ in range(10):
            await asyncio.sleep(0)
        await bench.batches.cancel(job)
        await running
        return len(bench.asked), await bench.batches.find(job.id)

    count, job = asyncio.run(scenario())

    assert count < 100
    assert job.status == "cancelled"


def test_two_processes_do_not_carry_out_one_batch() -> None:
    """Whoever comes second finds the lock taken."""
    store = MemoryStateStore()

    async def scenario() -> list[str]:
        bench = Bench(store)
        job = await bench.batches.create("chat", [{"text": "once"}])
        await asyncio.gather(bench.batches.run(job.id), bench.batches.run(job.id))
        return bench.asked

    assert asyncio.run(scenario()) == ["once"]


def test_a_job_is_kept_as_json() -> None:
    """Any store that keeps bytes will do, and a person can read it."""
    store = MemoryStateStore()

    async def scenario() -> Any:
        job = await Bench(store).batches.create("chat", [{"text": "x"}])
        record = await store.load(f"batch/{job.id}/job")
        assert record is not None
        return json.loads(record.data)

    assert asyncio.run(scenario())["capability"] == "chat"
