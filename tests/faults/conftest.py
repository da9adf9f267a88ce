"""A whole mesh from YAML text, over providers on real sockets that fail as they are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from modelmesh.mesh import ModelMesh
from modelmesh.plugins import PluginHost
from modelmesh.router import CompletionRequest, CompletionResponse
from modelmesh_cdk.testing import FaultServer

CANARY = "sk-canary-Zq7vR3nT9xW1mK5pL8dF"
"""The key of every provider here; it may be seen nowhere but in the header of a request."""


class JumpingClock:
    """The real clock, except that whoever sleeps on it wakes at once and finds the time gone by.

    Attributes:
        sleeps: How long somebody meant to sleep, in order.
        wall_offset: Seconds by which the wall clock alone is wrong.
    """

    def __init__(self) -> None:
        self.sleeps: list[float] = []
        self.wall_offset = 0.0
        self._skipped = 0.0

    def monotonic(self) -> float:
        """Seconds, with those that were slept."""
        return time.monotonic() + self._skipped

    def time(self) -> float:
        """Unix time, with the seconds that were slept."""
        return time.time() + self._skipped + self.wall_offset

    async def sleep(self, seconds: float) -> None:
        """Skip this many seconds."""
        self.sleeps.append(seconds)
        self.skip(seconds)
        await asyncio.sleep(0)

    def skip(self, seconds: float) -> None:
        """Let time go by."""
        self._skipped += seconds


class World:
    """Providers ``p0``, ``p1``, … each with one model ``m0``, ``m1``, …, and one mesh with the pool ``chat`` over them.

    Attributes:
        clock: The mesh's clock.
        servers: In the order of the pool.
    """

    def __init__(self, folder: Path, plugins: PluginHost) -> None:
        self.clock = JumpingClock()
        self.servers: list[FaultServer] = []
        self._urls: list[str] = []
        self._folder = folder
        self._plugins = plugins
        self._mesh: ModelMesh | None = None

    def provider(self, *script: Any, **options: Any) -> FaultServer:
        """Start a provider that follows this script; the first one is asked first."""
        server = FaultServer(script, **options).start()
        self.servers.append(server)
        self._urls.append(server.url)
        return server

    def elsewhere(self, url: str) -> None:
        """Add a provider at a URL where no FaultServer listens."""
        self._urls.append(url)

    def build(
        self,
        *,
        provider: Mapping[str, Any] | None = None,
        providers: Mapping[str, Mapping[str, Any]] | None = None,
        sections: Mapping[str, Any] | None = None,
        **pool: Any,
    ) -> ModelMesh:
        """Write the YAML file and load it.

        Args:
            provider: Further settings of every provider.
            providers: Further settings of single ones, by name.
            sections: Further sections of the file.
            pool: Settings of the pool; without any it neither retries nor waits long.
        """
        document: dict[str, Any] = {
            "providers": {
                f"p{place}": {
                    "connector": "modelmesh.openai-compatible.v1",
                    "base_url": url,
                    "api_key": "${secrets:FAULT_KEY}",
                    **(provider or {}),
                    **(providers or {}).get(f"p{place}", {}),
                }
                for place, url in enumerate(self._urls)
            },
            "models": {
                f"m{place}": {"provider": f"p{place}", "model": "fault-model", "capabilities": ["chat-completion"]}
                for place in range(len(self._urls))
            },
            "pools": {
                "chat": {
                    "capability": "chat-completion",
                    "retry": {"max_attempts": 0},
                    "timeouts": {"connect": 2.0, "first_token": 2.0, "idle": 2.0, "total": 2.0},
                    "deadline": 5.0,
                    **pool,
                }
            },
            **(sections or {}),
        }
        file = self._folder / "mesh.yaml"
        file.write_text(yaml.safe_dump(document), encoding="utf-8")
        self._mesh = ModelMesh(clock=self.clock, plugins=self._plugins, environ={"FAULT_KEY": CANARY})
        self._mesh.initialize(file)
        return self._mesh

    @property
    def mesh(self) -> ModelMesh:
        """The mesh, built with defaults unless it was built already."""
        return self._mesh or self.build()

    def ask(self, text: str = "hello", **metadata: Any) -> CompletionResponse:
        """Ask the pool for a whole answer, through the blocking door."""
        request = CompletionRequest([{"role": "user", "content": text}], metadata=metadata)
        return self.mesh.get_router().complete("chat", request)

    def stream(self, text: str = "hello") -> Iterator[CompletionResponse]:
        """Ask the pool for a stream, through the blocking door."""
        request = CompletionRequest([{"role": "user", "content": text}])
        router = self.mesh.get_router()
        return self.mesh.run_stream(cast("Any", router.stream("chat", request)))

    def states(self) -> dict[str, str | None]:
        """Return why each model of the pool rests; None for those that do not."""
        return {name: member.reason for name, member in self.mesh.get_router().get_pool("chat").members.items()}

    def close(self) -> None:
        """End the mesh, see that it let go of every connection, and end the providers."""
        try:
            if self._mesh is not None:
                self._mesh.shutdown()
                assert all(server.wait_until_unconnected(2.0) for server in self.servers)
        finally:
            for server in self.servers:
                server.stop()


@pytest.fixture(scope="session", autouse=True)
def _warm(warm_http: None) -> None:
    """Before anything here is timed."""


@pytest.fixture
def world(tmp_path: Path, plugins: PluginHost, transport: str) -> Iterator[World]:
    """Providers and a mesh, once for each transport."""
    world = World(tmp_path, plugins)
    yield world
    world.close()


@pytest.fixture
def lone_world(tmp_path: Path, plugins: PluginHost) -> Iterator[World]:
    """Providers and a mesh, for what does not depend on the transport."""
    world = World(tmp_path, plugins)
    yield world
    world.close()


@pytest.fixture
def canary() -> str:
    """The key that must be seen nowhere."""
    return CANARY


@pytest.fixture
def texts() -> Callable[[Any], str]:
    """Joins the text of a stream."""
    return lambda stream: "".join(part.content for part in stream)
