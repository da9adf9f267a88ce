"""Recorded against replayed: the figures of both sides, and what the comparison cannot know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from modelmesh_plugins.replay.records import Log, Request
from modelmesh_plugins.replay.run import Replay

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Side:
    """One side's figures.

    Attributes:
        answers: Requests answered, by model.
        failed: Requests nobody answered.
        attempts: Calls over all requests.
        rotated: Requests that more than one model was called for.
        cost: USD, over the requests whose cost both sides know.
        latency_ms: Mean, p50 and p95, over the requests answered on both sides by models the log has seen.
    """

    answers: dict[str, int]
    failed: int
    attempts: int
    rotated: int
    cost: float
    latency_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both sides.

    Attributes:
        requests: How many were replayed.
        moved: How often a model answered in another's place, by (recorded, replayed); None for nobody.
        newly_failed: IDs of requests that were answered then and would not be now.
        newly_answered: The other way round.
        failures: Replayed requests that nobody answered, by the error's type.
        costed: Requests whose cost both sides know.
        timed: Requests whose latency both sides know.
        unknown: What the comparison cannot know, in sentences.
    """

    requests: int
    recorded: Side
    replayed: Side
    moved: dict[tuple[str | None, str | None], int]
    newly_failed: list[str]
    newly_answered: list[str]
    failures: dict[str, int]
    costed: int
    timed: int
    unknown: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        found = asdict(self)
        found["moved"] = [
            {"recorded": before, "replayed": after, "requests": times} for (before, after), times in self.moved.items()
        ]
        return found


def compare(log: Log, replay: Replay) -> Comparison:
    """Compare what was recorded with what a replay met."""
    pairs = [(each.request, each) for each in replay.replayed]
    costed = [(a.cost, b.cost) for a, b in pairs if a.cost is not None and b.cost is not None]
    timed = [(a.latency, b.latency) for a, b in pairs if a.answered_by and b.answered_by and b.latency is not None]
    moved = Counter((a.answered_by, b.answered_by) for a, b in pairs if a.answered_by != b.answered_by)
    return Comparison(
        requests=len(pairs),
        recorded=_side(
            [(a.answered_by, [attempt.model_id for attempt in a.attempts]) for a, _ in pairs],
            [cost for cost, _ in costed],
            [latency for latency, _ in timed],
        ),
        replayed=_side(
            [(b.answered_by, [attempt.model_id for attempt in b.attempts]) for _, b in pairs],
            [cost for _, cost in costed],
            [latency for _, latency in timed],
        ),
        moved=dict(moved.most_common()),
        newly_failed=[a.request_id for a, b in pairs if a.answered_by and not b.answered_by],
        newly_answered=[a.request_id for a, b in pairs if b.answered_by and not a.answered_by],
        failures=dict(Counter((b.error or "").split(":")[0] for _, b in pairs if not b.answered_by).most_common()),
        costed=len(costed),
        timed=len(timed),
        unknown=list(_unknown(log, replay, costed=len(costed), timed=len(timed))),
    )


def _side(outcomes: Sequence[tuple[str | None, list[str]]], costs: Sequence[float], latencies: Sequence[float]) -> Side:
    ordered = sorted(round(latency * 1000.0, 3) for latency in latencies)
    return Side(
        answers=dict(Counter(model for model, _ in outcomes if model is not None).most_common()),
        failed=sum(model is None for model, _ in outcomes),
        attempts=sum(len(tried) for _, tried in outcomes),
        rotated=sum(len(set(tried)) > 1 for _, tried in outcomes),
        cost=sum(costs),
        latency_ms={
            "mean": round(sum(ordered) / len(ordered), 3) if ordered else 0.0,
            "p50": _percentile(ordered, 0.50),
            "p95": _percentile(ordered, 0.95),
        },
    )


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[max(1, ceil(share * len(ordered))) - 1] if ordered else 0.0


def _unknown(log: Log, replay: Replay, *, costed: int, timed: int) -> Iterable[str]:
    """Say in sentences what was guessed or left out."""
    total = len(replay.replayed)
    assumed = sum("assumed" in each.sources for each in replay.replayed)
    near = sum("near" in each.sources for each in replay.replayed)
    if assumed:
        names = ", ".join(replay.unmeasured[:_SHOWN]) + (", …" if len(replay.unmeasured) > _SHOWN else "")
        yield (
            f"{assumed:,} requests call models the log never saw ({names}): they are taken to answer; how fast, and "
            "how often they fail, is not known"
        )
    if near:
        yield (
            f"{near:,} requests call a model that did not serve them then: latency and failures are those of its "
            "recorded call closest in time"
        )
    yield from _unknown_of_requests(log.requests, total)
    changed = any(each.answered_by != each.request.answered_by for each in replay.replayed)
    if changed:
        yield "tokens are taken as recorded: another model would write another text, of another length and quality"
    if costed < total:
        yield f"the cost of {total - costed:,} requests is not known on one side: a price is missing; they are left out"
    if timed < total:
        yield f"latency compares the {timed:,} requests answered on both sides by models the log has seen"
    sticky = [name for name in replay.strategies if "session" in name]
    if sticky:
        yield f"sessions are not in the log: {', '.join(sticky)} chooses as if every request came alone"
    yield "all models begin active, quotas and budgets unused: what happened before the log begins is not in it"
    if log.unreadable:
        yield f"{log.unreadable:,} lines of the log could not be read and were left out"


def _unknown_of_requests(requests: Sequence[Request], total: int) -> Iterable[str]:
    bare = sum(request.payload is None and not request.is_cut for request in requests)
    cut = sum(request.is_cut for request in requests)
    if bare:
        yield (
            f"{bare:,} of {total:,} requests are in the log without what was asked: every model of the pool counts as "
            "able to serve them (log at level full to know)"
        )
    if cut:
        yield (
            f"{cut:,} of {total:,} requests were cut when they were logged: the same holds for them "
            "(level full without max_payload_size keeps them whole)"
        )
    silent = sum(not any(attempt.is_good for attempt in request.attempts) for request in requests)
    if silent:
        yield f"{silent:,} requests were never answered: of an answer's price only the input's part is counted"
