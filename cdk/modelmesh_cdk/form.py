"""Forms with files, as transcriptions are asked for (RFC 7578)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from mimetypes import guess_type
from typing import Any

import httpx

from modelmesh.interfaces.provider import Upload


def encode_form(payload: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return the content type and the bytes of a form.

    Args:
        payload: Uploads become files; lists become a field for each item, named ``name[]`` as OpenAI's clients do.
    """
    fields: dict[str, list[str]] = {}
    files: list[tuple[str, tuple[str, bytes, str]]] = []
    for name, value in payload.items():
        if isinstance(value, Upload):
            kind = value.content_type or guess_type(value.name)[0] or "application/octet-stream"
            files.append((name, (value.name, value.content, kind)))
        else:
            for field, text in _fields(name, value):
                fields.setdefault(field, []).append(text)
    request = httpx.Request("POST", "http://form/", data=fields, files=files)
    return request.headers["content-type"], request.read()


def _fields(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _fields(f"{name}[]", item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _fields(f"{name}[{key}]", item)
    elif isinstance(value, bool):
        yield name, "true" if value else "false"
    elif value is not None:
        yield name, str(value)
