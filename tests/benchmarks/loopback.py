"""Over loopback HTTP: CPU per request against a bare aiohttp client, streaming delay, concurrency, failover time.

Run: ``python tests/benchmarks/loopback.py``. The answering server runs in a process of its own, so the CPU time
measured is the client's alone; both clients take turns within one run and medians are compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from statistics import median
from typing import Any

import aiohttp

from modelmesh.mesh import ModelMesh
from modelmesh.router import CompletionRequest

CONCURRENCY = 50
REQUESTS = 1_000
ROUNDS = 7
MESSAGES = [{"role": "user", "content": "What is the capital of France? Answer in one word, please."}]
ANSWER = {
    "id": "chatcmpl-bench",
    "object": "chat.completion",
    "created": 1,
    "model": "bench",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22},
}


# --- the server, in a process of its own ------------------------------------------


def chunk(text: str | None, finish: str | None) -> bytes:
    """Return one event of a stream."""
    delta = {} if text is None else {"content": text}
    data = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "bench",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(data).encode() + b"\n\n"


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer by path: /fast at once, /slow after half a second, /status/N with an error, /stream with time stamps."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    kind, _, rest = scope["path"].strip("/").partition("/")
    if kind == "status":
        headers = [(b"content-type", b"application/json")]
        if rest.startswith("429"):
            headers.append((b"retry-after", b"20"))
        await send({"type": "http.response.start", "status": int(rest[:3]), "headers": headers})
        await send({"type": "http.response.body", "body": b'{"error": {"message": "no"}}'})
        return
    if kind == "stream":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await asyncio.sleep(0.05)
        # The first content says when it left, by the clock that all processes of a machine share.
        first = chunk(repr(time.monotonic()), None)
        await send({"type": "http.response.body", "body": first, "more_body": True})
        await send({"type": "http.response.body", "body": chunk(None, "stop") + b"data: [DONE]\n\n"})
        return
    if kind == "slow":
        await asyncio.sleep(0.5)
    payload = json.dumps(ANSWER).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(payload)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": payload})


def serve(port: int) -> None:
    """Run the server until it is ended."""
    import uvicorn

    uvicorn.run(application, host="127.0.0.1", port=port, log_level="error", access_log=False)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Start the server process and yield its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, "serve", str(port)])
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def refused_url() -> str:
    """Return the URL of a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


# --- measuring ------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def mesh_over(*urls: str) -> AsyncIterator[ModelMesh]:
    """Build a mesh of one model per URL, in this order."""
    mesh = ModelMesh()
    mesh.initialize(
        {
            "providers": {
                f"p{n}": {"connector": "modelmesh.openai-compatible.v1", "base_url": f"{url}/v1"}
                for n, url in enumerate(urls)
            },
            "models": {f"m{n}": {"provider": f"p{n}", "capabilities": ["chat-completion"]} for n in range(len(urls))},
            "pools": {"chat-completion": {}},
        }
    )
    try:
        yield mesh
    finally:
        await mesh.ashutdown()


async def at_once(call: Callable[[], Awaitable[object]], requests: int, concurrency: int) -> None:
    """Make so many calls, so many at a time."""
    left = iter(range(requests))

    async def worker() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*(worker() for _ in range(concurrency)))


async def cpu(call: Callable[[], Awaitable[object]]) -> float:
    """Return microseconds of this process's CPU per request."""
    started = time.process_time_ns()
    await at_once(call, REQUESTS, CONCURRENCY)
    return (time.process_time_ns() - started) / REQUESTS / 1000.0


async def compare_cpu(url: str) -> None:
    """CPU per request: bare aiohttp, and through the mesh."""
    body = {"model": "m0", "messages": MESSAGES}
    request = CompletionRequest(MESSAGES)
    async with aiohttp.ClientSession() as session, mesh_over(f"{url}/fast") as mesh:
        router = mesh.get_router()

        async def bare() -> object:
            async with session.post(f"{url}/fast/v1/chat/completions", json=body) as answer:
                return await answer.json()

        async def routed() -> object:
            return await router.acomplete("chat-completion", request)

        await cpu(bare)
        await cpu(routed)
        figures: list[tuple[float, float]] = [(await cpu(bare), await cpu(routed)) for _ in range(ROUNDS)]
    alone, through = median(f[0] for f in figures), median(f[1] for f in figures)
    print(
        f"CPU per request, 50 at once:  bare aiohttp {alone:7.1f} µs, through the mesh {through:7.1f} µs: "
        f"{through / alone:.2f} ×   (goal: ≤ 2.0 ×)"
    )


async def time_first_chunk(url: str) -> None:
    """Delay between the server's sending the first content and the caller's seeing it."""
    delays: list[float] = []
    async with mesh_over(f"{url}/stream") as mesh:
        router = mesh.get_router()
        for _ in range(40):
            async for piece in router.stream("chat-completion", CompletionRequest(MESSAGES)):
                if piece.content:
                    delays.append(time.monotonic() - float(piece.content))
    print(
        f"first streamed chunk:         {median(delays) * 1000:7.2f} ms median, {max(delays) * 1000:.2f} ms at most"
        "   (goal: ≤ 5 ms)"
    )


async def time_concurrency(url: str) -> None:
    """Fifty calls of half a second at once."""
    async with mesh_over(f"{url}/slow") as mesh:
        router = mesh.get_router()
        started = time.monotonic()
        await at_once(lambda: router.acomplete("chat-completion", CompletionRequest(MESSAGES)), 50, 50)
        print(f"50 calls of 0.5 s at once:    {time.monotonic() - started:7.3f} s   (goal: < 0.8 s)")


async def time_failover(url: str) -> None:
    """How much longer an answer takes when the first provider fails and the second is healthy."""
    for name, bad in (
        ("500", f"{url}/status/500"),
        ("503", f"{url}/status/503"),
        ("refused", refused_url()),
        ("429, Retry-After: 20", f"{url}/status/429"),
    ):
        async with mesh_over(bad, f"{url}/fast") as mesh, mesh_over(f"{url}/fast") as healthy:
            request = CompletionRequest(MESSAGES)
            started = time.monotonic()
            await healthy.get_router().acomplete("chat-completion", request)
            alone = time.monotonic() - started
            started = time.monotonic()
            response = await mesh.get_router().acomplete("chat-completion", request)
            extra = time.monotonic() - started - alone
            assert response.model == "m1"
            print(f"failover past {name:21} {extra * 1000:7.1f} ms more   (goal: < 500 ms)")


async def main() -> None:
    """Measure everything."""
    with server() as url:
        await compare_cpu(url)
        await time_first_chunk(url)
        await time_concurrency(url)
        await time_failover(url)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]))
    else:
        asyncio.run(main())
