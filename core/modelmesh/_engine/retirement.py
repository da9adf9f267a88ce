"""Graphs that were replaced: they stay open until the requests on their way in them are done, within a limit."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelmesh._engine.build import Graph

LOOK_SECONDS = 0.05
"""Between two looks whether a graph is idle."""

LOOKS = 2
"""Looks in a row that must find nothing: a request may just be between its choice and its call."""

LONGEST_SECONDS = 600.0
"""How long requests without a deadline are waited for."""


class Retirement:
    """Closes graphs once they are idle.

    Args:
        current: Returns the graph in service, or None; what it uses as well stays open.
    """

    def __init__(self, current: Callable[[], Graph | None]) -> None:
        self._current = current
        self._waiting: dict[int, Graph] = {}
        self._watching: dict[int, Future[None]] = {}
        self._closed: list[Graph] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def graphs(self) -> list[Graph]:
        """Those that are still open."""
        return list(self._waiting.values())

    def add(self, graph: Graph) -> None:
        """Close a graph in the background, when nobody needs it any more or its time is up."""
        self._waiting[id(graph)] = graph
        self._watching[id(graph)] = watching = graph.engine.loop.start(self._see_off(graph))
        watching.add_done_callback(lambda _: self._watching.pop(id(graph), None))

    async def finish(self) -> None:
        """Close all of them now, whatever runs in them."""
        for watching in list(self._watching.values()):
            watching.cancel()
        for graph in list(self._waiting.values()):
            await self._close(graph)

    async def _see_off(self, graph: Graph) -> None:
        clock = graph.engine.clock
        ends_at = clock.monotonic() + max(
            (
                LONGEST_SECONDS if pool.policy.deadline is None else pool.policy.deadline
                for pool in graph.pools.values()
            ),
            default=0.0,
        )
        idle = 0
        while idle < LOOKS and clock.monotonic() < ends_at:
            await clock.sleep(LOOK_SECONDS)
            idle = idle + 1 if is_idle(graph) else 0
        await self._close(graph)

    async def _close(self, graph: Graph) -> None:
        if self._waiting.pop(id(graph), None) is None:
            return  # somebody else does
        current = self._current()
        others = [] if current is None or current is graph else [current]
        others += self._waiting.values()
        await graph.aclose(keep=others)
        self._closed.append(graph)
        if not self._waiting:
            self._unlink()

    def _unlink(self) -> None:
        """Let closed graphs know nothing of those that came after them.

        Word of who fails goes from each graph to the next, so it has to wait until no earlier one is in use. Kept, the
        first graph would hold all others in memory: whoever serves takes it out of the collector's sight.
        """
        for graph in self._closed:
            for pool in graph.pools.values():
                pool.on_move = None
        self._closed.clear()


def is_idle(graph: Graph) -> bool:
    """Whether no request is on its way in a graph, and no stream of it waits to be read."""
    if any(pool.retries.requests > 0 for pool in graph.pools.values()):
        return False
    if any(model.in_flight > 0 for model in graph.registry.list_models()):
        return False
    try:
        return all(stream.is_over for stream in list(graph.engine.streams))
    except RuntimeError:  # one more came up while we looked
        return False
