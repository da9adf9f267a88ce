"""A small catalogue of connectors, and a way to load YAML text through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, SecretStr

from modelmesh.config import load_config
from modelmesh.config.configuration import Configuration
from modelmesh.errors import UnknownConnectorError, unknown_name


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Provider(_Settings):
    api_key: SecretStr = SecretStr("")
    base_url: str = ""
    timeout: float = 30.0


class _Priority(_Settings):
    model_priority: tuple[str, ...] = ()
    provider_priority: tuple[str, ...] = ()


class _Console(_Settings):
    colorize: bool = True


def _connector(config_model: type[BaseModel] | None, **members: Any) -> type[Any]:
    return type("FakeConnector", (), {"config_model": config_model, **members})


class FakeCatalogue:
    """Connectors by kind and ID; short names work."""

    def __init__(self) -> None:
        self._classes: dict[tuple[str, str], type[Any]] = {
            ("providers", "acme.chat.v1"): _connector(_Provider),
            ("strategies", "modelmesh.stick-until-failure.v1"): _connector(None),
            ("strategies", "modelmesh.round-robin.v1"): _connector(None),
            ("strategies", "modelmesh.priority-selection.v1"): _connector(_Priority, set_fallback=lambda *_: None),
            ("state_stores", "modelmesh.memory.v1"): _connector(None),
            ("observability", "modelmesh.console.v1"): _connector(_Console),
            ("observability", "modelmesh.null.v1"): _connector(None),
        }

    def offer(self, kind: str, connector_id: str, config_model: type[BaseModel] | None) -> None:
        """Add a connector."""
        self._classes[kind, connector_id] = _connector(config_model)

    def resolve_id(self, kind: str, connector_id: str) -> str:
        """Return the full ID."""
        for full in (connector_id, f"modelmesh.{connector_id}.v1"):
            if (kind, full) in self._classes:
                return full
        raise UnknownConnectorError(unknown_name("connector", connector_id, list(self.load_all(kind))))

    def find(self, kind: str, connector_id: str) -> type[Any]:
        """Return a class."""
        return self._classes[kind, self.resolve_id(kind, connector_id)]

    def load_all(self, kind: str) -> Mapping[str, type[Any]]:
        """Return a kind's classes by ID."""
        return {name: cls for (each, name), cls in self._classes.items() if each == kind}


@pytest.fixture
def catalogue() -> FakeCatalogue:
    """Connectors to load with."""
    return FakeCatalogue()


Load = Callable[..., Configuration]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, catalogue: FakeCatalogue) -> Load:
    """Write text to ``mesh.yaml`` and load it as a user would, from its folder."""
    monkeypatch.chdir(tmp_path)

    def loading(text: str, environ: Mapping[str, str] | None = None) -> Configuration:
        Path("mesh.yaml").write_text(text, encoding="utf-8")
        return load_config("mesh.yaml", connectors=catalogue, environ=environ or {})

    return loading
