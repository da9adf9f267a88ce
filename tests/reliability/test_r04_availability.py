"""R4: while one model of the pool can answer, every request is answered."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from modelmesh.errors import ModelMeshError
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import faults
from modelmesh_cdk.testing.faults import CLOSE, Action, RecordedRequest

GREY_SHARE = 0.3
DEADLINE = 8.0
STALL = 1.5
"""Seconds after which a silent provider is given up."""
FLAP = 20
"""Requests for which a flapping provider is up, and then down."""
CLIENTS = 40

ERROR = {"error": {"message": "the engine fell over", "type": "server_error", "code": None}}
PLAIN = [
    *(faults.status(code) for code in (408, 500, 502, 503, 504, 529)),
    faults.status(429),
    faults.status(429, retry_after=0.1),
    faults.status(503, retry_after=3_600),
    faults.body(b"<html><h1>Bad Gateway</h1></html>", code=502, content_type="text/html"),
    *(faults.reset(when) for when in ("before_headers", "after_headers", "mid_body")),
    *(faults.close(when) for when in ("before_headers", "after_headers", "mid_body")),
    faults.body(b""),
    faults.body(b"<html>", content_type="text/html"),
    faults.body(b'{"choices": []}'),
    faults.body(b'{"choices": [{"mess'),
    faults.body(json.dumps(ERROR).encode()),
    faults.too_short(),
    faults.huge_header(100_000),
    lambda _: [faults.response(gzip.compress(b"{}" * 99)[:-9], headers={"content-encoding": "gzip"})],
    lambda _: [b"220 mail.example ESMTP\r\n\r\n", CLOSE],
]
STREAMED = [
    *PLAIN,
    *(faults.stream("never ", "to be ", "seen", end=end) for end in ("silent", "cut", "reset", "error", "malformed")),
    *(faults.stream(end=end) for end in ("silent", "cut", "reset", "error", "malformed")),
    faults.events(end="silent"),
    faults.events(),
    faults.events({"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}),
    faults.events(b'event: error\ndata: {"error": {"type": "overloaded_error", "message": "busy"}}\n\n'),
]
SLOW = [*(faults.hang(when) for when in ("before_headers", "after_headers", "mid_body"))]
SLOW_STREAMS = [*SLOW, faults.stream("never", end="stall"), faults.stream("never", end="comments")]


def echo(name: str) -> Any:
    """Answer with one's name and the question, so that every answer is one request's and nobody else's."""

    def step(request: RecordedRequest) -> Iterable[Action]:
        return faults.chat(f"{name} heard {request.json['messages'][0]['content']}")(request)

    return step


def grey(name: str, seen: Counter[str], lot: random.Random) -> Any:
    """Fail in three of ten requests, each time in another way; every tenth failure is silence."""
    well = echo(name)

    def step(request: RecordedRequest) -> Iterable[Action]:
        if lot.random() >= GREY_SHARE:
            seen["well"] += 1
            return well(request)
        seen["failed"] += 1
        is_slow = lot.random() < 0.1
        if request.wants_stream:
            return lot.choice(SLOW_STREAMS if is_slow else STREAMED)(request)
        return lot.choice(SLOW if is_slow else PLAIN)(request)

    return step


def flapping(name: str, seen: Counter[str], lot: random.Random) -> Any:
    """Be up for a while, and down as long: for so many requests, since how many come in a time is the machine's."""
    well = echo(name)

    def step(request: RecordedRequest) -> Iterable[Action]:
        if seen.total() % (2 * FLAP) < FLAP:
            seen["well"] += 1
            return well(request)
        seen["failed"] += 1
        return lot.choice([faults.reset(), faults.status(503), faults.status(500)])(request)

    return step


def test_no_request_fails_while_one_provider_is_healthy(
    sockets: Any, transport: str, figures: Any, spread: Any
) -> None:
    """Three providers, one grey, one flapping, one healthy; plain and streamed in turn; every answer is right."""
    count = figures.scale(1_000, 10_000)
    seen: dict[str, Counter[str]] = {"grey": Counter(), "flapping": Counter()}
    sockets.provider(grey("grey", seen["grey"], random.Random(4)))
    sockets.provider(flapping("flapping", seen["flapping"], random.Random(5)))
    sockets.provider(echo("healthy"))
    mesh = sockets.mesh(
        strategy="round-robin",
        timeouts={"connect": STALL, "first_token": STALL, "idle": STALL, "total": STALL},
        deadline=DEADLINE,
        # So lenient that the sick ones are asked again and again, rather than left alone.
        deactivation={"retry_limit": 10, "error_rate_threshold": 0.9},
        recovery={"cooldown": 0.02},
        # Held back to their end, streams may move on at any point; by default one that broke after its first content
        # is an error with the partial text, which is R6.
        on_stream_failure="hold",
        hold_time=DEADLINE,
    )
    numbers = iter(range(count))
    taken: list[float] = []
    wrong: list[str] = []
    answered: Counter[str] = Counter()

    async def client(router: Any) -> None:
        for number in numbers:
            request = CompletionRequest([{"role": "user", "content": f"question {number}"}])
            started = time.monotonic()
            try:
                if number % 2:
                    parts = [part async for part in router.stream("chat", request)]
                    text = "".join(part.content for part in parts)
                else:
                    text = (await router.acomplete("chat", request)).content
            except ModelMeshError as error:
                wrong.append(f"{number}: {error!r}")
            else:
                name = text.partition(" ")[0]
                answered[name] += 1
                if text != f"{name} heard question {number}":
                    wrong.append(f"{number}: {text!r}")
            taken.append(time.monotonic() - started)

    async def everybody() -> None:
        async with mesh:
            router = mesh.get_router()
            await asyncio.gather(*(client(router) for _ in range(CLIENTS)))

    started = time.monotonic()
    asyncio.run(everybody())
    seconds = time.monotonic() - started

    assert wrong == []
    assert sum(answered.values()) == len(taken) == count
    assert max(taken) < DEADLINE
    assert set(answered) == {"grey", "flapping", "healthy"}  # the sick ones were not just avoided
    failed = {name: each["failed"] for name, each in seen.items()}
    assert min(failed.values()) > 5
    figures.add(
        "R4",
        f"{count:,} requests over {transport}, half of them streamed, {CLIENTS} at a time",
        f"0 failed, 0 wrong; masked: {failed['grey']:,} failures of the grey provider and {failed['flapping']:,} of the"
        f" flapping one; {spread(taken)}; {count / seconds:,.0f} requests/s",
    )
