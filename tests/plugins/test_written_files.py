"""What commands write into files: the whole of it or nothing, and into pipes as ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from modelmesh import ModelMesh
from modelmesh_plugins.commands import schema, simulate, state
from modelmesh_plugins.commands.files import write_whole

resource = pytest.importorskip("resource", reason="only here can the size of files be limited")

LONG = "new " * 1_000
CONFIGURATION = """\
providers: {{here: {{connector: modelmesh.simulator.v1}}}}
models: {{tiny: {{provider: here, capabilities: [chat-completion]}}}}
pools: {{chat-completion: {{}}}}
storage: {{connector: modelmesh.file.v1, path: {folder}/state.json}}
"""


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond a hundred bytes, as on a disk with no more room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    """Nothing else is left in the folder."""
    file = tmp_path / "out.txt"
    file.write_text("old and longer")
    file.chmod(0o640)

    write_whole(file, "neü\n")

    assert file.read_bytes() == "neü\n".encode()
    assert file.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["out.txt"]


def test_a_new_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    """As the umask says, and not that of a temporary file."""
    write_whole(tmp_path / "out.txt", "new")
    (tmp_path / "other.txt").write_text("new")

    assert (tmp_path / "out.txt").stat().st_mode == (tmp_path / "other.txt").stat().st_mode


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    """And nothing half done beside it."""
    file = tmp_path / "out.txt"
    file.write_text("old")

    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_whole(file, LONG)

    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    """What it leads to is written."""
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real").write_text("old")

    write_whole(tmp_path / "link", "new")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_that_may_not_be_written_to_stays(tmp_path: Path) -> None:
    """Though its folder would allow to put another in its place."""
    file = tmp_path / "out.txt"
    file.write_text("old")
    file.chmod(0o400)

    with pytest.raises(PermissionError):
        write_whole(file, "new")

    assert file.read_text() == "old"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_in_a_folder_that_may_not_be_written_to_is_written(tmp_path: Path) -> None:
    """Nothing can be put beside it, but it itself may be written to."""
    file = tmp_path / "out.txt"
    file.write_text("old")
    tmp_path.chmod(0o500)

    write_whole(file, "new")
    tmp_path.chmod(0o700)

    assert file.read_text() == "new"


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    """It is not replaced by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()

    write_whole(pipe, "new")
    reader.join(10)

    assert read == ["new"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("into", ["pipe", "file"])
def test_standard_output_by_its_name_is_written_into(tmp_path: Path, into: str) -> None:
    """``/dev/stdout`` is a pipe or a file that somebody else holds open; neither is put aside."""
    out = tmp_path / "out.txt"
    with out.open("w") as file:
        result = subprocess.run(
            [sys.executable, "-m", "modelmesh", "schema", "-o", "/dev/stdout"],
            stdout=subprocess.PIPE if into == "pipe" else file,
            timeout=60,
            check=True,
        )

        text = result.stdout if into == "pipe" else out.read_bytes()
        assert b'"ModelMesh configuration"' in text
        assert os.path.samestat(os.fstat(file.fileno()), out.stat())


@pytest.mark.parametrize("name", ["state export", "schema", "simulate"])
def test_no_command_costs_the_file_that_it_cannot_write(tmp_path: Path, name: str) -> None:
    """One line says why, and the old file is as it was."""
    config, scenario, old = tmp_path / "mesh.yaml", tmp_path / "scenario.yaml", tmp_path / "old"
    config.write_text(CONFIGURATION.format(folder=tmp_path))
    scenario.write_text("duration: 1m")
    old.write_text("old")
    with ModelMesh() as mesh:
        mesh.initialize(config)
    command, arguments = {
        "state export": (state.command, ["export", str(config), str(old)]),
        "schema": (schema.command, ["-o", str(old)]),
        "simulate": (simulate.command, [str(config), "--scenario", str(scenario), "--svg", str(old)]),
    }[name]

    with full_disk():
        result = CliRunner().invoke(command, arguments)

    assert result.exit_code == 1
    assert "cannot be written: File too large" in result.output
    assert old.read_text() == "old"
