"""What survives a reload: figures, rests, limits and batches of what is still there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelmesh.errors import AuthenticationError, ConfigurationError, ProviderServerError
from modelmesh.interfaces.strategy import DeactivationReason
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, fail, hang

Build = Callable[..., Any]
WaitFor = Callable[[Callable[[], bool]], None]
HELLO = CompletionRequest([{"role": "user", "content": "hi"}])
NEW_KEY = {"api_key": "sk-a-new-key-0123456789"}


def test_figures_carry_over(build: Build) -> None:
    """Of models, providers and pools, and the statistics of all of them."""
    same = ScriptedProvider()
    mesh = build(same=same)
    mesh.ask()

    mesh.reload(same=same, new=ScriptedProvider())
    mesh.ask()

    assert mesh.get_registry().get_model("same-model").state.quota_used == 2
    assert mesh.get_statistics().model("same-model").total_requests == 2
    assert mesh.pool_status()["chat"]["total_requests"] == 2


def test_figures_carry_over_to_another_connector(build: Build) -> None:
    """What was used was used; what is on its way in the old one counts there alone."""
    mesh = build(same=ScriptedProvider())
    mesh.ask()
    before = mesh.get_registry().get_model("same-model").state

    mesh.reload(same=ScriptedProvider())
    mesh.ask()

    after = mesh.get_registry().get_model("same-model").state
    assert (before.quota_used, after.quota_used) == (1, 2)


def test_a_model_that_is_another_providers_begins_anew(build: Build) -> None:
    """Its name is all that it has in common with the earlier one."""
    one, other = ScriptedProvider(), ScriptedProvider()
    mesh = build(one=one, other=other, pool={"strategy": "round-robin"})
    mesh.ask()
    moved = {f"{name}-model": {"provider": "other", "capabilities": ["chat-completion"]} for name in ("one", "other")}

    mesh.reload(one=one, other=other, extra={"models": moved})

    assert mesh.get_registry().get_model("one-model").state.quota_used == 0


def test_a_strategy_goes_on_where_it_was(build: Build) -> None:
    """Round-robin asks whoever is next, and not the first one again."""
    one, other = ScriptedProvider(), ScriptedProvider()
    mesh = build(one=one, other=other, pool={"strategy": "round-robin"})
    assert mesh.ask() == "one-model"

    mesh.reload(one=one, other=other, pool={"strategy": "round-robin", "deadline": "9s"})

    assert mesh.ask() == "other-model"


def test_another_strategy_chooses_from_the_next_request_on(build: Build) -> None:
    """The old one is not kept because the pool has kept its name."""
    one, other = ScriptedProvider(), ScriptedProvider()
    mesh = build(one=one, other=other, pool={"strategy": "round-robin"})
    assert mesh.ask() == "one-model"
    preferring = {"strategy": "priority-selection", "model_priority": ["one-model"]}

    mesh.reload(one=one, other=other, pool=preferring)

    assert [mesh.ask(), mesh.ask()] == ["one-model", "one-model"]


@pytest.mark.parametrize("reason", ["error_threshold", "rate_limited", "manual"])
def test_who_rests_goes_on_resting(build: Build, reason: str) -> None:
    """For as long as was left."""
    one, other, clock = ScriptedProvider(), ScriptedProvider(), FakeClock()
    mesh = build(clock=clock, one=one, other=other)
    mesh.rest("one-model", reason)
    before = mesh.member("one-model").cooldown_remaining
    clock.advance(10.0)

    mesh.reload(one=one, other=other, new=ScriptedProvider())

    member = mesh.member("one-model")
    assert (member.active, member.reason) == (False, reason)
    assert member.cooldown_remaining == (None if before is None else pytest.approx(before - 10.0))
    assert member.model.state.status == "standby"
    assert mesh.ask() == "other-model"


def test_a_provider_with_a_new_key_may_be_called_at_once(build: Build) -> None:
    """What it was put to rest for may be just what was corrected."""
    settings = {"connector": "modelmesh.openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}
    mesh = build(vendor={**settings, "api_key": "sk-an-old-key-0123456789"}, other=(other := ScriptedProvider()))
    provider = mesh.get_registry().find_by_provider("vendor")[0].provider
    provider.deactivate("auth_failure", auth=True, rest=60.0, now=0.0)
    assert "vendor" not in mesh.active_providers()

    mesh.reload(vendor={**settings, **NEW_KEY}, other=other)

    assert "vendor" in mesh.active_providers()
    assert mesh.pool_status()["chat"]["standby"] == 0
    state = mesh.get_registry().find_by_provider("vendor")[0].state
    assert (state.status, state.deactivation_reason) == ("active", None)


def test_who_was_put_aside_by_hand_stays_aside_whatever_is_corrected(build: Build) -> None:
    """A person wanted it so; no new connector tells otherwise."""
    other = ScriptedProvider()
    mesh = build(one=ScriptedProvider(), other=other)
    mesh.rest("one-model", "manual")

    mesh.reload(one=ScriptedProvider(), other=other)

    assert mesh.member("one-model").reason == "manual"


def test_a_larger_limit_ends_the_rest_it_was_for(build: Build) -> None:
    """Where limits stay as they are, so does the rest."""
    one, other = ScriptedProvider(), ScriptedProvider()
    pool = {"deactivation": {"request_limit": 1}}
    mesh = build(one=one, other=other, pool=pool)
    mesh.rest("one-model", DeactivationReason.REQUEST_LIMIT.value)

    mesh.reload(one=one, other=other, pool=pool)
    still = mesh.pool_status()["chat"]["standby"]
    mesh.reload(one=one, other=other, pool={"deactivation": {"request_limit": 5}})

    assert (still, mesh.pool_status()["chat"]["standby"]) == (1, 0)


def test_what_was_spent_stays_spent(build: Build) -> None:
    """The books of limits are kept with the state store."""
    limited = {"connector": "modelmesh.simulator.v1", "quota": {"requests": 1, "reset_schedule": "monthly"}}
    mesh = build(sim=limited)
    mesh.ask()

    mesh.reload(sim=limited, new=ScriptedProvider())

    assert [row.spent for row in mesh.get_quota()] == [1]
    assert mesh.ask() == "new-model"


def test_a_failure_that_comes_late_is_heard_in_the_new_pools(build: Build, wait_for: WaitFor) -> None:
    """A request of before the change that finds its provider refusing the key puts it to rest there as well."""
    refusal = fail(AuthenticationError("no", status_code=401), delay=9.0)
    one, other, clock = ScriptedProvider([refusal]), ScriptedProvider(), FakeClock()
    mesh = build(clock=clock, one=one, other=other)
    asking = threading.Thread(target=mesh.ask)
    asking.start()
    wait_for(lambda: one.active == 1 and clock.sleepers == 1)
    mesh.reload(one=one, other=other)

    clock.advance(9.0)
    asking.join()

    assert mesh.member("one-model").reason == "provider_unavailable"
    assert mesh.active_providers() == ["other"]
    assert mesh.provider_status()["one"]["reason"] == "auth_failure"


@pytest.mark.parametrize("left", ["another connector", "the last one"])
def test_a_failure_that_comes_late_says_nothing_against(build: Build, left: str, wait_for: WaitFor) -> None:
    """A connector that has been replaced since, or the only model that is left to ask."""
    failure = fail(ProviderServerError("no", status_code=500), delay=9.0)
    one, other, clock = ScriptedProvider([failure]), ScriptedProvider(), FakeClock()
    pool = {"deactivation": {"retry_limit": 1}, "retry": {"max_attempts": 0}}
    mesh = build(clock=clock, one=one, other=other, pool=pool)
    asking = threading.Thread(target=mesh.ask)
    asking.start()
    wait_for(lambda: one.active == 1 and clock.sleepers == 1)
    rest_of_it = {"one": ScriptedProvider(), "other": other} if left == "another connector" else {"one": one}
    mesh.reload(pool=pool, **rest_of_it)

    clock.advance(9.0)
    asking.join()

    member = mesh.member("one-model")
    assert (member.active, member.model.state.status) == (True, "active")


def test_downtime_goes_on_where_it_was(build: Build) -> None:
    """Of a model that rests on; one that is gone is not down any more."""
    one, other, clock = ScriptedProvider(), ScriptedProvider(), FakeClock()
    mesh = build(clock=clock, one=one, other=other, third=(third := ScriptedProvider()))
    for name in ("one-model", "third-model"):
        mesh.rest(name, "manual")
    clock.advance(10.0)

    mesh.reload(one=one, other=other)
    clock.advance(10.0)

    assert mesh.get_statistics().model("one-model").downtime_total == pytest.approx(20.0)
    assert mesh.get_statistics().model("third-model").downtime_total == pytest.approx(10.0)
    assert third is not None


def test_a_refused_configuration_ends_no_downtime(build: Build, stuck: Any) -> None:
    """What was built for it said that everybody can be reached."""
    one, other, clock = ScriptedProvider(), ScriptedProvider(), FakeClock()
    mesh = build(clock=clock, one=one, other=other)
    mesh.rest("one-model", "manual")
    with pytest.raises(ConfigurationError):
        mesh.reload(observer=stuck, one=one, other=other)
    clock.advance(10.0)

    assert mesh.get_statistics().model("one-model").downtime_total == pytest.approx(10.0)


def test_a_batch_goes_on_with_the_new_providers(build: Build, wait_for: WaitFor) -> None:
    """What is left of it is asked of them."""
    old, new = ScriptedProvider(default=hang()), ScriptedProvider()
    mesh = build(clock=FakeClock(), old=old)
    router = mesh.get_router()
    job = router.batch("chat", [HELLO] * 20)
    wait_for(lambda: old.active == 8)
    mesh.reload(new=new)

    old.release()

    wait_for(lambda: router.get_batch(job.job_id).status == "completed")
    assert (len(old.requests), len(new.requests)) == (8, 12)


def test_a_batch_goes_on_with_the_new_providers_though_its_store_was_replaced(
    build: Build, tmp_path: Path, wait_for: WaitFor
) -> None:
    """Its job stays in the store that was; what is left of it is asked all the same."""
    old, new = ScriptedProvider(default=hang()), ScriptedProvider()
    mesh = build(clock=FakeClock(), old=old)
    mesh.get_router().batch("chat", [HELLO] * 20)
    wait_for(lambda: old.active == 8)
    mesh.reload(new=new, extra={"storage": {"connector": "file", "path": str(tmp_path / "store")}})

    old.release()

    wait_for(lambda: len(new.requests) == 12)


def test_batches_of_another_store_follow_later_configurations(build: Build, tmp_path: Path, wait_for: WaitFor) -> None:
    """They ask whatever is in force when they ask."""
    stored = {"storage": {"connector": "file", "path": str(tmp_path / "store")}}
    mesh = build(p=ScriptedProvider())
    mesh.reload(p=(second := ScriptedProvider()), extra=stored)
    mesh.reload(p=(third := ScriptedProvider()), extra=stored)

    router = mesh.get_router()
    job = router.batch("chat", [HELLO] * 3)

    wait_for(lambda: router.get_batch(job.job_id).status == "completed")
    assert (len(second.requests), len(third.requests)) == (0, 3)


@pytest.mark.parametrize("same", [True, False], ids=["same store", "other store"])
def test_the_store_is_kept_as_long_as_it_is_the_same(build: Build, tmp_path: Path, same: bool) -> None:
    """Another one begins with empty books."""
    limited = {"connector": "modelmesh.simulator.v1", "quota": {"requests": 5, "reset_schedule": "monthly"}}

    def stored(name: str) -> dict[str, Any]:
        return {"storage": {"connector": "file", "path": str(tmp_path / name)}}

    mesh = build(sim=limited, extra=stored("one"))
    mesh.ask()

    mesh.reload(sim=limited, extra=stored("one" if same else "two"))
    mesh.ask()

    assert [row.spent for row in mesh.get_quota()] == [2 if same else 1]
    mesh.shutdown()
    assert (tmp_path / "two").exists() is not same
