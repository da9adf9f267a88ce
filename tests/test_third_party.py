"""A stranger's package: installed with pip beside the project, named in YAML, and used. Nothing else changes.

The packages are the example of ``docs/examples`` and the ten lines of the plugin author's guide, so what the
documents promise is what is tried.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLE = REPOSITORY / "docs" / "examples" / "modelmesh-acme"
GUIDE = REPOSITORY / "docs" / "how-to" / "write-a-connector.md"
KEY = "acme-canary-0815-do-not-show"

pytestmark = pytest.mark.installs

CONFIGURATION = """\
providers:
  acme:
    connector: acme.llm.v1
    api_key: ${{secrets:ACME_API_KEY}}
    base_url: {url}
  shout:
    connector: shout.echo.v1
models:
  acme-swift: {{provider: acme, capabilities: [chat-completion], delivery: streaming}}
  loud: {{provider: shout, capabilities: [chat-completion], delivery: streaming}}
pools:
  chat-completion: {{models: [acme-swift, loud]}}
observability:
  connector: acme.jsonl.v1
  path: logs/events.jsonl
  tracing: {{connector: acme.jsonl.v1, path: logs/events.jsonl}}
"""

SCRIPT = """\
import json
import modelmesh

hello = [{"role": "user", "content": "hello"}]
with modelmesh.create(config="modelmesh.yaml") as client:
    whole = client.chat.completions.create(model="chat-completion", messages=hello)
    stream = client.chat.completions.create(model="chat-completion", messages=hello, stream=True)
    pieces = [chunk.choices[0].delta.get("content") or "" for chunk in stream]
    broke = [{"role": "user", "content": "overdrawn"}]
    rotated = client.chat.completions.create(model="chat-completion", messages=broke)
    answers = {
        "whole": whole.choices[0].message.content,
        "streamed": "".join(pieces),
        "pieces": len([piece for piece in pieces if piece]),
        "rotated": rotated.choices[0].message.content,
        "attempts": [[each.model_id, each.outcome] for each in rotated.receipt.attempts],
        "modelmesh": modelmesh.__file__,
    }
print(json.dumps(answers))
"""


class Acme(BaseHTTPRequestHandler):
    """Acme's conversation API: repeats what it is told, in two pieces when asked for a stream."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer a conversation."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = asked["turns"][-1]["says"]
        metered = {"heard": 3, "spoken": 2}
        if self.headers["x-acme-key"] != KEY:
            self._answer(401, {"fault": {"kind": "bad_key", "says": "who are you?"}})
        elif said == "overdrawn":
            self._answer(429, {"fault": {"kind": "overdrawn", "says": "the purse is empty"}})
        elif asked.get("stream"):
            self._answer(200, {"says": said[:3]}, {"says": said[3:]}, {"ended": "done", "metered": metered})
        else:
            self._answer(200, {"ref": "r-1", "says": said, "ended": "done", "metered": metered})

    def _answer(self, status: int, *records: dict[str, Any]) -> None:
        body = "".join(f"{json.dumps(record)}\n" for record in records).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture(scope="module")
def acme() -> Iterator[str]:
    """Acme on a loopback port; its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Acme)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v2"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Environment:
    """A fresh virtual environment, and a folder to run in."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "work"
        self.folder.mkdir()
        self._root = root / "venv"
        self._run([sys.executable, "-m", "venv", str(self._root)])

    def run(self, *command: str, **environ: str) -> str:
        """Run one of its commands and return what it prints; what it says on failure is the failure's text."""
        return self._run([self._script(command[0]), *command[1:]], **environ)

    def fail(self, *command: str, **environ: str) -> str:
        """Run one of its commands, which must fail, and return what it says."""
        done = self._start([self._script(command[0]), *command[1:]], **environ)
        assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr

    def _script(self, name: str) -> str:
        return str(self._root / ("Scripts" if os.name == "nt" else "bin") / name)

    def _run(self, command: list[str], **environ: str) -> str:
        done = self._start(command, **environ)
        if done.returncode:
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def _start(self, command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
        # Nothing of this checkout may be found by any way but the installation.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return subprocess.run(
            command, cwd=self.folder, env={**clean, **environ}, capture_output=True, text=True, timeout=180, check=False
        )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """An environment with the project and two strangers' packages, installed by one pip command."""
    root = tmp_path_factory.mktemp("installed")
    try:
        environment = Environment(root)
        smallest = root / "modelmesh-shout"
        smallest.mkdir()
        (smallest / "modelmesh_shout.py").write_text(block_of_guide("python"))
        (smallest / "pyproject.toml").write_text(block_of_guide("toml"))
        environment.run("pip", "install", "--quiet", f"{REPOSITORY}[cli]", str(EXAMPLE), str(smallest))
        yield environment
    finally:
        shutil.rmtree(root)


def block_of_guide(language: str) -> str:
    """Return the guide's first block of a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.fixture(scope="module")
def answers(environment: Environment, acme: str) -> dict[str, Any]:
    """What a script gets that knows nothing but a configuration."""
    (environment.folder / "modelmesh.yaml").write_text(CONFIGURATION.format(url=acme))
    (environment.folder / "script.py").write_text(SCRIPT)
    printed: dict[str, Any] = json.loads(environment.run("python", "script.py", ACME_API_KEY=KEY))
    return printed


def test_a_configuration_alone_routes_through_it(answers: dict[str, Any]) -> None:
    """Whole and streamed answers come from the stranger's provider, over real HTTP."""
    assert answers["whole"] == "hello"
    assert (answers["streamed"], answers["pieces"]) == ("hello", 2)


def test_its_failure_is_rotated_to_another_strangers_model(answers: dict[str, Any]) -> None:
    """What the package's own translation makes of a fault steers the router."""
    assert answers["rotated"] == "OVERDRAWN"
    assert answers["attempts"] == [["acme-swift", "quota"], ["loud", "success"]]


def test_nothing_comes_from_the_checkout(answers: dict[str, Any], environment: Environment) -> None:
    """The project under test is the installed one."""
    assert answers["modelmesh"].startswith(str(environment.folder.parent / "venv"))


@pytest.mark.usefixtures("answers")
def test_events_are_lines_of_its_file(environment: Environment) -> None:
    """The stranger's observability connector wrote what happened, without the key."""
    text = (environment.folder / "logs" / "events.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]

    events = [record["event_type"] for record in records if record["type"] == "event"]
    calls = [(record["model_id"], record["status_code"]) for record in records if record["type"] == "log"]
    assert {"model_deactivated", "model_rotated"} <= set(events)
    assert calls == [("acme-swift", 200), ("acme-swift", 200), ("acme-swift", 429), ("loud", 200)]
    assert {record["type"] for record in records} == {"event", "log", "stats", "trace"}
    assert KEY not in text


def test_the_listing_says_where_each_comes_from(environment: Environment) -> None:
    """``modelmesh plugins`` shows strangers' connectors beside the bundled ones, and that all of them work."""
    rows = json.loads(environment.run("modelmesh", "plugins", "--json"))

    strangers = {
        (row["kind"], row["id"]): (row["distribution"], row["status"])
        for row in rows
        if row["distribution"] != "modelmesh-router"
    }
    assert strangers == {
        ("providers", "acme.llm.v1"): ("modelmesh-acme", "loaded"),
        ("providers", "shout.echo.v1"): ("modelmesh-shout", "loaded"),
        ("observability", "acme.jsonl.v1"): ("modelmesh-acme", "loaded"),
    }


@pytest.mark.parametrize(
    "text",
    [block_of_guide("yaml"), (EXAMPLE / "modelmesh.yaml").read_text()],
    ids=["guide", "example"],
)
def test_the_documents_configurations_are_right(environment: Environment, text: str) -> None:
    """What the guide and the example tell a user to write passes the check, once their packages are there."""
    (environment.folder / "written.yaml").write_text(text)

    environment.run("modelmesh", "check", "written.yaml", ACME_API_KEY=KEY)


def test_the_smallest_provider_has_ten_lines() -> None:
    """The guide keeps its word; what it shows is what the other tests install."""
    assert len(block_of_guide("python").splitlines()) == 10


def test_a_misspelt_setting_is_refused_by_name(environment: Environment, acme: str) -> None:
    """The stranger's settings are checked as closely as our own, and the message does not print the key."""
    text = CONFIGURATION.format(url=acme).replace("base_url", "base_ulr")
    (environment.folder / "misspelt.yaml").write_text(text)
    script = "import modelmesh; modelmesh.create(config='misspelt.yaml')"

    said = environment.fail("python", "-c", script, ACME_API_KEY=KEY)

    assert "misspelt.yaml:5: providers.acme.base_ulr" in said
    assert "'base_url'" in said
    assert KEY not in said


def test_its_own_tests_pass() -> None:
    """The example's tests, contracts included, run where pytest is: beside this project."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE)],
        cwd=EXAMPLE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
