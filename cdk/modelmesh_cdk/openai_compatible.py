"""OpenAICompatibleProvider: for every API that speaks OpenAI's language, with a hook for each thing that may differ.

Wire format: https://platform.openai.com/docs/api-reference/chat. A vendor that differs in one respect overrides one
hook: its URL (`_get_completion_endpoint`), its headers (`_build_headers`), its body (`_build_request_payload`,
`_parse_response`), its stream (`_new_stream_decoder`), its limits (`_parse_rate_limits`), its errors (`_parse_error`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, ClassVar, Self, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from modelmesh.config.durations import PositiveDuration
from modelmesh.config.section import StatusCode
from modelmesh.errors import (
    AuthenticationError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderError,
    ProviderServerError,
    UnsupportedRequestError,
)
from modelmesh.interfaces.provider import (
    ModelInfo,
    ProviderChunk,
    ProviderRequest,
    ProviderResponse,
    RateLimitStatus,
    Timeouts,
    TokenUsage,
)
from modelmesh_cdk.authentication import HEADER_NAME, AuthConfig, KeyedURL, sendable
from modelmesh_cdk.form import encode_form
from modelmesh_cdk.http import Http, HttpReply, HttpStream
from modelmesh_cdk.json_codec import encode_json, not_finite
from modelmesh_cdk.openai_stream import OpenAIStreamDecoder
from modelmesh_cdk.provider import BaseProvider, BaseProviderConfig, chunks_of, usage_of
from modelmesh_cdk.provider_errors import error_from_status, error_in_band
from modelmesh_cdk.rate_limits import parse_rate_limits
from modelmesh_cdk.sse import SSEParser

_VERSIONED = re.compile(r"/(?:v\d+(?:beta\d*|alpha\d*)?|openai)(?:/openai)?/?$")
_PORTS = 65_536
_HOST = re.compile(r"[\w.:\-]+")
_PASSED_ON = ("x-request-id", "openai-processing-ms", "x-generation-id")


class ErrorCodesConfig(BaseModel):
    """What a provider's statuses mean, where they differ from the usual."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    retryable_codes: tuple[StatusCode, ...] = Field(
        default=(),
        description="Statuses after which the same call may succeed a moment later, also those of mistakes and keys.",
    )
    non_retryable_codes: tuple[StatusCode, ...] = Field(
        default=(), description="Statuses after which it cannot. Lists that a pool names itself win over both."
    )

    @model_validator(mode="after")
    def _is_clear(self) -> ErrorCodesConfig:
        both = sorted(set(self.retryable_codes) & set(self.non_retryable_codes))
        if both:
            raise ValueError(f"{both[0]} stands in retryable_codes and in non_retryable_codes; keep one")
        return self


class OpenAICompatibleConfig(BaseProviderConfig):
    """Settings of a provider that speaks OpenAI's language."""

    base_url: str = Field(description="Such as https://api.openai.com/v1; /v1 is added where no version stands.")
    api_key: SecretStr = Field(
        default=SecretStr(""),
        description="Sent as a bearer token, or as auth says; write it as ${secrets:NAME}. Empty for none.",
    )
    auth: AuthConfig = Field(default=AuthConfig(), description="How the key is sent.")
    timeout: PositiveDuration | None = Field(
        default=None, description="Whole request (duration); by default the pool's."
    )
    max_retries: Annotated[int, Field(strict=True)] = Field(
        default=0, description="Only 0: the mesh itself repeats calls, as the pool's retry.max_attempts says."
    )
    error: ErrorCodesConfig = Field(default=ErrorCodesConfig(), description="What the provider's statuses mean.")
    organization: str | None = Field(default=None, description="Sent as OpenAI-Organization.")
    project: str | None = Field(default=None, description="Sent as OpenAI-Project.")
    headers: dict[str, SecretStr] = Field(default={}, description="Further headers to send.")
    extra_body: dict[str, Any] = Field(default={}, description="Further fields of every request's body.")
    query: dict[str, str] = Field(default={}, description="Further parameters of every URL, such as api-version.")
    stream_usage: bool = Field(default=True, description="Whether to ask for token counts at the end of streams.")

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        # No scheme is guessed: http for a server somewhere else would send the key for everybody to read.
        try:
            url = httpx.URL(value.strip())
        except httpx.InvalidURL:
            url = httpx.URL("")
        is_port = url.port is None or 0 < url.port < _PORTS
        if url.scheme not in ("http", "https") or not _HOST.fullmatch(url.host) or not is_port:
            raise ValueError("must be an http or https URL; write it as https://HOST/v1 or http://HOST:PORT/v1")
        if url.userinfo:
            raise ValueError("must not hold credentials; use api_key")
        return str(url).rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _can_be_sent(cls, value: SecretStr) -> SecretStr:
        return sendable(value)

    @field_validator("max_retries")
    @classmethod
    def _leaves_it_to_the_mesh(cls, value: int) -> int:
        # A connector that repeats calls would do so beside every limit, and several times for each of the mesh's.
        if value != 0:
            raise ValueError("must be 0: the mesh itself repeats calls; set retry.max_attempts in the pool")
        return value

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            if not HEADER_NAME.fullmatch(name):
                raise ValueError("a header's name holds a character that none can; use letters, digits and hyphens")
            sendable(value)
        return headers

    @model_validator(mode="after")
    def _has_what_it_sends(self) -> Self:
        if "auth" in self.model_fields_set and self.auth.needs_key() and "api_key" not in self.model_fields_set:
            raise ValueError("auth says how api_key is sent, and there is none; add api_key: ${secrets:NAME}")
        return self


ConfigT = TypeVar("ConfigT", bound=OpenAICompatibleConfig)


class OpenAICompatibleProvider(BaseProvider[ConfigT]):
    """Chat completions, embeddings, images, speech and transcriptions over OpenAI's HTTP API."""

    config_model: ClassVar[type[BaseProviderConfig]] = OpenAICompatibleConfig

    def __init__(self, config: ConfigT | None = None, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        super().__init__(config)
        self.http = Http(transport=transport)
        self._urls: dict[str, httpx.URL] = {}
        self._clocks = Timeouts(None, None, None, self.config.timeout)
        base = self.config.base_url
        self._base = base if _VERSIONED.search(base) else f"{base}/v1"

    # --- hooks --------------------------------------------------------------------

    def _build_headers(self, request: ProviderRequest | None = None) -> dict[str, str]:
        """Return the headers of a request; the one place where the key is revealed."""
        headers = {"content-type": "application/json", "accept": "application/json"}
        if self.config.organization:
            headers["openai-organization"] = self.config.organization
        if self.config.project:
            headers["openai-project"] = self.config.project
        headers |= {name.lower(): value.get_secret_value() for name, value in self.config.headers.items()}
        # A header that was written out wins.
        headers = self.config.auth.headers(self.config.api_key) | headers
        if request is not None and request.headers:
            headers |= {name.lower(): value for name, value in request.headers.items()}
        return headers

    def _get_completion_endpoint(self, request: ProviderRequest) -> str:
        """Return the URL that answers chats."""
        return self._endpoint("/chat/completions")

    def _build_request_payload(self, request: ProviderRequest) -> dict[str, Any]:
        """Return the body of a chat request."""
        payload = {"model": request.model, **request.payload, **self.config.extra_body}
        if request.stream:
            payload["stream"] = True
            if self.config.stream_usage:
                options = payload.get("stream_options")
                payload["stream_options"] = {"include_usage": True, **(options if isinstance(options, dict) else {})}
        return payload

    def _parse_response(self, data: dict[str, Any]) -> ProviderResponse:
        """Return the answer a body holds.

        Raises:
            ProviderError: The body holds an error, or nothing.
        """
        choices = data.get("choices")
        if not isinstance(choices, list) or not choices:
            raise MalformedResponseError("the answer has no choices", status_code=200)
        for choice in choices:
            if not isinstance(choice, dict):
                raise MalformedResponseError("a choice of the answer is no JSON object", status_code=200)
            if choice.get("finish_reason") == "error":
                raise error_in_band(choice.get("error") or {"message": "the provider failed while answering"}, {})
            if not isinstance(choice.get("message"), dict):
                raise MalformedResponseError("a choice of the answer has no message", status_code=200)
        return ProviderResponse(data, usage=usage_of(data.get("usage")))

    def _new_stream_decoder(self, request: ProviderRequest) -> OpenAIStreamDecoder:
        """Return what turns the events of one stream into chunks."""
        return OpenAIStreamDecoder(request.model)

    def _parse_rate_limits(self, headers: Mapping[str, str]) -> RateLimitStatus | None:
        """Return what headers (names in lower case) say about rate limits."""
        return parse_rate_limits(headers)

    def _parse_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Return the error an HTTP answer means."""
        return error_from_status(status, headers, body)

    # --- answering --------------------------------------------------------------------

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        """Answer whole: a chat, or whatever ``request.operation`` says."""
        if request.operation != "chat":
            return await self._other_operation(request)
        reply = await self._post(self._get_completion_endpoint(request), request, self._build_request_payload(request))
        response = self._parse_response(self._object(reply))
        return self._with_headers(response, reply)

    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        """Answer in chunks."""
        body = _body(self._build_request_payload(request))
        async with self.http.stream(
            "POST",
            self._url(self._get_completion_endpoint(request)),
            lambda: {**self._build_headers(request), "accept": "text/event-stream"},
            body,
            timeouts=self._timeouts(request),
        ) as reply:
            await self._refuse_errors(reply)
            self._note_rate_limits(reply.headers)
            if reply.headers.get("content-type", "").startswith("application/json"):
                whole = HttpReply(reply.status, reply.headers, await reply.read())
                for chunk in chunks_of(self._parse_response(self._object(whole)).data):
                    yield chunk
                return
            async with aclosing(self._decoded(reply, self._new_stream_decoder(request))) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _decoded(self, reply: HttpStream, decoder: OpenAIStreamDecoder) -> AsyncGenerator[ProviderChunk, None]:
        parser = SSEParser()
        async with aclosing(reply.chunks()) as parts:
            async for part in parts:
                for event in parser.feed(part):
                    for chunk in decoder.decode(event):
                        yield chunk
                if decoder.is_done:
                    await reply.finish(parts)
                    return
        for event in parser.close():
            for chunk in decoder.decode(event):
                yield chunk
        decoder.end()

    async def _other_operation(self, request: ProviderRequest) -> ProviderResponse:
        path = _PATHS.get(request.operation)
        if path is None:
            raise UnsupportedRequestError(f"{type(self).__name__} does not do {request.operation}")
        payload = {"model": request.model, **request.payload, **self.config.extra_body}
        if request.operation == "transcription":
            return await self._transcribe(self._endpoint(path), request, payload)
        reply = await self._post(self._endpoint(path), request, payload)
        kind = reply.headers.get("content-type", "")
        if request.operation == "speech" and not kind.startswith("application/json"):
            audio = base64.b64encode(reply.body).decode("ascii")
            return self._with_headers(ProviderResponse({"audio": audio, "content_type": kind}), reply)
        data = self._object(reply)
        return self._with_headers(ProviderResponse(data, usage=_media_usage(data.get("usage"))), reply)

    async def _transcribe(self, url: str, request: ProviderRequest, payload: Mapping[str, Any]) -> ProviderResponse:
        """Send a recording as a form, and read what was written down in whatever format it was asked for."""
        form, body = encode_form(payload)
        reply = await self._post(url, request, body, content_type=form)
        if reply.headers.get("content-type", "").startswith("application/json"):
            data = self._object(reply)
        else:
            text = reply.body.decode("utf-8", "replace")
            # Some send JSON under another name, and plain text for a format that was asked for.
            data = self._object(reply) if text.lstrip().startswith("{") else {"text": text}
        if not isinstance(data.get("text"), str):
            raise MalformedResponseError("the answer has no text", status_code=reply.status)
        return self._with_headers(ProviderResponse(data, usage=_media_usage(data.get("usage"))), reply)

    async def list_models(self) -> Sequence[ModelInfo]:
        """Ask the provider which models it offers."""
        reply = await self.http.send(
            "GET", self._url(self._endpoint("/models")), self._build_headers, timeouts=Timeouts(total=10.0)
        )
        if reply.status >= 400:
            raise self._error(reply.status, reply.headers, reply.body)
        entries = self._object(reply).get("data")
        names = [str(entry["id"]) for entry in entries or () if isinstance(entry, dict) and entry.get("id")]
        return [self.known_models.get(name) or ModelInfo(name, name, self.capabilities) for name in names]

    async def close(self) -> None:
        """Close connections."""
        await self.http.close()

    # --- inside -----------------------------------------------------------------------

    async def _post(
        self, url: str, request: ProviderRequest, payload: Mapping[str, Any] | bytes, *, content_type: str | None = None
    ) -> HttpReply:
        """Send a JSON object, or a body that is ready and of the type that is given."""
        own = {} if content_type is None else {"content-type": content_type}
        reply = await self.http.send(
            "POST",
            self._url(url),
            lambda: {**self._build_headers(request), **own},
            payload if isinstance(payload, bytes) else _body(payload),
            timeouts=self._timeouts(request),
        )
        self._note_rate_limits(reply.headers)
        if reply.status >= 300:
            raise self._error(reply.status, reply.headers, reply.body)
        return reply

    async def _refuse_errors(self, reply: HttpStream) -> None:
        if reply.status >= 300:
            error = self._error(reply.status, reply.headers, await reply.read())
            self._note_rate_limits(reply.headers)
            raise error

    def _error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Return the error an HTTP answer means, with what the configuration says of its status."""
        error = self._parse_error(status, headers, body)
        codes = self.config.error
        if status in codes.retryable_codes:
            if isinstance(error, (InvalidRequestError, AuthenticationError)):
                # What would be the caller's mistake or a wrong key is here said to be a hiccup of the service.
                error = ProviderServerError(error.message, status_code=status, code=error.code)
            error.retryable = error.retryable_by_settings = True
        elif status in codes.non_retryable_codes:
            error.retryable = error.retryable_by_settings = False
        return error

    def _object(self, reply: HttpReply) -> dict[str, Any]:
        """Return a body that must be a JSON object and no error."""
        data = reply.json()
        if not isinstance(data, dict):
            raise MalformedResponseError("the answer is no JSON object", status_code=reply.status)
        if data.get("error"):
            raise error_in_band(data["error"], reply.headers)
        return data

    def _with_headers(self, response: ProviderResponse, reply: HttpReply) -> ProviderResponse:
        response.rate_limits = self._rate_limits
        response.headers = {name: reply.headers[name] for name in _PASSED_ON if name in reply.headers}
        return response

    def _note_rate_limits(self, headers: Mapping[str, str]) -> None:
        limits = self._parse_rate_limits(headers)
        if limits is not None:
            self._rate_limits = limits

    def _timeouts(self, request: ProviderRequest) -> Timeouts:
        """Return what the transport watches: the connection, and the provider's own limit; the rest is the engine's."""
        connect = request.timeouts.connect
        if self._clocks.connect != connect:
            self._clocks = Timeouts(connect, None, None, self.config.timeout)
        return self._clocks

    def _endpoint(self, path: str) -> str:
        return self._base + path

    def _url(self, text: str) -> httpx.URL:
        """Return a parsed URL; parsing costs more than the look-up, and there are few."""
        url = self._urls.get(text)
        if url is None:
            url = httpx.URL(text)
            if self.config.query:
                url = url.copy_merge_params(self.config.query)
            secret = self.config.auth.query(self.config.api_key)
            if secret:
                url = KeyedURL(url.copy_merge_params(secret))
            if len(self._urls) < 1_000:
                self._urls[text] = url
        return url


def _body(payload: Mapping[str, Any]) -> bytes:
    """Return a request as it is sent.

    Raises:
        InvalidRequestError: JSON has no form for something in it; no provider is to blame, nor would another answer.
    """
    try:
        body = encode_json(payload)
        # A NaN becomes a null, so only where one stands need it be looked for.
        wrong = not_finite(payload) if b"null" in body else None
    except (TypeError, ValueError, RecursionError) as error:
        # Names types and never values.
        raise InvalidRequestError(f"the request cannot be written as JSON: {error}") from None
    if wrong is not None:
        raise InvalidRequestError(f"the request cannot be written as JSON: {wrong} is not a finite number")
    return body


def _media_usage(raw: object) -> TokenUsage | None:
    """Return the usage of an answer that may count under the names of OpenAI's newer operations."""
    if isinstance(raw, Mapping) and ("input_tokens" in raw or "output_tokens" in raw):
        renamed = {"prompt_tokens": raw.get("input_tokens"), "completion_tokens": raw.get("output_tokens")}
        return usage_of({**raw, **renamed})
    return usage_of(raw)


_PATHS: Mapping[str, str] = {
    "embeddings": "/embeddings",
    "image": "/images/generations",
    "speech": "/audio/speech",
    "transcription": "/audio/transcriptions",
}
