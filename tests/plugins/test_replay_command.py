"""``modelmesh replay``: recorded requests on another configuration, told as they come, with nothing sent anywhere."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from modelmesh import CompletionRequest, ModelMesh
from modelmesh_plugins.commands import replay
from modelmesh_plugins.commands.root import main

BEGAN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp()

Run = Callable[..., "tuple[int, str, str]"]


def configuration(*order: str, models: tuple[str, ...] = ("small", "large"), **pool: Any) -> dict[str, Any]:
    """Return a configuration of two providers; nobody listens at their URLs, and their keys do not exist."""
    prices = {"small": 0.1, "large": 1.0, "other": 10.0}
    return {
        "providers": {
            name: {
                "connector": "modelmesh.openai-compatible.v1",
                "base_url": "http://127.0.0.1:9/v1",
                "api_key": "${secrets:NO_SUCH_KEY}",
            }
            for name in ("cheap", "dear")
        },
        "models": {
            name: {
                "provider": "cheap" if name == "small" else "dear",
                "model": f"{name}-upstream",
                "capabilities": ["chat-completion"],
                "features": {"tool_calling": name != "small"},
                "pricing": {"input_per_1k_tokens": prices[name], "output_per_1k_tokens": prices[name]},
            }
            for name in models
        },
        "pools": {
            "chat": {
                "capability": "chat-completion",
                "strategy": "priority-selection",
                "model_priority": list(order or models),
                "retry": {"max_attempts": 0},
                **pool,
            }
        },
    }


def record(
    request: str,
    model: str = "small",
    *,
    at: float = 0.0,
    ms: float = 100.0,
    status: int = 200,
    payload: Any = None,
    **more: Any,
) -> dict[str, Any]:
    """Return one attempt as the file connector writes it; ``at`` is when it ended, in seconds."""
    good = status < 400
    prices = {"small": 0.1, "large": 1.0}
    entry = {
        "type": "log",
        "timestamp": datetime.fromtimestamp(BEGAN + at, UTC).isoformat().replace("+00:00", "Z"),
        "request_id": request,
        "model_id": model,
        "provider_id": "cheap" if model == "small" else "dear",
        "pool_id": "chat",
        "attempt": 1,
        "status_code": status,
        "latency_ms": ms,
        "tokens_in": 500 if good else 0,
        "tokens_out": 500 if good else 0,
        "cost": prices[model] if good else None,
        "error": None if good else "down",
        "capability": "chat",
        "delivery_mode": "sync",
        **more,
    }
    if payload is not None:
        entry["request_payload"] = payload if isinstance(payload, str) else json.dumps(payload)
    return entry


HELLO = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Replay records on a configuration; return the status and what was printed."""

    def running(
        records: list[Mapping[str, Any]] | str, config: Mapping[str, Any] | str, *arguments: str
    ) -> tuple[int, str, str]:
        log, file = tmp_path / "log.jsonl", tmp_path / "new.yaml"
        text = records if isinstance(records, str) else "".join(json.dumps(each) + "\n" for each in records)
        log.write_text(text, encoding="utf-8")
        file.write_text(config if isinstance(config, str) else yaml.safe_dump(dict(config)), encoding="utf-8")
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["modelmesh", "replay", str(log), "--config", str(file), *arguments])
        status = main()
        return status, *capsys.readouterr()

    return running


@pytest.fixture
def compared(run: Run) -> Callable[..., dict[str, Any]]:
    """Replay and return the JSON."""

    def comparing(records: list[Mapping[str, Any]], config: Mapping[str, Any]) -> dict[str, Any]:
        status, out, err = run(records, config, "--json")
        assert (status, err) == (0, "")
        found: dict[str, Any] = json.loads(out)
        return found

    return comparing


Compared = Callable[..., dict[str, Any]]


# --- what it finds ------------------------------------------------------------------


def test_the_same_configuration_changes_nothing(compared: Compared) -> None:
    """Models, cost, latency and failures are as recorded."""
    log = [record(f"r{n}", at=n, ms=50 + n, payload=HELLO) for n in range(20)]

    found = compared(log, configuration("small", "large"))

    assert found["recorded"] == found["replayed"]
    assert found["recorded"]["answers"] == {"small": 20}
    assert (found["moved"], found["newly_failed"], found["newly_answered"]) == ([], [], [])
    assert found["recorded"]["cost"] == pytest.approx(2.0)


def test_another_priority_moves_requests_and_changes_cost_and_latency(compared: Compared) -> None:
    """The dear model was seen answering, so its latency is known, and its price is the new configuration's."""
    log = [record(f"r{n}", at=n, ms=100) for n in range(10)]
    log += [record("l", "large", at=5.5, ms=400)]

    found = compared(log, configuration("large", "small"))

    assert found["replayed"]["answers"] == {"large": 11}
    assert found["moved"] == [{"recorded": "small", "replayed": "large", "requests": 10}]
    assert (found["recorded"]["cost"], found["replayed"]["cost"]) == (pytest.approx(2.0), pytest.approx(11.0))
    assert found["replayed"]["latency_ms"]["p50"] == pytest.approx(400)
    assert found["timed"] == 11


def test_failures_of_a_model_strike_whoever_calls_it_then(compared: Compared) -> None:
    """During its recorded outage it fails for others, too; an hour later it does not."""
    log = [record("down", "large", at=10, status=503), record("down", at=10.2)]
    log += [record("near", at=12), record("later", at=3_600), record("up", "large", at=3_700)]

    found = compared(log, configuration("large", "small", recovery={"cooldown": "10s"}))

    assert found["replayed"]["answers"] == {"small": 2, "large": 2}
    assert found["replayed"]["failed"] == 0
    assert found["replayed"]["rotated"] == 2


def test_requests_that_would_fail_are_named(run: Run, compared: Compared) -> None:
    """Without the model that saved them."""
    log = [record("a", at=1, status=503), record("a", "large", at=1.2), record("b", at=100)]
    config = configuration("small", models=("small",))

    found = compared(log, config)
    _, out, _ = run(log, config)

    assert found["newly_failed"] == ["a"]
    assert found["failures"] == {"AllProvidersExhaustedError": 1}
    assert "1 requests that were answered would fail: a" in out


def test_requests_that_failed_may_be_answered(compared: Compared) -> None:
    """By a model that the old configuration did not have."""
    found = compared([record("a", at=1, status=503), record("b", "large", at=2)], configuration("small", "large"))

    assert found["newly_answered"] == ["a"]
    assert any("never answered" in each for each in found["unknown"])


def test_a_callers_own_mistake_stays_one(compared: Compared) -> None:
    """What one model refuses as malformed is not answered by another."""
    found = compared([record("a", at=1, status=400), record("b", "large", at=2)], configuration("large", "small"))

    assert (found["recorded"]["failed"], found["replayed"]["failed"]) == (1, 1)
    assert found["failures"] == {"InvalidRequestError": 1}


def test_models_rest_in_recorded_time(compared: Compared) -> None:
    """Three failures put a model to rest; requests of the next minute go past it, those after it call it again."""
    log: list[Mapping[str, Any]] = []
    for n in range(3):
        log += [record(f"f{n}", at=n, status=503), record(f"f{n}", "large", at=n + 0.5)]
    log += [record(f"after{n}", "large", at=5 + n) for n in range(10)] + [record("well", at=1_000)]

    found = compared(log, configuration("small", "large", deactivation={"retry_limit": 3}, recovery={"cooldown": 60}))

    assert found["replayed"]["attempts"] == 3 * 2 + 10 + 1
    assert found["replayed"]["answers"] == {"large": 13, "small": 1}


@pytest.mark.parametrize("status", [200, 503], ids=["answered", "failed"])
def test_long_streams_meet_no_time_limit_that_did_not_strike(compared: Compared, status: int) -> None:
    """When the first chunk came is not in the log; a limit for silence must not be guessed to have passed."""
    log = [record("s", at=120, ms=60_000, status=status, delivery_mode="streaming")]
    log += [record("t", "large", at=200, ms=60_000, delivery_mode="streaming")]
    timeouts = {"first_token": 90, "idle": 5, "total": 300}

    found = compared(log, configuration("small", "large", timeouts=timeouts))

    assert found["replayed"]["answers"].get("small", 0) == (2 if status == 200 else 0)
    assert found["replayed"]["failed"] == 0


def test_what_a_request_needs_is_heeded_when_the_log_holds_it(compared: Compared) -> None:
    """A request with tools goes to the model that takes them; without its payload nobody could know."""
    tools = {**HELLO, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}
    config = configuration("small", "large")

    whole = compared([record("a", "large", at=1, payload=tools)], config)
    bare = compared([record("a", "large", at=1)], config)

    assert whole["replayed"]["answers"] == {"large": 1}
    assert bare["replayed"]["answers"] == {"small": 1}
    assert any("without what was asked" in each for each in bare["unknown"])


def test_requests_that_ran_at_once_run_at_once_again(compared: Compared) -> None:
    """Eight at a time of ten seconds each do not become eighty seconds."""
    log = [record(f"r{n}", at=10 + n / 100, ms=10_000) for n in range(8)]

    found = compared(log, configuration("small", "large", deadline=15))

    assert found["replayed"]["failed"] == 0
    assert found["replayed"]["latency_ms"]["p95"] == pytest.approx(10_000)


# --- what it cannot know --------------------------------------------------------------


def test_a_model_the_log_never_saw_is_said_to_be_unknown(compared: Compared) -> None:
    """Its cost is known by its price, its latency is left out rather than made up."""
    found = compared([record("a", at=1)], configuration("other", models=("other", "small")))

    assert found["replayed"]["answers"] == {"other": 1}
    assert found["replayed"]["cost"] == pytest.approx(10.0)
    assert found["timed"] == 0
    assert any("never saw (other)" in each for each in found["unknown"])


def test_a_model_of_the_same_name_elsewhere_is_another_one(compared: Compared) -> None:
    """What a provider did says nothing of the next."""
    config = configuration("small", "large")
    config["models"]["small"]["provider"] = "dear"

    found = compared([record("a", at=1)], config)

    assert any("never saw (small)" in each for each in found["unknown"])


def test_an_unknown_price_leaves_the_cost_open(compared: Compared) -> None:
    """It is not taken for nothing."""
    config = configuration("large", "small")
    del config["models"]["large"]["pricing"]

    found = compared([record("a", at=1), record("b", "large", at=2)], config)

    assert (found["costed"], found["recorded"]["cost"]) == (0, 0.0)
    assert any("a price is missing" in each for each in found["unknown"])


def test_a_metadata_log_asks_the_pool_by_its_name(compared: Compared) -> None:
    """What was asked for is not in it; the pool that answered is."""
    entry = record("a", at=1)
    del entry["capability"], entry["delivery_mode"]

    found = compared([entry], configuration("small", "large"))

    assert found["replayed"]["answers"] == {"small": 1}


def test_a_cut_payload_is_not_mistaken_for_a_whole_one(compared: Compared) -> None:
    """As level summary leaves it."""
    found = compared([record("a", at=1, payload='{"messages": [{"role"…')], configuration("small", "large"))

    assert found["replayed"]["answers"] == {"small": 1}
    assert any("were cut" in each for each in found["unknown"])


def test_a_name_the_configuration_does_not_know_is_a_failure_like_any_other(compared: Compared) -> None:
    """The application would meet it."""
    found = compared([record("a", at=1, capability="gone")], configuration("small", "large"))

    assert found["failures"] == {"CapabilityNotFoundError": 1}


# --- the log, the file, and the world outside ---------------------------------------------


def test_a_log_of_the_file_connector_is_read(run: Run, tmp_path: Path) -> None:
    """What was really written, among events, statistics and traces."""
    path = tmp_path / "real.jsonl"
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(
            {
                "providers": {"sim": {"connector": "modelmesh.simulator.v1"}},
                "models": {"m": {"provider": "sim", "capabilities": ["chat-completion"]}},
                "pools": {"chat": {"capability": "chat-completion"}},
                "observability": {
                    "connector": "modelmesh.file.v1",
                    "path": str(path),
                    "logging": {"connector": "modelmesh.file.v1", "path": str(path), "level": "full"},
                },
            }
        )
        for n in range(3):
            mesh.get_router().complete("chat", CompletionRequest([{"role": "user", "content": f"hello {n}"}]))

    status, out, _ = run(path.read_text(encoding="utf-8"), configuration("small", "large"), "--json")

    assert status == 0
    assert json.loads(out)["requests"] == 3
    assert not any("without what was asked" in each for each in json.loads(out)["unknown"])


def test_nothing_is_sent_written_or_looked_up(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket to a provider, no file of the configuration's connectors, no secret."""
    config = configuration("small", "large") | {
        "observability": {"connector": "modelmesh.file.v1", "path": str(tmp_path / "never.jsonl")},
        "storage": {"connector": "modelmesh.sqlite.v1", "path": str(tmp_path / "never.db")},
    }

    def refuse(*_: object) -> None:
        raise AssertionError("a replay connects to nobody")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    status, _, err = run([record("a", at=1)], config)

    assert (status, err) == (0, "")
    assert not list(tmp_path.glob("never*"))


def test_lines_that_cannot_be_read_are_counted(compared: Compared, run: Run) -> None:
    """A crash cuts the last line; the others count."""
    text = json.dumps(record("a", at=1)) + '\nnot json\n[]\n{"type": "log"}\n\n' + json.dumps(record("b", at=2))[:40]

    _, out, _ = run(text, configuration("small", "large"), "--json")

    assert json.loads(out)["requests"] == 1
    assert any("4 lines of the log" in each for each in json.loads(out)["unknown"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("hello\n", "no JSON lines"),
        ('{"type": "trace"}\n', "no request"),
    ],
    ids=["empty", "text", "traces only"],
)
def test_a_log_without_requests_is_an_error_that_says_why(run: Run, text: str, said: str) -> None:
    """And what to give instead."""
    status, out, err = run(text, configuration("small", "large"))

    assert (status, out) == (1, "")
    assert said in err


def test_a_wrong_configuration_is_listed_as_everywhere(run: Run) -> None:
    """File, line, key and near match."""
    status, _, err = run([record("a", at=1)], yaml.safe_dump(configuration()).replace("strategy:", "strateg:"))

    assert status == 1
    assert "new.yaml" in err
    assert "strategy" in err


def test_a_missing_log_is_one_message(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """As click says it."""
    monkeypatch.setattr(sys, "argv", ["modelmesh", "replay", "/no/such.jsonl", "--config", "x.yaml"])

    assert main() == 2
    assert "/no/such.jsonl" in capsys.readouterr().err


def test_the_tables_show_both_sides_and_the_limits(run: Run) -> None:
    """Totals, models, moves, and what cannot be known."""
    log = [record("a", at=1), record("b", "large", at=2, ms=300)]

    _, out, _ = run(log, configuration("large", "small"))

    for said in ("2 requests", "cost $", "p95 latency ms", "answers by model", "in whose place", "cannot know"):
        assert said in out


@pytest.mark.parametrize(
    ("name", "pack", "how"),
    [
        ("old.jsonl.gz", gzip.compress, "gunzip -c"),
        ("old.jsonl.bz2", bz2.compress, "bunzip2 -c"),
        ("old.jsonl.xz", lzma.compress, "unxz -c"),
        ("renamed.jsonl", gzip.compress, "gunzip -c"),
    ],
)
def test_a_compressed_log_is_said_to_be_one(
    tmp_path: Path, run: Run, name: str, pack: Callable[[bytes], bytes], how: str
) -> None:
    """By what it begins with, whatever it is called; and the message says how to replay it."""
    run([record("a")], configuration())
    log, file = tmp_path / name, tmp_path / "new.yaml"
    log.write_bytes(pack((json.dumps(record("a")) + "\n").encode()))

    result = CliRunner().invoke(replay.command, [str(log), "--config", str(file)])

    assert result.exit_code == 1
    assert f"{log}: is compressed; unpack it first: {how} {log} | modelmesh replay - --config {file}" in result.output


def test_a_compressed_log_through_a_pipe_is_said_to_be_one(tmp_path: Path, run: Run) -> None:
    """Nothing can be said of where it came from."""
    run([record("a")], configuration())

    result = subprocess.run(
        [sys.executable, "-m", "modelmesh", "replay", "-", "--config", str(tmp_path / "new.yaml")],
        input=gzip.compress(b"{}"), capture_output=True, timeout=60, check=False,
    )  # fmt: skip

    assert (result.returncode, result.stdout) == (1, b"")
    assert b"<stdin>: is compressed; unpack it first, with gunzip -c" in result.stderr
