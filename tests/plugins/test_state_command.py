"""``modelmesh state`` and its neighbours: what they say of a store that cannot do what they are asked for."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from click import Command
from click.testing import CliRunner, Result

from modelmesh import ModelMesh
from modelmesh.errors import StateStoreError
from modelmesh_plugins.commands import explain, quota, state
from modelmesh_plugins.state_stores.file import FileStateStore

CONFIGURATION = """\
providers: {here: {connector: modelmesh.simulator.v1, quota: {requests: 5}}}
models: {tiny: {provider: here, capabilities: [chat-completion]}}
pools: {chat-completion: {}}
storage: {connector: modelmesh.%s.v1%s}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a file store."""
    file = tmp_path / "mesh.yaml"
    file.write_text(CONFIGURATION % ("file", f", path: {tmp_path}/state.json"))
    return file


def run(command: Command, *arguments: object) -> Result:
    """Run a command."""
    return CliRunner().invoke(command, [str(each) for each in arguments])


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(state.command, ("show",)), (quota.command, ()), (explain.command, ("chat-completion", "--config"))],
    ids=["state show", "quota", "explain"],
)
def test_looking_at_a_damaged_file_is_told(config: Path, command: Command, arguments: tuple[str, ...]) -> None:
    """Without a word nothing would seem to be spent, and nobody to rest."""
    with ModelMesh() as mesh:
        mesh.initialize(config)
    file = config.parent / "state.json"
    file.write_bytes(file.read_bytes()[:-20])

    result = run(command, *arguments, config)

    assert result.exit_code == 0
    assert f"Warning: {file} is damaged" in result.stderr
    assert "kept as state.json.corrupt" in result.stderr


@pytest.mark.parametrize("command", ["show", "export", "import", "reset"])
def test_a_store_that_keeps_nothing_is_refused(config: Path, command: str) -> None:
    """There is nothing to look at, and what was imported would be gone."""
    config.write_text(CONFIGURATION % ("memory", ""))
    file = _exported(config.parent / "state", 1)

    result = run(state.command, command, config, *{"reset": ["--yes"], "show": []}.get(command, [file]))

    assert result.exit_code == 1
    assert "'modelmesh.memory.v1' keeps nothing beyond its process" in result.stderr
    assert "storage.connector" in result.stderr


def test_an_import_that_nobody_would_read_is_refused(config: Path) -> None:
    """Under the policy in-memory the mesh begins anew each time."""
    config.write_text(CONFIGURATION % ("file", f", path: {config.parent}/state.json, sync_policy: in-memory"))

    result = run(state.command, "import", config, _exported(config.parent / "state", 1))

    assert result.exit_code == 1
    assert "under storage.sync_policy in-memory the mesh restores no state" in result.stderr


def test_an_export_of_a_newer_version_is_named(config: Path) -> None:
    """It is the file that is too new, and not the state that is saved."""
    file = _exported(config.parent / "state", 99)

    result = run(state.command, "import", config, file)

    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: {file}: was exported by a newer version; upgrade modelmesh-router to import it\n",
    )


@pytest.mark.parametrize("file", ["mesh.yaml", "state.json", "link.json"])
def test_an_export_overwrites_neither_the_configuration_nor_the_store(config: Path, file: str) -> None:
    """The books of budgets would be lost, and there is no second copy of them."""
    with ModelMesh() as mesh:
        mesh.initialize(config)
    (config.parent / "link.json").symlink_to("state.json")
    before = [(config.parent / each).read_bytes() for each in ("mesh.yaml", "state.json")]

    result = run(state.command, "export", config, config.parent / file)

    assert result.exit_code == 1
    assert result.stderr.endswith(", and would be overwritten; name another file\n")
    assert [(config.parent / each).read_bytes() for each in ("mesh.yaml", "state.json")] == before


def test_a_store_that_raises_anything_is_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its words, and without a traceback."""

    async def load(*_: object) -> None:
        raise RuntimeError("password=hunter2222")

    monkeypatch.setattr(FileStateStore, "_load", load)

    result = run(state.command, "show", config)

    assert result.exit_code == 1
    assert re.fullmatch(
        rf"Error: {config}: storage\.connector 'modelmesh\.file\.v1':"
        r" state store modelmesh_plugins\.state_stores\.file\.FileStateStore raised RuntimeError at [\w/]+\.py:\d+"
        r" in \w+; report it to its author\n",
        result.stderr,
    )


def test_a_second_mesh_of_a_process_is_not_told_to_end_it(config: Path) -> None:
    """The process that has the file is the one that reads the words."""
    with ModelMesh() as first, ModelMesh() as second:
        first.initialize(config)
        with pytest.raises(StateStoreError, match=r"this one, and .* shut down the mesh that has it"):
            second.initialize(config)


def test_an_import_says_who_is_not_in_the_configuration(config: Path) -> None:
    """They are passed over when the mesh starts, and would seem to be restored."""
    file = _renamed(_of_a_mesh(config), "pools", "chat-completion", "gone")

    result = run(state.command, "import", config, file)

    assert (result.exit_code, result.stdout) == (0, "1 model and 0 pools are restored at the next start\n")
    assert result.stderr == f"Warning: {config} has no pool 'gone': passed over\n"


def test_a_state_of_another_mesh_is_not_imported(config: Path) -> None:
    """What is kept would be replaced by what nobody here can use."""
    file = _of_a_mesh(config)
    before = (config.parent / "state.json").read_bytes()
    _renamed(_renamed(file, "models", "tiny", "other"), "providers", "here", "there")

    result = run(state.command, "import", config, file)

    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: {file}: is of another mesh, and not imported: {config} has no model 'other'; provider 'there'\n",
    )
    assert (config.parent / "state.json").read_bytes() == before


@pytest.mark.parametrize("command", ["import", "reset"])
@pytest.mark.parametrize(
    ("policy", "age", "is_warned"),
    [
        ("periodic, sync_interval: 5m", 200, True),
        ("periodic, sync_interval: 5m", 400, False),
        ("immediate", 5, True),
        ("sync-on-boundary", 5, False),
    ],
)
def test_a_mesh_that_may_still_run_is_warned_of(
    config: Path, command: str, policy: str, age: int, is_warned: bool
) -> None:
    """By what it wrote not long ago: it would write over what is put there now."""
    shared = CONFIGURATION % ("sqlite", f", path: {config.parent}/state.db, sync_policy: {policy}")
    config.write_text(shared)
    file = _of_a_mesh(config)
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "timestamp": time.time() - age}))
    run(state.command, "import", config, file)

    result = run(state.command, command, config, "--yes" if command == "reset" else file)

    assert result.exit_code == 0
    said = (
        r"Warning: a mesh wrote its state [\w. ]+ ago; if it still runs it writes over this: end it, and do this again"
    )
    assert bool(re.fullmatch(said, result.stderr.rstrip())) is is_warned
    assert is_warned or not result.stderr


def test_a_store_that_serves_one_mesh_alone_warns_of_none(config: Path) -> None:
    """A mesh that still ran would have kept its file to itself."""
    config.write_text(CONFIGURATION % ("file", f", path: {config.parent}/state.json, sync_policy: immediate"))

    result = run(state.command, "import", config, _of_a_mesh(config))

    assert (result.exit_code, result.stderr) == (0, "")


def test_a_state_goes_through_a_pipe(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the name - that other programs have for it; nothing else is printed, and no file is made."""
    file = _of_a_mesh(config)
    monkeypatch.chdir(config.parent)

    exported = run(state.command, "export", config, "-")
    imported = CliRunner().invoke(state.command, ["import", str(config), "-"], input=exported.stdout)

    assert (exported.exit_code, exported.stdout) == (0, file.read_text())
    assert (imported.exit_code, imported.stdout) == (0, "1 model and 1 pool are restored at the next start\n")
    assert not Path("-").exists()


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"{}"], ids=["nothing", "not utf-8", "no state"])
def test_what_comes_through_a_pipe_and_is_no_state_is_refused(config: Path, data: bytes) -> None:
    """As it is from a file."""
    result = CliRunner().invoke(state.command, ["import", str(config), "-"], input=data)

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: <stdin>: is no exported state: ")


def _of_a_mesh(config: Path) -> Path:
    """Let a mesh run, and export what it kept."""
    file = config.parent / "exported.json"
    with ModelMesh() as mesh:
        mesh.initialize(config)
    assert run(state.command, "export", config, file).exit_code == 0
    return file


def _renamed(file: Path, kind: str, old: str, new: str) -> Path:
    data = json.loads(file.read_text())
    data[kind][new] = data[kind].pop(old)
    file.write_text(json.dumps(data))
    return file


def _exported(file: Path, version: int) -> Path:
    file.write_text(json.dumps({"version": version, "timestamp": 0, "models": {}, "providers": {}, "pools": {}}))
    return file
