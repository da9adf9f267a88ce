"""Secrets: stores, references, and that no value shows where it should not."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelmesh.config import load_config
from modelmesh.config.configuration import Configuration, SecretsConfig
from modelmesh.config.dotenv import parse_dotenv
from modelmesh.config.secrets import EnvironmentStore, FileStore, MappingStore, SecretResolver, build_store
from modelmesh.errors import ConfigurationError, SecretNotFoundError
from modelmesh_cdk.testing import FakeClock

Load = Callable[..., Configuration]

CANARY = "canary-4711-do-not-show"
MESH = """\
providers:
  acme.chat.v1: {api_key: '${secrets:ACME_KEY}'}
models:
  m: {provider: acme.chat.v1, capabilities: [chat-completion]}
pools:
  chat-completion: {}
"""


def key_of(configuration: Configuration) -> str:
    """Return the key that reached the provider."""
    key: str = configuration.providers["acme.chat.v1"].settings.api_key.get_secret_value()
    return key


def first_problem(load: Load, section: str, environ: dict[str, str] | None = None) -> str:
    """Load a file with a ``secrets`` section that does not work, and return the first problem as people see it."""
    with pytest.raises(ConfigurationError) as caught:
        load(f"{MESH}{section}\n", environ or {})
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value.problems[0])


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=x", "x"),
        ("export A = x y # why", "x y"),
        ("A=x#y", "x#y"),
        ("A='x \\n #y' # why", "x \\n #y"),
        (r'A="x\n\"y\"\\"', 'x\n"y"\\'),
        ("A=", ""),
        ("A=x=y==", "x=y=="),
        ("A=x\r", "x"),
    ],
    ids=["bare", "export", "hash", "single", "double", "empty", "equals", "crlf"],
)
def test_a_dotenv_line_is_a_name_and_a_value(line: str, value: str) -> None:
    """Quotes, comments and ``export`` mean what they mean in a shell."""
    assert parse_dotenv(f"# a comment\n\n{line}\n", file=".env") == {"A": value}


@pytest.mark.parametrize(
    "line",
    [CANARY, f"A='{CANARY}", f'A="{CANARY}', f"A='{CANARY}' {CANARY}", f"={CANARY}", f"{CANARY}=x"],
    ids=["no equals", "single", "double", "behind", "no name", "no such name"],
)
def test_a_wrong_dotenv_line_is_named_and_never_shown(line: str) -> None:
    """The line may hold a key."""
    with pytest.raises(ConfigurationError) as caught:
        parse_dotenv(f"GOOD=1\n{line}\n", file=".env")

    assert [(problem.file, problem.line) for problem in caught.value.problems] == [(".env", 2)]
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "environment", "expected"),
    [
        ("", "env", "env"),
        ("secrets: {store: dotenv}", "env", "env"),
        ("secrets: {store: dotenv}", "", "file"),
        ("secrets: {store: dotenv, override_env: true}", "env", "file"),
        ("secrets: {store: modelmesh.env-file.v1, path: .env}", "", "file"),
        ("secrets: {store: secret-store.modelmesh.env.v1}", "env", "env"),
        ("secrets: {store: file, path: mounted}", "env", "mounted"),
        ("secrets: {store: file-secrets, path: '${WHERE}'}", "env", "mounted"),
    ],
    ids=["env", "env before file", "file", "file before env", "older name", "prefixed", "mounted", "variable"],
)
def test_the_store_decides_where_a_value_comes_from(
    load: Load, tmp_path: Path, section: str, environment: str, expected: str
) -> None:
    """The environment wins over a dotenv file unless told otherwise; an empty variable counts as absent."""
    (tmp_path / ".env").write_text("ACME_KEY=file\n")
    (tmp_path / "mounted").mkdir()
    (tmp_path / "mounted" / "ACME_KEY").write_text("mounted\n")

    configuration = load(f"{MESH}{section}\n", {"ACME_KEY": environment, "WHERE": "mounted"})

    assert key_of(configuration) == expected


@pytest.mark.parametrize("store", ["env", "dotenv"])
def test_a_prefix_is_put_before_names(load: Load, tmp_path: Path, store: str) -> None:
    """Both stores of names and values read it."""
    (tmp_path / ".env").write_text("MM_ACME_KEY=found\n")
    environ = {"MM_ACME_KEY": "found"} if store == "env" else {}

    assert key_of(load(f"{MESH}secrets: {{store: {store}, prefix: MM_}}\n", environ)) == "found"


@pytest.mark.parametrize("value", ["given", ""], ids=["given", "empty"])
@pytest.mark.parametrize("section", [{}, {"store": "dotenv", "override_env": True}], ids=["env", "dotenv"])
def test_secrets_passed_in_win_over_any_store(
    catalogue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: dict[str, Any], value: str
) -> None:
    """An empty one as well, so that a test can take a key away."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mesh.yaml").write_text(MESH)
    (tmp_path / ".env").write_text("ACME_KEY=file\n")
    from modelmesh.config import MeshConfig

    config = MeshConfig.from_file("mesh.yaml").merge({"secrets": section})
    loaded = load_config(config, connectors=catalogue, environ={"ACME_KEY": "env"}, secrets={"ACME_KEY": value})

    assert key_of(loaded) == value


def test_a_ready_made_store_is_asked(catalogue: Any, tmp_path: Path) -> None:
    """``secrets.instance`` takes any object that has ``get``."""
    (tmp_path / "mesh.yaml").write_text(MESH)
    from modelmesh.config import MeshConfig

    config = MeshConfig.from_file(tmp_path / "mesh.yaml").merge(
        {"secrets": {"instance": MappingStore({"ACME_KEY": "x"})}}
    )

    assert key_of(load_config(config, connectors=catalogue, environ={})) == "x"


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("", "mesh.yaml:2: providers.acme.chat.v1.api_key: secret 'ACME_KEY' is not in the environment; set it there"),
        ("secrets: {store: dotenv}", "secrets.path: .env cannot be read: No such file"),
        ("secrets: {store: file, path: nowhere}", "mesh.yaml:7: secrets.path: nowhere is no directory"),
        ("secrets: {store: evn}", "mesh.yaml:7: secrets.store: unknown secret store 'evn'"),
        ("secrets: {store: keyring}", "secrets.store: 'keyring' is not supported yet"),
        ("secrets: {store: modelmesh.json-secrets.v1}", "is not supported yet"),
        ("secrets: {path: .env}", "secrets.path: the secret store 'modelmesh.env.v1' does not read it"),
        ("secrets: {override_env: true}", "secrets.override_env: the secret store 'modelmesh.env.v1' does not read"),
        ("secrets: {store: file, prefix: A_}", "secrets.prefix: the secret store"),
        ("secrets: {store: dotenv, path: '${NOPE}/.env'}", "no environment variable NOPE"),
        ("secrets: {store: dotenv, path: '${secrets:A}'}", "cannot itself be one"),
        ("secrets: {reload_on_rotation: true}", "not supported yet"),
        ("secrets: {region: us-east-1}", "not supported yet"),
        ("secrets: {stroe: env}", "did you mean 'store'"),
        ("secrets: {instance: env}", "passed in code"),
        ("secrets: {cache_ttl: soon}", "such as 500ms"),
        (f"secrets: {CANARY}", "expected a mapping"),
    ],
    ids=lambda value: value[:44].replace("secrets: ", "") if "{" in value else "",
)
def test_what_cannot_work_is_told_where_it_stands(load: Load, section: str, words: str) -> None:
    """Nothing in the section is accepted and then ignored."""
    assert words in first_problem(load, section, {"ACME_KEY": CANARY} if section else {})


def test_a_store_that_cannot_be_opened_is_the_only_problem(load: Load) -> None:
    """The references into it are not each reported as well."""
    with pytest.raises(ConfigurationError) as caught:
        load(f"{MESH}secrets: {{store: dotenv}}\n")

    assert len(caught.value.problems) == 1


def test_without_fail_on_missing_a_missing_secret_is_empty_text(load: Load) -> None:
    """Its name is kept for a warning."""
    configuration = load(f"{MESH}secrets: {{fail_on_missing: false}}\n")

    assert key_of(configuration) == ""
    assert configuration.missing_secrets() == ("ACME_KEY",)


@pytest.mark.parametrize(
    ("section", "looked_up"),
    [
        ({}, [1, 1, 2]),
        ({"cache_ttl": "10s"}, [1, 2, 3]),
        ({"cache_ttl": 0}, [2, 3, 4]),
        ({"cache_enabled": False}, [2, 3, 4]),
    ],
    ids=["default", "ttl", "no time", "off"],
)
def test_a_value_is_remembered_for_as_long_as_configured(
    catalogue: Any, section: dict[str, Any], looked_up: list[int]
) -> None:
    """Counted are the store's look-ups: right after loading, 60 s later, and 300 s later."""

    class Counting:
        count = 0

        def get(self, name: str) -> str:
            self.count += 1
            return "value"

    from modelmesh.config.reader import read_text

    store, clock = Counting(), FakeClock()
    data = {**read_text(MESH).data, "secrets": {**section, "instance": store}}
    resolver = load_config(data, connectors=catalogue, environ={}, clock=clock).resolver
    counts = []
    for wait in (0, 60, 300):
        clock.advance(wait)
        resolver.get("ACME_KEY")
        counts.append(store.count)

    assert counts == looked_up


def test_references_stand_anywhere_in_a_text_and_at_any_depth() -> None:
    """Other values are left as they are."""
    resolver = SecretResolver(MappingStore({"A": "1", "b/c.d-e": "2"}))

    resolved = resolver.resolve_all({"x": ["Bearer ${secrets:A}!", 5], "y": {"z": "${secrets:A}${secrets:b/c.d-e}"}})

    assert resolved == {"x": ["Bearer 1!", 5], "y": {"z": "12"}}


@pytest.mark.parametrize("text", ["${secrets:A", "${secrets:}", "${secrets:a b}", "${secrets:A} ${secrets:B"])
def test_a_malformed_reference_is_an_error(text: str) -> None:
    """It says how to write one."""
    with pytest.raises(ValueError, match=r"write \$\{secrets:NAME\}"):
        SecretResolver(MappingStore({"A": "1"})).resolve(text)


def test_reloading_takes_new_values() -> None:
    """Everything that was looked up is looked up anew; one value can be forgotten alone."""
    environ = {"A": "old"}
    resolver = SecretResolver(EnvironmentStore(environ))
    assert resolver.get("A") == "old"
    environ["A"] = "new"
    assert resolver.get("A") == "old"

    resolver.reload()

    assert resolver.get("A") == "new"
    assert resolver.known_values() == {"old", "new"}


@pytest.mark.parametrize("name", ["..", ".", "../outside", "sub/inner", "absent", "empty"])
def test_a_mounted_secret_is_a_file_of_that_name_and_nothing_else(tmp_path: Path, name: str) -> None:
    """No name leads out of the directory; an empty file counts as absent."""
    (tmp_path / "outside").write_text("x")
    mounted = tmp_path / "mounted"
    (mounted / "sub").mkdir(parents=True)
    (mounted / "sub" / "inner").write_text("x")
    (mounted / "empty").write_text("\n")

    with pytest.raises(KeyError):
        FileStore(mounted).get(name)


def test_a_mounted_secret_may_be_a_link(tmp_path: Path) -> None:
    """Container platforms mount a link to a directory that they swap."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "KEY").write_text("value\n")
    (tmp_path / "mounted").mkdir()
    (tmp_path / "mounted" / "KEY").symlink_to(tmp_path / "data" / "KEY")

    assert FileStore(tmp_path / "mounted").get("KEY") == "value"


def test_no_repr_and_no_error_shows_a_value(tmp_path: Path) -> None:
    """Stores and the resolver print names and counts."""
    (tmp_path / ".env").write_text(f"A={CANARY}\n")
    store = build_store(SecretsConfig(store="dotenv"), {"B": CANARY}, tmp_path, {"C": CANARY})
    resolver = SecretResolver(store)
    assert [resolver.get(name) for name in "ABC"] == [CANARY] * 3

    with pytest.raises(SecretNotFoundError) as caught:
        resolver.get("D")

    assert CANARY not in f"{store!r}{resolver!r}{vars(store).keys()}{caught.value!r}{caught.value}"
