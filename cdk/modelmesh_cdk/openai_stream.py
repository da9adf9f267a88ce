"""From the events of an OpenAI-style stream to chunks, with everything real servers do to such streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modelmesh.errors import MalformedResponseError, StreamInterruptedError
from modelmesh.interfaces.provider import ProviderChunk, TokenUsage
from modelmesh_cdk.json_codec import decode_json
from modelmesh_cdk.provider import has_content, usage_of
from modelmesh_cdk.provider_errors import error_in_band
from modelmesh_cdk.sse import ServerSentEvent


class OpenAIStreamDecoder:
    """Decodes one stream.

    The terminal signal is a ``finish_reason`` for every choice that was begun, or ``[DONE]``; a stream that ends
    without either was cut. What comes after ``[DONE]`` is not read.

    Args:
        model: Put into chunks that the decoder has to make up itself.

    Attributes:
        is_done: Whether ``[DONE]`` came.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._open: set[int] = set()
        self._closed: set[int] = set()
        self._last: dict[str, Any] = {}
        self.is_done = False

    def decode(self, event: ServerSentEvent) -> Iterator[ProviderChunk]:
        """Yield the chunks of one event; most have one.

        Raises:
            MalformedResponseError: It is no chunk.
            ProviderError: It is an error of the provider's.
        """
        if self.is_done:
            return
        if event.data.strip() == b"[DONE]":
            self.is_done = True
            yield from self._finish()
            return
        if not event.data.strip():
            return
        try:
            data = decode_json(event.data)
        except (ValueError, RecursionError):
            if event.event == "error":
                raise error_in_band(event.data.decode(errors="replace"), {}) from None
            raise MalformedResponseError("a chunk of the stream is no JSON", status_code=200) from None
        if event.event == "error" and not isinstance(data, dict):
            raise error_in_band(data, {})
        if not isinstance(data, dict):
            raise MalformedResponseError("a chunk of the stream is no JSON object", status_code=200)
        # vLLM's older servers send the error itself as a chunk, marked by its object.
        if data.get("error") or event.event == "error" or data.get("object") == "error":
            raise error_in_band(data.get("error") or data, {})
        yield self._chunk(data, event.data)

    def end(self) -> None:
        """Judge a stream whose bytes have ended.

        Raises:
            StreamInterruptedError: Nothing said that the answer is whole.
        """
        if not self.is_done and (self._open - self._closed or not self._closed):
            raise StreamInterruptedError("the stream ended without its terminal signal", status_code=None)

    def _chunk(self, data: dict[str, Any], raw: bytes) -> ProviderChunk:
        choices = data.get("choices")
        usage = usage_of(data.get("usage")) or _usage_of_groq(data)
        if not isinstance(choices, list):
            if usage is None and not isinstance(data.get("usage"), dict):
                raise MalformedResponseError("a chunk of the stream has no choices", status_code=200)
            choices = []
        self._last = data
        text = ""
        commits = False
        finish: str | None = None
        for choice in choices:
            if not isinstance(choice, dict):
                raise MalformedResponseError("a choice of a chunk is no JSON object", status_code=200)
            raw_index = choice.get("index")
            index = raw_index if isinstance(raw_index, int) else 0
            delta = choice.get("delta")
            reason = choice.get("finish_reason")
            if reason == "error":
                raise error_in_band(choice.get("error") or {"message": "the provider failed while answering"}, {})
            self._open.add(index)
            if isinstance(delta, dict):
                if index == 0 and isinstance(delta.get("content"), str):
                    text += delta["content"]
                commits = commits or has_content(delta)
            # Some servers write "" where the others write null; taken for an end, it would hide a cut.
            if isinstance(reason, str) and reason:
                self._closed.add(index)
                finish = reason
        if finish is not None and self._open - self._closed:
            finish = None  # other choices still go on
        return ProviderChunk(data, text, commits, finish, usage, raw)

    def _finish(self) -> Iterator[ProviderChunk]:
        """Yield the end that a server left out before ``[DONE]``."""
        if not self._open:
            raise StreamInterruptedError("the stream ended before its first chunk")
        unfinished = sorted(self._open - self._closed)
        if unfinished:
            data = {
                **{name: self._last.get(name) for name in ("id", "created")},
                "object": "chat.completion.chunk",
                "model": self._last.get("model", self._model),
                "choices": [{"index": index, "delta": {}, "finish_reason": "stop"} for index in unfinished],
            }
            yield ProviderChunk(data, finish_reason="stop")


def _usage_of_groq(data: dict[str, Any]) -> TokenUsage | None:
    """Return the usage that Groq puts aside (https://console.groq.com/docs/api-reference, November 2026)."""
    aside = data.get("x_groq")
    return usage_of(aside.get("usage")) if isinstance(aside, dict) else None
