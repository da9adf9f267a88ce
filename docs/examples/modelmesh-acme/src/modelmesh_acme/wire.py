"""Acme's wire format: OpenAI's messages to turns, turns to answers, faults to errors. Pure, without I/O.

A conversation goes out as ``{"engine", "tone", "turns": [{"who", "says"}], "words_out"?, "warmth"?, "stream"?}``. The
whole answer is ``{"ref", "says", "ended", "metered": {"heard", "spoken"}}``. A streamed answer is one JSON object a
line, ``{"says"}`` for each piece and at last ``{"ended", "metered"}``. Trouble is
``{"fault": {"kind", "says", "wait_ms"?}}``, with a status of its own or as a line of a stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from modelmesh.errors import (
    AuthenticationError,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    StreamInterruptedError,
    UnsupportedRequestError,
)
from modelmesh.interfaces.provider import ProviderChunk, ProviderRequest, ProviderResponse, TokenUsage
from modelmesh.redaction import Redactor
from modelmesh_cdk.json_codec import decode_json
from modelmesh_cdk.provider_errors import error_from_status

MAX_LINE_BYTES = 1024 * 1024

_WHO = {"system": "guide", "developer": "guide", "user": "person", "assistant": "acme"}
_ENDED = {"done": "stop", "cut_short": "length"}
_FAULTS: Mapping[str, type[ProviderError]] = {
    "bad_key": AuthenticationError,
    "busy": RateLimitError,
    "misspoken": InvalidRequestError,
    "no_such_engine": UnsupportedRequestError,
    "overdrawn": QuotaExhaustedError,
    "too_long": ContextLengthError,
    "unspeakable": ContentFilterError,
}
_BEYOND_ACME = ("tools", "functions", "response_format", "logprobs", "modalities", "audio")
"""Parameters whose answer would be another one without them, and for which Acme has no word."""


# --- out ------------------------------------------------------------------------------


def to_wire(request: ProviderRequest, *, tone: str) -> dict[str, Any]:
    """Return the body Acme wants.

    Raises:
        UnsupportedRequestError: Acme cannot do what is asked; another model of the pool may.
    """
    payload = request.payload
    beyond = [name for name in _BEYOND_ACME if payload.get(name)]
    if payload.get("n") not in (None, 1):
        beyond.append("n")
    if beyond:
        raise UnsupportedRequestError(f"acme has no {', '.join(beyond)}")
    body: dict[str, Any] = {
        "engine": request.model,
        "tone": tone,
        "turns": [_turn(message) for message in request.messages],
    }
    words = payload.get("max_completion_tokens") or payload.get("max_tokens")
    if words is not None:
        body["words_out"] = words
    if payload.get("temperature") is not None:
        body["warmth"] = payload["temperature"]
    if request.stream:
        body["stream"] = True
    return body


def _turn(message: Mapping[str, Any]) -> dict[str, str]:
    who = _WHO.get(str(message.get("role")))
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    if who is None or any(not isinstance(part, Mapping) or part.get("type") != "text" for part in parts):
        raise UnsupportedRequestError("acme takes text from people, guides and itself, and nothing else")
    return {"who": who, "says": "".join(str(part.get("text", "")) for part in parts)}


# --- in -------------------------------------------------------------------------------


def from_wire(reply: object, *, model: str, created: int) -> ProviderResponse:
    """Return the answer a body holds.

    Raises:
        MalformedResponseError: It holds none.
    """
    if not isinstance(reply, Mapping) or not isinstance(reply.get("says"), str):
        raise MalformedResponseError("acme's answer says nothing", status_code=200)
    usage = _usage(reply.get("metered"))
    return ProviderResponse.text(
        reply["says"],
        model=model,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        finish_reason=_ENDED.get(str(reply.get("ended")), "stop"),
        response_id=str(reply.get("ref", "")),
        created=created,
    )


class StreamDecoder:
    """From the bytes of one stream to chunks, however they are cut.

    Args:
        model: Named in the chunks.
        created: Unix time, named in the chunks.

    Attributes:
        is_done: Whether Acme said that the answer has ended.
    """

    def __init__(self, *, model: str, created: int) -> None:
        self._base = {"id": "acme-stream", "object": "chat.completion.chunk", "created": created, "model": model}
        self._rest = b""
        self._said: list[str] = []
        self.is_done = False

    def feed(self, data: bytes) -> Iterator[ProviderChunk]:
        """Yield the chunks these bytes complete.

        Raises:
            ProviderError: A line is a fault, or is no line of Acme's.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise MalformedResponseError("acme's line does not end", status_code=200)
        for line in lines:
            if line.strip() and not self.is_done:
                yield self._chunk(line)

    def end(self) -> None:
        """Judge a stream whose bytes are over.

        Raises:
            StreamInterruptedError: It was cut; an answer is whole only when Acme says so.
        """
        if not self.is_done:
            raise StreamInterruptedError("acme's stream ended in mid-speech", partial="".join(self._said))

    def _chunk(self, line: bytes) -> ProviderChunk:
        try:
            record = decode_json(line)
        except ValueError:
            raise MalformedResponseError("a line of acme's stream is no JSON", status_code=200) from None
        if not isinstance(record, Mapping):
            raise MalformedResponseError("a line of acme's stream is no JSON object", status_code=200)
        if "fault" in record:
            raise error_of(None, record)
        if "ended" in record:
            return self._last(record)
        text = record.get("says")
        if not isinstance(text, str):
            raise MalformedResponseError("a line of acme's stream says nothing", status_code=200)
        delta = {"content": text} if self._said else {"role": "assistant", "content": text}
        self._said.append(text)
        return ProviderChunk(self._data(delta), text=text, commits=bool(text))

    def _last(self, record: Mapping[str, Any]) -> ProviderChunk:
        self.is_done = True
        finish = _ENDED.get(str(record["ended"]), "stop")
        usage = _usage(record.get("metered"))
        data = self._data({}, finish)
        data["usage"] = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        }
        return ProviderChunk(data, finish_reason=finish, usage=usage)

    def _data(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**self._base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def _usage(metered: object) -> TokenUsage:
    heard, spoken = (
        value if isinstance(value, int) and value >= 0 else 0
        for value in (metered.get(name) if isinstance(metered, Mapping) else None for name in ("heard", "spoken"))
    )
    return TokenUsage(heard, spoken, heard + spoken)


# --- trouble --------------------------------------------------------------------------


def error_of(
    status: int | None, body: bytes | Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> ProviderError:
    """Return the error a fault means; a fault of no known kind means what its HTTP status does.

    Args:
        status: Of the answer; None for a fault inside a stream.
        body: As it came, or parsed.
        headers: Of the answer, names in lower case.
    """
    fault = _fault(body)
    kind = _FAULTS.get(str(fault.get("kind")))
    if kind is None:
        return error_from_status(status or 500, headers or {}, {"error": {"message": str(fault.get("says", ""))}})
    # What a stranger's server says may repeat the key it was sent.
    said = Redactor().text(str(fault.get("says", "")))[:300]
    wait = fault.get("wait_ms")
    facts: dict[str, Any] = {
        "status_code": status,
        "code": str(fault["kind"]),
        "retry_after": wait / 1000 if isinstance(wait, (int, float)) and wait >= 0 else None,
    }
    if kind is QuotaExhaustedError:
        facts["scope"] = "provider"  # one purse pays for all of Acme's engines
    return kind(f"acme: {fault['kind']}: {said}", **facts)


def _fault(body: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    record: object = body
    if isinstance(body, bytes):
        try:
            record = decode_json(body)
        except ValueError:
            return {}
    fault = record.get("fault") if isinstance(record, Mapping) else None
    return fault if isinstance(fault, Mapping) else {}
