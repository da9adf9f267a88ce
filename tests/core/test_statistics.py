"""StatisticsCollector: the documented interface, what it adds up, and what it hands over."""

from __future__ import annotations

import inspect
import threading
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh import CompletionRequest, ModelMesh
from modelmesh.interfaces.observability import AggregateStats as ObservedStats
from modelmesh.statistics import AggregateStats, RequestMetrics, StatisticsCollector, StatsScope
from modelmesh_cdk.testing import FakeClock

HOUR, DAY = 3_600.0, 86_400.0
IDS = ("gpt-4o", "openai", "text-generation")
MODEL, PROVIDER, POOL = StatsScope.MODEL, StatsScope.PROVIDER, StatsScope.POOL


class Target:
    """Takes what is flushed; raises as often as it is told."""

    def __init__(self, *errors: Exception) -> None:
        self.taken: list[dict[str, AggregateStats]] = []
        self._errors = list(errors)

    def flush(self, stats: dict[str, AggregateStats]) -> None:
        """Take it."""
        if self._errors:
            raise self._errors.pop()
        self.taken.append(stats)

    emit = log = trace = flush


@pytest.fixture
def clock() -> FakeClock:
    """Time that stands still."""
    return FakeClock()


@pytest.fixture
def target() -> Target:
    """Where flushing goes."""
    return Target()


@pytest.fixture
def statistics(target: Target, clock: FakeClock) -> StatisticsCollector:
    """A collector that flushes to the target."""
    return StatisticsCollector([target], clock=clock)  # type: ignore[list-item]  # it quacks


def metrics(latency_ms: float = 100.0, *, success: bool = True, cost: float | None = 0.5) -> RequestMetrics:
    """One request of ten tokens in and five out."""
    return RequestMetrics(latency_ms, 10, 5, cost, success)


# --- the documents, to the letter -------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "documented"),
    [
        (
            RequestMetrics,
            "latency_ms: float, tokens_in: int, tokens_out: int, cost: float | None = None, success: bool = True",
        ),
        (
            AggregateStats,
            "total_requests: int, successful_requests: int, failed_requests: int, total_tokens_in: int, "
            "total_tokens_out: int, total_cost: float, avg_latency_ms: float, p50_latency_ms: float, "
            "p95_latency_ms: float, p99_latency_ms: float, error_rate: float, rotation_events: int, "
            "last_updated: datetime, downtime_total: float = 0.0",
        ),
    ],
)
def test_the_dataclasses_are_the_documented_ones(cls: type[Any], documented: str) -> None:
    """Fields, order, types and defaults; only ``downtime_total`` comes from the observability interface."""
    found = ", ".join(
        f"{each.name}: {each.type}" + ("" if each.default is MISSING else f" = {each.default}") for each in fields(cls)
    )

    assert found == documented


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("record", "(self, model_id: str, provider_id: str, pool_id: str, metrics: RequestMetrics) -> None"),
        ("flush", "(self) -> None"),
        ("query", "(self, scope: StatsScope, name: str) -> AggregateStats"),
        ("reset", "(self) -> None"),
    ],
)
def test_methods_have_the_documented_signatures(method: str, signature: str) -> None:
    """Names, order and types."""
    assert str(inspect.signature(getattr(StatisticsCollector, method))).replace("'", "") == signature


def test_scopes_are_the_documented_ones() -> None:
    """By name and value."""
    assert {scope.name: scope.value for scope in StatsScope} == {
        "MODEL": "model",
        "PROVIDER": "provider",
        "POOL": "pool",
    }


def test_there_is_one_class_under_both_documents_names(statistics: StatisticsCollector) -> None:
    """The observability interface's names are views of the same figures, in seconds where they say no unit."""
    statistics.record(*IDS, metrics(2_000.0))
    statistics.record(*IDS, metrics(2_000.0, success=False))

    stats = statistics.query(MODEL, "gpt-4o")

    assert ObservedStats is AggregateStats
    views = (stats.requests_total, stats.requests_success, stats.requests_failed, stats.tokens_in, stats.tokens_out)
    assert views == (2, 1, 1, 20, 10)
    assert (stats.cost_total, stats.latency_avg, stats.downtime_total) == (1.0, 2.0, 0.0)
    assert stats.latency_p95 == pytest.approx(2.0, rel=0.01)


DOCUMENTED_START = """
mesh = ModelMesh()
mesh.initialize("config.yaml")
stats = mesh.get_statistics()
"""
DOCUMENTED_QUERIES = """
# Per-model statistics
model_stats = stats.query(StatsScope.MODEL, "gpt-4o")
print(f"Requests: {model_stats.total_requests}")
print(f"Avg latency: {model_stats.avg_latency_ms:.1f}ms")
print(f"Error rate: {model_stats.error_rate:.2%}")
print(f"Total cost: ${model_stats.total_cost:.4f}")

# Per-provider statistics
provider_stats = stats.query(StatsScope.PROVIDER, "openai")
print(f"Active models: {provider_stats.successful_requests}")
print(f"P95 latency: {provider_stats.p95_latency_ms:.1f}ms")

# Per-pool statistics
pool_stats = stats.query(StatsScope.POOL, "text-generation")
print(f"Rotation events: {pool_stats.rotation_events}")
print(f"Total tokens: {pool_stats.total_tokens_in + pool_stats.total_tokens_out}")
"""
CONFIG = """
providers:
  openai: {connector: simulator}
models:
  gpt-4o: {provider: openai, capabilities: [chat-completion]}
pools:
  text-generation: {strategy: stick-until-failure}
"""


def test_the_documented_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the letter: a mesh's statistics answer per model, provider and pool once a request went through."""
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"ModelMesh": ModelMesh, "StatsScope": StatsScope}

    exec(DOCUMENTED_START, names)
    with names["mesh"] as mesh:
        hello = CompletionRequest(messages=[{"role": "user", "content": "hello"}])
        mesh.get_router().complete("text-generation", hello)
        exec(DOCUMENTED_QUERIES, names)

    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == [
        "Requests",
        "Avg latency",
        "Error rate",
        "Total cost",
        "Active models",
        "P95 latency",
        "Rotation events",
        "Total tokens",
    ]
    assert {"Requests: 1", "Error rate: 0.00%", "Active models: 1", "Rotation events: 0"} <= set(printed)


# --- adding up --------------------------------------------------------------------------


def test_a_request_counts_for_its_model_its_provider_and_its_pool(
    statistics: StatisticsCollector, clock: FakeClock
) -> None:
    """At all three scopes, at once."""
    statistics.record(*IDS, metrics(100.0))
    clock.advance(5.0)
    statistics.record(*IDS, metrics(300.0, success=False, cost=None))

    for scope, name in zip(StatsScope, IDS, strict=True):
        stats = statistics.query(scope, name)
        assert (stats.total_requests, stats.successful_requests, stats.failed_requests) == (2, 1, 1)
        assert (stats.total_tokens_in, stats.total_tokens_out, stats.total_cost) == (20, 10, 0.5)
        assert (stats.avg_latency_ms, stats.error_rate) == (200.0, 0.5)
        assert stats.p50_latency_ms == pytest.approx(100.0, rel=0.01)
        assert stats.p99_latency_ms == pytest.approx(300.0, rel=0.01)
        assert stats.last_updated == datetime.fromtimestamp(clock.time(), UTC)


def test_models_of_one_provider_add_up_there(statistics: StatisticsCollector) -> None:
    """And are told apart at their own scope."""
    statistics.record("a", "openai", "chat", metrics())
    statistics.record("b", "openai", "other", metrics())

    assert statistics.provider("openai").total_requests == 2
    assert [statistics.model(name).total_requests for name in ("a", "b")] == [1, 1]
    assert [statistics.pool(name).total_requests for name in ("chat", "other")] == [1, 1]
    assert statistics.names(MODEL) == ["a", "b"]


def test_a_batch_counts_without_a_latency(statistics: StatisticsCollector) -> None:
    """Nobody waited for its requests one by one: the mean and the percentiles are those of the others."""
    statistics.record(*IDS, metrics(200.0))

    statistics.record_batch(*IDS, requests=9, failures=2, tokens_in=90, tokens_out=45, cost=1.5)

    for scope, name in zip((MODEL, PROVIDER, POOL), IDS, strict=True):
        stats = statistics.query(scope, name)
        assert (stats.total_requests, stats.failed_requests, stats.total_cost) == (10, 2, 2.0)
        assert (stats.total_tokens_in, stats.total_tokens_out, stats.avg_latency_ms) == (100, 50, 200.0)


def test_rotations_are_counted_at_every_scope(statistics: StatisticsCollector) -> None:
    """They are events of their own, without a request."""
    statistics.record_rotation(*IDS)
    statistics.record_rotation(*IDS)

    found = [statistics.query(scope, name) for scope, name in zip(StatsScope, IDS, strict=True)]
    assert [(each.rotation_events, each.total_requests, each.error_rate) for each in found] == [(2, 0, 0.0)] * 3


def test_downtime_runs_from_down_to_up(statistics: StatisticsCollector, clock: FakeClock) -> None:
    """Saying down twice begins nothing anew, and an open downtime counts up to now."""
    statistics.record_down(MODEL, "gpt-4o")
    clock.advance(10.0)
    statistics.record_down(MODEL, "gpt-4o")
    clock.advance(5.0)
    while_down = statistics.model("gpt-4o").downtime_total
    clock.advance(5.0)
    statistics.record_up(MODEL, "gpt-4o")
    clock.advance(100.0)

    assert (while_down, statistics.model("gpt-4o").downtime_total) == (15.0, 20.0)


def test_downtime_is_booked_in_the_hours_in_which_it_passed(clock: FakeClock) -> None:
    """A long outage leaves the retention window hour by hour, and never counts more than the window holds."""
    statistics = StatisticsCollector(clock=clock, retention=DAY)
    statistics.record_down(POOL, "chat")
    clock.advance(10 * DAY)
    longest = statistics.pool("chat").downtime_total
    statistics.record_up(POOL, "chat")
    clock.advance(12 * HOUR)

    later = statistics.pool("chat").downtime_total

    assert longest == pytest.approx(DAY, abs=HOUR)
    assert later == pytest.approx(12 * HOUR, abs=HOUR)


def test_setting_the_clock_lengthens_no_outage(statistics: StatisticsCollector, clock: FakeClock) -> None:
    """Only time that passes is downtime."""
    statistics.record_down(MODEL, "gpt-4o")
    clock.advance(10.0)
    clock.set_time(clock.time() + 5 * DAY)

    assert statistics.model("gpt-4o").downtime_total == 10.0


def test_what_was_never_down_comes_up_unnoticed(statistics: StatisticsCollector) -> None:
    """No name appears because of it."""
    statistics.record_up(MODEL, "gpt-4o")

    assert statistics.names(MODEL) == []


def test_names_without_figures_are_forgotten_at_a_flush(clock: FakeClock, target: Target) -> None:
    """Models come and go; what is remembered does not grow with them."""
    statistics = StatisticsCollector([target], clock=clock, retention=DAY)  # type: ignore[list-item]  # it quacks
    for number in range(100):
        statistics.record(f"model-{number}", "openai", "chat", metrics())
    statistics.flush()
    clock.advance(3 * DAY)
    statistics.record(*IDS, metrics())
    statistics.flush()

    assert statistics.names(MODEL) == ["gpt-4o"]
    statistics.record("model-0", "openai", "chat", metrics())
    assert statistics.model("model-0").total_requests == 1


@given(
    st.lists(
        st.tuples(st.floats(0.001, 1e9), st.integers(-5, 10**12), st.integers(0, 10**6), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
def test_packed_hours_lose_nothing(requests: list[tuple[float, int, int, bool]]) -> None:
    """An hour apart, figures add up as if they had come at once; odd numbers of a careless provider included."""
    clock = FakeClock()
    spread, at_once = (StatisticsCollector(clock=clock, retention=400 * DAY) for _ in range(2))
    for latency, tokens_in, tokens_out, success in requests:
        clock.advance(HOUR)
        spread.record(*IDS, RequestMetrics(latency, tokens_in, tokens_out, 0.25, success))
    for latency, tokens_in, tokens_out, success in requests:
        at_once.record(*IDS, RequestMetrics(latency, tokens_in, tokens_out, 0.25, success))

    one, other = spread.model("gpt-4o"), at_once.model("gpt-4o")

    assert one.avg_latency_ms == pytest.approx(other.avg_latency_ms)
    one.avg_latency_ms = other.avg_latency_ms
    assert one == other


def test_figures_of_several_threads_all_count(statistics: StatisticsCollector) -> None:
    """Requests may end anywhere."""

    def work() -> None:
        for _ in range(500):
            statistics.record(*IDS, metrics())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert statistics.model("gpt-4o").total_requests == 2_000


@given(st.lists(st.tuples(st.floats(0.01, 1e6), st.booleans(), st.floats(0.0, 2 * DAY)), max_size=60))
def test_totals_are_sums_over_the_retention_window(requests: list[tuple[float, bool, float]]) -> None:
    """Whatever the traffic, what lies within a day is counted and what lies more than an hour further back is not."""
    clock = FakeClock()
    statistics = StatisticsCollector(clock=clock, retention=DAY)
    seen = []
    for latency, success, pause in requests:
        clock.advance(pause)
        statistics.record(*IDS, metrics(latency, success=success))
        seen.append((clock.time(), success))
    if not seen:
        return

    stats = statistics.model("gpt-4o")

    within = [success for at, success in seen if at > clock.time() - DAY]
    at_most = [success for at, success in seen if at > clock.time() - DAY - HOUR]
    assert len(within) <= stats.total_requests <= len(at_most)
    assert stats.failed_requests + stats.successful_requests == stats.total_requests


# --- asking and forgetting ---------------------------------------------------------------


@pytest.mark.parametrize("scope", list(StatsScope))
def test_a_name_without_figures_is_a_key_error(statistics: StatisticsCollector, scope: StatsScope) -> None:
    """The near match is named."""
    statistics.record("text", "text", "text", metrics())

    with pytest.raises(KeyError, match="did you mean 'text'"):
        statistics.query(scope, "txt")


def test_a_scope_that_is_not_kept_is_a_key_error(clock: FakeClock) -> None:
    """The setting that keeps it is named."""
    statistics = StatisticsCollector(clock=clock, scopes=[POOL])
    statistics.record(*IDS, metrics())

    with pytest.raises(KeyError, match=r"observability\.statistics\.scopes"):
        statistics.query(MODEL, "gpt-4o")

    assert statistics.pool("text-generation").total_requests == 1


def test_figures_older_than_the_retention_are_forgotten(clock: FakeClock) -> None:
    """Bucket by bucket, and at last the name is unknown."""
    statistics = StatisticsCollector(clock=clock, retention=DAY)
    statistics.record(*IDS, metrics())
    clock.advance(12 * HOUR)
    statistics.record(*IDS, metrics())
    seen = [statistics.model("gpt-4o").total_requests]

    clock.advance(13 * HOUR)
    seen.append(statistics.model("gpt-4o").total_requests)
    clock.advance(13 * HOUR)

    assert seen == [2, 1]
    with pytest.raises(KeyError):
        statistics.model("gpt-4o")


def test_a_clock_set_back_loses_nothing(statistics: StatisticsCollector, clock: FakeClock) -> None:
    """The newest bucket goes on."""
    statistics.record(*IDS, metrics())
    clock.set_time(clock.time() - 5 * HOUR)
    statistics.record(*IDS, metrics())

    assert statistics.model("gpt-4o").total_requests == 2


def test_reset_clears_memory_and_what_was_not_flushed(statistics: StatisticsCollector, target: Target) -> None:
    """What was flushed stays with the connectors, and recording goes on from nothing."""
    statistics.record(*IDS, metrics())

    statistics.reset()
    statistics.flush()

    assert target.taken == []
    assert statistics.names(MODEL) == []
    with pytest.raises(KeyError):
        statistics.model("gpt-4o")
    statistics.record(*IDS, metrics())
    assert statistics.model("gpt-4o").total_requests == 1


# --- flushing ---------------------------------------------------------------------------


def test_a_flush_hands_over_what_accrued_since_the_last(statistics: StatisticsCollector, target: Target) -> None:
    """By bare ID; nothing new means no call; a query still sees it all."""
    statistics.record(*IDS, metrics(100.0))
    statistics.flush()
    statistics.flush()
    statistics.record(*IDS, metrics(300.0))
    statistics.flush()

    assert [set(taken) for taken in target.taken] == [set(IDS), set(IDS)]
    assert [taken["gpt-4o"].avg_latency_ms for taken in target.taken] == [100.0, 300.0]
    assert statistics.model("gpt-4o").total_requests == 2


def test_an_id_of_several_scopes_is_prefixed(statistics: StatisticsCollector, target: Target) -> None:
    """Those that are unique stay bare."""
    statistics.record("openai", "openai", "chat", metrics())

    statistics.flush()

    assert set(target.taken[0]) == {"model:openai", "provider:openai", "chat"}


def test_a_flush_across_hours_is_one_window(statistics: StatisticsCollector, target: Target, clock: FakeClock) -> None:
    """Buckets are for looking back; what is handed over is everything since the last time."""
    for _ in range(3):
        statistics.record(*IDS, metrics())
        clock.advance(HOUR)

    statistics.flush()

    assert target.taken[0]["gpt-4o"].total_requests == 3


def test_a_flush_carries_open_downtime(statistics: StatisticsCollector, target: Target, clock: FakeClock) -> None:
    """Each flush has its own part of it."""
    statistics.record_down(PROVIDER, "openai")
    for seconds in (10.0, 20.0):
        clock.advance(seconds)
        statistics.flush()

    assert [taken["openai"].downtime_total for taken in target.taken] == [10.0, 20.0]


def test_a_connector_that_raises_gets_its_share_later_and_the_others_theirs_now(clock: FakeClock) -> None:
    """Nothing is lost, nothing handed over twice, and the errors come as one group."""
    bad, good = Target(OSError("full")), Target()
    statistics = StatisticsCollector([bad, good], clock=clock)  # type: ignore[list-item]  # they quack
    statistics.record(*IDS, metrics())

    with pytest.raises(ExceptionGroup) as caught:
        statistics.flush()
    statistics.record(*IDS, metrics())
    statistics.flush()

    assert [str(error) for error in caught.value.exceptions] == ["full"]
    assert [taken["gpt-4o"].total_requests for taken in bad.taken] == [2]
    assert [taken["gpt-4o"].total_requests for taken in good.taken] == [1, 1]


def test_a_function_may_be_flushed_to(clock: FakeClock) -> None:
    """It takes what a connector's `flush` takes."""
    taken: list[dict[str, AggregateStats]] = []
    statistics = StatisticsCollector(taken.append, clock=clock)
    statistics.record(*IDS, metrics())

    statistics.flush()

    assert set(taken[0]) == set(IDS)


def test_without_connectors_a_flush_does_nothing(clock: FakeClock) -> None:
    """Figures can still be queried."""
    statistics = StatisticsCollector(clock=clock)
    statistics.record(*IDS, metrics())

    statistics.flush()

    assert statistics.model("gpt-4o").total_requests == 1
