"""What a `FaultServer` can do with a request: answer well, answer badly, or stop in the middle.

Each function here returns a step: something that, given the request, yields what to do on the connection, bit by bit.
A test writes its own step the same way, as a function of the request that yields bytes, `Pause`, `STAY`, `RESET` or
`CLOSE`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Literal, TypeAlias


class Act(Enum):
    """What can be done on a connection other than sending bytes."""

    STAY = auto()
    RESET = auto()
    CLOSE = auto()


STAY = Act.STAY
"""Send nothing more and leave the connection open until the client goes, or the server stops."""

RESET = Act.RESET
"""Break the connection with a TCP reset."""

CLOSE = Act.CLOSE
"""Close the connection in an orderly way, whatever was announced."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait this many real seconds; keep it at a few milliseconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request as it arrived.

    Attributes:
        method: Such as ``POST``.
        path: With its query.
        headers: Names in lower case.
        body: As it came.
        connection: 1-based number of the connection it came on.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        """The body, parsed; None when it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def model(self) -> str:
        """The model that is asked for."""
        return str(self._field("model") or "fault-model")

    @property
    def wants_stream(self) -> bool:
        """Whether it asks for a stream."""
        return bool(self._field("stream"))

    def _field(self, name: str) -> Any:
        body = self.json
        return body.get(name) if isinstance(body, dict) else None


Action: TypeAlias = bytes | Pause | Act
Step: TypeAlias = Callable[[RecordedRequest], Iterable[Action]]
StreamEnd = Literal["done", "no_done", "silent", "cut", "reset", "stall", "comments", "error", "malformed"]
Moment = Literal["before_headers", "after_headers", "mid_body"]

_PROMPT_TOKENS = 3


# --- good answers -----------------------------------------------------------------


def chat(text: str = "Hello from afar.", *, headers: Mapping[str, str] | None = None) -> Step:
    """Answer a chat: whole, or word by word when a stream is asked for."""

    def step(request: RecordedRequest) -> Iterable[Action]:
        if request.wants_stream:
            return stream(*_words(text), headers=headers)(request)
        return [response(_json(_completion(request.model, text)), headers=headers)]

    return step


def embeddings(dimensions: int = 3) -> Step:
    """Answer with one vector for each input."""

    def step(request: RecordedRequest) -> Iterable[Action]:
        body = request.json if isinstance(request.json, dict) else {}
        given = body.get("input", "")
        count = len(given) if isinstance(given, list) else 1
        vectors = [
            {"object": "embedding", "index": place, "embedding": [1.0, *[0.0] * (dimensions - 1)]}
            for place in range(count)
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        return [response(_json({"object": "list", "model": request.model, "data": vectors, "usage": usage}))]

    return step


def models(*names: str) -> Step:
    """List these models."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "faults"} for name in names]
    return lambda _: [response(_json({"object": "list", "data": data}))]


# --- bad answers --------------------------------------------------------------------


def status(
    code: int,
    *,
    error_code: str | None = None,
    message: str | None = None,
    retry_after: float | str | datetime | None = None,
    retry_after_ms: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> Step:
    """Answer with a status and an error body in OpenAI's shape.

    Args:
        code: HTTP status.
        error_code: ``error.code``, such as ``insufficient_quota``.
        message: For people.
        retry_after: The header of that name: seconds, a moment (sent as an HTTP date), or any nonsense as text.
        retry_after_ms: The header of that name, in milliseconds.
        headers: Further headers.
    """
    sent = dict(headers or {})
    if retry_after is not None:
        sent["retry-after"] = _retry_after(retry_after)
    if retry_after_ms is not None:
        sent["retry-after-ms"] = f"{retry_after_ms:g}"
    said = {"message": message or f"scripted failure {code}", "type": "scripted", "param": None, "code": error_code}
    return lambda _: [response(_json({"error": said}), code, headers=sent)]


def body(data: bytes = b"", *, content_type: str = "application/json", code: int = 200) -> Step:
    """Answer with this body, which need not be JSON; empty by default."""
    return lambda _: [response(data, code, content_type=content_type)]


def redirect(url: str, *, code: int = 307) -> Step:
    """Send the client elsewhere."""
    return lambda _: [response(b"", code, headers={"location": url})]


def huge_header(size: int = 1_000_000) -> Step:
    """Answer with a header of this many bytes."""
    return lambda _: [response(b"{}", headers={"x-huge": "x" * size})]


def too_short(missing: int = 10) -> Step:
    """Announce more bytes than come, and close."""

    def step(request: RecordedRequest) -> Iterable[Action]:
        data = _json(_completion(request.model, "short"))
        return [
            _head(200, {"content-type": "application/json", "content-length": str(len(data) + missing)}),
            data,
            CLOSE,
        ]

    return step


def reset(when: Moment = "before_headers") -> Step:
    """Break the connection with a TCP reset."""
    return _broken(when, RESET)


def close(when: Moment = "before_headers") -> Step:
    """Close the connection without a whole answer."""
    return _broken(when, CLOSE)


def hang(when: Moment = "before_headers") -> Step:
    """Go silent and keep the connection open."""
    return _broken(when, STAY)


# --- streams -------------------------------------------------------------------------


def stream(
    *texts: str,
    end: StreamEnd = "done",
    finish_reason: str = "stop",
    usage: bool = True,
    comments: int = 0,
    line_end: str = "\n",
    split: int | None = None,
    pause: float = 0.0,
    headers: Mapping[str, str] | None = None,
) -> Step:
    """Answer with server-sent events: the role, these texts, an end.

    Args:
        texts: A chunk each.
        end: ``done`` is whole; ``no_done`` lacks ``[DONE]``; ``silent`` lacks ``finish_reason`` as well; ``cut`` closes
            in the middle of an event; ``reset`` breaks the connection; ``stall`` goes silent; ``comments`` sends
            nothing but keep-alive comments; ``error`` sends an error event; ``malformed`` sends JSON that was cut.
        finish_reason: Why the answer ended.
        usage: Whether tokens are reported, in a last chunk without choices.
        comments: Keep-alive comments before each event.
        line_end: LF, CR or CRLF.
        split: Send the bytes in pieces of this size; by default an event a piece.
        pause: Seconds between pieces.
        headers: Further headers.
    """

    def step(request: RecordedRequest) -> Iterable[Action]:
        listed: list[Mapping[str, Any] | str] = [chunk(request.model, role="assistant", text="")]
        listed += [chunk(request.model, text=text) for text in texts]
        if end in ("done", "no_done"):
            listed.append(chunk(request.model, finish_reason=finish_reason))
            if usage:
                listed.append(chunk(request.model, usage=_usage(len(texts))))
        sender = events(
            *listed, end=end, comments=comments, line_end=line_end, split=split, pause=pause, headers=headers
        )
        return sender(request)

    return step


def events(
    *data: Mapping[str, Any] | str | bytes,
    end: StreamEnd = "done",
    comments: int = 0,
    line_end: str = "\n",
    split: int | None = None,
    pause: float = 0.0,
    headers: Mapping[str, str] | None = None,
) -> Step:
    """Answer with exactly these events and then an end; see `stream`.

    Args:
        data: A mapping is sent as JSON, text as it is; bytes go out raw, with no ``data:`` and no line end.
        end: ``done`` adds ``[DONE]``; ``no_done`` and ``silent`` add nothing.
        comments: See `stream`.
        line_end: See `stream`.
        split: See `stream`.
        pause: See `stream`.
        headers: See `stream`.
    """
    newline = line_end.encode()

    def pieces() -> Iterator[bytes]:
        for each in (*data, *_closing_events(end)):
            yield (b": keep-alive" + newline * 2) * comments + _event(each, newline)

    def step(request: RecordedRequest) -> Iterator[Action]:
        yield _head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked", **(headers or {})})
        first = True
        for piece in pieces() if split is None else _split(b"".join(pieces()), split):
            if pause and not first:
                yield Pause(pause)
            first = False
            yield _framed(piece)
        yield from _stream_end(request, end)

    return step


def chunk(
    model: str = "fault-model",
    *,
    text: str | None = None,
    role: str | None = None,
    finish_reason: str | None = None,
    usage: Mapping[str, int] | None = None,
    delta: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build a ``chat.completion.chunk``, for `events`; with ``usage`` it has no choices."""
    said: dict[str, Any] = {**(delta or {})}
    if role is not None:
        said["role"] = role
    if text is not None:
        said["content"] = text
    data: dict[str, Any] = {
        "id": "chatcmpl-fault",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model,
        "choices": [] if usage is not None else [{"index": 0, "delta": said, "finish_reason": finish_reason}],
    }
    if usage is not None:
        data["usage"] = dict(usage)
    return data


# --- around other steps ---------------------------------------------------------------


def delay(step: Step, seconds: float) -> Step:
    """Do nothing for so many real seconds, then the step."""

    def delayed(request: RecordedRequest) -> Iterator[Action]:
        yield Pause(seconds)
        yield from step(request)

    return delayed


def drip(step: Step, *, size: int = 1, pause: float = 0.001) -> Step:
    """Send all bytes of a step, its headers too, in pieces of this size with a pause after each."""

    def dripping(request: RecordedRequest) -> Iterator[Action]:
        for action in step(request):
            if not isinstance(action, bytes):
                yield action
                continue
            for piece in _split(action, size):
                yield piece
                yield Pause(pause)

    return dripping


def then_close(step: Step) -> Step:
    """Do the step whole, then close a connection that its client believes to be alive."""

    def closing(request: RecordedRequest) -> Iterator[Action]:
        yield from step(request)
        yield CLOSE

    return closing


def response(
    data: bytes, code: int = 200, *, content_type: str = "application/json", headers: Mapping[str, str] | None = None
) -> bytes:
    """Return a whole answer as it stands on the wire, for steps of one's own."""
    return _head(code, {"content-type": content_type, "content-length": str(len(data)), **(headers or {})}) + data


# --- inside -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Halves:
    """A good answer cut into headers and two halves of its body."""

    head: bytes
    begin: bytes
    rest: bytes = field(default=b"")


def _halves(request: RecordedRequest) -> _Halves:
    data = _json(_completion(request.model, "This answer never comes to its end."))
    head = _head(200, {"content-type": "application/json", "content-length": str(len(data))})
    middle = len(data) // 2
    return _Halves(head, data[:middle], data[middle:])


def _broken(when: Moment, act: Act) -> Step:
    def step(request: RecordedRequest) -> Iterator[Action]:
        answer = _halves(request)
        if when != "before_headers":
            yield answer.head
        if when == "mid_body":
            yield answer.begin
        yield act

    return step


def _closing_events(end: StreamEnd) -> tuple[Mapping[str, Any] | str | bytes, ...]:
    if end == "done":
        return ("[DONE]",)
    if end == "error":
        return ({"error": {"message": "scripted failure inside the stream", "type": "server_error", "code": None}},)
    if end == "malformed":
        return ('{"id": "chatcmpl-fault", "choices": [{"index": 0, "del', "[DONE]")
    return ()


def _stream_end(request: RecordedRequest, end: StreamEnd) -> Iterator[Action]:
    if end == "cut":
        event = _event(chunk(request.model, text="cut"), b"\n")
        # The frame announces a whole event; half of it comes.
        yield _framed(event)[: -len(event) // 2]
        yield CLOSE
    elif end == "reset":
        yield RESET
    elif end == "stall":
        yield STAY
    elif end == "comments":
        while True:
            yield _framed(b": keep-alive\n\n")
            yield Pause(0.005)
    else:
        yield b"0\r\n\r\n"


def _event(data: Mapping[str, Any] | str | bytes, newline: bytes) -> bytes:
    if isinstance(data, bytes):
        return data
    text = data.encode() if isinstance(data, str) else _json(data)
    return b"data: " + text + newline * 2


def _framed(piece: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece) if piece else b""


def _split(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _head(code: int, headers: Mapping[str, str]) -> bytes:
    try:
        phrase = HTTPStatus(code).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {code} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _completion(model: str, text: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-fault",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": _usage(len(_words(text))),
    }


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": _PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": _PROMPT_TOKENS + tokens}


def _words(text: str) -> list[str]:
    """Cut a text after its spaces; joined, the parts are the text."""
    parts = text.split(" ")
    return [f"{part} " for part in parts[:-1]] + [parts[-1]]


def _retry_after(value: float | str | datetime) -> str:
    if isinstance(value, datetime):
        return format_datetime(value, usegmt=True)
    return value if isinstance(value, str) else f"{value:g}"


def _json(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()
