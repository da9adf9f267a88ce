"""R6: what a caller reads of a stream is the exact beginning of one provider's, and a cut is never taken for an end.

Every way a stream may break meets every place of a stream of 200 tokens, under each rule for what comes then. The bytes
go through the decoder, the driver and the router; only the socket is left out, and a sample is taken over sockets.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from modelmesh import ModelMesh
from modelmesh.errors import ModelMeshError, StreamInterruptedError
from modelmesh_cdk.openai_compatible import OpenAICompatibleConfig, OpenAICompatibleProvider
from modelmesh_cdk.testing import faults
from modelmesh_cdk.testing.faults import RESET, Pause, chunk

TOKENS = 200
TEXTS = [f"{place} " for place in range(TOKENS)]
SECOND = [f"b{place} " for place in range(5)]


def asking(text: str) -> dict[str, Any]:
    """Return a raw request that says so."""
    return {"messages": [{"role": "user", "content": text}]}


def event(data: Any, newline: str = "\n") -> bytes:
    """Write an event as it stands on the wire."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}{newline * 2}".encode()


ROLE = event(chunk(role="assistant", text=""))
PIECES = [event(chunk(text=text)) for text in TEXTS]
STOP = event(chunk(finish_reason="stop"))
USAGE = event(chunk(usage={"prompt_tokens": 1, "completion_tokens": TOKENS, "total_tokens": TOKENS + 1}))
DONE = event("[DONE]")
ERROR = {"error": {"message": "overloaded", "type": "server_error", "code": None}}
CALL = {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a'}}]}

Part = bytes | Exception
"""What the transport hands over: bytes, or the failure it raises."""

BROKEN: dict[str, Callable[[bytes], list[Part]]] = {
    # Each is given the next event, and says what comes in its place and then nothing more.
    "end without a signal": lambda _: [],
    "end within an event": lambda following: [following[: len(following) // 2]],
    "end within UTF-8": lambda _: [event(chunk(text="ü"))[:-40]],
    "reset": lambda _: [httpx.ReadError("reset")],
    "reset within an event": lambda following: [following[:9], httpx.ReadError("reset")],
    "a chunk cut": lambda following: [following[:20], httpx.RemoteProtocolError("incomplete chunked read")],
    "gzip cut": lambda _: [httpx.DecodingError("incomplete or truncated stream")],
    "an error event": lambda _: [event(ERROR), DONE],
    "an error event and more text": lambda following: [event(ERROR), following, STOP, DONE],
    "an error event of Anthropic's": lambda _: [
        b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}\n\n'
    ],
    "an error as text": lambda _: [b"event: error\ndata: upstream went away\n\n"],
    "a failed choice": lambda _: [event({"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}), DONE],
    "an error as an object": lambda _: [event({"object": "error", "message": "out of memory", "code": 500})],
    "cut JSON": lambda following: [following[:30] + b"\n\n", DONE],
    "no JSON": lambda _: [event("<html>"), DONE],
    "invalid UTF-8": lambda _: [b'data: {"choices": [{"index": 0, "delta": {"content": "\xff"}}]}\n\n', DONE],
    "an empty finish reason": lambda _: [event(chunk(finish_reason=""))],
    "usage and no end": lambda _: [USAGE],
    "comments and no end": lambda _: [b": keep-alive\n\n" * 3],
}
WHOLE: dict[str, Callable[[int], bytes]] = {
    # Each is given a place, and writes the whole stream with its own oddity there.
    "plain": lambda _: whole(),
    "no DONE": lambda _: ROLE + b"".join(PIECES) + STOP,
    "no finish reason": lambda _: ROLE + b"".join(PIECES) + DONE,
    "two DONE": lambda _: whole() + DONE,
    "text after DONE": lambda place: whole() + PIECES[place] + STOP,
    "usage twice": lambda place: whole(place, USAGE) + USAGE,
    "a comment": lambda place: whole(place, b": OPENROUTER PROCESSING\n\n"),
    "an empty event": lambda place: whole(place, b"data:\n\n"),
    "an unknown event": lambda place: whole(place, b"event: ping\nid: 7\nretry: 3\n\n"),
    "an empty delta": lambda place: whole(place, event(chunk(text=""))),
}


def whole(place: int = 0, oddity: bytes = b"") -> bytes:
    """Write the whole stream, with something between two tokens."""
    return ROLE + b"".join(PIECES[:place]) + oddity + b"".join(PIECES[place:]) + STOP + USAGE + DONE


def cut(how: str, place: int) -> list[Part]:
    """Write a stream that breaks after so many tokens."""
    following = PIECES[place] if place < TOKENS else STOP
    return [ROLE + b"".join(PIECES[:place]), *BROKEN[how](following)]


class Body(httpx.AsyncByteStream):
    """Hands parts over, and raises those that are failures."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            yield part


class Wire(httpx.AsyncBaseTransport):
    """Answers with whatever lies on it."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.requests = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Body(self.parts))


class Reader:
    """A mesh over two providers; the first breaks, the second answers."""

    def __init__(self, **pool: Any) -> None:
        self.first = Wire([])
        self.second = Wire([ROLE + b"".join(event(chunk(text=text)) for text in SECOND) + STOP + DONE])
        self.mesh = ModelMesh(environ={})
        config = OpenAICompatibleConfig(base_url="http://provider.test")
        self.mesh.initialize(
            {
                "providers": {
                    name: {"instance": OpenAICompatibleProvider(config, transport=wire)}
                    for name, wire in (("first", self.first), ("second", self.second))
                },
                "models": {
                    name: {"provider": name, "capabilities": ["chat-completion"]} for name in ("first", "second")
                },
                "pools": {
                    "chat": {
                        "capability": "chat-completion",
                        "strategy": "priority-selection",
                        "model_priority": ["first", "second"],
                        "retry": {"max_attempts": 0},
                        **pool,
                    }
                },
            }
        )

    async def read(self, parts: list[Part]) -> tuple[list[str], list[dict[str, Any]], ModelMeshError | None]:
        """Return the tokens a caller sees, the seams among them, and how it ended."""
        self.first.parts = parts
        pool = self.mesh.get_router().get_pool("chat")
        pool.recover(pool.members["first"].model)
        seen: list[str] = []
        seams: list[dict[str, Any]] = []
        try:
            async for part in self.mesh.get_router().execute_stream("chat", asking("count")):
                if part.text:
                    seen.append(part.text)
                if "modelmesh" in part.data:
                    seams.append({**part.data["modelmesh"], "seen": len(seen)})
        except ModelMeshError as error:
            return seen, seams, error
        return seen, seams, None


def read_all(reader: Reader, cases: Iterator[list[Part]]) -> list[Any]:
    """Read one stream after the other."""

    async def main() -> list[Any]:
        return [await reader.read(parts) for parts in cases]

    try:
        return asyncio.run(main())
    finally:
        reader.mesh.shutdown()


def places(figures: Any) -> range:
    """Every place of the stream."""
    return range(TOKENS + 1)


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_stream_is_an_exact_beginning_and_a_typed_error(how: str, figures: Any) -> None:
    """Before the first token another provider answers unseen; after it the caller has the partial text and knows."""
    reader = Reader()

    outcomes = read_all(reader, (cut(how, place) for place in places(figures)))

    for place, (seen, seams, error) in enumerate(outcomes):
        assert seams == []
        if place == 0:
            assert (seen, error) == (SECOND, None)
        else:
            assert seen == TEXTS[:place]
            assert isinstance(error, StreamInterruptedError), place
            assert error.partial == "".join(TEXTS[:place])
    assert (reader.first.requests, reader.second.requests) == (TOKENS + 1, 1)
    figures.add("R6", f"{how}: default rule, {TOKENS + 1} places", "all exact beginnings, all typed errors")


@pytest.mark.parametrize("how", BROKEN)
def test_a_stream_that_was_held_back_moves_on_unseen(how: str, figures: Any) -> None:
    """``on_stream_failure: hold``: the caller reads the second provider's answer whole, and nothing of the first's."""
    reader = Reader(on_stream_failure="hold", hold_time=60.0)
    step = figures.scale(5, 1)

    outcomes = read_all(reader, (cut(how, place) for place in places(figures)[::step]))

    assert all(outcome == (SECOND, [], None) for outcome in outcomes)
    figures.add("R6", f"{how}: held back, {len(outcomes)} places", "all answered whole by the second provider")


@pytest.mark.parametrize("how", BROKEN)
def test_a_stream_that_is_continued_shows_its_seam(how: str, figures: Any) -> None:
    """``on_stream_failure: continue``: one exact beginning, one seam that says where, one whole rest."""
    reader = Reader(on_stream_failure="continue")
    step = figures.scale(5, 1)

    outcomes = read_all(reader, (cut(how, place) for place in places(figures)[::step]))

    for place, (seen, seams, error) in zip(places(figures)[::step], outcomes, strict=True):
        assert (seen, error) == (TEXTS[:place] + SECOND, None)
        characters = len("".join(TEXTS[:place]))
        assert [seam["after_characters"] for seam in seams] == ([characters] if place else [])
    figures.add("R6", f"{how}: continued, {len(outcomes)} places", "all exact beginnings, each seam marked")


@pytest.mark.parametrize("how", WHOLE)
def test_an_odd_stream_that_is_whole_is_read_whole(how: str, figures: Any) -> None:
    """Oddities of real servers, anywhere in the stream, are no failures and leave no trace."""
    reader = Reader()
    step = figures.scale(4, 1)

    outcomes = read_all(reader, ([WHOLE[how](place)] for place in range(0, TOKENS, step)))

    assert all(outcome == (TEXTS, [], None) for outcome in outcomes)
    assert reader.second.requests == 0
    figures.add("R6", f"{how}: {len(outcomes)} places", "all whole")


@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CRLF"])
def test_however_the_bytes_are_split_the_tokens_are_the_same(newline: str, figures: Any) -> None:
    """By single bytes and by random pieces, with letters of two to four bytes and Unicode line ends in the text."""
    texts = ["ü", "漢", "🜂", "a\u2028b", "c\u0085d", "e\\nf"] * 4
    events = [event(chunk(text=text), newline) for text in texts]
    data = b"".join(events) + event(chunk(finish_reason="stop"), newline) + event("[DONE]", newline)
    lot = random.Random(6)

    def splits() -> Iterator[list[Part]]:
        yield [data[place : place + 1] for place in range(len(data))]
        for _ in range(figures.scale(60, 2_000)):
            marks = sorted(lot.sample(range(1, len(data)), lot.randrange(1, 40)))
            yield [data[begin:end] for begin, end in zip([0, *marks], [*marks, len(data)], strict=True)]

    outcomes = read_all(Reader(), splits())

    assert all(outcome == (texts, [], None) for outcome in outcomes)
    figures.add("R6", f"split anywhere, line end {newline!r}", f"{len(outcomes)} ways, all whole")


def test_a_cut_at_any_byte_is_seen(figures: Any) -> None:
    """After every single byte of the last events: nothing but the terminal signal makes an answer whole."""
    data = ROLE + b"".join(PIECES[:3]) + STOP + DONE
    signal = len(data) - len(DONE) - len(STOP)

    outcomes = read_all(Reader(), ([data[:end]] for end in range(len(ROLE), len(data))))

    for end, (seen, _, error) in zip(range(len(ROLE), len(data)), outcomes, strict=True):
        if seen == SECOND:
            assert error is None
            assert end < len(ROLE) + len(PIECES[0])
        elif error is None:
            assert (seen, end >= signal + len(STOP) - 2) == (TEXTS[:3], True)
        else:
            assert seen == TEXTS[: len(seen)]
            assert end < signal + len(STOP)
    figures.add("R6", "cut after every byte", f"{len(outcomes)} cuts, 0 taken for whole")


def test_cut_tool_calls_are_not_whole() -> None:
    """Half the arguments of a function are content: nothing may be spliced onto them, and they are no answer."""
    parts: list[Part] = [ROLE + event(chunk(delta=CALL))]
    reader = Reader()

    seen, _, error = read_all(reader, iter([parts]))[0]

    assert seen == []
    assert isinstance(error, StreamInterruptedError)
    assert reader.second.requests == 0


def test_a_sample_over_sockets_is_no_different(sockets: Any, transport: str, figures: Any) -> None:
    """Cut, reset, silent, stalled, stalled among comments, erroneous, at random places of the stream."""
    lot = random.Random(6)
    cases = [
        (lot.choice(["silent", "cut", "reset", "error", "malformed", "stall", "comments"]), lot.randrange(TOKENS + 1))
        for _ in range(figures.scale(40, 500))
    ]

    def step(request: Any) -> Any:
        end, place = cases[int(request.json["messages"][0]["content"])]
        for action in faults.stream(*TEXTS[:place], end=end)(request):
            if action is RESET:
                yield Pause(0.02)
            yield action

    sockets.provider(step)
    sockets.provider(faults.stream(*SECOND))
    mesh = sockets.mesh(
        strategy="priority-selection",
        model_priority=["m0", "m1"],
        retry={"max_attempts": 0},
        timeouts={"connect": 1.0, "first_token": 0.2, "idle": 0.2, "total": 5.0},
    )

    async def main() -> Counter[bool]:
        on_time: Counter[bool] = Counter()
        async with mesh:
            pool = mesh.get_router().get_pool("chat")
            for number, (end, place) in enumerate(cases):
                pool.recover(pool.members["m0"].model)
                seen: list[str] = []
                error: ModelMeshError | None = None
                try:
                    async for part in mesh.get_router().execute_stream("chat", asking(str(number))):
                        seen += [part.text] if part.text else []
                except ModelMeshError as raised:
                    error = raised
                if seen == SECOND:
                    assert error is None
                    assert end in ("reset", "stall", "comments") or place == 0
                else:
                    # A reset throws away what its receiver has not read yet, and to the clocks a server that has to
                    # wait for its turn on a busy machine is as silent as one that stalls; all else arrives whole.
                    is_exact = end not in ("reset", "stall", "comments")
                    assert seen == TEXTS[: place if is_exact else len(seen)], end
                    assert len(seen) <= place
                    assert isinstance(error, StreamInterruptedError), end
                    assert error.partial == "".join(seen)
                if end in ("stall", "comments"):
                    on_time[seen == (TEXTS[:place] if place else SECOND)] += 1
        return on_time

    on_time = asyncio.run(main())
    assert on_time[True] > 3 * on_time[False]
    figures.add(
        "R6",
        f"sample over sockets, {transport}",
        f"{len(cases)} streams, all exact beginnings, all typed errors; of {on_time.total()} that stalled"
        f" {on_time[True]} were given up after their last token, not sooner",
    )
