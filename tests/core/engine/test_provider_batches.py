"""Batches that a provider carries out: asked after, resumed, cancelled, and booked once, under every limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.errors import (
    AllProvidersExhaustedError,
    BudgetExceededError,
    ProviderConnectionError,
    ProviderServerError,
    StateStoreError,
    UnsupportedRequestError,
    UsageError,
)
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, ScriptedBatchProvider, ScriptedProvider, answer, fail

PRICE = {"input_per_1k_tokens": 0.0, "output_per_1k_tokens": 1.0}
"""A tenth of a cent an output token: 100 tokens are 10 cents."""

DAY = 86_400.0


class World:
    """A mesh of providers named p, q, ...; each has a model of its name that takes batches at half the price."""

    def __init__(
        self, *providers: Any, settings: Any = None, model: Any = None, pool: Any = None, **extra: Any
    ) -> None:
        self.provider = providers[0]
        self.clock = FakeClock(time=1_795_000_000.0)
        self.mesh = ModelMesh(clock=self.clock, environ={})
        names = "pqr"[: len(providers)]
        self.config: dict[str, Any] = {
            "providers": {
                name: {"instance": each, **(settings or {})} for name, each in zip(names, providers, strict=True)
            },
            "models": {
                f"{name}-model": {
                    "provider": name,
                    "capabilities": ["chat-completion"],
                    "pricing": PRICE,
                    "batch": {"cost_discount": 0.5},
                    **(model or {}),
                }
                for name in names
            },
            "pools": {"chat-completion": {"retry": {"max_attempts": 0}, **(pool or {})}},
            **extra,
        }
        self.mesh.initialize(self.config)
        self.router = self.mesh.get_router()

    def submit(self, count: int = 4, **metadata: Any) -> Any:
        """Submit requests of at most 100 tokens: 5 cents each in a batch."""
        message = {"role": "user", "content": "hi"}
        return self.router.batch(
            "chat-completion", [CompletionRequest([message], None, 100, metadata=metadata)] * count
        )

    def work(self, *, requests: int | None = None) -> None:
        """Let the provider carry its batches out."""
        self.mesh.run(self.provider.work(requests=requests))

    def spent(self, subject: str = "daily") -> tuple[float, float]:
        """What is spent of a limit, and what is reserved."""
        row = next(row for row in self.mesh.get_quota() if subject in row.subject)
        return round(row.spent, 9), round(row.reserved, 9)

    def statistics(self) -> Any:
        """What is counted for the first model."""
        return self.mesh.get_statistics().model("p-model")


Make = Callable[..., World]


@pytest.fixture
def world() -> Iterator[Make]:
    """Build worlds and shut their meshes down."""
    built: list[World] = []

    def make(*args: Any, **settings: Any) -> World:
        built.append(World(*args, **settings))
        return built[-1]

    yield make
    for each in built:
        each.mesh.shutdown()


def budget(dollars: float) -> dict[str, Any]:
    """Return a provider's daily budget."""
    return {"budget": {"daily_limit": dollars}}


# --- handing over, asking, cancelling ------------------------------------------------------


def test_the_provider_is_asked_how_far_it_is_and_for_results(world: Make) -> None:
    """Each time somebody asks; results stand where their requests stood, failures of single ones told."""
    broken = fail(ProviderServerError("boom", status_code=500))
    here = world(ScriptedBatchProvider([answer("one"), broken, answer("three")]))
    job = here.submit(3)

    first = here.router.get_batch(job.job_id)
    here.work(requests=1)
    second, early = here.router.get_batch(job.job_id), here.router.get_batch_results(job.job_id)
    here.work()
    last, results = here.router.get_batch(job.job_id), here.router.get_batch_results(job.job_id)

    assert (job.status, job.model, job.provider, job.request_count) == ("queued", "p-model", "p", 3)
    assert [each.status for each in (first, second, last)] == ["queued", "in_progress", "completed"]
    assert [each is None for each in early] == [False, True, True]
    assert (last.completed, last.failed, last.provider_job) == (2, 1, "scripted-batch-1")
    assert results[1] == {"error": {"type": "ProviderServerError", "message": "boom"}}
    assert results[2] is not None
    assert results[2]["response"]["choices"][0]["message"]["content"] == "three"


@pytest.mark.parametrize("storage", [{}, {"lease_share": 0.5}], ids=["exact", "in blocks"])
def test_a_batch_is_found_again_after_a_restart(world: Make, tmp_path: Path, storage: dict[str, Any]) -> None:
    """It is the provider's all the while; its cost is booked where it was claimed, never in a block of a process."""
    provider = ScriptedBatchProvider(default=answer(tokens=40))
    storage = {"connector": "modelmesh.sqlite.v1", "path": str(tmp_path / "state.db"), "call_timeout": 10.0, **storage}
    before = world(provider, settings=budget(1.0), storage=storage)
    job = before.submit()
    before.mesh.shutdown()
    after = world(provider, settings=budget(1.0), storage=storage)
    after.work()

    claimed = after.spent()
    progress: Any = after.router.get_batch(job.job_id)

    assert claimed == (0.0, 0.2)
    assert (progress.status, progress.cost) == ("completed", pytest.approx(0.08))
    assert after.spent() == (0.08, 0.0)


def test_a_cancelled_batch_ends_when_its_provider_says_so(world: Make) -> None:
    """What ran before is kept and paid, the rest is not."""
    here = world(ScriptedBatchProvider(default=answer(tokens=100)), settings=budget(1.0))
    job = here.submit()
    here.work(requests=1)

    progress: Any = here.router.cancel_batch(job.job_id)
    here.work()

    assert (progress.status, progress.completed, progress.cost) == ("cancelled", 1, pytest.approx(0.05))
    assert here.spent() == (0.05, 0.0)
    assert [each is None for each in here.router.get_batch_results(job.job_id)] == [False, True, True, True]


def test_a_provider_that_takes_its_time_to_cancel_is_believed(world: Make) -> None:
    """The batch goes on until its provider says that it has ended."""

    class Slow(ScriptedBatchProvider):
        async def cancel_batch(self, job_id: str) -> None:
            self.batches[job_id].status = "cancelling"

    here = world(Slow())
    job = here.submit()

    assert here.router.cancel_batch(job.job_id).status == "in_progress"
    here.provider.expire("scripted-batch-1")
    assert here.router.get_batch(job.job_id).status == "expired"


def test_a_provider_without_a_way_to_cancel_says_so(world: Make) -> None:
    """Nobody takes a batch for cancelled that goes on and is paid."""

    class Stubborn(ScriptedProvider):
        async def submit_batch(self, model: str, payloads: Any) -> str:
            return "theirs"

    here = world(Stubborn())
    job = here.submit()

    with pytest.raises(UnsupportedRequestError, match="no way to cancel"):
        here.router.cancel_batch(job.job_id)
    assert here.router.get_batch(job.job_id).status == "queued"


def test_trouble_of_the_provider_is_a_provider_error_that_names_it(world: Make) -> None:
    """Whatever the connector raised; later the batch is as it was."""
    here = world(ScriptedBatchProvider())
    job = here.submit()

    here.provider.trouble = ConnectionResetError("gone")
    with pytest.raises(ProviderConnectionError) as caught:
        here.router.get_batch(job.job_id)
    here.provider.trouble = None

    assert (caught.value.provider_id, caught.value.model_id) == ("p", "p-model")
    assert here.router.get_batch(job.job_id).status == "queued"


def test_a_batch_of_a_provider_that_is_gone_is_still_known(world: Make) -> None:
    """How far it was; its results need the provider."""
    here = world(ScriptedBatchProvider())
    job = here.submit()
    here.mesh.reload_config(
        World(ScriptedProvider()).config
        | {
            "providers": {"x": {"instance": ScriptedProvider()}},
            "models": {"x-model": {"provider": "x", "capabilities": ["chat-completion"]}},
        }
    )

    assert here.router.get_batch(job.job_id).status == "queued"
    for ask in (here.router.get_batch_results, here.router.cancel_batch):
        with pytest.raises(UsageError, match="'p', which is not configured"):
            ask(job.job_id)


@pytest.mark.parametrize(
    "given", [[{"response": "text"}], [17], [{}]], ids=["no answer", "no mapping", "neither answer nor error"]
)
def test_a_result_that_cannot_be_read_is_a_failure(world: Make, given: Any) -> None:
    """Of one request; those that a provider leaves out have no result."""

    class Odd(ScriptedBatchProvider):
        async def get_batch_results(self, job_id: str) -> Any:
            return given

    here = world(Odd())
    job = here.submit(2)

    results = here.router.get_batch_results(job.job_id)

    assert [None if each is None else each["error"]["type"] for each in results] == ["MalformedResponseError", None]


@pytest.mark.parametrize(("partial", "asked"), [(None, True), (True, True), (False, False)])
def test_a_provider_without_partial_results_is_asked_at_the_end(world: Make, partial: Any, asked: bool) -> None:
    """Before it, nothing has a result; by default a provider is asked for what it has."""
    here = world(ScriptedBatchProvider(), model={"batch": {"partial_results": partial}})
    job = here.submit(2)

    here.work(requests=1)
    early = here.router.get_batch_results(job.job_id)
    here.work()

    assert [each is not None for each in early] == [asked, False]
    assert None not in here.router.get_batch_results(job.job_id)


def test_a_job_that_cannot_be_kept_is_dropped_at_the_provider(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could ask after it; what it may cost stays claimed."""
    here = world(ScriptedBatchProvider(), settings=budget(1.0))

    async def full(job: Any, **how: Any) -> bool:
        raise StateStoreError("no space is left")

    monkeypatch.setattr(here.router._engine.batches.carriers._jobs, "save", full)
    with pytest.raises(StateStoreError):
        here.submit()

    assert here.provider.batches["scripted-batch-1"].status == "cancelled"
    assert here.spent() == (0.0, 0.2)


def test_requests_that_agree_on_a_provider_go_there(world: Make) -> None:
    """A preference that all share binds the batch; one that they do not share binds nobody."""
    one, other = ScriptedBatchProvider(), ScriptedBatchProvider()
    here = world(one, other)

    assert here.submit(preferred_provider="q").model == "q-model"
    assert (len(one.batches), len(other.batches)) == (0, 1)


# --- money, quotas, limits ----------------------------------------------------------------


def test_a_batch_is_claimed_whole_before_it_is_handed_over(world: Make) -> None:
    """At most 5 cents each, with the discount; what is left is not enough for another one."""
    here = world(ScriptedBatchProvider(), settings=budget(0.35))

    first, claimed, second = here.submit(), here.spent(), here.submit()

    assert claimed == (0.0, 0.2)
    assert (first.model, second.model) == ("p-model", "")
    assert len(here.provider.batches) == 1


def test_what_it_took_is_booked_when_it_has_ended(world: Make) -> None:
    """By the answers' own usage, once, however often somebody asks."""
    here = world(ScriptedBatchProvider(default=answer(tokens=40)), settings=budget(1.0))
    job = here.submit()
    here.work()

    costs = [here.router.get_batch(job.job_id).cost for _ in range(3)]

    assert costs == [pytest.approx(0.08)] * 3
    assert here.spent() == (0.08, 0.0)
    figures = here.statistics()
    assert (figures.total_requests, figures.total_tokens_out, figures.total_cost) == (4, 160, pytest.approx(0.08))
    assert figures.avg_latency_ms == 0.0
    assert here.mesh.get_client().usage.total_cost == pytest.approx(0.08)
    assert len(here.provider.usage_reports) == 4


def test_asking_for_results_books_as_well(world: Make) -> None:
    """Nobody needs to ask how far it is first."""
    here = world(ScriptedBatchProvider(default=answer(tokens=100)), settings=budget(1.0))
    job = here.submit()
    here.work()

    here.router.get_batch_results(job.job_id)

    assert here.spent() == (0.2, 0.0)


def test_two_processes_that_learn_of_the_end_book_it_once(world: Make, tmp_path: Path) -> None:
    """Whoever writes the job first does."""
    provider: Any = ScriptedBatchProvider(default=answer(tokens=40))
    storage = {"connector": "modelmesh.sqlite.v1", "path": str(tmp_path / "state.db"), "call_timeout": 10.0}
    one, other = (world(provider, settings=budget(1.0), storage=storage) for _ in range(2))
    job = one.submit()
    one.work()
    asking = provider.get_batch_results

    async def meanwhile(provider_job: str) -> Any:
        provider.get_batch_results = asking  # for the other process
        await asyncio.to_thread(other.router.get_batch, job.job_id)
        return await asking(provider_job)

    provider.get_batch_results = meanwhile  # while this one fetches the results
    one.router.get_batch(job.job_id)

    assert one.spent() == (0.08, 0.0)
    counted = [each.mesh.get_client().usage.total_requests for each in (one, other)]
    assert counted == [0, 4]


def test_a_batch_that_never_ran_costs_nothing(world: Make) -> None:
    """Cancelled before its first request, everything goes back; there are no results to look at."""

    class Exact(ScriptedBatchProvider):
        async def get_batch_results(self, job_id: str) -> Any:
            raise ProviderServerError("there is no such file", status_code=404)

    here = world(Exact(), settings=budget(1.0))
    job = here.submit()

    progress = here.router.cancel_batch(job.job_id)

    assert (progress.status, progress.cost, here.spent()) == ("cancelled", 0.0, (0.0, 0.0))


def test_answers_that_do_not_say_what_they_took_count_as_estimated(world: Make) -> None:
    """Each its share of it; requests that failed cost nothing."""

    class Silent(ScriptedBatchProvider):
        async def get_batch_results(self, job_id: str) -> Any:
            results = await super().get_batch_results(job_id)
            return [{"response": {"choices": []}} if each and "response" in each else each for each in results]

    here = world(Silent([fail(ProviderServerError("boom", status_code=500))]), settings=budget(1.0))
    job = here.submit()
    here.work()

    assert here.router.get_batch(job.job_id).cost == pytest.approx(0.15)
    assert here.spent() == (0.15, 0.0)


def test_a_batch_that_nobody_asks_after_counts_as_it_was_estimated(world: Make) -> None:
    """Its claim ends days after its window, as spent; a late answer still counts once in statistics."""
    here = world(
        ScriptedBatchProvider(default=answer(tokens=10)),
        model={"batch": {"cost_discount": 0.5, "completion_window": "1h"}},
        pool={"deactivation": {"budget_limit": 1.0}},
    )
    job = here.submit()
    here.work()

    here.clock.advance(7 * DAY + 3_599.0)
    reserved = here.spent("budget")
    here.clock.advance(2.0)
    assert (reserved, here.spent("budget")) == ((0.0, 0.2), (0.2, 0.0))
    assert here.router.get_batch(job.job_id).cost == pytest.approx(0.02)
    assert here.spent("budget") == (0.2, 0.0)


def test_results_that_cannot_be_had_yet_leave_the_claim(world: Make) -> None:
    """The batch has ended all the same; the next one to ask books it."""

    class Late(ScriptedBatchProvider):
        is_early = True

        async def get_batch_results(self, job_id: str) -> Any:
            if self.is_early:
                raise ProviderServerError("not yet", status_code=503)
            return await super().get_batch_results(job_id)

    here = world(Late(default=answer(tokens=100)), settings=budget(1.0))
    job = here.submit()
    here.work()

    early, claimed = here.router.get_batch(job.job_id), here.spent()
    here.provider.is_early = False

    assert (early.status, early.cost, claimed) == ("completed", None, (0.0, 0.2))
    assert here.router.get_batch(job.job_id).cost == pytest.approx(0.2)
    assert here.spent() == (0.2, 0.0)


@pytest.mark.parametrize(
    ("error", "claimed"),
    [
        (ProviderServerError("no", status_code=500), 0.0),
        (ProviderConnectionError("refused", sent=False), 0.0),
        (ProviderConnectionError("cut off"), 0.2),
        (SystemExit(1), 0.2),
    ],
    ids=["refused", "never sent", "perhaps taken", "the connector exits"],
)
def test_a_batch_that_was_not_taken_gives_its_claim_back(world: Make, error: BaseException, claimed: float) -> None:
    """Unless nobody knows whether it was taken: then it counts."""
    here = world(ScriptedBatchProvider(), settings=budget(1.0))
    here.provider.trouble = error

    with pytest.raises(AllProvidersExhaustedError):
        here.submit()

    assert here.spent() == (0.0, claimed)


def test_a_budget_that_does_not_grant_it_hands_it_to_the_next_provider(world: Make) -> None:
    """With room of its own."""
    here = world(ScriptedBatchProvider(), ScriptedBatchProvider(), settings=budget(0.3))

    assert [here.submit().model for _ in range(3)] == ["p-model", "q-model", ""]


def test_a_budget_error_is_told_at_once_where_the_pool_says_so(world: Make) -> None:
    """And the mesh does not ask for each request by itself."""
    here = world(ScriptedBatchProvider(), settings=budget(0.1), pool={"on_budget_exceeded": "error"})

    with pytest.raises(BudgetExceededError) as caught:
        here.submit()

    assert (caught.value.limit_value, round(caught.value.actual_value, 9)) == (0.1, 0.2)


@pytest.mark.parametrize(
    ("settings", "pool"),
    [
        ({"quota": {"requests": 2, "reset_schedule": "daily"}}, {}),
        ({"quota": {"requests": 2, "reset_schedule": "rolling", "rolling_window": "1h"}}, {}),
        ({"quota": {"tokens": 218, "reset_schedule": "daily"}}, {}),
        ({}, {"deactivation": {"token_limit": 218}}),
        ({}, {"deactivation": {"request_limit": 2}}),
        ({}, {"deactivation": {"budget_limit": 0.1}}),
        (budget(0.1), {}),
    ],
    ids=["requests", "rolling requests", "tokens", "pool's tokens", "pool's requests", "pool's budget", "budget"],
)
def test_no_limit_is_passed_by_handing_a_batch_over(world: Make, settings: Any, pool: Any) -> None:
    """Provider's and pool's alike: what does not fit whole is not handed over, and what just fits is."""
    fitting, too_many = (world(ScriptedBatchProvider(), settings=settings, pool=pool) for _ in range(2))

    assert (fitting.submit(2).model, too_many.submit(3).model) == ("p-model", "")


def test_a_batch_is_a_single_request_to_a_rate(world: Make) -> None:
    """A provider works on it at its own pace: what the mesh sends is one call."""
    here = world(ScriptedBatchProvider(), settings={"rate_limit": {"rpm": 2, "tpm": 100, "burst": 1.0}})

    assert [here.submit(50).model for _ in range(3)] == ["p-model", "p-model", ""]


def test_a_budget_that_a_batch_used_up_puts_its_models_to_rest(world: Make) -> None:
    """As a request would that did."""
    here = world(ScriptedBatchProvider(default=answer(tokens=100)), ScriptedProvider(), settings=budget(0.2))
    job = here.submit()
    here.work()

    here.router.get_batch(job.job_id)

    members = here.router.get_pool("chat-completion").members
    assert (members["p-model"].reason, members["q-model"].active) == ("budget_exceeded", True)


def test_batches_at_once_never_pass_a_budget(world: Make) -> None:
    """What is granted never adds up to more; what it took is exactly that."""
    here = world(ScriptedBatchProvider(default=answer(tokens=100)), settings=budget(1.0))

    async def crowd() -> list[Any]:
        requests = [CompletionRequest([{"role": "user", "content": "hi"}], None, 100)] * 2
        return await asyncio.gather(*(here.router._abatch("chat-completion", requests) for _ in range(30)))

    handed = [job for job in here.mesh.run(crowd()) if job.model]
    here.work()
    for job in handed:
        here.router.get_batch(job.job_id)

    assert len(handed) == 10
    assert here.spent()[0] == 1.0
