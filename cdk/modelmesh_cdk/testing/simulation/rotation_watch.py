"""Watches who rests and who returns: R14 (one probe at a time, nobody left alone, no rest cut short)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modelmesh_cdk.testing.simulation.upstream import UpstreamCall

if TYPE_CHECKING:
    from modelmesh_cdk.testing.simulation.process import SimulatedProcess
    from modelmesh_cdk.testing.simulation.watch import Watch

_HEALING = frozenset({"error_threshold", "rate_limited"})
"""Reasons under which the last active member of a pool is left alone."""

_NEWS = 3.0
"""Seconds that word of a move, and word of what ended it, may take over a store that is slow."""


class RotationWatch:
    """Compares each pool's members with what they were a step ago.

    Attributes:
        moved_at: When a process's model last went to rest or returned.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.moved_at: dict[tuple[int, str], float] = {}
        self._seen: list[tuple[Any, list[list[Any]]]] = []

    def look_at(self, processes: list[SimulatedProcess]) -> None:
        """Begin to look."""
        self._seen = [
            (
                process,
                [[member, member.active, member.due, member.reason, member.rested_at] for member in process.members],
            )
            for process in processes
        ]

    def after_step(self) -> None:
        """Find what moved in the last step."""
        for process, members in self._seen:
            moved = None
            for seen in members:
                member = seen[0]
                if member.due != seen[2] or member.active is not seen[1]:
                    moved = [seen] if moved is None else [*moved, seen]
            for seen in moved or ():
                # Of several that rest since the same step, nobody can say from here who was the last.
                self._moved(process, members if len(moved or ()) == 1 else (), seen)

    def _moved(self, process: SimulatedProcess, members: Sequence[list[Any]], seen: list[Any]) -> None:
        member, was_active, due, reason, rested_at = seen
        self.moved_at[process.number, member.model_id] = self._watch.now()
        seen[1:] = [member.active, member.due, member.reason, member.rested_at]
        fell = was_active and not member.active and member.reason in _HEALING
        if fell and members and not any(each[0].active for each in members):
            self._watch.broke(
                "R14", f"{member.model_id}, the last active one of process {process.number}, rests: {member.reason}"
            )
        if not was_active and not member.active and member.due < due and member.rested_at == rested_at:
            self._watch.broke(
                "R14",
                f"the rest of {member.model_id} ends {due - member.due:.3f} s earlier since it was put to rest again",
            )
        if not was_active and member.active and reason in _HEALING:
            self._returned(process, member, due, rested_at)

    def _returned(self, process: SimulatedProcess, member: Any, due: float, rested_at: float) -> None:
        """A rest after errors ends when it is over, or by an answer to a call that was made during it."""
        now = self._watch.loop.time()
        if now >= due - 1e-6 or "probe_interval" in self._watch.world.pool.get("recovery", {}):
            return
        since = rested_at - self._watch.began
        answered = any(
            call.outcome in ("answered", "left")
            # What another process found out came with a message, which may be older than this process's own rest.
            and (call.began if call.process == process.number else call.ended + _NEWS) >= since
            for call in reversed(self._watch.calls)
            if call.model == member.model_id
        )
        if not answered:
            self._watch.broke("R14", f"{member.model_id} returns {due - now:.3f} s before its rest is over, unasked")

    def call_begins(self, call: UpstreamCall, before: list[UpstreamCall]) -> None:
        """Look whether a member on probation is called twice at once, while others could have been."""
        process = self._watch.processes[call.process]
        pool = process.pool
        member = pool.members[call.model]
        if not member.probation or member.model.in_flight < 2:
            return
        tried = {each.model for each in before}
        ready = [
            each.model_id
            for each in process.members
            if each.active
            and each is not member
            and each.model_id not in tried
            and not each.is_limited
            and not each.is_on_trial()
            and not self._came_late(each, call.request_id, process)
        ]
        if ready:
            self._watch.broke(
                "R14", f"{call.model} is on trial and called twice at once, while {ready[0]} could have been called"
            )

    def _came_late(self, member: Any, request_id: str, process: SimulatedProcess) -> bool:
        """Whether a member may have moved since the request was routed, and so be unknown to it."""
        started = next((each.started for each in process.running.values() if each.request_id == request_id), 0.0)
        return bool(member.rested_at >= started) or member.rested_at > 0.0
