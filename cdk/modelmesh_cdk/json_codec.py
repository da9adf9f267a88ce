"""JSON to and from bytes: orjson with the ``fast`` extra, the standard library without."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any, NoReturn

try:
    import orjson

    _FAST = True
except ImportError:  # the `fast` extra is not installed
    _FAST = False


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_STANDARD = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_READER = json.JSONDecoder(parse_constant=_refuse)


def encode_json(value: Any) -> bytes:
    """Return JSON as UTF-8, without spaces; numbers that it has no form for (NaN, infinity) are written as null.

    Raises:
        TypeError: It holds something that JSON has no form for.
    """
    if _FAST:
        try:
            return orjson.dumps(value)
        except TypeError:  # it refuses what the standard library takes: integers beyond 64 bits, keys that are numbers
            pass
    try:
        text = _STANDARD.encode(value)
    except ValueError:
        if not_finite(value) is None:
            raise
        text = _STANDARD.encode(_with_nulls(value))
    # Halves of surrogate pairs, in a prompt cut at the wrong place, have no UTF-8; written as escapes they arrive.
    return text.encode(errors="backslashreplace")


def not_finite(value: Any, path: str = "") -> str | None:
    """Return the path of the first number in it that JSON has no form for, such as ``messages[0].weight``."""
    if isinstance(value, float):
        return None if isfinite(value) else path
    parts: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        parts = [(f"{path}.{key}" if path else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [(f"{path}[{place}]", inner) for place, inner in enumerate(value)]
    return next((found for name, inner in parts if (found := not_finite(inner, name)) is not None), None)


def _with_nulls(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _with_nulls(inner) for key, inner in value.items()}
    return [_with_nulls(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def decode_json(text: bytes) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: It is no JSON, or nested beyond reason.
    """
    if _FAST:
        return orjson.loads(text)
    try:
        # Decoded here: given bytes, the standard library would guess at UTF-16 and let a byte order mark pass.
        return _READER.decode(text.decode())
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
