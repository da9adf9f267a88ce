"""Configurations are written as they were given, and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelmesh import MeshConfig, ModelMesh
from modelmesh.errors import ConfigurationError, UsageError
from modelmesh_cdk.testing import ScriptedProvider

RAW: dict[str, Any] = {
    "providers": {"sim": {"connector": "modelmesh.simulator.v1", "reply": "grüß dich"}},
    "models": {"m": {"provider": "sim", "capabilities": ["chat-completion"]}},
    "pools": {"chat": {"capability": "chat-completion"}},
}
VENDOR = {"connector": "modelmesh.openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}
HELLO = [{"role": "user", "content": "hi"}]


def ask(mesh: ModelMesh) -> str:
    """Ask for an answer."""
    reply = mesh.get_client().chat.completions.create(model="chat", messages=HELLO)
    return str(reply.choices[0].message.content)


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mesh.yaml", "mesh.json"])
def test_a_saved_file_makes_the_same_mesh(tmp_path: Path, name: str) -> None:
    """YAML, or JSON by its suffix; whatever stood there before is replaced."""
    file = tmp_path / name
    file.write_text("something else")
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(RAW)
        mesh.save_config(file)

    assert MeshConfig.from_file(file).raw == RAW
    assert "grüß" in file.read_text(encoding="utf-8")
    with ModelMesh.from_yaml(file) as again:
        assert ask(again) == "grüß dich"
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_secrets_stay_references(tmp_path: Path) -> None:
    """Their values are nowhere in the file."""
    raw = {**RAW, "providers": {**RAW["providers"], "vendor": {**VENDOR, "api_key": "${secrets:KEY}"}}}
    with ModelMesh(environ={"KEY": "sk-a-value-0123456789"}) as mesh:
        mesh.initialize(raw)
        mesh.save_config(tmp_path / "mesh.yaml")

    text = (tmp_path / "mesh.yaml").read_text()
    assert "${secrets:KEY}" in text
    assert "sk-a-value" not in text


def test_what_was_passed_in_cannot_be_written(tmp_path: Path) -> None:
    """Each object is named by its place, and no file is begun."""
    with ModelMesh(environ={}) as mesh:
        mesh.initialize({**RAW, "providers": {"sim": {"instance": ScriptedProvider()}}})

        with pytest.raises(ConfigurationError, match=r"providers\.sim\.instance: ScriptedProvider was passed in"):
            mesh.save_config(tmp_path / "mesh.yaml")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With what to check."""
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(RAW)

        with pytest.raises(ConfigurationError, match=r"no/mesh\.yaml: the configuration cannot be written"):
            mesh.save_config(tmp_path / "no" / "mesh.yaml")


def test_it_takes_one_place_to_write_to(tmp_path: Path) -> None:
    """A file or a store, not both and not neither."""
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(RAW)

        with pytest.raises(UsageError, match="connector="):
            mesh.save_config()
        with pytest.raises(UsageError, match="connector="):
            mesh.save_config(tmp_path / "mesh.yaml", connector="file")


# --- state stores -------------------------------------------------------------------------------


@pytest.mark.parametrize("connector", ["file", "sqlite"])
def test_a_store_keeps_a_configuration(tmp_path: Path, connector: str) -> None:
    """Written by one mesh, and another one is built from it; under a key of one's own as well."""
    path = str(tmp_path / "store")
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(RAW)
        mesh.save_config(connector=connector, path=path)
        mesh.save_config(connector=connector, path=path, key="config/second")

    for key in ({}, {"key": "config/second"}):
        with ModelMesh.from_storage(connector, path=path, **key) as again:
            assert ask(again) == "grüß dich"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"connector": "file", "path": "{}/store"}, "no configuration under 'config/mesh'"),
        ({"connector": "nonsense"}, "nonsense"),
        ({"connector": "file", "path": "{}/store", "colour": "red"}, "colour"),
    ],
    ids=["empty", "unknown store", "unknown setting"],
)
def test_a_store_without_a_configuration_says_so(tmp_path: Path, asked: dict[str, str], reason: str) -> None:
    """So does one that cannot be opened as it was asked to."""
    asked = {name: value.format(tmp_path) for name, value in asked.items()}

    with pytest.raises(ConfigurationError, match=reason):
        ModelMesh.from_storage(**asked)


# --- one more provider -----------------------------------------------------------------------------


def test_a_provider_is_added_while_the_mesh_runs() -> None:
    """Its models join the pools of their capabilities, and the configuration holds it from then on."""
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(RAW)
        late = {"late-model": {"capabilities": ["chat-completion"]}}

        mesh.add_provider("late", {"connector": "modelmesh.simulator.v1", "reply": "late"}, models=late)

        assert mesh.list_models() == ["m", "late-model"]
        assert "late" in mesh.active_providers()
        mesh.rotate("chat")
        assert ask(mesh) == "late"
        assert RAW["providers"].keys() == {"sim"}


@pytest.mark.parametrize(
    ("name", "models", "reason"),
    [("sim", {}, "provider 'sim'"), ("late", {"m": {}}, "model 'm'")],
    ids=["provider", "model"],
)
def test_what_exists_is_not_replaced_by_accident(name: str, models: dict[str, Any], reason: str) -> None:
    """The error says how to change it."""
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(RAW)

        with pytest.raises(ConfigurationError, match=f"{reason} exists already; use reload_config"):
            mesh.add_provider(name, {"connector": "modelmesh.simulator.v1"}, models=models)


# --- state -------------------------------------------------------------------------------------------


def test_state_goes_from_one_mesh_to_another() -> None:
    """Use and rests; as plain data, through JSON."""
    with ModelMesh(environ={}) as one, ModelMesh(environ={}) as other:
        for mesh in (one, other):
            mesh.initialize({**RAW, "models": {**RAW["models"], "n": RAW["models"]["m"]}})
        ask(one)
        one.rotate("chat")
        exported = json.dumps(one.export_state().to_dict())

        other.import_state(json.loads(exported))

        assert other.pool_status()["chat"]["standby"] == 1
        assert other.get_registry().get_model("m").state.quota_used == 1  # type: ignore[union-attr]  # it is there


def test_an_export_does_not_change_afterwards() -> None:
    """It is how things stood."""
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(RAW)
        state = mesh.export_state()
        ask(mesh)

        assert state.models["m"].quota_used == 0
        mesh.import_state(state)
        assert mesh.get_registry().get_model("m").state.quota_used == 0  # type: ignore[union-attr]  # it is there


def test_what_is_no_state_is_refused() -> None:
    """It says why."""
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(RAW)

        with pytest.raises(ValueError, match="no version"):
            mesh.import_state({"nonsense": 1})
