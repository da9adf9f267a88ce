"""Carries a scenario out: the configuration's own mesh on an event loop in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from modelmesh.errors import ModelMeshError
from modelmesh.interfaces.provider import AttemptRecord, Receipt
from modelmesh.mesh import ModelMesh
from modelmesh_cdk.provider import CHAT
from modelmesh_cdk.testing.simulation.clock import SimulatedClock
from modelmesh_cdk.testing.simulation.loop import SimulationLoop
from modelmesh_plugins.offline import OfflinePlugins, Secretless
from modelmesh_plugins.simulate.providers import ScenarioProvider
from modelmesh_plugins.simulate.scenario import Behaviour, Scenario, load_scenario

_BOUNDLESS = 2**63


@dataclass(slots=True)
class Asked:
    """What became of one request.

    Attributes:
        at: When it was made, in seconds from the start.
        latency: Seconds until its answer or its error.
        provider: Who answered; empty when nobody did.
        error: The type of what it failed with; empty when it was answered.
        calls: Made for it.
        cost: USD, at the providers' prices of the moment.
    """

    at: float
    latency: float = 0.0
    provider: str = ""
    error: str = ""
    calls: int = 0
    cost: float = 0.0


@dataclass(slots=True)
class ProviderFigures:
    """What a provider saw of a scenario."""

    name: str
    calls: int = 0
    failures: int = 0
    taken: int = 0
    quota: int | None = None
    cost: float = 0.0


@dataclass(slots=True)
class Simulated:
    """What came of a scenario."""

    scenario: Scenario
    pool: str
    asked: list[Asked] = field(default_factory=list)
    providers: dict[str, ProviderFigures] = field(default_factory=dict)


def simulate(file: Path, scenario_file: Path) -> Simulated:
    """Run a configuration through a scenario; nothing is sent anywhere, and no key is needed.

    Raises:
        ConfigurationError: The configuration or the scenario has problems.
    """
    loop = SimulationLoop(None, most_steps=_BOUNDLESS)
    built: list[ScenarioProvider] = []

    def stand_in(real: object) -> ScenarioProvider:
        capabilities = tuple(getattr(real, "capabilities", ())) or (CHAT,)
        built.append(ScenarioProvider(getattr(real, "known_models", {}), capabilities))
        return built[-1]

    try:
        clock = SimulatedClock(loop, 0.0)
        random = Random(0)  # noqa: S311 (repeatable draws)
        mesh = ModelMesh(clock=clock, random=random, plugins=OfflinePlugins(stand_in), environ=Secretless(), loop=loop)
        mesh.initialize(file)
        connectors = {each.context.name: each for each in built if each.context is not None}
        scenario = load_scenario(scenario_file, providers=list(connectors), pools=mesh.list_pools())
        clock.jump(scenario.start - clock.time())
        for name, connector in connectors.items():
            connector.take_part(
                scenario.providers.get(name, Behaviour()),
                tuple(event for event in reversed(scenario.events) if event.provider == name),
                clock,
                Random(f"{scenario.seed} {name}"),  # noqa: S311 (repeatable draws)
            )
        found = Simulated(scenario, scenario.pool or mesh.list_pools()[0])
        found.providers = {name: ProviderFigures(name) for name in connectors}
        loop.run(_Run(found, mesh, connectors, loop).all())
        for name, connector in connectors.items():
            figures = found.providers[name]
            figures.calls, figures.failures = connector.calls, connector.failures
            figures.taken, figures.quota = connector.most_taken, connector.quota
        return found
    finally:
        loop.close()


class _Run:
    """The requests of a scenario."""

    def __init__(
        self, found: Simulated, mesh: ModelMesh, connectors: Mapping[str, ScenarioProvider], loop: SimulationLoop
    ) -> None:
        self._found = found
        self._mesh = mesh
        self._connectors = connectors
        self._loop = loop
        self._began = loop.time()
        self._lot = Random(f"{found.scenario.seed} requests")  # noqa: S311 (repeatable draws)
        asked = found.scenario.requests
        self._payload: dict[str, Any] = {"messages": [{"role": "user", "content": "word" * asked.prompt_tokens}]}
        if asked.max_tokens is not None:
            self._payload["max_tokens"] = asked.max_tokens
        self._metadata = {} if asked.deadline is None else {"deadline": asked.deadline}

    async def all(self) -> None:
        """Make every request in its time, and see each to its end."""
        running: set[asyncio.Task[None]] = set()
        for at in self._arrivals():
            await asyncio.sleep(max(0.0, self._began + at - self._loop.time()))
            asked = Asked(at)
            self._found.asked.append(asked)
            task = self._loop.create_task(self._ask(asked, self._lot.random() < self._found.scenario.requests.stream))
            running.add(task)
            task.add_done_callback(running.discard)
        if running:
            await asyncio.wait(running)
        await self._mesh.ashutdown()

    def _arrivals(self) -> Iterator[float]:
        """Yield the moments of requests: independent of one another, at the rate of the moment."""
        scenario = self._found.scenario
        changes = sorted((event for event in scenario.events if event.rate is not None), key=lambda event: event.at)
        edges = sorted({0.0, *(event.at for event in changes), *(event.ends for event in changes), scenario.duration})
        for start, end in pairwise(edges):
            rate = scenario.rate
            for event in changes:
                if event.rate is not None and event.at <= start < event.ends:
                    rate = event.rate
            at = start
            while rate > 0:
                at += self._lot.expovariate(rate)
                if at >= min(end, scenario.duration):
                    break
                yield at

    async def _ask(self, asked: Asked, stream: bool) -> None:
        router = self._mesh.get_router()
        receipt: Receipt | None = None
        try:
            if stream:
                routed = router.execute_stream(self._found.pool, self._payload, metadata=self._metadata)
                try:
                    async with aclosing(routed.generator) as chunks:
                        async for _ in chunks:
                            pass
                    asked.provider = routed.provider_id
                finally:
                    receipt = routed.receipt
            else:
                answer = await router.execute("chat", self._found.pool, self._payload, metadata=self._metadata)
                asked.provider, receipt = answer.provider_id, answer.receipt
        except ModelMeshError as error:
            asked.error = type(error).__name__
            found = getattr(error, "receipt", None)
            receipt = found if isinstance(found, Receipt) else receipt
        asked.latency = self._loop.time() - self._began - asked.at
        for attempt in [] if receipt is None else receipt.attempts:
            self._count(asked, attempt)

    def _count(self, asked: Asked, attempt: AttemptRecord) -> None:
        asked.calls += 1
        cost = (attempt.cost or 0.0) * self._connectors[attempt.provider_id].price_factor
        asked.cost += cost
        self._found.providers[attempt.provider_id].cost += cost
