"""Runs a world from its first request to the last trace of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from modelmesh_cdk.testing.simulation.draw import draw_world
from modelmesh_cdk.testing.simulation.loop import RunawayError, SimulationLoop, StalledError, tasks_of
from modelmesh_cdk.testing.simulation.process import Asked, SimulatedProcess
from modelmesh_cdk.testing.simulation.shared_store import SimulatedBooks
from modelmesh_cdk.testing.simulation.upstream import Upstream
from modelmesh_cdk.testing.simulation.watch import BrokenInvariantError, Watch
from modelmesh_cdk.testing.simulation.world import World

_QUIET = 3.0
"""Seconds in which what settles in the background has settled, store at its slowest included."""


@dataclass(slots=True)
class Outcome:
    """What came of a world.

    Attributes:
        world: Which one.
        digest: Equal for equal runs.
        broken: The first invariant that did not hold, or None.
        asked: Every request.
        steps: Callbacks that were run.
        seconds: Of virtual time.
        calls: Made to providers.
        call_times: When each was made, in seconds of the simulation.
    """

    world: World
    digest: str
    broken: BrokenInvariantError | None
    asked: list[Asked] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    calls: int = 0
    call_times: list[float] = field(default_factory=list)

    def calls_between(self, since: float, until: float) -> int:
        """How many calls were made to providers in a span."""
        return sum(1 for each in self.call_times if since <= each < until)

    @property
    def outcomes(self) -> dict[str, int]:
        """How many requests ended in which way."""
        counts: dict[str, int] = {}
        for each in self.asked:
            counts[each.outcome] = counts.get(each.outcome, 0) + 1
        return counts


def run_seed(seed: int) -> Outcome:
    """Draw the world of a seed and run it."""
    return run_world(draw_world(seed))


def run_world(world: World) -> Outcome:
    """Run a world until everything in it has come to rest, or an invariant breaks."""
    loop = SimulationLoop(world.seed)
    watch = Watch(world, loop)
    started = loop.time()
    broken: BrokenInvariantError | None = None
    asked = [Asked(ask) for ask in world.asks]
    try:
        simulation = _Simulation(world, loop, watch)
        loop.after_step = watch.after_step
        loop.run(simulation.run(asked))
    except BrokenInvariantError as error:
        broken = error
    except (StalledError, RunawayError) as error:
        broken = BrokenInvariantError("R8", str(error))
    finally:
        loop.after_step = None
        seconds = loop.time() - started
        loop.close()
    made = [call.began for call in watch.calls]
    return Outcome(world, loop.digest, broken, asked, loop.steps, seconds, len(made), made)


class _Simulation:
    """The processes of a world, and what happens to them."""

    def __init__(self, world: World, loop: SimulationLoop, watch: Watch) -> None:
        self._world = world
        self._loop = loop
        self._watch = watch
        self._began = loop.time()
        upstreams = [Upstream(spec, world.of(spec.name), world, loop, self._began) for spec in world.providers]
        self._shared = SimulatedBooks(world, loop)
        self.processes = [
            SimulatedProcess(
                number,
                world,
                loop,
                upstreams,
                self._shared if world.shared else SimulatedBooks(world, loop, near=True),
                watch,
            )
            for number in range(world.processes)
        ]
        watch.look_at(self.processes, upstreams)

    async def run(self, asked: list[Asked]) -> None:
        """Let everything happen in its time, and then look what is left of it."""
        happening = [self._loop.create_task(self._ask(each)) for each in asked]
        happening += [
            self._loop.create_task(self._strike(fault.kind, fault.at, int(fault.target), fault.value))
            for fault in self._world.faults
            if fault.kind in ("jump", "crash")
        ]
        for each in happening:
            await each
        await asyncio.sleep(_QUIET)
        self._watch.at_rest()
        await asyncio.sleep(self._watch.longest_lease())
        self._watch.after_leases()
        for process in self.processes:
            await process.mesh.ashutdown()
        await asyncio.sleep(_QUIET)
        left = [task for task in tasks_of(self._loop) if task is not asyncio.current_task()]
        self._watch.at_end(left)

    async def _until(self, at: float) -> None:
        wait = self._began + at - self._loop.time()
        if wait > 0:
            await asyncio.sleep(wait)

    async def _ask(self, asked: Asked) -> None:
        await self._until(asked.ask.at)
        process = self.processes[asked.ask.process % len(self.processes)]
        if process.crashed:
            asked.outcome = "crashed"
            return
        self._watch.ask_begins(process, asked)
        task = process.start(asked)
        if asked.ask.leave_after is not None:
            await asyncio.wait([task], timeout=asked.ask.leave_after)
            if not task.done():
                asked.left_at = self._loop.time()
                task.cancel()
        await asyncio.wait([task])
        del process.running[task]
        asked.ended = self._loop.time()
        self._watch.ask_ends(process, asked, task)

    async def _strike(self, kind: str, at: float, target: int, value: float) -> None:
        await self._until(at)
        process = self.processes[target % len(self.processes)]
        if kind == "jump":
            process.clock.jump(value)
            process.jumped_at = self._loop.time()
        else:
            process.crash()
