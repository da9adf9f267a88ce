"""What brings a model back, and what keeps it away: calendars, maintenance, probes, and what providers say is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh._engine.maintenance import MaintenanceWindow
from modelmesh.errors import (
    AuthenticationError,
    ConfigurationError,
    NoActiveModelError,
    ProviderServerError,
    QuotaExhaustedError,
)
from modelmesh.interfaces.provider import ModelInfo, RateLimitStatus
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, FakeRandom, ScriptedProvider
from modelmesh_cdk.testing.scripted import answer, fail

SATURDAY_NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
FAILING = fail(ProviderServerError("no", status_code=500))


class Probed(ScriptedProvider):
    """Answers probes as it is told."""

    def __init__(self, *script: Any, probe: BaseException | None = None) -> None:
        super().__init__(script)
        self.probe = probe
        self.probes = 0

    async def list_models(self) -> Sequence[ModelInfo]:
        self.probes += 1
        if self.probe is not None:
            raise self.probe
        return []


class SlowlyProbed(Probed):
    """Answers probes when others have long gone on."""

    async def list_models(self) -> Sequence[ModelInfo]:
        for _ in range(1_000):
            await asyncio.sleep(0)
        return await super().list_models()


class World:
    """A mesh of one pool over providers that are named as their models are."""

    def __init__(self, providers: dict[str, Any], pool: dict[str, Any]) -> None:
        self.clock = FakeClock(time=SATURDAY_NOON)
        self.providers = providers
        self.mesh = ModelMesh(clock=self.clock, random=FakeRandom(0.0), environ={})
        self.mesh.initialize(
            {
                "providers": {name: {"instance": provider} for name, provider in providers.items()},
                "models": {name: {"provider": name, "capabilities": ["chat-completion"]} for name in providers},
                "pools": {"chat-completion": {"retry": {"max_attempts": 0}, **pool}},
            }
        )

    def ask(self) -> str:
        """Ask; return the ID of the model that answered."""
        request = CompletionRequest([{"role": "user", "content": "hi"}])
        return asyncio.run(self.mesh.get_router().acomplete("chat-completion", request)).model

    def reason(self, model: str) -> str | None:
        """Why a model rests."""
        reason: str | None = self.mesh.get_router().get_pool("chat-completion").members[model].reason
        return reason

    def probe(self) -> None:
        """Let the mesh's prober do one round now."""
        prober = self.mesh._graph.prober  # type: ignore[union-attr]
        assert prober is not None
        asyncio.run(prober.probe_resting())


@pytest.fixture
def world() -> Iterator[Callable[..., World]]:
    """Build worlds and shut their meshes down."""
    built: list[World] = []

    def make(*, pool: dict[str, Any] | None = None, **providers: ScriptedProvider) -> World:
        built.append(World(providers, pool or {}))
        return built[-1]

    yield make
    for each in built:
        each.mesh.shutdown()


Make = Callable[..., World]


@pytest.fixture
def resting(world: Make) -> Make:
    """Build worlds in which ``a`` rests after three failures; its provider meets probes with ``probe``."""

    def make(*, probe: BaseException | None = None, **recovery: Any) -> World:
        here = world(
            a=Probed(FAILING, FAILING, FAILING, probe=probe),
            b=Probed(),
            pool={
                "strategy": "priority-selection",
                "model_priority": ["a", "b"],
                "recovery": {"probe_interval": "5m", **recovery},
            },
        )
        for _ in range(3):
            here.ask()
        assert here.reason("a") == "error_threshold"
        return here

    return make


# --- calendars ----------------------------------------------------------------------


def test_a_quota_with_a_schedule_waits_for_the_reset(world: Make) -> None:
    """Not for the cooldown, which would only meet the empty quota again."""
    here = world(
        a=Probed(fail(QuotaExhaustedError("used up", status_code=429))),
        b=Probed(),
        pool={
            "strategy": "priority-selection",
            "model_priority": ["a", "b"],
            "recovery": {"cooldown": "60s", "quota_reset_schedule": "daily_utc"},
        },
    )

    assert here.ask() == "b"
    here.clock.advance(12 * 3600 - 10)
    assert here.ask() == "b"
    here.clock.advance(11)
    assert here.ask() == "a"


def test_a_schedule_that_is_not_to_be_waited_for_leaves_the_cooldown(world: Make) -> None:
    """``on_quota_reset: false`` tries again after the rest."""
    recovery = {"cooldown": "60s", "quota_reset_schedule": "monthly", "on_quota_reset": False}
    here = world(
        a=Probed(fail(QuotaExhaustedError("used up", status_code=429))),
        b=Probed(),
        pool={"strategy": "priority-selection", "model_priority": ["a", "b"], "recovery": recovery},
    )

    here.ask()
    here.clock.advance(70)

    assert here.ask() == "a"


def test_a_model_with_nothing_left_rests_before_it_is_refused(world: Make) -> None:
    """The provider said that no request remains for 30 seconds: nobody needs to hear 429."""
    used_up = answer(rate_limits=RateLimitStatus(requests_remaining=0, reset_seconds=30.0))
    here = world(a=Probed(used_up), b=Probed(), pool={"strategy": "priority-selection", "model_priority": ["a", "b"]})

    assert [here.ask(), here.ask()] == ["a", "b"]
    assert here.reason("a") == "rate_limited"
    here.clock.advance(31)
    assert here.ask() == "a"


# --- maintenance -------------------------------------------------------------------------


def test_a_pool_rests_through_its_maintenance_window(world: Make) -> None:
    """Every Sunday from two to four nobody is called, and afterwards everybody is there again."""
    here = world(a=Probed(), pool={"deactivation": {"maintenance_window": "0 2 * * 0", "maintenance_duration": "2h"}})

    assert here.ask() == "a"
    here.clock.advance(14 * 3600 + 60)
    with pytest.raises(NoActiveModelError, match="maintenance_window"):
        here.ask()
    here.clock.advance(2 * 3600)
    assert here.ask() == "a"


@pytest.mark.parametrize(
    ("moment", "until"),
    [
        ("2026-11-22T01:59:59", None),
        ("2026-11-22T02:00:00", "2026-11-22T04:00:00"),
        ("2026-11-22T03:59:59", "2026-11-22T04:00:00"),
        ("2026-11-22T04:00:00", None),
    ],
    ids=["before", "begin", "end", "after"],
)
def test_a_window_is_open_from_its_line_for_its_duration(moment: str, until: str | None) -> None:
    """To the second, in UTC, in whatever order moments are asked for."""
    window = MaintenanceWindow("0 2 * * 0", 7200.0)
    for before in ("2026-11-22T03:00:00", "2026-11-22T01:00:00"):
        window.open_until(unix(before))

        assert window.open_until(unix(moment)) == (None if until is None else unix(until))


def unix(text: str) -> float:
    """Return the Unix time of a moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


# --- probes ----------------------------------------------------------------------------------


def test_a_probe_that_succeeds_ends_a_rest(resting: Make) -> None:
    """The model need not sit its cooldown out."""
    here = resting()

    here.probe()

    assert (here.reason("a"), here.ask()) == (None, "a")


@pytest.mark.parametrize("error", [ProviderServerError("no"), SystemExit(1)], ids=["down", "exits"])
def test_a_probe_that_fails_changes_nothing(resting: Make, error: BaseException) -> None:
    """A provider that is still down stays down, and one whose connector exits takes nobody with it."""
    here = resting(probe=error)

    here.probe()

    assert here.reason("a") == "error_threshold"


def test_only_providers_of_resting_models_are_probed(world: Make) -> None:
    """A healthy provider hears nothing."""
    here = world(a=Probed(), pool={"recovery": {"probe_interval": "5m"}})

    here.probe()

    assert here.providers["a"].probes == 0


def test_with_require_probe_a_rest_does_not_end_by_itself(resting: Make) -> None:
    """Time alone brings nobody back; a probe does."""
    here = resting(probe=ProviderServerError("not yet"), cooldown="10s", require_probe=True)
    here.clock.advance(3600)

    assert here.ask() == "b"
    here.providers["a"].probe = None
    here.probe()
    assert here.ask() == "a"


def test_a_person_who_put_a_model_aside_is_not_overruled_by_a_probe(world: Make) -> None:
    """Manual standby ends by hand."""
    here = world(a=Probed(), b=Probed(), pool={"recovery": {"probe_interval": "5m"}})
    here.mesh.rotate("chat-completion")

    here.probe()

    assert here.reason("a") == "manual"


def test_at_start_a_provider_that_does_not_answer_rests(world: Make) -> None:
    """Its models are passed by before the first request meets the failure: the mesh is ready when all were asked."""
    here = world(
        a=SlowlyProbed(probe=AuthenticationError("no", status_code=401)),
        b=Probed(),
        pool={"recovery": {"cooldown": "10s", "probe_on_start": True}},
    )

    assert (here.reason("a"), here.ask()) == ("provider_unavailable", "b")
    left = here.mesh.get_router().get_pool("chat-completion").members["a"].cooldown_remaining
    assert left == pytest.approx(10.0, abs=1.0)  # up to a tenth of jitter


def test_a_provider_with_a_new_key_is_back_when_the_mesh_starts_again(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What is kept says that its key was refused; a probe says that it is accepted, before the first call."""

    def start(provider: ScriptedProvider) -> ModelMesh:
        mesh = ModelMesh(environ={})
        request.addfinalizer(mesh.shutdown)
        mesh.initialize(
            {
                "providers": {"p": {"instance": provider}},
                "models": {"m": {"provider": "p", "capabilities": ["chat-completion"]}},
                "pools": {"chat-completion": {"recovery": {"cooldown": "1h", "probe_on_start": True}}},
                "storage": {"connector": "modelmesh.file.v1", "path": str(tmp_path / "state.json")},
            }
        )
        return mesh

    before = start(Probed(probe=AuthenticationError("no", status_code=401)))
    rested = before.get_router().get_pool("chat-completion").members["m"].reason
    before.shutdown()
    after = start(SlowlyProbed())

    assert (rested, after.provider_status()["p"]["available"]) == ("provider_unavailable", True)
    assert after.get_router().get_pool("chat-completion").members["m"].active


def test_probes_that_fail_lower_a_providers_score_and_nothing_else(resting: Make) -> None:
    """Whether it may be called its own moves decide: another model of it may well answer."""
    here = resting(probe=ProviderServerError("no"))

    for _ in range(5):
        here.probe()

    status = here.mesh.provider_status()["a"]
    assert (status["available"], status["availability_score"] < 0.5) == (True, True)


def test_without_an_interval_the_probes_end_with_the_start(world: Make) -> None:
    """``probe_on_start`` alone asks for nothing more."""
    provider = Probed()
    here = world(a=provider, pool={"recovery": {"probe_on_start": True}})
    prober = here.mesh._graph.prober  # type: ignore[union-attr]
    assert prober is not None

    asyncio.run(asyncio.wait_for(prober.run(), 5.0))

    assert provider.probes == 1


@pytest.mark.parametrize(
    ("recovery", "wanted"),
    [({}, False), ({"probe_on_start": True}, True), ({"probe_interval": "5m"}, True)],
    ids=["neither", "at start", "in intervals"],
)
def test_nobody_probes_unasked(world: Make, recovery: dict[str, Any], wanted: bool) -> None:
    """A pool asks for probes at the start, or in intervals, or not."""
    here = world(a=Probed(), pool={"recovery": recovery})

    prober = here.mesh._graph.prober  # type: ignore[union-attr]

    assert prober is not None
    assert prober.is_wanted is wanted


def test_a_probe_returns_only_those_that_rest_for_failures(build: Any) -> None:
    """The same provider's other model, which a person put aside, stays aside."""
    recovery = {"capability": "chat-completion", "recovery": {"probe_interval": "5m"}}
    here = build(providers={"p": Probed()}, models={"a": "p", "b": "p", "c": "p"}, pools={"chat": recovery})
    here.pool.deactivate(here.member("a").model, "error_threshold")
    here.pool.deactivate(here.member("b").model, "manual")

    here.run(here.mesh._graph.prober.probe_resting())

    assert here.active == "ac"


def test_probes_come_in_intervals_for_as_long_as_the_mesh_runs(resting: Make) -> None:
    """Whoever still does not answer is probed again, and returns when it does."""
    here = resting(probe=ProviderServerError("not yet"), cooldown="1h")
    provider = here.providers["a"]
    prober = here.mesh._graph.prober  # type: ignore[union-attr]
    assert prober is not None

    async def scenario() -> list[str | None]:
        running = asyncio.ensure_future(prober.run())
        seen = []
        for answers in (False, True):
            provider.probe = None if answers else provider.probe
            for _ in range(20):
                await asyncio.sleep(0)
            here.clock.advance(300.0)
            for _ in range(20):
                await asyncio.sleep(0)
            seen.append(here.reason("a"))
        running.cancel()
        return seen

    assert asyncio.run(scenario()) == ["error_threshold", None]


def refused(pool: dict[str, Any]) -> str:
    """Return what loading says about a pool."""
    with pytest.raises(ConfigurationError) as caught:
        ModelMesh(environ={}).initialize(
            {
                "providers": {"p": {"connector": "modelmesh.simulator.v1"}},
                "models": {"m": {"provider": "p", "capabilities": ["chat-completion"]}},
                "pools": {"chat-completion": pool},
            }
        )
    return str(caught.value)


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ({"deactivation": {"maintenance_window": "0 0 30 2 *"}}, "no cron line"),
        ({"deactivation": {"maintenance_window": "61 * * * *"}}, "no cron line: Bad minute"),
        ({"recovery": {"require_probe": True}}, "require_probe needs a probe_interval"),
        ({"recovery": {"quota_reset_schedule": "weekly"}}, "recovery.quota_reset_schedule"),
        ({"deactivation": {"error_window": 5}}, "error_rate_min_samples is larger than error_window"),
    ],
    ids=["never", "no line", "no probe", "no schedule", "short window"],
)
def test_what_can_never_work_is_refused_at_load(pool: dict[str, Any], said: str) -> None:
    """Each with the key and the reason."""
    assert said in refused(pool)
