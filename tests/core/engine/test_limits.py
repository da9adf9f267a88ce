"""Limits on money, quotas and rates: no number of concurrent requests passes one, and each comes back in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.errors import (
    AllProvidersExhaustedError,
    BudgetExceededError,
    ConfigurationError,
    NoActiveModelError,
    ProviderConnectionError,
    ProviderServerError,
    ProviderTimeoutError,
    RateLimitError,
    StreamInterruptedError,
)
from modelmesh.interfaces.provider import FreeTier
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, FakeRandom, ScriptedProvider
from modelmesh_cdk.testing.scripted import answer, fail, hang, pieces

PRICE = {"input_per_1k_tokens": 0.0, "output_per_1k_tokens": 1.0}
"""A tenth of a cent an output token: 100 tokens are 10 cents."""

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()


class World:
    """A mesh over scripted providers, named as its models are; pools are ``chat`` unless said otherwise."""

    def __init__(self, providers: dict[str, dict[str, Any]], **pool: Any) -> None:
        self.clock = FakeClock(time=NOON, auto_advance=True)
        self.providers = {name: each.pop("instance", None) or ScriptedProvider([]) for name, each in providers.items()}
        prices = {name: each.pop("pricing", PRICE) for name, each in providers.items()}
        self.mesh = ModelMesh(clock=self.clock, random=FakeRandom(), environ={})
        self.mesh.initialize(
            {
                "providers": {name: {"instance": self.providers[name], **each} for name, each in providers.items()},
                "models": {
                    f"{name}-model": {"provider": name, "capabilities": ["chat-completion"], "pricing": prices[name]}
                    for name in providers
                },
                "pools": {"chat-completion": pool},
            }
        )

    async def aask(self, content: str = "hi", **parameters: Any) -> str:
        """Ask; return the ID of the model that answered."""
        request = CompletionRequest([{"role": "user", "content": content}], metadata={"parameters": parameters})
        return (await self.mesh.get_router().acomplete("chat-completion", request)).model

    def ask(self, **parameters: Any) -> str:
        """Ask, and wait."""
        return asyncio.run(self.aask(**parameters))

    async def astream(self, **parameters: Any) -> None:
        """Ask for a stream, and read it to its end."""
        payload = {"messages": [{"role": "user", "content": "hi"}], "stream": True, **parameters}
        async for _ in self.mesh.get_router().execute_stream("chat-completion", payload):
            pass

    def calls(self, provider: str) -> int:
        """How often a provider was called."""
        return len(self.providers[provider].requests)

    def reason(self, model: str) -> str | None:
        """Why a model rests."""
        reason: str | None = self.mesh.get_router().get_pool("chat-completion").members[model].reason
        return reason


@pytest.fixture
def world() -> Iterator[Callable[..., World]]:
    """Build worlds and shut their meshes down."""
    built: list[World] = []

    def make(providers: dict[str, dict[str, Any]], **pool: Any) -> World:
        built.append(World(providers, **pool))
        return built[-1]

    yield make
    for each in built:
        each.mesh.shutdown()


Make = Callable[..., World]


def test_a_thousand_concurrent_requests_never_overspend_a_budget(world: Make) -> None:
    """1,000 at once, 10 cents each at most, on 5 dollars: exactly 50 are sent."""
    here = world({"paid": {"budget": {"daily_limit": 5.0}, "instance": ScriptedProvider(default=answer(tokens=100))}})

    async def crowd() -> list[str | BaseException]:
        asked = (here.aask(max_tokens=100) for _ in range(1_000))
        return await asyncio.gather(*asked, return_exceptions=True)

    results = asyncio.run(crowd())

    assert results.count("paid-model") == 50
    assert here.calls("paid") == 50


def test_requests_that_bring_the_same_id_are_booked_each_for_itself(world: Make) -> None:
    """An ID is the caller's name for as many requests as it likes; a budget holds all the same."""
    here = world(
        {"paid": {"budget": {"daily_limit": 5.0}, "instance": ScriptedProvider(default=answer(tokens=100, delay=1.0))}}
    )
    request = CompletionRequest(
        [{"role": "user", "content": "hi"}], metadata={"request_id": "job-17", "parameters": {"max_tokens": 100}}
    )

    async def crowd() -> list[Any]:
        router = here.mesh.get_router()
        asked = (router.acomplete("chat-completion", request) for _ in range(200))
        return await asyncio.gather(*asked, return_exceptions=True)

    replies = [each for each in asyncio.run(crowd()) if not isinstance(each, BaseException)]

    assert len(replies) == here.calls("paid") == 50
    assert {reply.metadata["request_id"] for reply in replies} == {"job-17"}


def test_more_output_than_a_number_of_dollars_can_say_is_over_budget(world: Make) -> None:
    """And is told like any other request that costs too much."""
    here = world({"paid": {"budget": {"daily_limit": 5.0}}})

    with pytest.raises(AllProvidersExhaustedError, match="daily budget of \\$5 would be passed"):
        here.ask(max_tokens=10**400)


def test_free_quotas_chain_before_anything_is_paid(world: Make) -> None:
    """100, 200 and 50 free requests and one paid model: of 1,000 requests 350 are free, and none fails."""
    here = world(
        {
            "a": {"quota": {"requests": 100, "reset_schedule": "daily"}},
            "b": {"quota": {"requests": 200, "reset_schedule": "daily"}},
            "c": {"quota": {"requests": 50, "reset_schedule": "daily"}},
            "paid": {},
        },
        strategy="priority-selection",
        model_priority=["a-model", "b-model", "c-model", "paid-model"],
    )

    async def all_of_them() -> list[str]:
        return [await here.aask() for _ in range(1_000)]

    answered = asyncio.run(all_of_them())

    assert answered == ["a-model"] * 100 + ["b-model"] * 200 + ["c-model"] * 50 + ["paid-model"] * 650


def test_a_reached_budget_goes_to_the_next_model_and_returns_with_the_day(world: Make) -> None:
    """The model rests as budget_exceeded until midnight, and answers again then."""
    here = world(
        {"paid": {"budget": {"daily_limit": 0.2}, "instance": ScriptedProvider(default=answer(tokens=100))}, "b": {}},
        strategy="priority-selection",
        model_priority=["paid-model", "b-model"],
    )

    assert [here.ask(max_tokens=100) for _ in range(3)] == ["paid-model", "paid-model", "b-model"]
    assert here.reason("paid-model") == "budget_exceeded"
    here.clock.advance(12 * 3600 - 1)
    assert here.ask(max_tokens=100) == "b-model"
    here.clock.advance(2)
    assert here.ask(max_tokens=100) == "paid-model"


def test_when_everybody_is_over_budget_the_caller_hears_of_the_budget(world: Make) -> None:
    """The error of the last resort is the budget's, with its figures."""
    here = world({"paid": {"budget": {"monthly_limit": 0.05}}})

    with pytest.raises(AllProvidersExhaustedError) as caught:
        here.ask(max_tokens=100)

    assert isinstance(caught.value.last_error, BudgetExceededError)
    assert caught.value.last_error.limit_type == "monthly"
    assert here.calls("paid") == 0


def test_a_smaller_request_still_fits_a_budget_that_a_large_one_would_pass(world: Make) -> None:
    """A refusal of one request puts nobody to rest while there is money left."""
    here = world({"paid": {"budget": {"daily_limit": 0.1}, "instance": ScriptedProvider(default=answer(tokens=10))}})

    with pytest.raises(AllProvidersExhaustedError):
        here.ask(max_tokens=500)

    assert here.ask(max_tokens=50) == "paid-model"


@pytest.mark.parametrize(
    "limited",
    [
        {"budget": {"daily_limit": 0.055}, "pricing": {"per_request": 0.01}},
        {"budget": {"daily_limit": 0.055}, "pricing": {"input_per_1k_tokens": 1.0}},
        {"quota": {"tokens": 55}},
    ],
    ids=["price of a request", "price of input", "tokens of input"],
)
def test_what_is_left_is_not_taken_by_a_request_whose_input_alone_would_pass_it(
    world: Make, limited: dict[str, Any]
) -> None:
    """Output that nobody bounded may be cut short by chance; what goes in is known before it is sent."""
    here = world(
        {"paid": {**limited, "instance": ScriptedProvider(default=answer(prompt_tokens=10, tokens=0))}, "b": {}}
    )

    answered = [here.ask(content="x" * 40) for _ in range(8)]

    assert answered == ["paid-model"] * 5 + ["b-model"] * 3
    assert all(row.spent <= row.limit for row in here.mesh.get_quota())


def test_on_budget_exceeded_error_tells_the_caller_at_once(world: Make) -> None:
    """No other model is asked."""
    here = world({"paid": {"budget": {"daily_limit": 0.05}}, "b": {}}, on_budget_exceeded="error")

    with pytest.raises(BudgetExceededError, match="daily budget"):
        here.ask(max_tokens=100)

    assert here.calls("b") == 0


def test_on_budget_exceeded_error_ends_a_broken_stream_with_its_text_and_the_budget_as_its_cause(world: Make) -> None:
    """Whoever was to continue it may not, and nobody else is asked: the caller has the text, and hears why."""
    here = world(
        {
            "a": {"instance": ScriptedProvider([pieces("One ", end="cut")])},
            "paid": {"budget": {"daily_limit": 0.05}},
            "c": {},
        },
        strategy="priority-selection",
        model_priority=["a-model", "paid-model", "c-model"],
        on_stream_failure="continue",
        on_budget_exceeded="error",
    )

    with pytest.raises(StreamInterruptedError, match="daily budget") as caught:
        asyncio.run(here.astream(max_tokens=100))

    assert caught.value.partial == "One "
    assert isinstance(caught.value.__cause__, BudgetExceededError)
    assert here.calls("c") == 0


def test_a_budget_that_is_not_enforced_stops_nobody(world: Make) -> None:
    """It is only traced."""
    here = world({"paid": {"budget": {"daily_limit": 0.01, "enforce": False}}})

    assert [here.ask(max_tokens=100) for _ in range(3)] == ["paid-model"] * 3


async def turns() -> None:
    """Let everybody else on the loop go on until they wait for something."""
    for _ in range(20):
        await asyncio.sleep(0)


def spent(here: World, account: str) -> int:
    """Return what an account's books say, in nano-USD."""
    ledger = here.mesh.get_router()._engine.driver.limits._ledger
    return asyncio.run(ledger.balances([account]))[account].spent


DAILY = "budget/provider/paid/daily/2026-11-21"


@pytest.mark.parametrize(
    ("step", "nano"),
    [
        (answer(tokens=7), 7_000_000),
        (fail(ProviderServerError("no", status_code=500)), 0),
        (fail(ProviderConnectionError("refused", sent=False)), 0),
        (fail(ProviderConnectionError("reset after the request was sent")), 100_000_000),
        (fail(ProviderTimeoutError("silence")), 100_000_000),
    ],
    ids=["answer", "status", "never sent", "reset", "timeout"],
)
def test_what_was_used_is_booked_and_what_may_have_been_used_counts_as_spent(world: Make, step: Any, nano: int) -> None:
    """An answer costs what it used, a refusal nothing, and silence what it may have cost."""
    provider = ScriptedProvider([step])
    here = world({"paid": {"budget": {"daily_limit": 9.0}, "instance": provider}}, retry={"max_attempts": 0})

    with pytest.raises(AllProvidersExhaustedError) if not isinstance(step, type(answer())) else _nothing():
        here.ask(max_tokens=100)

    assert spent(here, DAILY) == nano


class _nothing:  # noqa: N801 (stands beside pytest.raises)
    def __enter__(self) -> None: ...

    def __exit__(self, *exc_info: object) -> None: ...


def test_a_stream_that_breaks_costs_what_was_seen(world: Make) -> None:
    """Tokens that arrived are paid for; the rest of the reservation returns."""
    provider = ScriptedProvider([pieces("12345678", end="cut")])
    here = world({"paid": {"budget": {"daily_limit": 9.0}, "instance": provider}})

    async def read() -> None:
        payload = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}
        async for _ in here.mesh.get_router().execute_stream("chat-completion", payload):
            pass

    with pytest.raises(StreamInterruptedError):
        asyncio.run(read())

    assert spent(here, DAILY) == 2_000_000


def test_an_abandoned_request_counts_as_spent(world: Make) -> None:
    """Whoever hangs up may be billed all the same."""
    here = world({"paid": {"budget": {"daily_limit": 9.0}, "instance": ScriptedProvider([hang()])}})

    async def abandon() -> None:
        task = asyncio.ensure_future(here.aask(max_tokens=100))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(abandon())

    assert spent(here, DAILY) == 100_000_000


def test_a_rate_limit_lets_a_burst_through_and_then_rotates(world: Make) -> None:
    """Ten a minute with a burst of two: the third goes elsewhere, and six seconds later one more fits."""
    here = world(
        {"a": {"rate_limit": {"rpm": 10, "burst": 0.2}}, "b": {}},
        strategy="priority-selection",
        model_priority=["a-model", "b-model"],
    )

    assert [here.ask() for _ in range(3)] == ["a-model", "a-model", "b-model"]
    here.clock.advance(6.1)
    assert [here.ask() for _ in range(2)] == ["a-model", "b-model"]


def test_the_only_model_is_waited_for_when_its_rate_is_used_up(world: Make) -> None:
    """Nobody else can answer, and the wait is short."""
    here = world({"a": {"rate_limit": {"rpm": 60, "burst": 0.02}}})
    started = here.clock.monotonic()

    assert [here.ask() for _ in range(3)] == ["a-model"] * 3
    assert 1.9 <= here.clock.monotonic() - started <= 2.1


def test_concurrent_calls_stay_under_their_limit(world: Make) -> None:
    """With two places, the third caller is answered by somebody else."""
    provider = ScriptedProvider([hang(), hang()])
    here = world(
        {"a": {"rate_limit": {"concurrency": 2}, "instance": provider}, "b": {}},
        strategy="priority-selection",
        model_priority=["a-model", "b-model"],
    )

    async def three() -> list[str]:
        first = [asyncio.ensure_future(here.aask()) for _ in range(2)]
        await turns()
        third = await here.aask()
        provider.release()
        return [third, *await asyncio.gather(*first)]

    assert asyncio.run(three()) == ["b-model", "a-model", "a-model"]


@pytest.mark.parametrize(
    ("limits", "tokens", "reason"),
    [
        ({"request_limit": 2}, 20, "request_limit"),
        ({"token_limit": 62}, 30, "token_limit"),
        ({"budget_limit": 0.04}, 20, "budget_exceeded"),
    ],
    ids=["requests", "tokens", "budget"],
)
def test_a_pools_limit_puts_a_model_to_rest_until_its_window_ends(
    world: Make, limits: Any, tokens: int, reason: str
) -> None:
    """The limit holds for this pool's use of the model, and a new day begins anew."""
    here = world(
        {"a": {"instance": ScriptedProvider(default=answer(tokens=tokens))}, "b": {}},
        deactivation={**limits, "quota_window": "daily"},
        strategy="priority-selection",
        model_priority=["a-model", "b-model"],
    )

    assert [here.ask(max_tokens=20) for _ in range(3)] == ["a-model", "a-model", "b-model"]
    assert here.reason("a-model") == reason
    here.clock.advance(12 * 3600 + 1)
    assert here.ask(max_tokens=20) == "a-model"


def test_a_limit_without_a_window_holds_until_a_person_says_otherwise(world: Make) -> None:
    """No time brings the model back."""
    here = world({"a": {}}, deactivation={"request_limit": 1})

    here.ask()
    here.clock.advance(90 * 86_400)

    with pytest.raises(NoActiveModelError, match="request_limit"):
        here.ask()


def test_a_rate_that_no_wait_could_grant_is_an_error(world: Make) -> None:
    """A request that never fits tells so at once instead of waiting."""
    here = world({"a": {"rate_limit": {"concurrency": 1}, "instance": ScriptedProvider([hang()])}})

    async def two() -> BaseException | str:
        first = asyncio.ensure_future(here.aask())
        await turns()
        second = (await asyncio.gather(here.aask(), return_exceptions=True))[0]
        first.cancel()
        return second

    error = asyncio.run(two())

    assert isinstance(error, AllProvidersExhaustedError)
    assert isinstance(error.last_error, RateLimitError)


def refused(config: dict[str, Any]) -> str:
    """Return what loading says about a configuration that is wrong."""
    with pytest.raises(ConfigurationError) as caught:
        ModelMesh(environ={}).initialize(config)
    return str(caught.value)


def sections(provider: dict[str, Any], **model: Any) -> dict[str, Any]:
    """Return a configuration of one provider, one model and one pool."""
    return {
        "providers": {"p": {"connector": "modelmesh.simulator.v1", **provider}},
        "models": {"m": {"provider": "p", "capabilities": ["chat-completion"], **model}},
        "pools": {"chat-completion": {}},
    }


def test_a_budget_over_a_model_without_a_price_is_refused() -> None:
    """Counting it as nothing would make the budget a lie."""
    assert "models.m: has no price, and provider 'p' has a budget" in refused(
        sections({"budget": {"daily_limit": 1.0}})
    )


def test_a_ceiling_stands_in_for_an_unknown_price() -> None:
    """A request is then counted as that much."""
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(sections({"budget": {"daily_limit": 0.03, "unpriced_request": 0.01}}))
        client = mesh.get_client()
        for _ in range(3):
            client.chat.completions.create(model="chat-completion", messages=[{"role": "user", "content": "hi"}])

        with pytest.raises(NoActiveModelError, match="budget_exceeded"):
            client.chat.completions.create(model="chat-completion", messages=[{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ({"budget": {"daily_limit": 1.0, "timezone": "Mars/Olympus"}}, "no time zone is called 'Mars/Olympus'"),
        ({"budget": {"daily_limit": 9.0, "monthly_limit": 1.0}}, "daily_limit is larger than monthly_limit"),
        ({"budget": {}}, "a budget needs daily_limit or monthly_limit"),
        ({"budget": {"daily_limit": 0}}, "providers.p.budget.daily_limit"),
        ({"quota": {"reset_schedule": "daily"}}, "a quota needs requests or tokens"),
        ({"quota": {"requests": 0}}, "providers.p.quota.requests"),
        ({"rate_limit": {}}, "a rate limit needs rpm, tpm or concurrency"),
        ({"rate_limit": {"rpm": 5, "burst": 0}}, "providers.p.rate_limit.burst"),
    ],
    ids=["zone", "never reached", "empty budget", "nothing", "empty quota", "no requests", "empty rate", "no burst"],
)
def test_impossible_limits_are_refused_at_load(provider: dict[str, Any], said: str) -> None:
    """Each with the key and the reason."""
    assert said in refused(sections(provider, pricing=PRICE))


# --- free tiers ---------------------------------------------------------------------------------


class Generous(ScriptedProvider):
    """Gives three requests a day away, as everybody knows."""

    free_tier = FreeTier(as_of="2026-11-21", requests=3, schedule="daily", timezone="America/Los_Angeles")


def test_a_connectors_free_tier_is_its_providers_quota_on_demand(world: Make) -> None:
    """In the time zone the connector states: at noon in UTC it is still the day before's morning there."""
    here = world(
        {"a": {"instance": Generous(), "quota": {"free_tier": True}}, "b": {}},
        strategy="priority-selection",
        model_priority=["a-model", "b-model"],
    )

    assert [here.ask() for _ in range(4)] == ["a-model"] * 3 + ["b-model"]
    here.clock.advance(20 * 3600 - 1)
    assert here.ask() == "b-model"
    here.clock.advance(2)
    assert here.ask() == "a-model"


def test_a_connector_without_a_free_tier_says_so() -> None:
    """Rather than be without a limit."""
    said = refused(sections({"quota": {"free_tier": True}}))

    assert "providers.p.quota.free_tier: connector 'modelmesh.simulator.v1' knows of no free tier" in said


def test_a_free_tier_beside_figures_is_refused() -> None:
    """One of them would be ignored."""
    assert "takes the connector's own figures" in refused(sections({"quota": {"free_tier": True, "requests": 5}}))
