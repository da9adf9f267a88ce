"""R8: whatever stalls, however it keeps up appearances, the clock that is meant for it runs out in time."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from modelmesh.errors import DeadlineExceededError, ProviderTimeoutError
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import faults, until
from modelmesh_cdk.testing.faults import STAY, Pause, RecordedRequest, chunk

CLOCK = 0.1
"""Seconds of the clock that is to run out."""
LONG = 5.0
"""Seconds of the others."""
GRACE = 0.05
"""Seconds by which a clock may be late, on top of those the event loop itself is."""


def framed(data: bytes) -> bytes:
    """Put a piece of a chunked body into its frame."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def endless(*begin: Any, again: Any, pause: float = 0.02) -> Any:
    """Send these events, and then one of them over and over."""

    def step(request: RecordedRequest) -> Iterator[Any]:
        for action in faults.events(*begin, end="stall")(request):
            if action is STAY:
                break
            yield action
        while True:
            yield Pause(pause)
            data = next(iter(list(faults.events(again, end="silent")(request))[1:]))
            yield data

    return step


def raw(*pieces: bytes, again: bytes = b"", pause: float = 0.02) -> Any:
    """Send these bytes, and then some over and over."""

    def step(_: RecordedRequest) -> Iterator[Any]:
        yield from pieces
        while again:
            yield Pause(pause)
            yield again
        yield STAY

    return step


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n"
ROLE = chunk(role="assistant", text="")
EMPTY = chunk(text="")
TEXT = chunk(text="word ")
COMMENT = b": keep-alive\n\n"

PLAIN: dict[str, Any] = {
    "silence": faults.hang("before_headers"),
    "silence after the headers": faults.hang("after_headers"),
    "silence within the body": faults.hang("mid_body"),
    "headers in drops": raw(b"HTTP/1.1 200 OK\r\n", again=b"x-drop: 1\r\n"),
    "a body in drops": raw(JSON_HEAD, again=b" "),
    "an error whose body never comes": raw(b"HTTP/1.1 503 Busy\r\ncontent-length: 99\r\n\r\n"),
}
FIRST_TOKEN: dict[str, Any] = {
    "silence": faults.hang("before_headers"),
    "silence after the headers": raw(HEAD),
    "comments": endless(again=COMMENT),
    "the role and silence": faults.events(ROLE, end="stall"),
    "the role and comments": endless(ROLE, again=COMMENT),
    "empty deltas": endless(ROLE, again=EMPTY),
    "pings": endless(again=b"event: ping\nid: 7\n\n"),
    "an event in drops": raw(HEAD, framed(b"data: "), again=framed(b" ")),
    "an error whose body never comes": raw(b"HTTP/1.1 503 Busy\r\ncontent-length: 99\r\n\r\n"),
}
IDLE: dict[str, Any] = {
    "text and silence": faults.stream("Hel", "lo", end="stall"),
    "text and comments": faults.stream("Hel", "lo", end="comments"),
    "text and empty deltas": endless(ROLE, TEXT, again=EMPTY),
    "text and half an event": endless(ROLE, TEXT, b"data: {", again=b" "),
    "text and usage": endless(ROLE, TEXT, again=chunk(usage={"prompt_tokens": 1, "completion_tokens": 1})),
}
TOTAL_OF_STREAM: dict[str, Any] = {"text without end": endless(ROLE, again=TEXT)}
DEADLINE = {**{f"plain: {name}": step for name, step in list(PLAIN.items())[:3]}, **TOTAL_OF_STREAM, **IDLE}

CASES = [
    *(("total", False, name, step) for name, step in PLAIN.items()),
    *(("first_token", True, name, step) for name, step in FIRST_TOKEN.items()),
    *(("idle", True, name, step) for name, step in IDLE.items()),
    *(("total", True, name, step) for name, step in TOTAL_OF_STREAM.items()),
    *(("deadline", not name.startswith("plain"), name, step) for name, step in DEADLINE.items()),
]
REQUEST = CompletionRequest([{"role": "user", "content": "hi"}])


async def fail(router: Any, *, is_streamed: bool, request: CompletionRequest = REQUEST) -> tuple[BaseException, float]:
    """Ask, and return how it failed and the seconds that took from the last sign of life on."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(3 * LONG):  # so that a clock that never runs out is a failure, and not for ever
            if is_streamed:
                async for part in router.stream("chat", request):
                    if part.content and part.content != "word ":
                        began = time.monotonic()
            else:
                await router.acomplete("chat", request)
    except Exception as error:
        return error, time.monotonic() - began
    raise AssertionError("it was answered")


def clock_of(error: BaseException) -> str:
    """Return which clock ran out, as the error or its cause says."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, DeadlineExceededError):
            return "deadline"
        if isinstance(found, ProviderTimeoutError):
            return found.clock
        found = found.__cause__
    return repr(error)


@pytest.mark.parametrize(
    ("clock", "is_streamed", "step"),
    [(clock, is_streamed, step) for clock, is_streamed, _, step in CASES],
    ids=[f"{clock}: {name}" for clock, _, name, _ in CASES],
)
def test_every_stall_ends_with_its_clock(
    sockets: Any, transport: str, lateness: Any, figures: Any, clock: str, is_streamed: bool, step: Any
) -> None:
    """Neither earlier nor more than 50 ms later, and the error names the clock."""
    sockets.provider(step)
    clocks = {name: CLOCK if name == clock else LONG for name in ("connect", "first_token", "idle", "total")}
    mesh = sockets.mesh(timeouts=clocks, deadline=CLOCK if clock == "deadline" else 2 * LONG, retry={"max_attempts": 0})

    async def main() -> tuple[BaseException, float, float]:
        async with mesh:
            async with lateness() as late:
                error, seconds = await fail(mesh.get_router(), is_streamed=is_streamed)
            return error, seconds, late.worst

    error, seconds, late = asyncio.run(main())

    assert clock_of(error) == ("total" if clock == "deadline" else clock) or clock_of(error) == clock
    assert seconds <= CLOCK + GRACE + late
    if clock not in ("idle", "deadline"):
        assert seconds >= CLOCK - 0.01
    figures.add("R8", f"stalls ({clock}), {transport}: over the clock by at most", f"{(seconds - CLOCK) * 1000:.1f} ms")


def open_sockets() -> int:
    """Count the sockets of this process."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that takes no connection and refuses none: whoever knocks waits."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        knocking = []
        for _ in range(4):  # its queue is full then
            knock = socket.socket()
            knock.setblocking(False)
            with suppress(BlockingIOError):
                knock.connect(listener.getsockname())
            knocking.append(knock)
        yield listener.getsockname()[1]
        for knock in knocking:
            knock.close()


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_that_is_never_made_ends_with_the_connect_clock(
    sockets: Any, transport: str, lateness: Any, figures: Any, black_hole: int, scheme: str, is_streamed: bool
) -> None:
    """Packets that are swallowed; over https the same before the handshake."""
    sockets.elsewhere(f"{scheme}://127.0.0.1:{black_hole}/v1")
    clocks = {"connect": CLOCK, "first_token": LONG, "idle": LONG, "total": LONG}
    mesh = sockets.mesh(timeouts=clocks, deadline=2 * LONG, retry={"max_attempts": 0})

    async def main() -> tuple[BaseException, float, float]:
        async with mesh:
            async with lateness() as late:
                error, seconds = await fail(mesh.get_router(), is_streamed=is_streamed)
            return error, seconds, late.worst

    error, seconds, late = asyncio.run(main())

    assert clock_of(error) == "connect"
    assert CLOCK - 0.01 <= seconds <= CLOCK + GRACE + late
    figures.add("R8", f"stalls (connect), {transport}: over the clock by at most", f"{(seconds - CLOCK) * 1000:.1f} ms")


def test_a_handshake_that_is_never_answered_ends_with_a_clock(
    sockets: Any, transport: str, lateness: Any, figures: Any
) -> None:
    """TCP is there, TLS is silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sockets.elsewhere(f"https://127.0.0.1:{listener.getsockname()[1]}/v1")
        clocks = {"connect": CLOCK, "first_token": LONG, "idle": LONG, "total": LONG}
        mesh = sockets.mesh(timeouts=clocks, deadline=2 * LONG, retry={"max_attempts": 0})

        async def main() -> tuple[BaseException, float, float]:
            async with mesh:
                async with lateness() as late:
                    error, seconds = await fail(mesh.get_router(), is_streamed=False)
                return error, seconds, late.worst

        error, seconds, late = asyncio.run(main())

    assert clock_of(error) == "connect"
    assert seconds <= CLOCK + GRACE + late
    figures.add("R8", f"stalls (TLS), {transport}: over the clock by at most", f"{(seconds - CLOCK) * 1000:.1f} ms")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts sockets as Linux lists them")
def test_a_provider_that_does_not_read_ends_with_the_total_clock(
    sockets: Any, transport: str, lateness: Any, figures: Any
) -> None:
    """A request of megabytes that nobody takes off the wire."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sockets.elsewhere(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        clocks = {"connect": LONG, "first_token": LONG, "idle": LONG, "total": CLOCK}
        mesh = sockets.mesh(timeouts=clocks, deadline=2 * LONG, retry={"max_attempts": 0})
        request = CompletionRequest([{"role": "user", "content": "x" * 8_000_000}])

        async def main() -> tuple[BaseException, float, float]:
            async with mesh:
                files = open_sockets()
                async with lateness() as late:
                    error, seconds = await fail(mesh.get_router(), is_streamed=False, request=request)
                await until(lambda: open_sockets() == files)  # though most of the request is still to be written
                return error, seconds, late.worst

        error, seconds, late = asyncio.run(main())

    assert clock_of(error) == "total"
    assert seconds <= CLOCK + GRACE + 2 * late  # such a body is copied more than once before it is on its way
    figures.add("R8", f"stalls (unread), {transport}: over the clock by at most", f"{(seconds - CLOCK) * 1000:.1f} ms")
