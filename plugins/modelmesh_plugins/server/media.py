"""The endpoints for speech, transcriptions and pictures."""

from __future__ import annotations

import base64
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from modelmesh.interfaces.provider import Operation, Upload
from modelmesh.media import SpeechAudio
from modelmesh.mesh import ModelMesh
from modelmesh.router import Answer
from modelmesh_plugins.server.body import (
    check_image,
    check_speech,
    check_transcription,
    read_bytes,
    read_object,
)
from modelmesh_plugins.server.disconnect import unless_disconnected
from modelmesh_plugins.server.endpoints import metadata_of
from modelmesh_plugins.server.errors import ApiError
from modelmesh_plugins.server.form import Part, parse_form
from modelmesh_plugins.server.replies import headers_of, json_reply
from modelmesh_plugins.server.settings import ServerSettings

_PLAIN = frozenset({"text", "srt", "vtt"})
"""Formats of transcriptions whose answers are text and no JSON."""

_NUMBERS = frozenset({"temperature"})
_FORM = "multipart/form-data"


class MediaEndpoints:
    """Answers requests for speech, transcriptions and pictures from a mesh.

    Args:
        mesh: An initialised mesh.
        settings: Of the server.
    """

    def __init__(self, mesh: ModelMesh, settings: ServerSettings) -> None:
        self._mesh = mesh
        self._settings = settings

    async def speech(self, request: Request) -> Response:
        """``POST /v1/audio/speech``: the audio file itself."""
        body = await read_object(request, limit=self._settings.max_body)
        check_speech(body)
        answer = await self._execute("speech", request, body)
        audio = SpeechAudio.of(answer)
        return Response(bytes(audio), headers={**headers_of(answer), "content-type": audio.content_type})

    async def transcriptions(self, request: Request) -> Response:
        """``POST /v1/audio/transcriptions``: a form with the recording, or JSON with it in base64."""
        body = await self._recording(request)
        check_transcription(body)
        shape = body.get("response_format")
        answer = await self._execute("transcription", request, body)
        if shape in _PLAIN:
            return Response(
                str(answer.data.get("text", "")), headers=headers_of(answer), media_type="text/plain; charset=utf-8"
            )
        return json_reply(answer.data, headers=headers_of(answer))

    async def images(self, request: Request) -> Response:
        """``POST /v1/images/generations``."""
        body = await read_object(request, limit=self._settings.max_body)
        check_image(body)
        answer = await self._execute("image", request, body)
        return json_reply(answer.data, headers=headers_of(answer))

    async def _execute(self, operation: Operation, request: Request, body: dict[str, Any]) -> Answer:
        metadata = metadata_of(request, body)
        work = self._mesh.get_router().execute(operation, body.pop("model"), body, metadata=metadata)
        return await unless_disconnected(request.receive, work)

    async def _recording(self, request: Request) -> dict[str, Any]:
        content_type = request.headers.get("content-type", "")
        if not content_type.lower().startswith(_FORM):
            body = await read_object(request, limit=self._settings.max_body)
            return _decoded(body)
        sent = await read_bytes(request, limit=self._settings.max_body)
        try:
            return _object(parse_form(content_type, sent))
        except ValueError as error:
            raise ApiError(400, f"the body is no form that can be read: {error}", code="invalid_form") from None


def _object(parts: list[Part]) -> dict[str, Any]:
    """Return a form as the object it would be in JSON.

    Raises:
        ValueError: A field holds what it may not.
    """
    body: dict[str, Any] = {}
    for part in parts:
        if part.filename is not None:
            body[part.name] = Upload(part.content, part.filename or "audio.wav", part.content_type)
        elif part.name.endswith("[]"):
            body.setdefault(part.name.removesuffix("[]"), []).append(part.text)
        else:
            body[part.name] = _number(part) if part.name in _NUMBERS else part.text
    return body


def _number(part: Part) -> Any:
    """Return what a field says as a number; as it is when it is none, for the check to refuse."""
    try:
        number = json.loads(part.text)
    except ValueError:
        return part.text
    return number if isinstance(number, int | float) else part.text


def _decoded(body: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON body with its recording as bytes."""
    text = body.get("file")
    if not isinstance(text, str) or not text:
        return body
    try:
        content = base64.b64decode(text.partition("base64,")[2] or text, validate=True)
    except ValueError:
        message = "'file' is no base64; send it so, or send a form"
        raise ApiError(400, message, code="invalid_value", param="file") from None
    name = body.pop("filename", None)
    body["file"] = Upload(content, name if isinstance(name, str) and name else "audio.wav")
    return body
