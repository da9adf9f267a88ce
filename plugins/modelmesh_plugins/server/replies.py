"""Answers on their way out: JSON bodies, errors, and the headers that name who answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from modelmesh.router import Answer
from modelmesh_cdk.json_codec import encode_json
from modelmesh_plugins.server.errors import ApiError

RenderError = Callable[[ApiError], dict[str, Any]]
"""Returns an error's body, without secrets."""


def json_reply(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON answer."""
    return Response(encode_json(body), status, headers=headers, media_type="application/json")


def answered_by(request_id: str, model_id: str | None = None, provider_id: str | None = None) -> dict[str, str]:
    """Return the headers that say which request this was, and who answered it."""
    headers = {"x-request-id": request_id}
    if model_id is not None:
        headers["x-modelmesh-model"] = _in_header(model_id)
    if provider_id is not None:
        headers["x-modelmesh-provider"] = _in_header(provider_id)
    return headers


def headers_of(answer: Answer) -> dict[str, str]:
    """Return the headers of an answer that the mesh gave."""
    headers = answered_by(answer.receipt.request_id, answer.model_id, answer.provider_id)
    headers["x-modelmesh-attempts"] = str(len(answer.receipt.attempts))
    return headers


def _in_header(name: str) -> str:
    """Spell a configured name, which may have any character, in those that headers may have."""
    return quote(name, safe=" !#$&'()*+,/:;=?@[]~")
