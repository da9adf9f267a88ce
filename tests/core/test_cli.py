"""The command line, as a user types it: exit status, what it prints, and never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

GOOD = """\
providers:
  local: {connector: simulator}
models:
  small: {provider: local, capabilities: [chat-completion]}
pools:
  chat-completion: {strategy: round-robin}
"""
TWO = GOOD.replace("pools:", "  large: {provider: local, capabilities: [chat-completion]}\npools:")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run ``python -m modelmesh`` in an empty folder, with everything in ``tmp_path / "first"`` first on the path."""
    first = tmp_path / "first"
    first.mkdir()

    def running(
        *arguments: str,
        program: tuple[str, ...] = (sys.executable, "-m", "modelmesh"),
        piped: str | None = None,
        **environ: str,
    ) -> Any:
        result = subprocess.run(
            [*program, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(first), "COLUMNS": "120", "PYTHONWARNINGS": "error", **environ},
            input=piped,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in result.stdout + result.stderr
        return result

    return running


def write(folder: Path, **files: str) -> None:
    """Write files by name, ``__`` standing for a dot."""
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")


def publish(folder: Path, entry_points: str, **modules: str) -> None:
    """Write a distribution called acme-cli."""
    info = folder / "acme_cli-2.0.dist-info"
    info.mkdir()
    write(info, METADATA="Metadata-Version: 2.1\nName: acme-cli\nVersion: 2.0\n", entry_points__txt=entry_points)
    write(folder, **{f"{name}__py": source for name, source in modules.items()})


def test_the_console_script_is_the_module(run: Run) -> None:
    """``modelmesh`` and ``python -m modelmesh`` are the same program."""
    script = Path(sysconfig.get_path("scripts")) / "modelmesh"
    program = shutil.which(script) or pytest.fail(f"{script} is not installed")

    answers = [run("--version", program=(program,)), run("--version")]

    assert {each.stdout for each in answers} == {answers[0].stdout}
    assert answers[0].stdout.startswith("modelmesh, version ")
    assert [each.returncode for each in answers] == [0, 0]


def test_help_lists_the_commands(run: Run) -> None:
    """Each with what it does."""
    result = run("--help")

    assert result.returncode == 0
    assert {"check", "plugins", "schema"} <= set(result.stdout.split())
    assert "wrong with a configuration FILE" in result.stdout


def test_plugins_are_a_table(run: Run) -> None:
    """Every kind has its connectors, each with its state and who brought it."""
    result = run("plugins")

    assert result.returncode == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[0] for row in rows if len(row) == 1] == ["providers", "strategies", "state_stores", "observability"]
    simulator = next(row for row in rows if row[0] == "modelmesh.simulator.v1")
    assert simulator[1:3] == ["loaded", "modelmesh-router"]


def test_plugins_as_json_are_for_programs(run: Run) -> None:
    """The same rows, with the keys of `PluginRow`."""
    rows = json.loads(run("plugins", "--json", "--kind", "strategies").stdout)

    assert {row["kind"] for row in rows} == {"strategies"}
    assert "modelmesh.round-robin.v1" in {row["id"] for row in rows}
    assert set(rows[0]) == {"kind", "id", "distribution", "version", "status", "summary", "reason", "remedy", "needs"}


@pytest.mark.parametrize("columns", ["", "80", "40"], ids=["pipe", "80", "40"])
def test_plugins_are_told_whole_however_little_room_there_is(run: Run, tmp_path: Path, columns: str) -> None:
    """No name and no version is cut; what reads a pipe finds each row on one line, with what it is for."""
    publish(tmp_path / "first", "[modelmesh.providers]\nacme.a-rather-long-name-of-a-chat.v1 = acme_cli:Chat\n")
    info = tmp_path / "first" / "acme_cli-2.0.dist-info" / "METADATA"
    info.write_text("Metadata-Version: 2.1\nName: acme-cli-of-many-words\nVersion: 2.0.1.post20261121\n")

    shown = run("plugins", "--no-load", COLUMNS=columns).stdout

    table, _, _ = shown.partition("\nstrategies")
    for word in ("acme.a-rather-long-name-of-a-chat.v1", "found", "acme-cli-of-many-words", "2.0.1.post20261121"):
        assert word in table.split()
    if not columns:
        simulator = next(line for line in run("plugins", COLUMNS="").stdout.splitlines() if ".simulator." in line)
        assert len(simulator.split("modelmesh-router")[1].split()) > 3
        assert "…" not in simulator


def test_plugins_say_why_one_is_broken(run: Run, tmp_path: Path) -> None:
    """The reason and the remedy stand below the table, and the others are listed as ever."""
    publish(tmp_path / "first", "[modelmesh.providers]\nacme.chat.v1 = acme_cli:Chat\n", acme_cli="1 / 0")

    result = run("plugins")

    assert result.returncode == 0
    assert "providers acme.chat.v1 (acme-cli 2.0): importing acme_cli:Chat raised ZeroDivisionError" in result.stdout
    assert "  try: report it to the author of acme-cli, or uninstall it" in result.stdout
    assert "modelmesh.simulator.v1" in result.stdout


def test_plugins_without_their_optional_library_are_not_called_broken(run: Run, tmp_path: Path) -> None:
    """A row says what is needed, and one line below the tables what brings it, for a stranger's as for our own."""
    publish(tmp_path / "first", "[modelmesh.providers]\nacme.chat.v1 = acme_cli:Chat\n", acme_cli="import acme_wire")
    absent = "raise ModuleNotFoundError(\"No module named 'redis'\", name='redis')"
    write(tmp_path / "first", redis__py=absent)

    result = run("plugins")

    assert result.returncode == 0
    assert "broken" not in result.stdout
    assert "needs [redis]" in result.stdout
    assert "to use modelmesh.redis.v1, redis.redis.v1: pip install 'modelmesh-router[redis]'\n" in result.stdout
    assert "needs acme_wire" in result.stdout
    assert "to use acme.chat.v1: pip install acme_wire\n" in result.stdout


def test_plugins_as_json_name_the_optional_library(run: Run, tmp_path: Path) -> None:
    """A program tells one that lacks a library from a broken one."""
    publish(tmp_path / "first", "[modelmesh.providers]\nacme.chat.v1 = acme_cli:Chat\n", acme_cli="import acme_wire")

    result = run("plugins", "--json", "--kind", "providers")

    (row,) = [row for row in json.loads(result.stdout) if row["id"] == "acme.chat.v1"]
    assert result.returncode == 0
    assert (row["status"], row["needs"], row["remedy"]) == ("needs", "acme_wire", "pip install acme_wire")


def test_plugins_survive_a_damaged_distribution(run: Run, tmp_path: Path) -> None:
    """The one whose list cannot be read is named; the command itself goes on."""
    publish(tmp_path / "first", "[modelmesh.providers]\nno equals sign\n")

    result = run("plugins")

    assert result.returncode == 0
    assert "providers (unreadable) (acme-cli 2.0): its entry_points.txt cannot be read" in result.stdout
    assert "modelmesh.simulator.v1" in result.stdout


def test_check_passes_a_good_configuration(run: Run, tmp_path: Path) -> None:
    """It says so, and what is in it."""
    write(tmp_path, mesh__yaml=GOOD)

    result = run("check", "mesh.yaml")

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("mesh.yaml: ok\n")
    assert "chat-completion" in result.stdout


def test_check_names_file_and_line_of_every_problem(run: Run, tmp_path: Path) -> None:
    """All at once, each with its place, its key path and what was meant."""
    broken = GOOD.replace("simulator", "simulatr").replace("strategy:", "stategy:").replace("local, cap", "locl, cap")
    write(tmp_path, mesh__yaml=broken)

    result = run("check", "mesh.yaml")

    assert result.returncode == 1
    assert result.stdout == ""
    *problems, summary = result.stderr.splitlines()
    assert summary == f"mesh.yaml: {len(problems)} problems"
    for place, meant in (
        ("mesh.yaml:2: providers.local.connector: ", "did you mean 'simulator'"),
        ("mesh.yaml:4: models.small.provider: ", "did you mean 'local'"),
        ("mesh.yaml:6: pools.chat-completion.stategy: ", "strategy"),
    ):
        assert [meant in line for line in problems if line.startswith(place)] == [True]


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "cannot be read"), ("", "is empty"), ("a: [", "not valid YAML"), ("- a\n", "mapping at the top")],
    ids=["missing", "empty", "no YAML", "list"],
)
def test_check_tells_what_is_no_configuration_at_all(run: Run, tmp_path: Path, text: str | None, words: str) -> None:
    """One line about the file."""
    if text is not None:
        write(tmp_path, mesh__yaml=text)

    result = run("check", "mesh.yaml")

    assert result.returncode == 1
    assert words in result.stderr
    assert result.stderr.startswith("mesh.yaml:")


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (GOOD, 0, "<stdin>: ok\n"),
        (GOOD.replace("strategy:", "stategy:"), 1, "<stdin>:6: pools.chat-completion.stategy: "),
        ("a: [", 1, "<stdin>:1: it is not valid YAML"),
        (GOOD + "proxy:\n  endpoints: [/v1/chat/complete]\n", 1, "<stdin>:8: proxy.endpoints: "),
    ],
    ids=["good", "unknown key", "no YAML", "proxy"],
)
def test_check_reads_what_comes_through_a_pipe(run: Run, text: str, status: int, said: str) -> None:
    """As ``modelmesh check -``, with lines as ever."""
    result = run("check", "-", piped=text)

    assert result.returncode == status
    assert (result.stdout + result.stderr).startswith(said)


@pytest.mark.parametrize(
    "arguments",
    [("check",), ("quota",), ("explain", "chat-completion"), ("simulate", "--scenario", "s.yaml"), ("state", "show")],
    ids=lambda arguments: arguments[0],
)
def test_the_configuration_can_be_named_in_the_environment(run: Run, arguments: tuple[str, ...]) -> None:
    """For every command that needs one; without either, the error names both ways."""
    missing, named = run(*arguments), run(*arguments, MODELMESH_CONFIG="elsewhere.yaml")

    assert missing.returncode == 2
    assert "Name the configuration's file there, or set MODELMESH_CONFIG to its path" in missing.stderr
    assert named.returncode == 1
    assert "elsewhere.yaml: it cannot be read: No such file or directory" in named.stderr


def test_check_never_prints_a_key(run: Run, tmp_path: Path) -> None:
    """A key that stands in the file, under a misspelt name, stays there."""
    write(
        tmp_path, mesh__yaml=GOOD.replace("connector: simulator", "connector: openai.llm.v1, api_kye: sk-canary0123456")
    )

    result = run("check", "mesh.yaml")

    assert result.returncode == 1
    assert "did you mean 'api_key'" in result.stderr
    assert "canary" not in result.stdout + result.stderr


def test_a_configuration_that_needs_a_broken_plugin_names_the_package_and_the_line(run: Run, tmp_path: Path) -> None:
    """Start-up says who declares the plugin, why it fails and what to do."""
    publish(
        tmp_path / "first", "[modelmesh.providers]\nacme.chat.v1 = acme_cli:Chat\n", acme_cli="raise OSError('no disk')"
    )
    write(tmp_path, mesh__yaml=GOOD.replace("simulator", "acme.chat.v1"))

    result = run("check", "mesh.yaml")

    assert result.returncode == 1
    assert "mesh.yaml:2: providers.local.connector: cannot load provider 'acme.chat.v1'" in result.stderr
    assert "declared by acme-cli 2.0" in result.stderr
    assert "importing acme_cli:Chat raised OSError: no disk" in result.stderr


def test_the_schema_holds_the_settings_of_the_installed_connectors(run: Run) -> None:
    """It is a JSON Schema, for editors."""
    result = run("schema")

    schema = json.loads(result.stdout)
    assert result.returncode == 0
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert {"providers", "models", "pools"} <= set(schema["properties"])
    assert "base_url" in schema["$defs"]["ProviderConfig"]["properties"]


def test_the_schema_can_be_written_to_a_file(run: Run, tmp_path: Path) -> None:
    """And a place that cannot be written to is one line."""
    written, refused = run("schema", "-o", "mesh.json"), run("schema", "-o", "no/such/folder.json")

    assert written.stdout == "written to mesh.json\n"
    assert json.loads((tmp_path / "mesh.json").read_text(encoding="utf-8"))["title"] == "ModelMesh configuration"
    assert (refused.returncode, refused.stderr) == (
        1,
        "Error: no/such/folder.json cannot be written: No such file or directory\n",
    )


def test_an_unknown_command_is_answered_with_the_near_match(run: Run) -> None:
    """Wrong usage exits with 2."""
    result = run("plugns")

    assert result.returncode == 2
    assert "unknown command 'plugns'; did you mean 'plugins'?" in result.stderr


def test_a_stranger_can_bring_a_command(run: Run, tmp_path: Path) -> None:
    """An entry point is enough; one that cannot be imported is a line when it is called, and no matter before."""
    publish(
        tmp_path / "first",
        "[modelmesh.commands]\nhello = acme_cli:hello\nbroken = acme_cli:nothing\n",
        acme_cli="import click\n\n@click.command()\ndef hello():\n    'Greet.'\n    click.echo('hello')\n",
    )

    hello, broken = run("hello"), run("broken")

    assert (hello.returncode, hello.stdout) == (0, "hello\n")
    assert broken.returncode == 1
    assert "cannot run 'broken', declared by acme-cli" in broken.stderr
    assert run("check", "mesh.yaml").returncode == 1


@pytest.mark.parametrize(
    ("library", "arguments", "extra"),
    [("click", ["--help"], "cli"), ("rich", ["plugins"], "cli")],
    ids=["click", "rich"],
)
def test_without_the_cli_extra_the_answer_is_the_command_that_brings_it(
    run: Run, tmp_path: Path, library: str, arguments: list[str], extra: str
) -> None:
    """One clear message, no traceback."""
    absent = f"raise ModuleNotFoundError(\"No module named '{library}'\", name='{library}')"
    write(tmp_path / "first", **{f"{library}__py": absent})

    result = run(*arguments)

    assert result.returncode != 0
    assert result.stdout == ""
    assert library in result.stderr
    assert f"try: pip install 'modelmesh-router[{extra}]'" in result.stderr


def test_a_command_without_its_optional_library_says_in_the_list_what_it_needs(run: Run, tmp_path: Path) -> None:
    """It is not called broken; those that have all they need are described as ever."""
    absent = "raise ModuleNotFoundError(\"No module named 'rich'\", name='rich')"
    publish(
        tmp_path / "first", "[modelmesh.commands]\nhello = acme_cli:hello\n", rich=absent, acme_cli="import acme_wire"
    )

    (plugins, hello, check) = (
        next(line.split(maxsplit=1)[1] for line in run("--help").stdout.splitlines() if line.startswith(f"  {name} "))
        for name in ("plugins", "hello", "check")
    )

    assert (plugins, hello) == ("(needs [cli])", "(needs acme_wire)")
    assert "configuration" in check


def test_the_list_of_commands_tells_each_in_a_whole_sentence(run: Run) -> None:
    """None is cut off with dots at 80 columns."""
    _, _, commands = run("--help").stdout.partition("Commands:")

    assert "check" in commands
    assert "..." not in commands


def test_explain_refuses_a_provider_that_is_not_there(run: Run, tmp_path: Path) -> None:
    """A preference that nobody meets would be ignored without a word."""
    write(tmp_path, mesh__yaml=GOOD)

    result = run("explain", "chat-completion", "--config", "mesh.yaml", "--provider", "locl")

    assert result.returncode == 1
    assert "unknown provider 'locl'; did you mean 'local'?" in result.stderr


def test_demo_that_cannot_keep_its_configuration_says_so(run: Run) -> None:
    """One line and no traceback, before anything is sent."""
    result = run("demo", "--plain", "--requests", "1", "--save", "nowhere/mesh.yaml")

    assert result.returncode == 1
    assert "nowhere/mesh.yaml: cannot be written: No such file or directory" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """Output that cannot be written is an error, and no traceback."""
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "modelmesh", "plugins", "--json"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False, cwd=tmp_path,
        )  # fmt: skip

    assert result.returncode == 1
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr


def test_check_finds_a_budget_over_a_model_without_a_price(run: Run, tmp_path: Path) -> None:
    """What only shows when pools know their models is found as well, with its line, and as a start would say it."""
    budget = GOOD.replace("strategy: round-robin", "deactivation: {budget_limit: 1}")
    write(tmp_path, mesh__yaml=budget + "storage: {connector: file, path: no/such/folder.json}\n")

    result = run("check", "mesh.yaml")
    started = run("quota", "mesh.yaml")

    said = "mesh.yaml:6: pools.chat-completion.deactivation.budget_limit: no price is known of small; add pricing"
    assert (result.returncode, started.returncode) == (1, 1)
    assert said in result.stderr
    assert said in started.stderr


def test_check_finds_a_path_that_no_server_has(run: Run, tmp_path: Path) -> None:
    """The server would refuse it; it is known before."""
    write(tmp_path, mesh__yaml=GOOD + "proxy:\n  endpoints: [/v1/chat/complete]\n")

    result = run("check", "mesh.yaml")

    assert result.returncode == 1
    assert "mesh.yaml:8: proxy.endpoints: unknown endpoint '/v1/chat/complete'; did you mean" in result.stderr


def test_a_terminal_that_lacks_a_character_gets_the_rest(tmp_path: Path) -> None:
    """As on Windows, where output into a pipe has an encoding without arrows."""
    write(tmp_path, mesh__yaml=TWO)

    result = subprocess.run(
        [sys.executable, "-m", "modelmesh", "explain", "chat-completion", "--config", "mesh.yaml"],
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        capture_output=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip

    assert (result.returncode, result.stderr) == (0, b"")
    assert b"order: small ? large" in result.stdout


LOOKED_AT = (
    TWO.replace("{connector: simulator}", "{connector: simulator, quota: {requests: 5}}")
    + """\
storage: {connector: modelmesh.file.v1, path: state.json}
observability: {connector: modelmesh.file.v1, path: told.jsonl}
"""
)


@pytest.mark.parametrize("command", [("explain", "chat-completion", "--config"), ("quota",)], ids=["explain", "quota"])
def test_looking_changes_nothing_and_tells_nobody(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    """Another process may be running on that state and those logs at this moment."""
    write(tmp_path, mesh__yaml=LOOKED_AT)

    result = run(*command, "mesh.yaml")

    assert (result.returncode, result.stderr) == (0, "")
    assert "ModelMesh]" not in result.stdout
    assert not (tmp_path / "state.json").exists()
    assert not (tmp_path / "told.jsonl").exists()


def test_looking_knows_who_rests(run: Run, tmp_path: Path) -> None:
    """The saved state is read."""
    write(tmp_path, mesh__yaml=LOOKED_AT)
    rest = "import modelmesh; m = modelmesh.ModelMesh.from_yaml('mesh.yaml'); m.rotate('chat-completion'); m.shutdown()"
    run("-c", rest, program=(sys.executable,))
    before = (tmp_path / "state.json").read_bytes()

    result = run("explain", "chat-completion", "--config", "mesh.yaml")

    assert "manual" in result.stdout
    assert (tmp_path / "state.json").read_bytes() == before
