"""Batches that the mesh carries out itself: through its pools like any request, and past a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from modelmesh import ModelMesh
from modelmesh._engine.batch_jobs import Jobs
from modelmesh._engine.batches import CONCURRENCY, Batches
from modelmesh.errors import CapabilityNotFoundError, InvalidRequestError, ProviderServerError
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


def test_each_request_keeps_its_metadata(mesh: Any) -> None:
    """Its ID, session and preferred provider steer it as they would alone, and hooks see the rest."""
    provider = ScriptedProvider()
    here = mesh(provider)
    said = [{"request_id": f"mine-{number}", "tenant": {"id": number}} for number in range(3)]

    job = here.get_router().batch(
        "chat-completion", [CompletionRequest(asked(0).messages, metadata=each) for each in said]
    )
    ended(here, job.job_id)

    assert sorted(request.request_id for request in provider.requests) == ["mine-0", "mine-1", "mine-2"]
    assert sorted((dict(request.metadata) for request in provider.requests), key=str) == said


def test_metadata_that_cannot_be_kept_is_refused_at_once(mesh: Any) -> None:
    """A batch lives in the state store: the error says which request, and shows no value."""
    wrong = CompletionRequest(asked(0).messages, metadata={"secret": object()})

    with pytest.raises(InvalidRequestError, match="request 2 of the batch") as caught:
        mesh(ScriptedProvider()).get_router().batch("chat-completion", [asked(1), wrong])

    assert "0x" not in str(caught.value)


# --- the parts alone, where a restart and a cancellation can be held still ------------------------


class Bench:
    """Batches over one store, with a counter of what was asked."""

    def __init__(self, store: MemoryStateStore, stop_after: int | None = None) -> None:
        self.asked: list[str] = []
        self._stop_after = stop_after
        self.metadata: list[Any] = []
        self.jobs = Jobs(store, FakeClock(), FakeRandom(0.5))
        self.batches = Batches(store, self.jobs, FakeClock(), _quiet(), cast("Any", None), self._ask)

    async def _ask(self, capability: str, payload: Any, metadata: Any) -> dict[str, Any]:
        self.asked.append(payload["text"])
        self.metadata.append(metadata)
        if payload["text"] == "broken":
            raise ValueError("sk-something")
        if self._stop_after is not None and len(self.asked) >= self._stop_after:
            raise asyncio.CancelledError  # the process ends here
        await asyncio.sleep(0)
        return {"text": payload["text"]}


def texts(*given: str) -> list[Any]:
    """Return requests of these texts, each with a metadata of its own."""
    return [({"text": text}, {"session_id": f"s-{text}"}) for text in given]


def _quiet() -> Any:
    class Quiet:
        def trace(self, *args: Any, **facts: Any) -> None: ...

    return Quiet()


def test_a_batch_goes_on_after_a_restart_where_it_ended() -> None:
    """What was answered before is not asked again."""
    store = MemoryStateStore()
    requests = texts(*map(str, range(30)))

    async def first() -> str:
        bench = Bench(store, stop_after=20)
        job = await bench.batches.create("chat", requests)
        with pytest.raises(asyncio.CancelledError):
            await bench.batches.run(job.id)
        return job.id

    async def second(job_id: str) -> tuple[list[str], Any, list[Any]]:
        bench = Bench(store)
        await bench.batches.resume()
        assert bench.metadata == [{"session_id": f"s-{text}"} for text in bench.asked]
        return bench.asked, await bench.jobs.find(job_id), await bench.batches.results(job_id) or []

    job_id = asyncio.run(first())
    kept = len(asyncio.run(store.list(f"batch/{job_id}/item/")))
    asked_again, job, results = asyncio.run(second(job_id))

    assert 0 < kept < 30
    assert len(asked_again) == 30 - kept
    assert (job.status, job.completed, [result["response"]["text"] for result in results]) == (
        "completed",
        30,
        [str(number) for number in range(30)],
    )


def test_a_cancelled_batch_asks_nothing_more() -> None:
    """Whichever process cancels it: those on their way finish, and the status stays cancelled."""
    store = MemoryStateStore()

    async def scenario() -> tuple[int, Any]:
        bench = Bench(store)
        job = await bench.batches.create("chat", texts(*map(str, range(100))))
        running = asyncio.ensure_future(bench.batches.run(job.id))
        for _ in range(10):
            await asyncio.sleep(0)
        await Bench(store).batches.cancel(job.id)
        await running
        return len(bench.asked), await bench.jobs.find(job.id)

    count, job = asyncio.run(scenario())

    assert count < 100
    assert job.status == "cancelled"


def test_a_batch_whose_last_word_was_lost_is_counted_anew() -> None:
    """A process died between the last result and the job's own record; nothing is asked twice."""
    store = MemoryStateStore()

    async def scenario() -> tuple[Any, list[str]]:
        first, second = Bench(store), Bench(store)
        job = await first.batches.create("chat", texts("a", "b"))
        await first.jobs.keep_result(job, 0, {"response": {}})
        await first.jobs.keep_result(job, 1, {"error": {}})
        await second.batches.resume()
        return await second.jobs.find(job.id), second.asked

    job, asked_again = asyncio.run(scenario())

    assert (job.status, job.completed, job.failed, asked_again) == ("completed", 1, 1, [])


def test_an_exception_of_a_hook_fails_one_request() -> None:
    """The others are answered; what the exception says is not kept, for it may hold anything."""
    store = MemoryStateStore()

    async def scenario() -> tuple[Any, Any]:
        bench = Bench(store)
        job = await bench.batches.create("chat", texts("broken", "fine"))
        await bench.batches.run(job.id)
        return await bench.jobs.find(job.id), await bench.batches.results(job.id)

    job, results = asyncio.run(scenario())

    assert (job.status, job.completed, job.failed) == ("completed", 1, 1)
    assert results[0] == {"error": {"type": "ValueError", "message": "the request could not be made"}}


def test_two_processes_do_not_carry_out_one_batch() -> None:
    """Whoever comes second finds the lock taken."""
    store = MemoryStateStore()

    async def scenario() -> list[str]:
        bench = Bench(store)
        job = await bench.batches.create("chat", texts("once"))
        await asyncio.gather(bench.batches.run(job.id), bench.batches.run(job.id))
        return bench.asked

    assert asyncio.run(scenario()) == ["once"]


def test_a_job_is_kept_as_json() -> None:
    """Any store that keeps bytes will do, and a person can read it."""
    store = MemoryStateStore()

    async def scenario() -> Any:
        job = await Bench(store).batches.create("chat", texts("x"))
        record = await store.load(f"batch/{job.id}/job")
        assert record is not None
        return json.loads(record.data)

    assert asyncio.run(scenario())["capability"] == "chat"
