"""JSON to and from bytes: orjson with the ``fast`` extra, the standard library without."""

from __future__ import annotations

import json
from typing import Any

try:
    import orjson

    _FAST = True
except ImportError:  # the `fast` extra is not installed
    _FAST = False


def encode_json(value: Any) -> bytes:
    """Return JSON as UTF-8, without spaces.

    Raises:
        TypeError: It holds something that JSON has no form for.
    """
    if _FAST:
        try:
            return orjson.dumps(value)
        except TypeError:  # it refuses what the standard library takes: integers beyond 64 bits, keys that are numbers
            pass
    # Halves of surrogate pairs, in a prompt cut at the wrong place, have no UTF-8; written as escapes they arrive.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")


def decode_json(text: bytes) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: It is no JSON, or nested beyond reason.
    """
    if _FAST:
        return orjson.loads(text)
    try:
        # Decoded here: given bytes, the standard library would guess at UTF-16 and let a byte order mark pass.
        return json.loads(text.decode())
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
