"""Sends recorded requests through another configuration and keeps what came of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from modelmesh.errors import ModelMeshError
from modelmesh.interfaces.provider import AttemptRecord, Receipt
from modelmesh.mesh import ModelMesh
from modelmesh.router import Router
from modelmesh_plugins.offline import OfflinePlugins, Secretless
from modelmesh_plugins.replay.evidence import Evidence, Source
from modelmesh_plugins.replay.records import Request, total_cost
from modelmesh_plugins.replay.world import JumpingLoop, ReplayClock, ReplayProvider


@dataclass(slots=True)
class Replayed:
    """What came of one request.

    Attributes:
        request: As recorded.
        answered_by: The model, or None when nobody answered.
        error: Why nobody did, in one line.
        sources: How each call's outcome is known.
    """

    request: Request
    answered_by: str | None = None
    error: str | None = None
    attempts: list[AttemptRecord] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)

    @property
    def cost(self) -> float | None:
        """USD over all attempts; None when an answer's price is not known."""
        return total_cost((attempt.cost, attempt.outcome == "success") for attempt in self.attempts)

    @property
    def latency(self) -> float | None:
        """Seconds over all attempts; None when the log never saw one of their models."""
        if "assumed" in self.sources:
            return None
        return sum(attempt.latency_ms for attempt in self.attempts) / 1000.0


@dataclass(slots=True)
class Replay:
    """What came of all.

    Attributes:
        replayed: By arrival.
        unmeasured: IDs of models that were called and that the log never saw.
        strategies: IDs of the pools' strategies.
    """

    replayed: list[Replayed]
    unmeasured: list[str]
    strategies: list[str]


def replay(requests: Sequence[Request], config: Path, *, seed: int = 0) -> Replay:
    """Send recorded requests, at the times at which they came, through a configuration; nobody is called.

    Args:
        requests: By arrival.
        config: The other configuration.
        seed: Of whatever the configuration draws by lot.

    Raises:
        ConfigurationError: The configuration is wrong.
    """
    evidence = Evidence(requests)
    providers: list[ReplayProvider] = []

    def stand_in(real: object) -> ReplayProvider:
        providers.append(ReplayProvider(evidence, getattr(real, "known_models", {})))
        return providers[-1]

    loop = JumpingLoop()
    clock = ReplayClock(loop, requests[0].arrived)
    mesh = ModelMesh(clock=clock, random=Random(seed), plugins=OfflinePlugins(stand_in), environ=Secretless())  # noqa: S311 (no secret)
    try:
        mesh.initialize(config)
        for provider in providers:
            name = provider.context.name if provider.context is not None else ""
            provider.model_ids = {
                model.wire_name: model.name
                for model in mesh.get_registry().list_models()
                if model.provider.name == name
            }
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            replayed = runner.run(_send_all(mesh.get_router(), requests, clock))
        strategies = sorted({pool.strategy_id for pool in mesh.get_router().list_pools()})
    finally:
        mesh.shutdown()
        loop.close()
    by_id = {each.request.request_id: each for each in replayed}
    unmeasured: dict[str, None] = {}
    for provider in providers:
        for request_id, model_id, outcome in provider.met:
            by_id[request_id].sources.append(outcome.source)
            if outcome.source == "assumed":
                unmeasured[model_id] = None
    return Replay(replayed, sorted(unmeasured), strategies)


async def _send_all(router: Router, requests: Sequence[Request], clock: ReplayClock) -> list[Replayed]:
    """Send each request when it came, whether those before it are done or not."""
    replayed = [Replayed(request) for request in requests]
    running: set[asyncio.Task[None]] = set()
    for each in replayed:
        wait = each.request.arrived - clock.time()
        if wait > 0:
            await clock.sleep(wait)
        task = asyncio.create_task(_send(router, each))
        running.add(task)
        task.add_done_callback(running.discard)
    while running:
        await asyncio.wait(running)
    return replayed


async def _send(router: Router, each: Replayed) -> None:
    request = each.request
    payload = request.payload or {}
    metadata = {"request_id": request.request_id}
    try:
        if request.streamed:
            stream = router.execute_stream(request.asked_for, payload, metadata=metadata)
            try:
                async for _ in stream:
                    pass
                each.answered_by = stream.model_id
            finally:
                each.attempts = stream.receipt.attempts
        else:
            answer = await router.execute("chat", request.asked_for, payload, metadata=metadata)
            each.answered_by = answer.model_id
            each.attempts = answer.receipt.attempts
    except ModelMeshError as error:
        each.error = f"{type(error).__name__}: {error}"
        receipt = getattr(error, "receipt", None)
        if isinstance(receipt, Receipt):
            each.attempts = receipt.attempts
