"""Watches requests: R4 (answered while anybody can), R5 (no storm, deadlines), R6 (streams), R7 (nothing left over)."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

from modelmesh.errors import BudgetExceededError, StreamInterruptedError
from modelmesh.statistics import StatsScope
from modelmesh_cdk.testing.simulation.upstream import UpstreamCall

if TYPE_CHECKING:
    from modelmesh_cdk.testing.simulation.process import Asked, SimulatedProcess
    from modelmesh_cdk.testing.simulation.watch import Watch

_LATE = 0.05
"""Seconds by which a request may pass its deadline."""
_LEAVING = 0.1
"""Seconds in which everything is to be closed behind a caller who went away."""
_RETENTION = 6 * 86_400.0
"""Seconds after which statistics no longer remember everything."""


class RequestWatch:
    """Holds each request against what its callers and its providers saw of it."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        world = watch.world
        pool = world.pool
        # While a shared store is down, each process has a share of its own.
        self._is_counted_together = world.shared and not any(
            fault.kind in ("store_down", "store_slow") for fault in world.faults
        )
        self._concurrency = {
            spec.name: spec.settings.get("rate_limit", {}).get("concurrency") for spec in world.providers
        }
        self._models = sum(spec.models for spec in world.providers)
        self._deadline = float(pool.get("deadline") or 600.0)
        timeouts, retry = pool.get("timeouts", {}), pool.get("retry", {})
        self._total = float(timeouts.get("total") or 600.0)
        self._first = float(timeouts.get("first_token") or 60.0)
        self._idle = float(timeouts.get("idle") or 30.0)
        self._retries = int(retry.get("max_attempts", 3))
        self._rotates = retry.get("prefer", "rotate") == "rotate"
        self._max_delay = float(retry.get("max_delay", 10.0))
        self._tells_of_budgets = pool.get("on_budget_exceeded") == "error"
        budget = pool.get("retry_budget", {})
        self._percent, self._minimum = float(budget.get("percent", 20)), int(budget.get("minimum", 3))
        self._running: dict[int, dict[str, Asked]] = {}
        self._peak: dict[int, int] = {}
        self._retrying: dict[int, set[str]] = {}
        self._cancelled: dict[tuple[int, str], int] = {}
        self._answers: dict[int, int] = {}
        self._saturated: dict[int, float] = {}

    # --- while they run -----------------------------------------------------------------------

    def begins(self, process: SimulatedProcess, asked: Asked) -> None:
        """Note a request."""
        running = self._running.setdefault(process.number, {})
        running[asked.request_id] = asked
        self._peak[process.number] = max(self._peak.get(process.number, 0), len(running))

    def call_begins(self, call: UpstreamCall, before: list[UpstreamCall]) -> None:
        """Count a call against what a request, and a pool, may make of them."""
        most = self._models + self._retries if self._rotates else self._models * self._models * (1 + self._retries)
        if len(before) + 1 > most:
            self._watch.broke("R5", f"{call.request_id} makes its call number {len(before) + 1}, of {most} at most")
        self._look_at_concurrency(call)
        if all(each.model != call.model for each in before):
            return
        retrying = self._retrying.setdefault(call.process, set())
        retrying.add(call.request_id)
        running = self._running.get(call.process, {})
        # Some are over, and nobody has come to say so yet.
        retrying &= {name for name in retrying if name in running and running[name].outcome == "running"}
        allowed = self._allowed(call.process)
        if len(retrying) > allowed:
            self._watch.broke("R5", f"{len(retrying)} requests of a pool retry at once, and {allowed:g} may")

    def _look_at_concurrency(self, call: UpstreamCall) -> None:
        most = self._concurrency.get(call.provider)
        if most is None:
            return
        running = [each for each in self._watch.calls if each.outcome == "running" and each.provider == call.provider]
        here = 1 + sum(1 for each in running if each.process == call.process)
        if here > most:
            self._watch.broke("R3", f"{here} calls of process {call.process} to {call.provider} run, and {most} may")
        everywhere = 1 + sum(1 for each in running if not self._watch.processes[each.process].crashed)
        if self._is_counted_together and everywhere > most:
            self._watch.broke("R3", f"{everywhere} calls of all processes to {call.provider} run, and {most} may")

    def _allowed(self, process: int) -> float:
        return max(self._minimum, self._peak.get(process, 0) * self._percent / 100.0)

    # --- when one ends ----------------------------------------------------------------------------

    def ends(self, process: SimulatedProcess, asked: Asked, task: asyncio.Task[None]) -> None:
        """Hold it against what it was promised."""
        self._running[process.number].pop(asked.request_id, None)
        calls = self._watch.calls_of.get(asked.request_id, [])
        self._retrying.get(process.number, set()).discard(asked.request_id)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._watch.broke("R8", f"{asked.request_id} ended with {type(error).__name__}: {error}")
            return
        if asked.outcome == "crashed" or process.crashed:
            return
        self._look_at_time(asked)
        self._look_at_calls(asked, calls)
        if asked.outcome == "left":
            self._note_cancelled(process, asked, calls)
        elif asked.outcome == "answered":
            self._answers[process.number] = self._answers.get(process.number, 0) + 1
            self._look_at_answer(asked, calls)
        else:
            self._look_at_partial(asked, calls)
            self._look_at_failure(process, asked, calls)

    def _look_at_time(self, asked: Asked) -> None:
        assert asked.ended is not None
        deadline = asked.ask.deadline or self._deadline
        if asked.ended - asked.started > deadline + _LATE:
            late = asked.ended - asked.started - deadline
            self._watch.broke("R5", f"{asked.request_id} ended {late:.3f} s after its deadline of {deadline:g} s")
        if asked.left_at is not None and asked.ended - asked.left_at > _LEAVING:
            self._watch.broke(
                "R7", f"{asked.request_id} went on for {asked.ended - asked.left_at:.3f} s without a caller"
            )

    def _look_at_calls(self, asked: Asked, calls: list[UpstreamCall]) -> None:
        for call in calls:
            if call.outcome == "running":
                self._watch.broke("R7", f"{asked.request_id} is over, and its call to {call.model} runs on")

    def _look_at_answer(self, asked: Asked, calls: list[UpstreamCall]) -> None:
        """A whole answer is the whole text of one call, or of several whose seams are marked."""
        if not asked.finished:
            self._watch.broke("R6", f"{asked.request_id} was answered without a finish reason")
        parts = _parts(asked)
        last = parts[-1]
        if not any(call.outcome == "answered" and "".join(call.text) == last for call in calls):
            self._watch.broke("R6", f"{asked.request_id} was told {last!r}, which no provider sent as a whole answer")
        for part in parts[:-1]:
            self._look_at_part(asked, part, calls)

    def _look_at_partial(self, asked: Asked, calls: list[UpstreamCall]) -> None:
        """What was seen of a broken stream is what a provider sent, and the error says so."""
        if not asked.text:
            return
        for part in _parts(asked):
            self._look_at_part(asked, part, calls)
        if not isinstance(asked.error, StreamInterruptedError):
            self._watch.broke("R6", f"{asked.request_id} broke off in mid-answer with {asked.error!r}")
        elif asked.error.partial != asked.text:
            self._watch.broke(
                "R6", f"{asked.request_id} saw {asked.text!r}, and its error says {asked.error.partial!r}"
            )

    def _look_at_part(self, asked: Asked, part: str, calls: list[UpstreamCall]) -> None:
        if not any(part == "".join(call.text[: call.sent]) for call in calls):
            self._watch.broke("R6", f"{asked.request_id} saw {part!r}, which is not what any provider had sent")

    # --- R4 -----------------------------------------------------------------------------------------

    def _look_at_failure(self, process: SimulatedProcess, asked: Asked, calls: list[UpstreamCall]) -> None:
        """Nobody who could have answered in time was left unasked."""
        error = asked.error
        deadline = asked.ask.deadline or self._deadline
        patient = deadline >= self._models * (self._total + self._max_delay) * (1 + self._retries) + 5.0
        committed = asked.text and self._watch.world.pool.get("on_stream_failure") != "continue"
        if not patient or not self._rotates or committed or self._is_told_of_a_budget(error):
            return
        for member in process.members:
            if self._could_answer(process, member.model_id, asked):
                self._watch.broke(
                    "R4", f"{asked.request_id} failed with {error}, and {member.model_id} could have answered"
                )
                return

    def _is_told_of_a_budget(self, error: BaseException | None) -> bool:
        """Whether the pool wants its callers told of a budget at once, and this is that; of a stream, the reason."""
        told = error.__cause__ if isinstance(error, StreamInterruptedError) else error
        return self._tells_of_budgets and isinstance(told, BudgetExceededError)

    def _could_answer(self, process: SimulatedProcess, model_id: str, asked: Asked) -> bool:
        member = process.pool.members[model_id]
        spec = next(spec for spec in self._watch.world.providers if spec.name == member.provider_id)
        since, until = asked.started - self._watch.began, self._watch.now()
        if member.is_limited or any(fault.overlaps(since, until) for fault in self._watch.world.of(spec.name)):
            return False
        upstream = self._watch.upstreams[spec.name]
        if not upstream.has_room() or any(at >= since for at, _ in upstream.refusals):
            return False
        if self._watch.rotation.moved_at.get((process.number, model_id)) == until:
            return False  # it may have returned after the request was over, in the same moment
        if not member.active and (
            # Retries are held to a budget, and to call somebody whose rest is not over is one.
            member.reason != "error_threshold" or process.pool.active_retries + 1 >= self._minimum
        ):
            return False
        slowest = 1.5 * spec.latency
        lasting = slowest + (spec.words * spec.pace if asked.ask.stream else 0.0)
        return slowest < self._first and lasting < self._total and spec.pace < self._idle

    # --- R7 and conservation ----------------------------------------------------------------------

    def _note_cancelled(self, process: SimulatedProcess, asked: Asked, calls: list[UpstreamCall]) -> None:
        if (
            calls
            and calls[-1].outcome == "left"
            and calls[-1].ended >= (asked.left_at or 0.0) - self._watch.began - 1e-9
        ):
            key = (process.number, calls[-1].model)
            self._cancelled[key] = self._cancelled.get(key, 0) + 1
        elif asked.finished:
            self._answers[process.number] = self._answers.get(process.number, 0) + 1

    def at_rest(self) -> None:
        """Look at what should be back at zero, and at what should add up."""
        for process in self._watch.processes:
            pool = process.pool
            if pool.active_requests or pool.active_retries:
                self._watch.broke(
                    "R7",
                    f"at rest {pool.active_requests} requests run and {pool.active_retries} retry, by the pool's count",
                )
            for member in process.members:
                if member.model.in_flight:
                    self._watch.broke(
                        "R7", f"{member.model_id} has {member.model.in_flight} calls in flight, and nobody asks"
                    )
            if not process.crashed and self._watch.now() < _RETENTION:
                self._look_at_statistics(process)

    def _look_at_statistics(self, process: SimulatedProcess) -> None:
        succeeded = 0
        for member in process.members:
            calls = sum(
                1 for call in self._watch.calls if call.process == process.number and call.model == member.model_id
            )
            try:
                figures = process.mesh.get_statistics().query(StatsScope.MODEL, member.model_id)
                counted = figures.total_requests
                succeeded += figures.successful_requests
            except KeyError:
                counted = 0
            cancelled = self._cancelled.get((process.number, member.model_id), 0)
            if calls != counted + cancelled:
                self._watch.broke(
                    "sums",
                    f"{member.model_id} was called {calls} times, and {counted} successes and failures"
                    f" and {cancelled} cancelled calls are on record",
                )
        answers = self._answers.get(process.number, 0)
        if succeeded != answers:
            self._watch.broke("sums", f"{answers} requests were answered, and {succeeded} successes are on record")


def _parts(asked: Asked) -> list[str]:
    """Cut a text at its marked seams."""
    edges = [0, *(seam for seam in asked.seams if seam), len(asked.text)]
    return [asked.text[start:end] for start, end in pairwise(edges)]
