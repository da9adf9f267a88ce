"""R20: a provider that says the key back, in every way it can, gets it nowhere: no sink, no store, no answer shows it.

Everything that can be told is told, to every kind of sink at once; the proxy serves, state is saved, and then all that
was written, posted and answered is searched.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from modelmesh.mesh import ModelMesh
from modelmesh.plugins import PluginHost
from modelmesh_cdk.testing import FaultServer, faults
from modelmesh_cdk.testing.faults import RecordedRequest
from modelmesh_plugins.server.runner import ProxyServer
from modelmesh_plugins.server.settings import ServerSettings

MARK = "Wombats-dig-by-moonlight"
"""What is asked and answered; by default nobody but the caller reads it."""

SPELLINGS = {
    "plain": lambda key: key,
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 of the header": lambda key: base64.urlsafe_b64encode(f"Bearer {key}".encode()).decode(),
    "hexadecimal": lambda key: key.encode().hex(),
    "percent signs": lambda key: "".join(f"%{byte:02X}" for byte in key.encode()),
    "quoted": quote,
}


def hostile(lot: random.Random) -> Any:
    """Fail in one of many ways, with the key of the request somewhere in what comes back."""

    def step(request: RecordedRequest) -> Iterator[Any]:
        key = request.headers["authorization"].removeprefix("Bearer ")
        said = f"cannot serve {lot.choice(list(SPELLINGS.values()))(key)}, go away"
        error = {"error": {"message": said, "type": said, "code": lot.choice([said, None])}}
        ways = [
            faults.body(said.encode(), code=500, content_type="text/plain"),
            faults.body(said.encode(), code=200, content_type="text/html"),
            faults.body(_json(error), code=lot.choice([400, 401, 403, 404, 429, 500, 503])),
            faults.body(_json(error), code=200),
        ]
        if request.wants_stream:
            ways += [faults.events(error), faults.events(b"event: error\ndata: " + said.encode() + b"\n\n")]
        yield from lot.choice(ways)(request)

    return step


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def config(folder: Path, urls: list[str], webhook: str, level: str) -> dict[str, Any]:
    """Name every kind of sink that writes or posts, a store, and providers that share the key."""
    return {
        "providers": {
            f"p{place}": {
                "connector": "modelmesh.openai-compatible.v1",
                "base_url": url,
                "api_key": "${secrets:FAULT_KEY}",
                "budget": {"daily_limit": 100.0, "unpriced_request": 0.001},
            }
            for place, url in enumerate(urls)
        },
        "models": {
            f"m{place}": {"provider": f"p{place}", "model": "fault-model", "capabilities": ["chat-completion"]}
            for place in range(len(urls))
        },
        "pools": {
            "chat": {
                "capability": "chat-completion",
                "strategy": "round-robin",
                "retry": {"max_attempts": 0},
                "deactivation": {"retry_limit": 1_000, "error_rate_threshold": 1.0, "error_rate_min_samples": 100},
                "recovery": {"cooldown": 0.001},
                "provider_deactivation": [],
            }
        },
        "storage": {"connector": "modelmesh.sqlite.v1", "path": str(folder / "state.sqlite")},
        "observability": {
            "connector": ["file", "json-log", "console", "webhook", "prometheus"],
            "file": {"path": str(folder / "mesh.log")},
            "json-log": {"path": str(folder / "mesh.jsonl")},
            "webhook": {"url": webhook, "batch_size": 50},
            "logging": {"level": level},
            "tracing": {"min_severity": "debug"},
        },
    }


@pytest.mark.parametrize("level", ["metadata", "full"])
def test_a_key_that_is_said_back_is_shown_nowhere(
    tmp_path: Path,
    plugins: PluginHost,
    figures: Any,
    canary: str,
    find_leaks: Any,
    capfd: pytest.CaptureFixture[str],
    level: str,
) -> None:
    """Not in sinks, store, metrics, answers, explanations, nor the arguments of the process; prompts only if asked."""
    count = figures.scale(60, 1_000)
    lot = random.Random(20)
    answers: list[str] = []
    with FaultServer(default=hostile(lot)) as first, FaultServer() as second, FaultServer() as posted:
        second.script(*[faults.chat(f"{MARK}, too") if place % 2 else 503 for place in range(4 * count)])
        webhook = posted.url
        with ModelMesh(plugins=plugins, environ={"FAULT_KEY": canary}) as mesh:
            mesh.initialize(config(tmp_path, [first.url, second.url], webhook, level))
            with (
                ProxyServer(mesh, ServerSettings(port=0, drain=1.0)) as server,
                httpx.Client(base_url=server.url, timeout=10.0, trust_env=False) as http,
            ):
                for number in range(count):
                    body = {"model": "chat", "messages": [{"role": "user", "content": f"{MARK} {number}"}]}
                    asked = http.post("/v1/chat/completions", json={**body, "stream": number % 3 == 0})
                    answers.append(f"{asked.status_code} {asked.headers} {asked.text}")
                answers += [http.get(path).text for path in ("/metrics", "/health", "/v1/models", "/v1/nothing")]
            answers += [repr(mesh), repr(mesh.get_quota()), repr(mesh.pool_status()), repr(mesh.get_statistics())]
            calls = len(first.requests)
        deliveries = [request.body.decode() for request in posted.requests]

    written = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    shown = "".join(capfd.readouterr())
    told = {
        "answers": "\n".join(answers),
        "posted": "\n".join(deliveries),
        "output": shown,
        "arguments": Path("/proc/self/cmdline").read_text(encoding="utf-8") if Path("/proc/self").exists() else "",
        **{name: data.decode("latin-1") for name, data in written.items()},
    }
    assert calls > count / 4
    assert len(deliveries) > 0
    assert "go away" in told["mesh.log"]  # what providers said is told, without the key
    assert [name for name, text in told.items() if find_leaks(text)] == []
    sinks = [name for name, text in told.items() if name != "answers" and MARK in text]
    assert bool(sinks) == (level == "full"), sinks
    figures.add(
        "R20",
        f"{count:,} requests over the proxy, a provider that says the key back {calls:,} times, logging {level}",
        f"0 hits in {sum(map(len, told.values())) / 1e6:.1f} MB written, posted and answered ({len(told)} places)",
    )
