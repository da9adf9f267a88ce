"""Server-sent events from bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelmesh.errors import MalformedResponseError
from modelmesh_cdk.sse import ServerSentEvent, SSEParser

Event = ServerSentEvent


def parse(*chunks: bytes, limit: int | None = None) -> list[ServerSentEvent]:
    """Return the events of a stream that comes in these chunks."""
    parser = SSEParser() if limit is None else SSEParser(max_event_bytes=limit)
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events + parser.close()


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """Return the stream cut at these places, empty pieces included."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [Event(b"a")]),
        (b"data:a\n\n", [Event(b"a")]),
        (b"data:  a\n\n", [Event(b" a")]),
        (b"data: a\ndata: b\n\n", [Event(b"a\nb")]),
        (b"data\n\n", [Event(b"")]),
        (b"data\ndata\n\n", [Event(b"\n")]),
        (b"data: a\n\ndata: b\n\n", [Event(b"a"), Event(b"b")]),
        (b"event: error\ndata: a\n\ndata: b\n\n", [Event(b"a", "error"), Event(b"b")]),
        (b"event:error\ndata: a\n\n", [Event(b"a", "error")]),
        (b"event:  two  words \ndata: a\n\n", [Event(b"a", " two  words ")]),
        (b"event: x\nevent: y\ndata: a\n\n", [Event(b"a", "y")]),
        (b"event: x\nevent\ndata: a\n\n", [Event(b"a")]),
        (b"event: ping\n\ndata: a\n\n", [Event(b"a")]),
        (b": comment\n\n:\n\ndata: a\n: comment\n\n", [Event(b"a")]),
        (b"id: 7\nretry: 100\nunknown: x\ndata: a\n\n", [Event(b"a")]),
        (b" data: a\nDATA: b\ndatabase: c\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [Event(b"a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [Event(b"a")]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [Event(b"a"), Event(b"b"), Event(b"c")]),
        (b"data: a\r\ndata: b\rdata: c\n\r\n", [Event(b"a\nb\nc")]),
        ("data: \u2028\u2029\x85\x0b\x0c\n\n".encode(), [Event("\u2028\u2029\x85\x0b\x0c".encode())]),
        (b"data: \xff\n\n", [Event(b"\xff")]),
        (b"\n\n\n", []),
        (b"", []),
    ],
    ids=repr,
)
def test_a_stream_is_read_by_the_rules_of_the_format(stream: bytes, events: list[ServerSentEvent]) -> None:
    """Fields, comments, line ends and the byte order mark, whole and byte by byte."""
    assert parse(stream) == events
    assert parse(*(bytes([byte]) for byte in stream)) == events


PIECES = [b"data", b"data:", b"data: ", b"event: ", b":", b" ", b"\r", b"\n", b"\r\n", b"\n\n", b"\xef\xbb\xbf"]
STREAMS = st.lists(st.sampled_from([*PIECES, b"x", "é\u2028".encode(), b"[DONE]"]) | st.binary(max_size=3)).map(
    b"".join
)


@given(STREAMS, st.lists(st.integers(0, 1000)))
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 10])
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2])
@example("data: é\n\n".encode(), [7])
def test_how_the_bytes_are_split_changes_nothing(stream: bytes, places: list[int]) -> None:
    """The events are those of the stream in one piece."""
    assert parse(*cut(stream, places)) == parse(stream)


@given(st.lists(st.lists(st.binary(max_size=8).filter(lambda line: not set(line) & {10, 13}), min_size=1)))
def test_what_was_sent_is_what_arrives(messages: list[list[bytes]]) -> None:
    """Any bytes without line ends survive, line by line."""
    stream = b"".join(b"".join(b"data: " + line + b"\n" for line in lines) + b"\n" for lines in messages)

    assert [event.data for event in parse(stream)] == [b"\n".join(lines) for lines in messages]


def test_an_event_comes_as_soon_as_its_blank_line_does() -> None:
    """Also with CR, where the next byte could still be the LF of a CRLF."""
    parser = SSEParser()

    assert parser.feed(b"data: a\r\r") == [Event(b"a")]
    assert parser.feed(b"\ndata: b\n\n") == [Event(b"b")]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n", [Event(b"a")]),
        (b"event: error\ndata: a\n", [Event(b"a", "error")]),
        (b"data: a\n\ndata: [DONE]", [Event(b"a"), Event(b"[DONE]")]),
        (b"data:[DONE]", [Event(b"[DONE]")]),
        (b"data: [DONE", []),
        (b'data: {"cut": tr', []),
        (b"data: a\ndata: b", []),
        (b"event: error\n", []),
    ],
    ids=repr,
)
def test_only_whole_lines_make_an_event_at_the_end(stream: bytes, events: list[ServerSentEvent]) -> None:
    """A missing last blank line is forgiven, a line that may have been cut is not; the terminator is known whole."""
    assert parse(stream) == events


@pytest.mark.parametrize("line", [b"data: x\n", b"data\n"], ids=["filled", "empty"])
def test_an_event_of_endless_lines_is_refused(line: bytes) -> None:
    """The limit holds over all lines of an event, not only over one."""
    with pytest.raises(MalformedResponseError, match="larger than"):
        parse(*[line] * 1_000, limit=100)


@pytest.mark.parametrize("line", [b"data: ", b": ", b"unknown: ", b""], ids=["data", "comment", "unknown", "none"])
def test_an_endless_line_is_refused(line: bytes) -> None:
    """Whatever kind of line it is: it would be kept until its end."""
    with pytest.raises(MalformedResponseError, match="larger than"):
        parse(line, *[b"x" * 10] * 20, limit=100)


def test_small_events_may_go_on_for_ever() -> None:
    """The limit is one event's, not the stream's."""
    assert len(parse(*[b": keep-alive\n\ndata: 01", b"23456789\n\n"] * 100, limit=30)) == 100


@given(STREAMS, st.lists(st.integers(0, 1000)), st.integers(0, 40))
@example(b"data: 0123456789\n\n", [14], 12)
def test_the_limit_does_not_depend_on_the_split(stream: bytes, places: list[int], limit: int) -> None:
    """A stream is refused in one piece exactly when it is refused in many."""

    def is_refused(*chunks: bytes) -> bool:
        try:
            parse(*chunks, limit=limit)
        except MalformedResponseError:
            return True
        return False

    assert is_refused(*cut(stream, places)) == is_refused(stream)
