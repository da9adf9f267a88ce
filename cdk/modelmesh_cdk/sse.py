"""Server-sent events from bytes, as they come: an incremental parser without I/O.

Lines end with LF, CR or CRLF and nothing else (the format of
https://html.spec.whatwg.org/multipage/server-sent-events.html): U+2028 inside JSON is not a line end, and a
multi-byte character may be cut anywhere. However the bytes are split, the events are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelmesh.errors import MalformedResponseError

MAX_EVENT_BYTES = 8 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event.

    Attributes:
        data: The data lines, joined by LF, as bytes.
        event: The event's type; empty when the stream names none.
    """

    data: bytes
    event: str = ""


class SSEParser:
    """Feed it bytes, get events; comments and unknown fields are dropped.

    Args:
        max_event_bytes: What one event may hold; more is an error, not memory.
    """

    __slots__ = ("_after_cr", "_data", "_data_size", "_event", "_held", "_held_size", "_limit", "_started")

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._limit = max_event_bytes
        self._held: list[bytes] = []
        self._held_size = 0
        self._data: list[bytes] = []
        self._data_size = 0
        self._event = ""
        self._after_cr = False
        self._started = False

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that these bytes complete.

        Raises:
            MalformedResponseError: An event is larger than the limit.
        """
        if not chunk:
            return []
        if self._after_cr:
            # The second half of a CRLF that was cut between its bytes.
            self._after_cr = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in chunk:
            self._hold(chunk)
            return []
        first, *lines = chunk.split(b"\n")
        events: list[ServerSentEvent] = []
        self._held.append(first)
        self._line(b"".join(self._held), events)
        for line in lines[:-1]:
            self._line(line, events)
        self._held = []
        self._held_size = 0
        self._hold(lines[-1])
        return events

    def close(self) -> list[ServerSentEvent]:
        """Return the event a stream ended in, if all its lines had come.

        The format wants a blank line after each event, and some servers omit the last; a line that was cut is not
        taken for a whole one, except the terminator, which cannot be the beginning of anything else.
        """
        events: list[ServerSentEvent] = []
        rest = b"".join(self._held)
        self._held = []
        if rest in (b"data: [DONE]", b"data:[DONE]"):
            self._line(rest, events)
        elif rest:
            return events
        self._line(b"", events)
        return events

    def _hold(self, rest: bytes) -> None:
        if not rest:
            return
        self._held.append(rest)
        self._held_size += len(rest)
        self._check_size(self._held_size)

    def _check_size(self, line_size: int) -> None:
        """Refuse a line that would take the event past its limit, whether it came whole or in pieces."""
        if self._data_size + line_size > self._limit:
            raise MalformedResponseError(f"a streamed event is larger than {self._limit // 1024} KB")

    def _line(self, line: bytes, events: list[ServerSentEvent]) -> None:
        self._check_size(len(line))
        if not self._started:
            self._started = True
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                events.append(ServerSentEvent(b"\n".join(self._data), self._event))
                self._data = []
                self._data_size = 0
            self._event = ""
            return
        if line.startswith(b"data:"):
            self._add(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            self._add(b"")
        elif line.startswith(b"event:"):
            self._event = (line[7:] if line[6:7] == b" " else line[6:]).decode(errors="replace")
        elif line == b"event":
            self._event = ""

    def _add(self, data: bytes) -> None:
        self._data.append(data)
        self._data_size += len(data) + 1  # the line end counts: empty lines take memory as well
