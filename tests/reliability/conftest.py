"""Scale and figures of the reliability goals: what continuous integration runs, and what is run before a release.

``--reliability long`` runs everything at the scale of a release; ``--reliability-figures FILE`` keeps what was measured
as JSON. ``tests/benchmarks/reliability.py`` does both and writes ``docs/results/sockets.md``.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelmesh.mesh import ModelMesh
from modelmesh.plugins import PluginHost
from modelmesh_cdk.testing import FaultServer

KEY = "sk-canary-Zq7vR3nT9xW1mK5pL8dF"
"""Of every provider; the suite sees to it that it is shown nowhere."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; pytest knows them when it is given this folder."""
    group = parser.getgroup("reliability")
    group.addoption("--reliability", choices=["ci", "long"], default="ci", help="Scale of the reliability goals.")
    group.addoption("--reliability-figures", type=Path, metavar="FILE", help="Write what was measured there, as JSON.")


@dataclass
class Figures:
    """What the tests measured.

    Attributes:
        is_long: Whether to run at the scale of a release.
        rows: Goal, what was measured, figure; in the order of the tests.
    """

    is_long: bool
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def scale(self, ci: int, long: int) -> int:
        """Return how much of something to do."""
        return long if self.is_long else ci

    def add(self, goal: str, what: str, figure: str) -> None:
        """Keep a figure."""
        self.rows.append((goal, what, figure))


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """Scale and figures of this run."""
    kept = Figures(request.config.getoption("--reliability", "ci") == "long")
    yield kept
    file: Path | None = request.config.getoption("--reliability-figures", None)
    if file is not None:
        file.write_text(json.dumps(kept.rows, indent=1), encoding="utf-8")


class Sockets:
    """Providers on real sockets and a mesh over them, from a YAML file as users write it.

    Provider ``p0`` has the model ``m0``, and so on; the pool is called ``chat``.

    Attributes:
        servers: The providers, in the order of the pool.
    """

    def __init__(self, folder: Path, plugins: PluginHost) -> None:
        self.servers: list[FaultServer] = []
        self._urls: list[str] = []
        self._folder = folder
        self._plugins = plugins
        self._mesh: ModelMesh | None = None

    def provider(self, step: Any = None) -> FaultServer:
        """Start a provider that answers every request with this step."""
        server = FaultServer(default=step).start()
        self.servers.append(server)
        self._urls.append(server.url)
        return server

    def elsewhere(self, url: str) -> None:
        """Add a provider where no FaultServer listens."""
        self._urls.append(url)

    def mesh(self, *, provider: Mapping[str, Any] | None = None, **pool: Any) -> ModelMesh:
        """Write the file and load it.

        Args:
            provider: Further settings of every provider.
            pool: Settings of the pool.
        """
        places = range(len(self._urls))
        document = {
            "providers": {
                f"p{place}": {
                    "connector": "modelmesh.openai-compatible.v1",
                    "base_url": self._urls[place],
                    "api_key": "${secrets:FAULT_KEY}",
                    **(provider or {}),
                }
                for place in places
            },
            "models": {
                f"m{place}": {
                    "provider": f"p{place}",
                    "model": "fault-model",
                    "capabilities": ["chat-completion"],
                    "pricing": {"input_per_1k_tokens": 0.0, "output_per_1k_tokens": 0.001},
                }
                for place in places
            },
            "pools": {"chat": {"capability": "chat-completion", **pool}},
        }
        file = self._folder / "mesh.yaml"
        file.write_text(yaml.safe_dump(document), encoding="utf-8")
        self._mesh = ModelMesh(plugins=self._plugins, environ={"FAULT_KEY": KEY})
        self._mesh.initialize(file)
        return self._mesh

    def close(self) -> None:
        """End the mesh, see that it let go of every connection, and end the providers."""
        try:
            if self._mesh is not None:
                self._mesh.shutdown()
                assert all(server.wait_until_unconnected(5.0) for server in self.servers)
        finally:
            for server in self.servers:
                server.stop()


class Lateness:
    """How late the event loop itself is: what this machine adds to every clock while others use it, too.

    Use it as an asynchronous context manager; ``worst`` is in seconds.
    """

    def __init__(self) -> None:
        self.worst = 0.0
        self._slept = time.monotonic()

    async def __aenter__(self) -> Lateness:
        self._slept = time.monotonic()
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching
        self._look()  # it may be late this very moment

    async def _watch(self) -> None:
        while True:
            self._look()  # the first time at what was done before the loop came round at all
            self._slept = time.monotonic()
            await asyncio.sleep(0.005)

    def _look(self) -> None:
        self.worst = max(self.worst, time.monotonic() - self._slept - 0.005)


@pytest.fixture
def lateness() -> type[Lateness]:
    """The class; one is made for each stretch of time that is measured."""
    return Lateness


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of them does not pass."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@pytest.fixture
def spread() -> Any:
    """Shows seconds as milliseconds: median, 99th percentile, most."""

    def show(seconds: Sequence[float]) -> str:
        return ", ".join(
            f"{word} {figure * 1000:.1f} ms"
            for word, figure in (
                ("p50", quantile(seconds, 0.5)),
                ("p99", quantile(seconds, 0.99)),
                ("max", max(seconds)),
            )
        )

    return show


@pytest.fixture
def p99() -> Any:
    """Returns the 99th percentile."""
    return lambda seconds: quantile(seconds, 0.99)


@pytest.fixture(scope="session", autouse=True)
def _warm(warm_http: None) -> None:
    """Before anything here is timed."""


@pytest.fixture
def sockets(tmp_path: Path, plugins: PluginHost, transport: str) -> Iterator[Sockets]:
    """Providers on sockets, once for each transport."""
    made = Sockets(tmp_path, plugins)
    yield made
    made.close()
