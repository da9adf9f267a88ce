"""What callers send: read within a limit, parsed, and checked before a provider sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request

from modelmesh.interfaces.provider import Upload
from modelmesh_cdk.json_codec import decode_json
from modelmesh_plugins.server.errors import ApiError

REFUSED = frozenset(
    {
        "api_base",
        "api_key",
        "api_type",
        "api_version",
        "azure_endpoint",
        "base_url",
        "custom_llm_provider",
        "default_headers",
        "default_query",
        "endpoint",
        "extra_body",
        "extra_headers",
        "extra_query",
        "headers",
        "http_client",
        "organization",
        "proxies",
        "proxy",
    }
)
"""Fields that would send the request elsewhere, or with other credentials, than the configuration says."""


async def read_object(request: Request, *, limit: int) -> dict[str, Any]:
    """Return the JSON object in a request's body.

    Raises:
        ApiError: 400, it is no JSON object; 413, it has more than ``limit`` bytes.
    """
    text = await read_bytes(request, limit=limit)
    if not text.strip():
        raise ApiError(400, "the body is empty; send a JSON object", code="invalid_json")
    try:
        body = decode_json(text)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is no valid JSON; send a JSON object", code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, f"the body must be a JSON object, not {_name(body)}", code="invalid_json")
    return body


async def read_bytes(request: Request, *, limit: int) -> bytes:
    """Return a request's body.

    Raises:
        ApiError: 413, it has more than ``limit`` bytes.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        if request.headers.get("expect", "").lower() != "100-continue":
            await _discard(request, limit)
        raise _too_large(limit)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


async def _discard(request: Request, limit: int, seconds: float = 5.0) -> None:
    """Read some of a body that is too large: closing on a client that still sends would lose it the answer."""
    left = 4 * limit
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                left -= len(part)
                if left < 0:
                    return


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body is too large; this server takes {limit} bytes",
        code="request_too_large",
        headers={"connection": "close"},
    )


# --- checks ---------------------------------------------------------------------------


def check_chat(body: Mapping[str, Any]) -> None:
    """Refuse a chat request that no provider could make sense of; fields nobody knows here pass.

    Raises:
        ApiError: 400; ``param`` names the field.
    """
    _check(body, _CHAT)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "must be a list of at least one message", messages)
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if not isinstance(message, dict):
            raise _wrong(where, "must be an object", message)
        if not isinstance(message.get("role"), str) or not message["role"]:
            raise _wrong(f"{where}.role", "must be a string such as 'user'", message.get("role"))
        if not isinstance(message.get("content"), str | list | None):
            raise _wrong(f"{where}.content", "must be a string, a list of parts, or null", message["content"])
    for name in ("tools", "functions"):
        for place, tool in enumerate(body.get(name) or ()):
            if not isinstance(tool, dict):
                raise _wrong(f"{name}[{place}]", "must be an object", tool)
    if body.get("stream_options") is not None and not body.get("stream"):
        raise ApiError(400, "'stream_options' is only allowed together with 'stream': true", param="stream_options")


def check_embeddings(body: Mapping[str, Any]) -> None:
    """Refuse an embeddings request that no provider could make sense of.

    Raises:
        ApiError: 400; ``param`` names the field.
    """
    _check(body, _EMBEDDINGS)
    texts = body.get("input")
    if isinstance(texts, str) and texts:
        return
    whole = isinstance(texts, list) and bool(texts)
    if not whole or not (_all(texts, str) or _all(texts, int) or all(_all(each, int) for each in texts or ())):
        raise _wrong("input", "must be a text, a list of texts, or tokens, and not empty", texts)


def check_speech(body: Mapping[str, Any]) -> None:
    """Refuse a speech request that no provider could make sense of.

    Raises:
        ApiError: 400; ``param`` names the field.
    """
    _check(body, _SPEECH)
    _refuse_stream(body)
    if not isinstance(body.get("input"), str) or not body["input"].strip():
        raise _wrong("input", "must be the text to speak", body.get("input"))
    if not isinstance(body.get("voice"), str | dict) or not body["voice"]:
        raise _wrong("voice", "must be the name of a voice", body.get("voice"))


def check_transcription(body: Mapping[str, Any]) -> None:
    """Refuse a transcription request that no provider could make sense of.

    Raises:
        ApiError: 400; ``param`` names the field.
    """
    _check(body, _TRANSCRIPTION)
    _refuse_stream(body)
    file = body.get("file")
    if not isinstance(file, Upload):
        raise _wrong("file", "must be a recording, sent as a file of a form", file)
    if not file.content:
        raise ApiError(400, "'file' has nothing in it", code="invalid_value", param="file")


def check_image(body: Mapping[str, Any]) -> None:
    """Refuse an image request that no provider could make sense of.

    Raises:
        ApiError: 400; ``param`` names the field.
    """
    _check(body, _IMAGE)
    _refuse_stream(body)
    if not isinstance(body.get("prompt"), str) or not body["prompt"].strip():
        raise _wrong("prompt", "must say what the picture shows", body.get("prompt"))


def _refuse_stream(body: Mapping[str, Any]) -> None:
    for name, asked in (("stream", True), ("stream", "true"), ("stream_format", "sse")):
        if body.get(name) == asked:
            raise ApiError(400, f"'{name}': this answer is not streamed; leave it out", param=name, code="unsupported")


def _check(body: Mapping[str, Any], fields: Mapping[str, _Rule]) -> None:
    for name in body:
        if name in REFUSED:
            raise ApiError(
                400,
                f"'{name}' is not taken from callers: where a request goes is the server's configuration",
                code="field_not_allowed",
                param=name,
            )
    model = body.get("model")
    if not isinstance(model, str) or not model.strip():
        raise _wrong("model", "must be the name of a pool or a model", model)
    for name, (fits, wanted) in fields.items():
        value = body.get(name)
        if value is not None and not fits(value):
            raise _wrong(name, wanted, value)


def _wrong(param: str, wanted: str, value: object) -> ApiError:
    given = "it is missing" if value is None else f"it is {_name(value)}"
    return ApiError(400, f"'{param}' {wanted}; {given}", code="invalid_type", param=param)


def _name(value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    for kind, name in _NAMES:
        if isinstance(value, kind):
            return name if value else f"{name} with nothing in it"
    return f"a number, {str(value)[:_MOST_DIGITS]}" if isinstance(value, int | float) else "null"


_NAMES: tuple[tuple[type, str], ...] = (
    (str, "a string"),
    (list, "a list"),
    (dict, "an object"),
)
_MOST_DIGITS = 24

_Rule = tuple[Callable[[Any], bool], str]


def _all(values: object, kind: type) -> bool:
    return (
        isinstance(values, list)
        and bool(values)
        and all(isinstance(each, kind) and not isinstance(each, bool) for each in values)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_BOOLEAN: _Rule = (lambda value: isinstance(value, bool), "must be true or false")
_NUMBER: _Rule = (_is_number, "must be a number")
_COUNT: _Rule = (_is_count, "must be a whole number of at least 1")
_STRING: _Rule = (lambda value: isinstance(value, str), "must be a string")
_OBJECT: _Rule = (lambda value: isinstance(value, dict), "must be an object")
_LIST: _Rule = (lambda value: isinstance(value, list), "must be a list")
_STRING_OR_OBJECT: _Rule = (lambda value: isinstance(value, str | dict), "must be a string or an object")

_CHAT: Mapping[str, _Rule] = {
    "stream": _BOOLEAN,
    "stream_options": _OBJECT,
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "presence_penalty": _NUMBER,
    "frequency_penalty": _NUMBER,
    "max_tokens": _COUNT,
    "max_completion_tokens": _COUNT,
    "n": _COUNT,
    "stop": (lambda value: isinstance(value, str) or _all(value, str), "must be a string or a list of strings"),
    "tools": _LIST,
    "functions": _LIST,
    "tool_choice": _STRING_OR_OBJECT,
    "response_format": _OBJECT,
    "logit_bias": _OBJECT,
    "user": _STRING,
    "metadata": _OBJECT,
}

_EMBEDDINGS: Mapping[str, _Rule] = {
    "dimensions": _COUNT,
    "encoding_format": (lambda value: value in ("float", "base64"), "must be 'float' or 'base64'"),
    "user": _STRING,
}

_SPEECH: Mapping[str, _Rule] = {
    "speed": _NUMBER,
    "instructions": _STRING,
    "response_format": _STRING,
}

_TRANSCRIPTION: Mapping[str, _Rule] = {
    "language": _STRING,
    "prompt": _STRING,
    "response_format": _STRING,
    "temperature": _NUMBER,
}

_IMAGE: Mapping[str, _Rule] = {
    "n": _COUNT,
    "size": _STRING,
    "quality": _STRING,
    "style": _STRING,
    "response_format": _STRING,
    "user": _STRING,
}
