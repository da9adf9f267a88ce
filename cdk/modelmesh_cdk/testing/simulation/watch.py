"""Looks on while a world runs, and says which promise was broken first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modelmesh.interfaces.ledger import Claim, Verdict
from modelmesh.interfaces.provider import ProviderRequest
from modelmesh_cdk.ledger import Books
from modelmesh_cdk.testing.simulation.ledger_watch import LedgerWatch
from modelmesh_cdk.testing.simulation.request_watch import RequestWatch
from modelmesh_cdk.testing.simulation.rotation_watch import RotationWatch
from modelmesh_cdk.testing.simulation.upstream import Upstream, UpstreamCall, answer_of

if TYPE_CHECKING:
    from modelmesh_cdk.testing.simulation.loop import SimulationLoop
    from modelmesh_cdk.testing.simulation.process import Asked, SimulatedProcess
    from modelmesh_cdk.testing.simulation.world import World


class BrokenInvariantError(AssertionError):
    """A promise that did not hold.

    Attributes:
        goal: Which one, such as ``R1``.
        message: What was seen.
    """

    def __init__(self, goal: str, message: str) -> None:
        super().__init__(f"{goal}: {message}")
        self.goal = goal
        self.message = message


class Watch:
    """What is seen of a simulation, by everybody who takes part in it.

    What breaks is kept and raised between two steps of the loop: raised where it is seen, it would be taken for a
    failure of the provider or the store that saw it.

    Attributes:
        world: What is looked at.
        calls: Every call that reached a provider, in order.
        processes: The meshes.
        rotation: Who looks at members that rest and return.
    """

    def __init__(self, world: World, loop: SimulationLoop) -> None:
        self.world = world
        self.loop = loop
        self.began = loop.time()
        self.calls: list[UpstreamCall] = []
        self.calls_of: dict[str, list[UpstreamCall]] = {}
        self.processes: list[SimulatedProcess] = []
        self.upstreams: dict[str, Upstream] = {}
        self._broken: BrokenInvariantError | None = None
        self._ledger = LedgerWatch(self)
        self.rotation = RotationWatch(self)
        self._requests = RequestWatch(self)

    def look_at(self, processes: list[SimulatedProcess], upstreams: list[Upstream]) -> None:
        """Begin to look."""
        self.processes = processes
        self.upstreams = {each.spec.name: each for each in upstreams}
        self.rotation.look_at(processes)

    def now(self) -> float:
        """Seconds since the simulation began."""
        return self.loop.time() - self.began

    def broke(self, goal: str, message: str) -> None:
        """Note what did not hold; the first one counts."""
        if self._broken is None:
            self._broken = BrokenInvariantError(goal, f"{message} (at {self.now():.3f} s)")

    def after_step(self) -> None:
        """Look at everything that one callback may have changed.

        Raises:
            BrokenInvariantError: Something does not hold.
        """
        self.rotation.after_step()
        if self._broken is not None:
            raise self._broken

    # --- what providers see -----------------------------------------------------------------

    def call_begins(self, process: int, upstream: Upstream, request: ProviderRequest) -> UpstreamCall:
        """Note a call that reaches a provider."""
        call = UpstreamCall(
            len(self.calls),
            process,
            upstream.spec.name,
            request.model,
            request.request_id,
            request.stream,
            self.now(),
        )
        most = request.payload.get("max_tokens")
        call.text = answer_of(call, upstream.spec, most if isinstance(most, int) else None)
        before = self.calls_of.setdefault(call.request_id, [])
        self.rotation.call_begins(call, before)
        self._requests.call_begins(call, before)
        before.append(call)
        self.calls.append(call)
        self.loop.note(f"{call.began:.6f} {process} {request.model} {request.request_id}")
        return call

    def call_ends(self, call: UpstreamCall, outcome: str) -> None:
        """Note how it ended."""
        if call.outcome == "running":
            call.outcome = outcome
            call.ended = self.now()

    # --- what stores see ----------------------------------------------------------------------

    def reserved(
        self,
        process: int,
        books: Books,
        now: float,
        reservation: str,
        claims: Sequence[Claim],
        lease: float,
        verdict: Verdict,
    ) -> None:
        """Note a reservation that was asked for."""
        self._ledger.reserved(process, books, now, reservation, claims, lease, verdict)

    def released(self, books: Books, reservation: str) -> None:
        """Note that one was given back whole: its call was never made."""
        self._ledger.released(books, reservation)

    def settled(self, books: Books, now: float) -> None:
        """Note that one was settled."""
        self._ledger.settled(books, now)

    # --- what callers see -----------------------------------------------------------------------

    def ask_begins(self, process: SimulatedProcess, asked: Asked) -> None:
        """Note a request."""
        self._requests.begins(process, asked)

    def ask_ends(self, process: SimulatedProcess, asked: Asked, task: asyncio.Task[None]) -> None:
        """Note how it ended."""
        self._requests.ends(process, asked, task)
        self.loop.note(f"{self.now():.6f} {asked.request_id} {asked.outcome} {asked.text}")

    # --- when it is over ------------------------------------------------------------------------

    def at_rest(self) -> None:
        """Look at what is left when every request has ended."""
        self._requests.at_rest()
        self._ledger.at_rest()

    def longest_lease(self) -> float:
        """Seconds after which no reservation can be open."""
        return self._ledger.longest_lease()

    def after_leases(self) -> None:
        """Look at the books when every lease has ended."""
        self._ledger.after_leases()

    def at_end(self, tasks: list[asyncio.Task[Any]]) -> None:
        """Look at what outlives the meshes."""
        if tasks:
            self.broke("R7", f"{len(tasks)} tasks outlive the meshes, the first is {tasks[0].get_coro()!r}")
        for failure in self.loop.failures:
            self.broke("R7", f"an exception that nobody took: {failure.get('message')} {failure.get('exception')!r}")
