"""Meshes over scripted providers that report to one connector, and what they reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.interfaces.observability import RequestLogEntry
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import ScriptedProvider


class World:
    """A mesh with one pool ``chat``; each model has a scripted provider of its name."""

    def __init__(self, mesh: ModelMesh, providers: dict[str, ScriptedProvider]) -> None:
        self.mesh = mesh
        self.providers = providers

    @property
    def connector(self) -> Any:
        """The first observability connector."""
        return self.mesh.observers()[0]

    def ask(self, **metadata: Any) -> str:
        """Ask for a whole answer."""
        request = CompletionRequest([{"role": "user", "content": "What is it?"}], metadata=metadata)
        return self.mesh.get_router().complete("chat", request).content

    def stream(self) -> str:
        """Read a stream to its end."""
        body = {"messages": [{"role": "user", "content": "What is it?"}]}
        chunks = self.mesh.get_router().execute_stream("chat", body)
        return "".join(chunk.text for chunk in self.mesh.run_stream(chunks.__aiter__()))


Build = Callable[..., World]


@pytest.fixture
def build() -> Iterator[Build]:
    """Build worlds from scripts by model and an ``observability`` section; they are shut down after the test."""
    meshes: list[ModelMesh] = []

    def make(observability: dict[str, Any], **scripts: Any) -> World:
        providers = {name: ScriptedProvider(script) for name, script in (scripts or {"a": []}).items()}
        mesh = ModelMesh(environ={})
        meshes.append(mesh)
        mesh.initialize(
            {
                "providers": {name: {"instance": provider} for name, provider in providers.items()},
                "models": {
                    name: {
                        "provider": name,
                        "model": f"{name}-upstream",
                        "capabilities": ["chat-completion"],
                        "pricing": {"input_per_1k_tokens": 1.0, "output_per_1k_tokens": 2.0},
                    }
                    for name in providers
                },
                "pools": {
                    "chat": {
                        "capability": "chat-completion",
                        "retry": {"max_attempts": 1, "initial_delay": "1ms", "max_delay": "1ms"},
                    }
                },
                "observability": observability,
            }
        )
        return World(mesh, providers)

    yield make
    for mesh in meshes:
        mesh.shutdown()


@pytest.fixture
def entry() -> Callable[..., RequestLogEntry]:
    """Build the record of a successful attempt; any field may be given."""

    def make(**fields: Any) -> RequestLogEntry:
        given: dict[str, Any] = {
            "timestamp": datetime(2026, 11, 21, 12, 0, tzinfo=UTC),
            "model_id": "gpt",
            "provider_id": "acme",
            "capability": "chat-completion",
            "delivery_mode": "sync",
            "latency_ms": 120.0,
            "status_code": 200,
            "tokens_in": 3,
            "tokens_out": 5,
            "pool_id": "chat",
            "outcome": "success",
            "is_last": True,
            **fields,
        }
        return RequestLogEntry(**given)

    return make
