"""How a mesh's state is written: as JSON, YAML or msgpack, and compressed if so wished.

Reading needs no settings, since what is written says itself what it is: a change of format loses no state.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import yaml

from modelmesh.errors import StateStoreError

StateFormat = Literal["json", "yaml", "msgpack"]

NEEDS_MSGPACK = "needs the msgpack extra: pip install 'modelmesh-router[msgpack]'"
_GZIP = b"\x1f\x8b"
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class StateEncoding:
    """A way to write state.

    Attributes:
        format: What it is written in.
        compression: Whether it is compressed besides, with gzip.
    """

    format: StateFormat = "json"
    compression: bool = False

    def encode(self, data: Mapping[str, Any]) -> bytes:
        """Return plain data as bytes that `decode` reads."""
        if self.format == "json":
            body = json.dumps(data).encode()
        elif self.format == "yaml":
            body = yaml.dump(data, Dumper=_DUMPER, sort_keys=False, allow_unicode=True).encode()
        else:
            body = _msgpack().packb(data)
        # Without a time of its own, so that the same state is the same bytes.
        return gzip.compress(body, mtime=0) if self.compression else body


def decode(body: bytes) -> dict[str, Any]:
    """Return what `StateEncoding.encode` wrote, in whatever format.

    Raises:
        ValueError: It is damaged, or no mapping.
        StateStoreError: It is sound and only a library is missing to read it.
    """
    if body.startswith(_GZIP):
        try:
            body = gzip.decompress(body)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"the compressed state is damaged: {error}") from None
    try:
        data = _read(body)
    except RecursionError:
        raise ValueError("the state is nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError("the state is no mapping")
    return data


def has_msgpack() -> bool:
    """Whether the library for it is installed."""
    try:
        import_module("msgpack")
    except ImportError:
        return False
    return True


def _read(body: bytes) -> Any:
    if body.startswith(b"{"):
        return json.loads(body)
    # How msgpack begins a mapping; no text begins so.
    if body[:1] in (b"\xde", b"\xdf") or (body and 0x80 <= body[0] <= 0x8F):
        return _msgpack().unpackb(body)
    try:
        return yaml.load(body.decode(), Loader=_LOADER)  # noqa: S506 (one of the two safe loaders)
    except yaml.YAMLError:
        raise ValueError("the state is neither JSON nor YAML nor msgpack") from None


def _msgpack() -> Any:
    try:
        return import_module("msgpack")
    except ImportError:
        raise StateStoreError(f"the saved state is in msgpack, which {NEEDS_MSGPACK}") from None
