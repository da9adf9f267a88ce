"""State in each format, compressed or not, is read whatever it was written in."""

from __future__ import annotations

import gzip
import sys
from typing import Any, get_args

import pytest

from modelmesh.config import load_config
from modelmesh.errors import ConfigurationError, StateStoreError
from modelmesh.plugins import PluginHost
from modelmesh.state_encoding import StateEncoding, StateFormat, decode

STATE: dict[str, Any] = {
    "version": 1,
    "timestamp": 1_700_000_000.25,
    "models": {"größe": {"latency_history": [0.1, 2.0], "last_failure": None, "quota_used": 3, "name": "yes"}},
    "pools": {},
}
ENCODINGS = [StateEncoding(each, compression) for each in get_args(StateFormat) for compression in (False, True)]
CUT_SHORT = gzip.compress(b"{}", mtime=0)[:-4]
DEEP = b'{"a":' * 100_000


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_what_is_written_is_read_again(encoding: StateEncoding) -> None:
    """To the value and the type, without being told the format; equal state is equal bytes."""
    body = encoding.encode(STATE)

    assert decode(body) == STATE
    assert body == encoding.encode(STATE)
    assert body.startswith(b"\x1f\x8b") == encoding.compression


def test_compressed_state_is_smaller() -> None:
    """A hundred models take a small part of the room."""
    models = {"models": {f"model-{number}": STATE["models"]["größe"] for number in range(100)}}

    assert len(StateEncoding("json", True).encode(models)) < len(StateEncoding("json").encode(models)) / 5


@pytest.mark.parametrize(
    "body",
    [b"", b"[1]", b"{", b"no state", b"a: [", b"\xff\xfe", DEEP, b"\x81\xa1", CUT_SHORT, b"\x1f\x8bgarbage"],
)
def test_what_is_damaged_is_said_to_be(body: bytes) -> None:
    """As one kind of error, whatever the format was."""
    with pytest.raises(ValueError, match=r"."):
        decode(body)


def test_a_missing_library_is_told_before_anything_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that brings it; state that is written in it is not taken for damaged."""
    body = StateEncoding("msgpack").encode(STATE)
    monkeypatch.setitem(sys.modules, "msgpack", None)

    with pytest.raises(StateStoreError, match=r"pip install 'modelmesh-router\[msgpack\]'"):
        decode(body)
    with pytest.raises(ConfigurationError, match=r"storage\.format: needs the msgpack extra"):
        load_config({"storage": {"format": "msgpack"}}, connectors=PluginHost(), environ={})
