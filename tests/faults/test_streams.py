"""Streams that fail in every way real ones do: unseen before the first content, whole or a typed error after it."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from modelmesh.errors import AllProvidersExhaustedError, ModelMeshError, StreamInterruptedError
from modelmesh_cdk.testing import faults
from modelmesh_cdk.testing.faults import CLOSE, RESET, Pause, RecordedRequest, chunk

ROLE = chunk(role="assistant", text="")
ERROR = {"error": {"message": "overloaded", "type": "server_error", "code": None}}
FAILED_CHOICE = {"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}
ANTHROPIC = b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}\n\n'

BEFORE_CONTENT = {
    "an error status": faults.status(503),
    "JSON with an error": faults.body(json.dumps(ERROR).encode()),
    "an error event": faults.events(ERROR),
    "an error event of Anthropic's": faults.events(ANTHROPIC),
    "an error as text": faults.events(b"event: error\ndata: busy\n\n"),
    "a failed choice": faults.events(FAILED_CHOICE),
    "an error after the role": faults.events(ROLE, ERROR),
    "nothing": faults.events(end="silent"),
    "nothing but DONE": faults.events(),
    "the role and an end": faults.events(ROLE, end="silent"),
    "a cut": faults.stream(end="cut"),
    "a reset": faults.stream(end="reset"),
    "cut JSON": faults.stream(end="malformed"),
    "no JSON": faults.events("hello"),
    "JSON that is no object": faults.events("[1, 2]"),
    "no choices": faults.events({"id": "1"}),
    "choices of text": faults.events({"choices": ["hello"]}),
    "an HTML page": faults.body(b"<html>", content_type="text/html"),
    "a lying chunk": lambda _: [
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nFFFF\r\ndata: {}\n\n",
        CLOSE,
    ],
    "a huge event": faults.events("x" * 9_000_000),
    "bytes that are no UTF-8": faults.events(b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n'),
}


@pytest.mark.parametrize("step", list(BEFORE_CONTENT.values()), ids=list(BEFORE_CONTENT))
def test_a_stream_that_fails_before_its_first_content_moves_on_unseen(lone_world: Any, texts: Any, step: Any) -> None:
    """F13: the caller sees one whole answer, of one provider."""
    lone_world.provider(step)
    lone_world.provider("the second")

    parts = list(lone_world.stream())

    assert texts(parts) == "the second"
    assert {part.model for part in parts} == {"m1"}
    assert [part.metadata["finish_reason"] for part in parts if part.metadata["finish_reason"]] == ["stop"]


def late(step: Any) -> Any:
    """Let a moment pass before a cut or reset: it throws away what its receiver has not read yet."""

    def delayed(request: RecordedRequest) -> Iterator[Any]:
        for action in step(request):
            if action in (CLOSE, RESET):
                yield Pause(0.02)
            yield action

    return delayed


AFTER_CONTENT = {
    "an end without a signal": faults.stream("Hel", "lo", end="silent"),
    "a cut": faults.stream("Hel", "lo", end="cut"),
    "a reset": late(faults.stream("Hel", "lo", end="reset")),
    "an error event": faults.stream("Hel", "lo", end="error"),
    "Anthropic's error event": faults.events(ROLE, chunk(text="Hel"), chunk(text="lo"), ANTHROPIC),
    "a failed choice": faults.events(ROLE, chunk(text="Hel"), chunk(text="lo"), FAILED_CHOICE),
    "cut JSON": faults.stream("Hel", "lo", end="malformed"),
    "a huge event": faults.events(ROLE, chunk(text="Hel"), chunk(text="lo"), "x" * 9_000_000),
}


@pytest.mark.parametrize("step", list(AFTER_CONTENT.values()), ids=list(AFTER_CONTENT))
def test_a_stream_that_fails_after_content_is_a_typed_error_with_the_text(world: Any, step: Any) -> None:
    """F13: nothing is replayed or spliced, and a truncated answer never passes for a whole one."""
    world.provider(step)
    second = world.provider("second")
    seen: list[str] = []

    with pytest.raises(StreamInterruptedError) as caught:
        seen.extend(part.content for part in world.stream())

    assert caught.value.partial == "Hello"
    assert (caught.value.provider_id, caught.value.model_id) == ("p0", "m0")
    assert second.requests == []


@pytest.mark.parametrize("end", ["silent", "cut", "reset", "error", "malformed"])
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_the_partial_text_is_what_the_caller_saw(lone_world: Any, end: Any, pieces: int) -> None:
    """F13: wherever it is cut, the partial text is the exact prefix that was handed out."""
    lone_world.provider(late(faults.stream(*[f"{place} " for place in range(pieces)], end=end)))
    stream, seen = lone_world.stream(), ""

    try:
        for part in stream:
            seen += part.content
    except StreamInterruptedError as error:
        partial = error.partial

    assert seen == partial == "".join(f"{place} " for place in range(pieces))


WHOLE = {
    "no DONE": faults.stream("Hel", "lo", end="no_done"),
    "no usage": faults.stream("Hel", "lo", usage=False),
    "comments": faults.stream("Hel", "lo", comments=3),
    "CR": faults.stream("Hel", "lo", line_end="\r"),
    "CRLF": faults.stream("Hel", "lo", line_end="\r\n"),
    "one byte a time": faults.stream("Hel", "lo", split=1),
    "CRLF in single bytes": faults.stream("Hel", "lo", line_end="\r\n", split=1),
    "two DONE": faults.events(chunk(text="Hello"), chunk(finish_reason="stop"), "[DONE]"),
    "data after DONE": faults.events(chunk(text="Hello"), chunk(finish_reason="stop"), "[DONE]", chunk(text="more")),
    "usage twice": faults.events(
        chunk(text="Hello"),
        chunk(finish_reason="stop"),
        chunk(usage={"prompt_tokens": 1}),
        chunk(usage={"prompt_tokens": 1}),
    ),
    "DONE without a finish reason": faults.events(chunk(text="Hello"), end="done"),
    "JSON instead of a stream": lambda request: faults.chat("Hello")(
        RecordedRequest(request.method, request.path, request.headers, b'{"model": "m"}', 1)
    ),
}


@pytest.mark.parametrize("step", list(WHOLE.values()), ids=list(WHOLE))
def test_an_odd_stream_that_is_whole_is_taken_as_whole(lone_world: Any, texts: Any, step: Any) -> None:
    """F13: what real servers do without meaning harm costs no answer."""
    lone_world.provider(step)
    second = lone_world.provider("second")

    assert texts(lone_world.stream()) == "Hello"
    assert second.requests == []


def test_odd_line_ends_inside_json_and_split_characters_stay_as_they_are(world: Any, texts: Any) -> None:
    """F13: U+2028 and U+0085 are no line ends, and a character may be cut between reads."""
    text = "a\u2028b\u0085c 🦊é"
    world.provider(faults.stream(text, split=1))

    assert texts(world.stream()) == text


def test_a_tool_call_that_is_cut_is_no_whole_answer(world: Any) -> None:
    """F13: half the arguments of a tool are worse than none: the stream ends with an error."""
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "pay", "arguments": '{"amount": 1'}}
    world.provider(faults.events(ROLE, chunk(delta={"tool_calls": [call]}), end="cut"))
    world.provider("second")

    with pytest.raises(StreamInterruptedError):
        list(world.stream())


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_stream_that_is_cut_is_no_whole_answer(world: Any, texts: Any, encoding: str) -> None:
    """F13: the end of the compressed bytes without the end of the answer is a cut."""
    event = f"data: {json.dumps(chunk(text='x' * 20_000))}\n\n".encode()
    data = gzip.compress(event) if encoding == "gzip" else zlib.compress(event)
    headers = {"content-encoding": encoding}
    step = faults.response(data[: len(data) // 2], content_type="text/event-stream", headers=headers)
    world.provider(lambda _: [step])
    world.provider("second")

    assert texts(world.stream()) == "second"


def test_a_stream_may_continue_at_another_provider_and_shows_the_seam(world: Any, texts: Any) -> None:
    """F13: under ``continue`` the next provider goes on, and the chunk where it does says so."""
    world.provider(late(faults.stream("Hel", end="reset")))
    second = world.provider("lo")
    world.build(on_stream_failure="continue")

    parts = list(world.stream())

    seams = [part.metadata["raw"]["modelmesh"] for part in parts if "modelmesh" in part.metadata["raw"]]
    assert texts(parts) == "Hello"
    assert [seam["after_characters"] for seam in seams] == [3]
    assert second.requests[0].json["messages"][-1] == {"role": "assistant", "content": "Hel"}


def test_a_stream_that_nobody_continues_hands_over_all_that_came(world: Any) -> None:
    """F13: two broken streams in a row leave both their texts in the error."""
    world.provider(late(faults.stream("Hel", end="reset")))
    world.provider(faults.stream("lo", end="cut"))
    world.build(on_stream_failure="continue")

    with pytest.raises(StreamInterruptedError) as caught:
        list(world.stream())

    assert caught.value.partial == "Hello"


def test_content_that_is_held_back_may_be_thrown_away(world: Any, texts: Any) -> None:
    """F13: under ``hold`` a stream that breaks early goes unseen."""
    world.provider(faults.stream("Hel", "lo", end="reset"))
    world.provider("second")
    world.build(on_stream_failure="hold", hold_time=5)

    assert texts(world.stream()) == "second"


@pytest.mark.parametrize("step", [faults.reset(), 500, faults.stream(end="silent")], ids=["reset", "500", "silent"])
def test_nobody_left_before_content_is_the_same_error_as_for_a_whole_answer(world: Any, step: Any) -> None:
    """F13, F16: a stream that never began is no interrupted stream."""
    world.provider(step)
    world.provider(step)

    with pytest.raises(AllProvidersExhaustedError) as caught:
        list(world.stream())

    assert caught.value.attempts == 2


def test_failed_streams_count_against_health(lone_world: Any, texts: Any) -> None:
    """F13: a provider whose streams break rests like one that answers with errors."""
    first = lone_world.provider(default=late(faults.stream("Hel", end="reset")))
    lone_world.provider(default="second")

    for _ in range(3):
        with pytest.raises(ModelMeshError):
            list(lone_world.stream())

    assert texts(lone_world.stream()) == "second"
    assert len(first.requests) == 3


# --- clocks -----------------------------------------------------------------------


SHORT = 0.1
CLOCKS = {
    "before headers": (faults.hang("before_headers"), "first_token"),
    "after headers": (faults.hang("after_headers"), "first_token"),
    "after the role": (faults.stream(end="stall"), "first_token"),
    "with comments": (faults.stream(end="comments"), "first_token"),
    "with empty content": (faults.events(*[chunk(text="")] * 200, end="stall", pause=0.005), "first_token"),
}


@pytest.mark.parametrize(("step", "which"), list(CLOCKS.values()), ids=list(CLOCKS))
def test_silence_before_the_first_content_moves_on_when_its_clock_runs_out(
    world: Any, texts: Any, step: Any, which: str
) -> None:
    """F13, F8, R8: keep-alive comments, headers and empty chunks are no progress."""
    world.provider(step)
    world.provider("second")
    world.build(timeouts={which: SHORT, "idle": 5, "total": 5})

    assert texts(world.stream()) == "second"


@pytest.mark.parametrize("end", ["stall", "comments"])
def test_silence_after_content_is_an_interrupted_stream(world: Any, end: Any) -> None:
    """F13, R8: the idle clock ends it, though keep-alive comments come."""
    world.provider(faults.stream("Hel", "lo", end=end))
    world.build(timeouts={"idle": SHORT, "first_token": 5, "total": 5})

    with pytest.raises(StreamInterruptedError) as caught:
        list(world.stream())

    assert (caught.value.partial, caught.value.category) == ("Hello", "timeout")


def test_a_stream_that_goes_on_for_ever_ends_with_the_whole_attempts_clock(world: Any) -> None:
    """F13, R8: content that keeps coming does not outlast the total time."""

    def endless(request: RecordedRequest) -> Iterator[Any]:
        yield b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
        while True:
            yield f"data: {json.dumps(chunk(text='x'))}\n\n".encode()
            yield Pause(0.005)

    world.provider(endless)
    world.build(timeouts={"total": SHORT})

    with pytest.raises(StreamInterruptedError) as caught:
        list(world.stream())

    assert caught.value.category == "timeout"
    assert set(caught.value.partial) == {"x"}


@pytest.mark.parametrize("when", ["before_headers", "after_headers", "mid_body"])
def test_a_whole_answer_that_stalls_is_left_for_the_next_provider(world: Any, when: Any) -> None:
    """F8, R8: wherever a provider goes silent, its time is up together."""
    world.provider(faults.hang(when))
    world.provider("second")
    world.build(timeouts={"total": SHORT})

    answer = world.ask()

    assert answer.content == "second"
    assert answer.metadata["receipt"].attempts[0].outcome == "timeout"


def test_a_providers_own_time_limit_holds(world: Any) -> None:
    """F8: ``timeout`` in a provider's settings is enforced by the transport, whatever the pool allows."""
    world.provider(faults.hang())
    world.provider(faults.hang("mid_body"))
    world.build(provider={"timeout": SHORT}, timeouts={"total": 5})

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.ask()

    assert [attempt.outcome for attempt in caught.value.receipt.attempts] == ["timeout", "timeout"]


def test_the_requests_deadline_ends_everything(world: Any) -> None:
    """R8: a deadline is not passed on from provider to provider."""
    world.provider(faults.hang())
    second = world.provider("second")
    world.build(timeouts={"total": 5})

    with pytest.raises(TimeoutError):
        world.ask(deadline=SHORT)

    assert second.requests == []


def test_a_provider_that_reads_slowly_runs_into_the_clock_too(world: Any) -> None:
    """F5: a request that cannot be written is no reason to wait for ever."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        world.elsewhere(f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
        world.provider("second")
        world.build(providers={"p0": {"timeout": 0.2}}, timeouts={"total": 5})

        answer = world.ask("x" * 8_000_000)

    assert answer.content == "second"
    assert answer.metadata["receipt"].attempts[0].outcome == "timeout"


@pytest.mark.parametrize("size", [1_000, 1_048_576, 8_000_000], ids=["small", "1 MB", "8 MB"])
def test_a_large_request_arrives_whole(world: Any, size: int) -> None:
    """F5: requests with pictures in them are large; each byte arrives, on a connection that is used again."""
    server = world.provider()

    for _ in range(2):
        world.ask("x" * size)

    assert [len(request.json["messages"][0]["content"]) for request in server.requests] == [size, size]
    assert server.connects == 1
