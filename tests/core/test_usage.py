"""``client.usage``: what was used, and how budgets stand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.errors import ProviderServerError
from modelmesh.usage import ModelUsage
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, answer

HELLO = [{"role": "user", "content": "hi"}]
PRICE = {"input_per_1k_tokens": 1.0, "output_per_1k_tokens": 1.0}


def config(budget: float | None = None, extra: Any = None, **providers: ScriptedProvider) -> dict[str, Any]:
    """A pool ``chat`` over these providers, each with a model at a dollar for a thousand tokens."""
    section = {} if budget is None else {"budget": {"daily_limit": budget}}
    return {
        "providers": {name: {"instance": provider, **section} for name, provider in providers.items()},
        "models": {
            f"{name}-model": {"provider": name, "capabilities": ["chat-completion"], "pricing": PRICE}
            for name in providers
        },
        "pools": {"chat": {"capability": "chat-completion", "retry": {"max_attempts": 0}}},
        **(extra or {}),
    }


@pytest.fixture
def mesh() -> Iterator[ModelMesh]:
    """A mesh that is not initialised yet."""
    with ModelMesh(environ={}, clock=FakeClock(auto_advance=True)) as mesh:
        yield mesh


def ask(mesh: ModelMesh) -> None:
    """Ask once."""
    mesh.get_client().chat.completions.create(model="chat", messages=HELLO, max_tokens=500)


def test_nothing_is_used_at_first(mesh: ModelMesh) -> None:
    """Zeros, no models, and no budget where there is none."""
    mesh.initialize(config(acme=ScriptedProvider()))

    usage = mesh.get_client().usage

    assert (usage.total_cost, usage.total_tokens, usage.total_requests, usage.by_model) == (0.0, 0, 0, {})
    assert usage.budget_status is None


def test_each_model_is_counted_and_all_together(mesh: ModelMesh) -> None:
    """A failed call is one, too: it was made."""
    broken = ScriptedProvider([ProviderServerError("no", status_code=500)])
    mesh.initialize(config(first=broken, second=ScriptedProvider(default=answer("a", 99))))
    ask(mesh)

    usage = mesh.get_client().usage

    assert usage.by_model["first-model"] == ModelUsage(0.0, 0, 1)
    assert usage.by_model["second-model"] == ModelUsage(pytest.approx(0.1), 100, 1)  # type: ignore[arg-type]  # a float
    assert (usage.total_tokens, usage.total_requests) == (100, 2)
    assert usage.total_cost == pytest.approx(0.1)


def test_it_is_a_snapshot(mesh: ModelMesh) -> None:
    """What comes after it is in the next one."""
    mesh.initialize(config(acme=ScriptedProvider()))
    client = mesh.get_client()
    before = client.usage

    ask(mesh)

    assert (before.total_requests, client.usage.total_requests) == (0, 1)


def test_the_tightest_budget_is_the_one_that_is_told(mesh: ModelMesh) -> None:
    """Used, left, and when it begins anew; by attribute and by key."""
    mesh.initialize(config(budget=1.0, acme=ScriptedProvider(default=answer("a", 399))))
    ask(mesh)

    status = mesh.get_client().usage.budget_status

    assert status is not None
    assert status.subject == "the daily budget of $1 for provider 'acme'"
    assert (status["limit"], status.used, status.remaining) == (1.0, pytest.approx(0.4), pytest.approx(0.6))
    assert not status.exceeded
    assert status.resets_at > 0


def test_a_budget_that_is_used_up_is_exceeded(mesh: ModelMesh) -> None:
    """Nothing is left of it."""
    mesh.initialize(config(budget=0.6, acme=ScriptedProvider(default=answer("a", 700))))
    ask(mesh)

    status = mesh.get_client().usage.budget_status

    assert status is not None
    assert (status.exceeded, status.remaining) == (True, 0.0)


def test_totals_do_not_need_figures_of_models(mesh: ModelMesh) -> None:
    """Those of providers add up to the same; only the models are missing."""
    scopes = {"observability": {"connector": "modelmesh.null.v1", "statistics": {"scopes": ["provider"]}}}
    mesh.initialize(config(acme=ScriptedProvider(), extra=scopes))
    ask(mesh)

    usage = mesh.get_client().usage

    assert (usage.total_requests, usage.by_model) == (1, {})


def test_the_asynchronous_client_has_it_as_well(mesh: ModelMesh) -> None:
    """Asked from the caller's own loop, budgets included."""
    mesh.initialize(config(budget=1.0, acme=ScriptedProvider()))

    async def asking() -> tuple[int, bool]:
        client = mesh.get_async_client()
        await client.chat.completions.create(model="chat", messages=HELLO, max_tokens=5)
        return client.usage.total_requests, client.usage.budget_status is not None

    assert asyncio.run(asking()) == (1, True)
