"""``modelmesh serve`` in a process of its own, as a user starts and ends it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import httpx
import openai
import pytest

from modelmesh_cdk.testing import FaultServer, faults
from modelmesh_plugins.commands.root import main

SERVING = re.compile(r"serving on (http://\S+?:(\d+))/v1")
CONFIGURATION = """\
providers:
  sim: {connector: modelmesh.simulator.v1}
models:
  only: {provider: sim, capabilities: [chat-completion]}
pools:
  mine: {capability: chat-completion}
"""

Start = Callable[..., "Served"]


class Served:
    """A running ``modelmesh serve``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith("  keys:"):
                break
        found = SERVING.search("\n".join(self.lines))
        assert found is not None, process.communicate(timeout=10)
        self.url, self.port = found[1], int(found[2])

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; return the exit status and what was printed after the start."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=10)
        return self.process.returncode, out + err


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without anybody's keys."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "SYSTEMROOT", "VIRTUAL_ENV")}
    return {**kept, **extra}


def command(*arguments: str) -> list[str]:
    """Return the command line."""
    return [sys.executable, "-W", "error", "-m", "modelmesh", "serve", *arguments]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start servers; whatever still runs at the end is killed."""
    with ExitStack() as stack:

        def starting(*arguments: str, **extra: str) -> Served:
            process = stack.enter_context(
                subprocess.Popen(
                    command(*arguments),
                    env=environment(extra),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return Served(process)

        yield starting


def ask(served: Served, model: str, *, key: str = "unused") -> str | None:
    """Ask with OpenAI's client."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, timeout=5.0) as client:
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}])
    return answer.choices[0].message.content


def test_with_nothing_at_all_it_serves_the_simulator_and_says_so(start: Start) -> None:
    """No file, no key: one command, and a client gets an answer. Ctrl-C ends it cleanly."""
    served = start("--port", "0")

    assert "simulator" in served.lines[0]
    assert ask(served, "chat-completion") == "hello"
    assert served.end(signal.SIGINT) == (0, "stopping\n")


def test_a_file_is_served_until_it_is_terminated(start: Start, tmp_path: Path) -> None:
    """Port 0 of the command line wins over the file's; the port is free again after SIGTERM."""
    file = tmp_path / "mesh.yaml"
    file.write_text(CONFIGURATION + "proxy: {port: 9}\n")
    served = start(str(file), "--port", "0")

    assert ask(served, "mine") == "hello"
    assert "simulator" not in served.lines[0]
    assert served.end(signal.SIGTERM)[0] == 0
    with socket.socket() as again:
        assert again.connect_ex(("127.0.0.1", served.port)) != 0


def test_a_provider_key_in_the_environment_is_used(start: Start) -> None:
    """Without a file, providers are found by their keys; the key is not shown."""
    served = start("--port", "0", OPENAI_API_KEY="sk-canary-0123456789abcdef")

    assert "openai.llm.v1" in served.lines[0]
    names = [each["id"] for each in httpx.get(f"{served.url}/v1/models", trust_env=False).json()["data"]]
    assert "chat-completion" in names
    assert "gpt-4o-mini" in names
    assert "canary" not in "\n".join(served.lines) + served.end(signal.SIGINT)[1]


def test_keys_come_from_named_variables(start: Start) -> None:
    """Several in one variable; each lets in, nothing else does."""
    served = start("--port", "0", "--api-key-env", "DOOR", DOOR="one-key,two-key")

    assert [ask(served, "chat-completion", key=key) for key in ("one-key", "two-key")] == ["hello", "hello"]
    with pytest.raises(openai.AuthenticationError):
        ask(served, "chat-completion", key="one-key,two-key")
    assert "one-key" not in "\n".join(served.lines)


def test_a_request_that_hangs_does_not_keep_it_from_ending(start: Start, tmp_path: Path) -> None:
    """After --drain the request is ended, the provider hung up on, and the process gone without a traceback."""
    with FaultServer([faults.stream("Hel", end="stall")]) as upstream:
        file = tmp_path / "mesh.yaml"
        provider = f"{{connector: modelmesh.openai-compatible.v1, base_url: '{upstream.url}'}}"
        file.write_text(CONFIGURATION.replace("{connector: modelmesh.simulator.v1}", provider))
        served = start(str(file), "--port", "0", "--drain", "0.1")
        body = {"model": "mine", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
        with (
            httpx.Client(timeout=5.0, trust_env=False) as http,
            http.stream("POST", f"{served.url}/v1/chat/completions", json=body) as answer,
        ):
            lines = answer.iter_lines()
            assert "Hel" in "".join(next(lines) for _ in range(4))
            status, rest = served.end(signal.SIGTERM)
            assert "the server was stopped" in "".join(lines)

        assert status == 0
        assert rest == "stopping when 1 request still running ends, in 0.1 s at most; once more to stop at once\n"
        assert upstream.wait_for_disconnect()


# --- what cannot be served ----------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[int]:
    """A port in use: it keeps a server that should have refused before from starting, and the test from hanging."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def refusal(taken: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Serve in this process, and return the one line that says why not."""

    def refused(*arguments: str, **extra: str) -> str:
        monkeypatch.setattr(os, "environ", environment(extra))
        monkeypatch.setattr(sys, "argv", ["modelmesh", "serve", "--port", str(taken), *arguments])

        assert main() == 2

        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1, err
        return err

    return refused


def test_whoever_was_let_in_before_sigterm_is_answered_whole(start: Start, tmp_path: Path) -> None:
    """F20, R13: forty requests on their way, plain and streamed: none is reset, and the process ends when they do."""
    words = " ".join(str(number) for number in range(50))
    step = faults.drip(faults.chat(words), size=256, pause=0.005)  # a stream where one is asked for
    with FaultServer(default=faults.delay(step, 0.2)) as upstream:
        file = tmp_path / "mesh.yaml"
        provider = f"{{connector: modelmesh.openai-compatible.v1, base_url: '{upstream.url}'}}"
        file.write_text(CONFIGURATION.replace("{connector: modelmesh.simulator.v1}", provider))
        served = start(str(file), "--port", "0", "--drain", "10")

        async def asked(client: openai.AsyncOpenAI, stream: bool) -> str:
            create, messages = client.chat.completions.create, [{"role": "user", "content": "count"}]
            if not stream:
                return (await create(model="mine", messages=messages)).choices[0].message.content or ""
            chunks = [chunk async for chunk in await create(model="mine", messages=messages, stream=True)]
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

        async def scenario() -> list[str]:
            async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
                asking = [asyncio.create_task(asked(client, number % 2 == 0)) for number in range(40)]
                await asyncio.to_thread(upstream.wait_for_requests, 40)
                served.process.send_signal(signal.SIGTERM)
                return await asyncio.gather(*asking)

        answers = asyncio.run(scenario())
        _, said = served.process.communicate(timeout=10)

    assert answers == [words] * 40
    assert served.process.returncode == 0
    assert said == "stopping when 40 requests still running end, in 10 s at most; once more to stop at once\n"


def test_a_port_in_use_is_one_line(refusal: Callable[..., str], taken: int) -> None:
    """It names the port and the way out."""
    line = refusal()

    assert f"127.0.0.1:{taken}" in line
    assert "--port 0" in line


def test_a_bad_file_ends_the_process_with_status_2(tmp_path: Path) -> None:
    """As a script sees it: one line on the error output, no traceback."""
    result = subprocess.run(
        command(str(tmp_path / "mesh.yaml")),
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "mesh.yaml" in result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("providers: [", "mesh.yaml"),
        (CONFIGURATION.replace("simulator.v1", "simulatr.v1"), "modelmesh.simulator.v1"),
        (CONFIGURATION.replace("{capability: chat-completion", "{capability: chat-completio"), "chat-completion"),
        (CONFIGURATION + "proxy: {auth: {tokens: ['${secrets:NOT_SET}']}}\n", "NOT_SET"),
        (CONFIGURATION + "proxy: {endpoints: [/v1/chat]}\n", "/v1/chat/completions"),
        (CONFIGURATION + "proxy: {host: 0.0.0.0}\n", "without a key"),
    ],
    ids=["YAML", "connector", "capability", "secret", "endpoint", "host without a key"],
)
def test_a_bad_file_is_one_line(refusal: Callable[..., str], tmp_path: Path, text: str, said: str) -> None:
    """What is wrong, and where."""
    file = tmp_path / "mesh.yaml"
    file.write_text(text)

    assert said in refusal(str(file))


def test_another_host_needs_a_key(refusal: Callable[..., str]) -> None:
    """On the command line as in the file."""
    assert "--api-key-env" in refusal("--host", "0.0.0.0")


def test_an_empty_key_variable_is_refused(refusal: Callable[..., str]) -> None:
    """Whoever asks for keys must not get a server without."""
    assert "DOOR" in refusal("--api-key-env", "DOOR", DOOR=" , ")


def test_an_unknown_host_is_one_line(refusal: Callable[..., str]) -> None:
    """A name that resolves to nothing."""
    assert "no.such.host.invalid" in refusal("--host", "no.such.host.invalid")


def test_help_needs_no_server_libraries() -> None:
    """Help is quick: what serves is imported when it serves."""
    script = (
        "import sys, modelmesh_plugins.commands.serve; print([m for m in ('uvicorn','starlette') if m in sys.modules])"
    )

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True)

    assert result.stdout.strip() == "[]"


# --- reading the file again -----------------------------------------------------------------


def told(served: Served) -> str:
    """Return the next line of its error output."""
    assert served.process.stderr is not None
    return served.process.stderr.readline().rstrip()


def reload(served: Served, file: Path, text: str) -> str:
    """Write a file, have it read, and return the line that says what came of it."""
    file.write_text(text)
    served.process.send_signal(signal.SIGHUP)
    return told(served)


def test_sighup_has_a_good_file_taken_over(start: Start, tmp_path: Path) -> None:
    """The next request goes by it; the process and its port stay."""
    file = tmp_path / "mesh.yaml"
    file.write_text(CONFIGURATION)
    served = start(str(file), "--port", "0")
    assert ask(served, "mine") == "hello"

    line = reload(served, file, CONFIGURATION.replace("mine:", "yours:"))

    assert line == f"reloaded {file}: yours"
    assert ask(served, "yours") == "hello"
    with pytest.raises(openai.NotFoundError):
        ask(served, "mine")
    assert served.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (CONFIGURATION.replace("capability:", "strategy: nonsense, capability:"), ":6: pools.mine.strategy"),
        (CONFIGURATION[: CONFIGURATION.index("capabilities") + 5], ":4"),
        ("", "it is empty"),
    ],
    ids=["bad", "half-written", "empty"],
)
def test_sighup_refuses_a_file_that_is_wrong(start: Start, tmp_path: Path, text: str, problem: str) -> None:
    """File and line are named, the old configuration answers on, and a corrected file is taken."""
    file = tmp_path / "mesh.yaml"
    file.write_text(CONFIGURATION)
    served = start(str(file), "--port", "0")

    refused = reload(served, file, text)
    why = told(served)

    assert refused == f"{file} was not taken over; what runs stays as it is"
    assert f"{file}{problem}" in why or f"{file}: {problem}" in why
    assert ask(served, "mine") == "hello"
    assert reload(served, file, CONFIGURATION).startswith("reloaded")
    status, rest = served.end(signal.SIGTERM)
    assert status == 0
    assert "Traceback" not in rest


def test_sighup_says_what_takes_a_restart(start: Start, tmp_path: Path) -> None:
    """The server's own address and keys are read once."""
    file = tmp_path / "mesh.yaml"
    file.write_text(CONFIGURATION)
    served = start(str(file), "--port", "0")

    reload(served, file, CONFIGURATION + "proxy: {port: 9}\n")

    assert "restart" in told(served)


def test_sighup_without_a_file_ends_nothing(start: Start) -> None:
    """There is nothing to read again, and it says so."""
    served = start("--port", "0")
    served.process.send_signal(signal.SIGHUP)

    assert "no configuration file" in told(served)
    assert ask(served, "chat-completion") == "hello"
