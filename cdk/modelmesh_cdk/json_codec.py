"""JSON to and from bytes: orjson with the ``fast`` extra, the standard library without."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

try:
    import orjson

    _FAST = True
except ImportError:  # the `fast` extra is not installed
    _FAST = False


def encode_json(value: Any) -> bytes:
    """Return JSON as UTF-8, without spaces."""
    if _FAST:
        # orjson refuses what the standard library takes, such as integers beyond 64 bits and keys that are numbers.
        with suppress(TypeError):
            return orjson.dumps(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def decode_json(text: bytes) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: It is no JSON.
    """
    return orjson.loads(text) if _FAST else json.loads(text)
