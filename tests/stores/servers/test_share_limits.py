"""The how-to "share limits between processes": two servers, one store, one budget."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "share-limits-between-processes.md"
REDIS_URL = "redis://localhost:6379/0"
PATIENT = "  timeout: 10.0\n  call_timeout: 10.0"
"""A store that is late on a busy machine refuses, as it should, and says nothing about the budget."""


@pytest.fixture
def configuration(shared: Any) -> str:
    """The page's configuration, over this test's server."""
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(# modelmesh.yaml\n.*?)```", page, re.DOTALL)
    assert found is not None
    assert REDIS_URL in found[1]
    if shared.kind == "redis":
        return found[1].replace(REDIS_URL, f"{shared.server.url}\n  key_prefix: {shared.name}\n{PATIENT}")
    text = found[1].replace("modelmesh.redis.v1", "modelmesh.postgres.v1")
    return text.replace(REDIS_URL, f"{shared.server.url}\n  schema: {shared.name}\n{PATIENT}")


@pytest.fixture
def addresses(configuration: str, tmp_path: Path) -> Iterator[list[str]]:
    """Two servers that run the page's commands."""
    file = tmp_path / "modelmesh.yaml"
    file.write_text(configuration, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "VIRTUAL_ENV")}
    words = [sys.executable, "-m", "modelmesh", "serve", str(file), "--port", "0"]
    servers = [
        subprocess.Popen(words, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)
    ]
    try:
        yield [_address(server) for server in servers]
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.communicate(timeout=15)


def test_two_servers_share_one_budget(addresses: list[str]) -> None:
    """Of thirty requests, half to each server and all at once, the budget's twenty are answered, whoever got them."""

    def ask(number: int) -> int:
        body = {"model": "chat-completion", "messages": [{"role": "user", "content": "Hello"}]}
        return httpx.post(
            f"{addresses[number % 2]}/v1/chat/completions", json=body, timeout=20.0, trust_env=False
        ).status_code

    with ThreadPoolExecutor(10) as threads:
        statuses = list(threads.map(ask, range(30)))

    assert statuses.count(200) == 20
    assert ask(0) != 200
    assert ask(1) != 200


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    seen = []
    for line in server.stdout:
        seen.append(line)
        if found := re.search(r"serving on (http://\S+?)/v1", line):
            return found[1]
    raise AssertionError("the server did not start:\n" + "".join(seen))
