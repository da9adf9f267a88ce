"""Clients that mean harm: whatever bytes come, nobody without a key reaches a provider, and others are served on."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import SecretStr

from modelmesh import ModelMesh
from modelmesh_cdk.testing import ScriptedProvider
from modelmesh_plugins.server.runner import ProxyServer
from modelmesh_plugins.server.settings import ServerSettings

KEY = "sk-canary-Zq7vR3nT9xW1mK5pL8dF"
HOST = b"Host: 127.0.0.1\r\n"
BODY = b'{"model": "chat", "messages": [{"role": "user", "content": "hi"}]}'
JSON = b"Content-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\n"


@pytest.fixture(scope="module")
def provider() -> ScriptedProvider:
    """Who must never be asked."""
    return ScriptedProvider()


@pytest.fixture(scope="module")
def server(provider: ScriptedProvider) -> Iterator[ProxyServer]:
    """A server that asks for a key."""
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(
            {
                "providers": {"here": {"instance": provider}},
                "models": {"tiny": {"provider": "here", "capabilities": ["chat-completion"]}},
                "pools": {"chat": {"capability": "chat-completion"}},
            }
        )
        with ProxyServer(mesh, ServerSettings(port=0, keys=(SecretStr(KEY),), max_body=100_000)) as server:
            yield server


def send(server: ProxyServer, data: bytes) -> list[int]:
    """Send these bytes and hang up; return the statuses of what came back."""
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0), timeout=5.0) as client:
        with suppress(OSError):  # the server may refuse to read on
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(OSError):
            while part := client.recv(65_536):
                answer += part
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def is_well(server: ProxyServer) -> bool:
    """Whether somebody with the key is answered."""
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", content=BODY, headers={"authorization": f"Bearer {KEY}"}, trust_env=False
    )
    return answer.status_code == 200


HOSTILE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
    "no host": CHAT + LENGTH + b"\r\n" + BODY,
    "two hosts": CHAT + HOST + b"Host: localhost\r\n" + LENGTH + b"\r\n" + BODY,
    "a host with a path": CHAT + b"Host: x/health?\r\n" + LENGTH + b"\r\n" + BODY,
    "an absolute target": b"POST http://x/health/../v1/chat/completions HTTP/1.1\r\n" + HOST + LENGTH + b"\r\n" + BODY,
    "an encoded path": b"POST /health/..%2fv1/chat/completions HTTP/1.1\r\n" + HOST + LENGTH + b"\r\n" + BODY,
    "a doubled slash": b"POST //v1/chat/completions HTTP/1.1\r\n" + HOST + LENGTH + b"\r\n" + BODY,
    "a rewritten path": CHAT
    + HOST
    + b"X-Original-URL: /health\r\nX-Forwarded-Prefix: /health\r\n"
    + LENGTH
    + b"\r\n"
    + BODY,
    "another method by header": CHAT + HOST + b"X-HTTP-Method-Override: OPTIONS\r\n" + LENGTH + b"\r\n" + BODY,
    "two lengths": CHAT + HOST + b"Content-Length: 0\r\n" + LENGTH + b"\r\n" + BODY,
    "length and chunks": CHAT + HOST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + CHAT + HOST + b"\r\n",
    "chunks by another name": CHAT + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a chunk that lies": CHAT + HOST + b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\nx",
    "a negative length": CHAT + HOST + b"Content-Length: -1\r\n\r\n" + BODY,
    "a huge length": CHAT + HOST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n" + BODY,
    "a body of a megabyte": CHAT + HOST + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1_000_000,
    "a folded header": CHAT + HOST + b"X: a\r\n b\r\n" + LENGTH + b"\r\n" + BODY,
    "a header without a name": CHAT + HOST + b": x\r\n" + LENGTH + b"\r\n" + BODY,
    "a zero byte in a header": CHAT + HOST + b"X: a\x00b\r\n" + LENGTH + b"\r\n" + BODY,
    "a header of a megabyte": CHAT + HOST + b"X: " + b"a" * 1_000_000 + b"\r\n" + LENGTH + b"\r\n" + BODY,
    "a hundred thousand headers": CHAT + HOST + b"X: a\r\n" * 100_000 + LENGTH + b"\r\n" + BODY,
    "a path of a megabyte": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "half a request": CHAT + HOST + b"Authori",
    "half a body": CHAT + HOST + b"Content-Length: 1000\r\n\r\n" + BODY,
    "an upgrade": CHAT + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + LENGTH + b"\r\n" + BODY,
}
"""Each without a key."""


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_request_without_a_key_reaches_nobody(
    server: ProxyServer, provider: ScriptedProvider, data: bytes
) -> None:
    """F37, R22: it is refused, and whoever comes next is answered."""
    asked = len(provider.requests)

    statuses = send(server, data)

    assert all(400 <= status < 500 for status in statuses)
    assert len(provider.requests) == asked
    assert is_well(server)


AUTHORIZATIONS = [
    "",
    "Bearer",
    "Bearer ",
    f"Bearer {KEY[:-1]}",
    f"Bearer {KEY}x",
    f"Bearer {KEY} x",
    f"Basic {KEY}",
    f"bearer{KEY}",
    f"Bearer {KEY.lower()}",
    "Bearer ' OR '1'='1",
    "Bearer {{7*7}}",
    "Bearer \xff\xfe",
    "Bearer " + "a" * 10_000,
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/models", "/v1/images/generations"])
def test_no_other_key_opens_an_endpoint(server: ProxyServer, provider: ScriptedProvider, path: str) -> None:
    """F37, R22: every endpoint asks for the whole key and nothing but it."""
    asked = len(provider.requests)
    wrong = [value for value in AUTHORIZATIONS if value]

    answers = [send(server, _with(path, f"Authorization: {value}\r\n".encode("latin-1"))) for value in wrong]
    answers.append(send(server, _with(path, b"")))

    assert answers == [[401]] * (len(wrong) + 1)
    assert len(provider.requests) == asked


def _with(path: str, header: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\n".encode() + HOST + JSON + header + LENGTH + b"Connection: close\r\n\r\n" + BODY


def test_bytes_at_random_harm_nobody(server: ProxyServer, provider: ScriptedProvider) -> None:
    """F37: five hundred requests with bytes changed, left out, doubled and cut."""
    draw = random.Random(37)
    asked = len(provider.requests)
    whole = CHAT + HOST + JSON + b"Authorization: Bearer wrong\r\n" + LENGTH + b"\r\n" + BODY
    statuses: set[int] = set()

    for _ in range(500):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            place = draw.randrange(len(data))
            match draw.randrange(4):
                case 0:
                    data[place] = draw.randrange(256)
                case 1:
                    del data[place : place + draw.randint(1, 20)]
                case 2:
                    data[place:place] = data[place : place + draw.randint(1, 20)]
                case _:
                    data[place:place] = bytes([draw.randrange(256)]) * draw.randint(1, 20)
        statuses.update(send(server, bytes(data)))

    assert statuses <= {400, 401, 404, 405}
    assert len(provider.requests) == asked
    assert is_well(server)


def test_clients_that_say_nothing_keep_nobody_waiting(server: ProxyServer) -> None:
    """F37: two hundred connections with half a request each, and the next client is answered at once."""
    port = urlsplit(server.url).port or 0
    slow = [socket.create_connection(("127.0.0.1", port), timeout=5.0) for _ in range(200)]
    for client in slow:
        client.sendall(CHAT + HOST + b"X: ")

    well = is_well(server)
    for client in slow:
        client.close()

    assert well
