"""``modelmesh stats`` against a running server, as a person and as a script see it."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from rich.console import Console

from modelmesh import CompletionRequest, ModelMesh
from modelmesh_plugins.commands.root import main
from modelmesh_plugins.commands.stats import tables
from modelmesh_plugins.server.runner import ProxyServer
from modelmesh_plugins.server.settings import ServerSettings

KEY = "door-key-0123456789"
CONFIGURATION = {
    "providers": {"sim": {"connector": "modelmesh.simulator.v1"}},
    "models": {
        "fast[1]": {"provider": "sim", "capabilities": ["chat-completion"], "pricing": {"per_request": 0.25}},
        "idle": {"provider": "sim", "capabilities": ["chat-completion"]},
    },
    "pools": {"chat": {"capability": "chat-completion"}},
}

Run = Callable[..., "tuple[int, str, str]"]


@pytest.fixture(scope="module")
def mesh() -> Iterator[ModelMesh]:
    """A mesh that has answered three requests."""
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(CONFIGURATION)
        for _ in range(3):
            mesh.get_router().complete("chat", CompletionRequest([{"role": "user", "content": "hello"}]))
        mesh.rotate("chat")
        yield mesh


@pytest.fixture(scope="module")
def server(mesh: ModelMesh) -> Iterator[ProxyServer]:
    """A server that asks for a key."""
    with ProxyServer(mesh, ServerSettings(port=0, keys=(SecretStr(KEY),))) as server:
        yield server


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process; return its status and what it printed."""

    def running(*arguments: str, key: str | None = KEY, columns: str = "200") -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.delenv("MODELMESH_API_KEY", raising=False)
        monkeypatch.delenv("MODELMESH_URL", raising=False)
        if key is not None:
            monkeypatch.setenv("MODELMESH_API_KEY", key)
        monkeypatch.setattr(sys, "argv", ["modelmesh", "stats", *arguments])
        status = main()
        return status, *capsys.readouterr()

    return running


# --- what it shows ------------------------------------------------------------------


def test_the_tables_show_pools_models_and_providers(run: Run, server: ProxyServer) -> None:
    """Names as they are written, figures, and who rests and why."""
    status, out, _ = run(server.url)

    assert status == 0
    row = next(line for line in out.splitlines() if line.strip().startswith("fast[1]"))
    assert "standby: manual" in row
    assert "0.7500" in row
    assert "1 of 2 active" in out
    assert next(line for line in out.splitlines() if line.strip().startswith("idle")).count(" - ") >= 5


def test_json_is_for_scripts(run: Run, server: ProxyServer) -> None:
    """Everything, under the names of the statistics' own fields."""
    _, out, _ = run(server.url, "--json")

    report = json.loads(out)

    figures = report["models"]["fast[1]"]["figures"]
    assert (figures["total_requests"], figures["failed_requests"], figures["total_cost"]) == (3, 0, 0.75)
    assert figures["downtime_total"] > 0
    assert report["models"]["idle"]["figures"] is None
    assert report["providers"]["sim"]["available"] is True
    assert report["pools"]["chat"] | {"figures": None} == {
        "active": 1, "standby": 1, "current_model": "idle", "figures": None,
    }  # fmt: skip


def test_one_scope_can_be_picked(run: Run, server: ProxyServer) -> None:
    """In tables as in JSON."""
    _, out, _ = run(server.url, "--scope", "providers")
    _, as_json, _ = run(server.url, "--scope", "pools", "--json")

    assert "fast[1]" not in out
    assert list(json.loads(as_json)) == ["pools"]


@pytest.mark.parametrize("spelled", ["{host}", "http://{host}/", "http://{host}/v1", "http://{host}/v1/"])
def test_a_url_is_taken_as_people_write_it(run: Run, server: ProxyServer, spelled: str) -> None:
    """With or without scheme and path."""
    host = server.url.removeprefix("http://")

    assert run(spelled.format(host=host), "--json")[0] == 0


def test_a_narrow_terminal_loses_no_name(run: Run, server: ProxyServer) -> None:
    """Names and figures are wider than it, rather than cut."""
    _, narrow, _ = run(server.url, columns="60")

    assert "fast[1]" in narrow
    assert "…" not in narrow


def test_connectors_that_lost_records_are_named() -> None:
    """What is missing elsewhere would not be missed otherwise."""
    console = Console(width=200, record=True, file=io.StringIO())
    lost = {"file": {"emitted": 10, "delivered": 5, "failed": 2, "dropped": 3, "waiting": 0}}

    console.print(tables({"pools": {}, "models": {}, "providers": {}, "observability": lost}))

    assert "file: 3 records dropped, 2 failed" in console.export_text()


def test_watching_goes_on_until_it_is_interrupted(
    run: Run, server: ProxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line each time; Ctrl-C is how it ends, and no failure."""
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) % 3 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr("modelmesh_plugins.commands.stats.sleep", wait)

    status, out, _ = run(server.url, "--json", "--watch", "0.5")
    _, table, _ = run(server.url, "--watch")

    assert (status, waits[:3]) == (0, [0.5, 0.5, 0.5])
    assert [json.loads(line)["models"]["idle"]["status"] for line in out.splitlines()] == ["active"] * 3
    assert "fast[1]" in table


# --- what goes wrong ------------------------------------------------------------------


def test_nobody_listening_is_said_with_the_remedy(run: Run) -> None:
    """No traceback; the URL and the command that starts a server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        status, out, err = run(f"127.0.0.1:{free.getsockname()[1]}")

    assert (status, out) == (1, "")
    assert "nobody answers at http://127.0.0.1:" in err
    assert "modelmesh serve" in err


@pytest.mark.parametrize(("key", "said"), [("wrong-key-0123", "does not know the key"), (None, "asks for a key")])
def test_a_wrong_or_missing_key_is_told_apart(run: Run, server: ProxyServer, key: str | None, said: str) -> None:
    """With the variable it belongs in, and without the key."""
    status, _, err = run(server.url, key=key)

    assert status == 1
    assert said in err
    assert "MODELMESH_API_KEY" in err
    assert "wrong-key" not in err


def test_an_empty_variable_that_was_named_is_refused(run: Run, server: ProxyServer) -> None:
    """Whoever names one means it to hold a key."""
    status, _, err = run(server.url, "--api-key-env", "NOT_SET_ANYWHERE")

    assert status == 1
    assert "NOT_SET_ANYWHERE" in err


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "answers 404"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>", "is no ModelMesh server"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", "is no ModelMesh server"),
        (b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"pools": 1}', "is no ModelMesh server"),
        (b"220 mail.example ESMTP\r\n", "nobody answers"),
        (b"", "nobody answers"),
    ],
    ids=["404", "html", "a list", "another shape", "no HTTP", "hangs up"],
)
def test_what_is_no_modelmesh_server_is_recognised(run: Run, answer: bytes, said: str) -> None:
    """Somebody else may listen on the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        other = threading.Thread(target=serve)
        other.start()
        status, _, err = run(f"127.0.0.1:{listening.getsockname()[1]}")
        other.join(5)

    assert status == 1
    assert said in err


@pytest.mark.parametrize("url", ["ftp://host", "http://[::1", "http://\x00host"], ids=["scheme", "bracket", "control"])
def test_a_url_that_is_none_is_one_message(run: Run, url: str) -> None:
    """Whatever is typed."""
    status, _, err = run(url)

    assert status in (1, 2)
    assert "Traceback" not in err


# --- the endpoint -----------------------------------------------------------------------


def test_the_endpoint_asks_for_the_key(server: ProxyServer) -> None:
    """As all others but ``/health`` do."""
    answer = httpx.get(f"{server.url}/modelmesh/stats", trust_env=False)

    assert answer.status_code == 401
    assert "pools" not in answer.text


def test_the_endpoint_can_be_left_out(mesh: ModelMesh) -> None:
    """By naming the others."""
    with ProxyServer(mesh, ServerSettings(port=0, endpoints=("/v1/models",))) as server:
        assert httpx.get(f"{server.url}/modelmesh/stats", trust_env=False).status_code == 404


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_the_servers_request_id_is_the_meshs(tmp_path: Path, streamed: bool) -> None:
    """The ID in the answer's header finds the request in the log, failed attempts included."""
    log = tmp_path / "log.jsonl"
    failing = {"connector": "modelmesh.simulator.v1", "failures": [{"every": 1}]}
    configuration: dict[str, Any] = {
        **CONFIGURATION,
        "providers": {"bad": failing, "sim": {"connector": "modelmesh.simulator.v1"}},
        "models": {
            "first": {"provider": "bad", "capabilities": ["chat-completion"]},
            "second": {"provider": "sim", "capabilities": ["chat-completion"]},
        },
        "observability": {"connector": "null", "logging": {"connector": "modelmesh.file.v1", "path": str(log)}},
    }
    body = {"model": "chat", "stream": streamed, "messages": [{"role": "user", "content": "hello"}]}
    with ModelMesh(environ={}) as own:
        own.initialize(configuration)
        with ProxyServer(own, ServerSettings(port=0)) as server:
            answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, trust_env=False)

    records = [record for record in map(json.loads, log.read_text().splitlines()) if record["type"] == "log"]
    assert {record["request_id"] for record in records} == {answer.headers["x-request-id"]}
    assert [record["attempt"] for record in records] == [1, 2]


def test_it_starts_without_the_server_libraries() -> None:
    """A person who only looks needs uvicorn and starlette as little as help does."""
    script = (
        "import sys, modelmesh_plugins.commands.stats; print([m for m in ('uvicorn','starlette') if m in sys.modules])"
    )

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True)

    assert result.stdout.strip() == "[]"


def test_a_url_with_credentials_is_refused_and_not_shown(run: Run) -> None:
    """A password in the URL would stand in every message about it."""
    status, out, err = run("http://user:secret-word@127.0.0.1:1")

    assert status == 1
    assert "must not hold credentials" in err
    assert "secret-word" not in out + err
