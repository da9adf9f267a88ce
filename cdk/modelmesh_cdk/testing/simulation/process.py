"""One simulated process: a mesh, its clocks, and the requests made of it."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from modelmesh.errors import ModelMeshError
from modelmesh.mesh import ModelMesh
from modelmesh.plugins import PluginHost
from modelmesh_cdk.testing.simulation.clock import SimulatedClock
from modelmesh_cdk.testing.simulation.shared_store import CONNECTOR, SimulatedBooks, SimulatedStore
from modelmesh_cdk.testing.simulation.upstream import SimulatedProvider, Upstream
from modelmesh_cdk.testing.simulation.world import Ask, World

if TYPE_CHECKING:
    from modelmesh_cdk.testing.simulation.loop import SimulationLoop
    from modelmesh_cdk.testing.simulation.watch import Watch

POOL = "chat"


@dataclass(slots=True)
class Asked:
    """What became of a request.

    Attributes:
        ask: The request.
        started: In seconds of the loop.
        ended: Likewise; None while it runs.
        outcome: ``running``, ``answered``, ``failed``, ``left``, ``crashed``.
        error: What it failed with.
        text: What its caller saw.
        seams: Where in the text another model is said to go on.
        finished: Whether a finish reason came.
        left_at: When its caller went away.
        model_id: Who answered.
    """

    ask: Ask
    started: float = 0.0
    ended: float | None = None
    outcome: str = "running"
    error: BaseException | None = None
    text: str = ""
    seams: list[int] = field(default_factory=list)
    finished: bool = False
    left_at: float | None = None
    model_id: str = ""

    @property
    def request_id(self) -> str:
        """What its attempts carry."""
        return f"ask-{self.ask.number}"


class SimulatedProcess:
    """A mesh on the simulation's loop.

    Attributes:
        number: Which process.
        clock: Its clocks.
        mesh: The real thing.
        books: Where its limits are kept.
        crashed: Whether it is no more.
        running: Its requests that run, by the task.
    """

    def __init__(
        self,
        number: int,
        world: World,
        loop: SimulationLoop,
        upstreams: list[Upstream],
        books: SimulatedBooks,
        watch: Watch,
    ) -> None:
        self.number = number
        self.clock = SimulatedClock(loop, world.epoch, world.skews[number % len(world.skews)])
        self.books = books
        self.crashed = False
        self.running: dict[asyncio.Task[None], Asked] = {}
        self.jumped_at = float("-inf")
        self.mesh = ModelMesh(
            clock=self.clock,
            random=random.Random(f"process {world.seed} {number}"),  # noqa: S311 (repeatable draws for tests)
            plugins=_plugins(),
            environ={},
            loop=loop,
        )
        connectors = {each.spec.name: SimulatedProvider(each, number, self.clock, watch) for each in upstreams}
        self.mesh.initialize(
            {
                "providers": {
                    each.spec.name: {"instance": connectors[each.spec.name], **each.spec.settings} for each in upstreams
                },
                "models": {
                    name: {
                        "provider": each.spec.name,
                        "capabilities": ["chat-completion"],
                        "pricing": {
                            "input_per_1k_tokens": each.spec.price,
                            "output_per_1k_tokens": each.spec.price,
                        },
                    }
                    for each in upstreams
                    for name in each.spec.model_names
                },
                "pools": {POOL: {"capability": "chat-completion", **world.pool}},
                "storage": {
                    "connector": CONNECTOR,
                    "books": books,
                    "process": number,
                    "watch": watch,
                    **world.storage,
                },
            }
        )
        self.router = self.mesh.get_router()
        self.pool = self.router.get_pool(POOL)
        self.members = list(self.pool.members.values())

    def start(self, asked: Asked) -> asyncio.Task[None]:
        """Begin a request."""
        loop = asyncio.get_running_loop()
        asked.started = loop.time()
        task = loop.create_task(self._carry_out(asked))
        self.running[task] = asked
        return task

    async def _carry_out(self, asked: Asked) -> None:
        ask = asked.ask
        payload: dict[str, Any] = {"messages": [{"role": "user", "content": "word " * ask.words}]}
        if ask.max_tokens is not None:
            payload["max_tokens"] = ask.max_tokens
        metadata: dict[str, Any] = {"request_id": asked.request_id}
        if ask.deadline is not None:
            metadata["deadline"] = ask.deadline
        try:
            if ask.stream:
                await self._read(asked, payload, metadata)
            else:
                answer = await self.router.execute("chat", POOL, payload, metadata=metadata)
                asked.text = answer.data["choices"][0]["message"]["content"]
                asked.finished = True
                asked.model_id = answer.model_id
            asked.outcome = "answered"
        except ModelMeshError as error:
            asked.error, asked.outcome = error, "failed"
        except asyncio.CancelledError:
            asked.outcome = "crashed" if self.crashed else "left"
            if asked.left_at is None and not self.crashed:
                raise

    async def _read(self, asked: Asked, payload: dict[str, Any], metadata: dict[str, Any]) -> None:
        routed = self.router.execute_stream(POOL, payload, metadata=metadata)
        async with aclosing(routed.generator) as chunks:
            async for chunk in chunks:
                if "modelmesh" in chunk.data:
                    asked.seams.append(len(asked.text))
                asked.text += chunk.text
                asked.finished = asked.finished or chunk.finish_reason is not None
        asked.model_id = routed.model_id

    def crash(self) -> None:
        """End it at once: nothing it still does reaches the store."""
        self.crashed = True
        self.books.crashed.add(self.number)
        for task in list(self.running):
            task.cancel()


@lru_cache(maxsize=1)
def _plugins() -> PluginHost:
    """Return the installed plugins and the simulation's store; finding them once is enough for a thousand meshes."""
    plugins = PluginHost()
    plugins.register("state_stores", CONNECTOR, SimulatedStore)
    return plugins
