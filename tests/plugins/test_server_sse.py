"""Chunks become events in OpenAI's shape."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from modelmesh.interfaces.provider import ProviderChunk
from modelmesh_cdk.testing import faults
from modelmesh_plugins.server.sse import ChunkShape

ROUTED: Any = SimpleNamespace(request_id="req_1", model_id="m", receipt=SimpleNamespace(attempts=[]))


def shaped(data: dict[str, Any], *, raw: bytes | None = None, include_usage: bool = False) -> list[bytes]:
    """Return the events of one chunk."""
    return list(ChunkShape(ROUTED, include_usage=include_usage).events(ProviderChunk(data, raw=raw)))


def parsed(event: bytes) -> dict[str, Any]:
    """Return what an event holds."""
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    data: dict[str, Any] = json.loads(event[6:])
    return data


def test_bytes_of_a_whole_chunk_pass_unchanged() -> None:
    """Spaces and all: nothing is parsed into our own words and back."""
    chunk = faults.chunk(text="hi")
    raw = json.dumps(chunk, indent=None, separators=(" , ", " : ")).encode()

    assert shaped(chunk, raw=raw) == [b"data: " + raw + b"\n\n"]


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CRLF"])
def test_json_over_several_lines_becomes_one(line_end: str) -> None:
    """A line end inside would tear the event apart."""
    chunk = faults.chunk(text="hi")
    raw = json.dumps(chunk, indent=1).replace("\n", line_end).encode()

    (event,) = shaped(chunk, raw=raw)

    assert parsed(event) == chunk | {"choices": chunk["choices"]}
    assert event.count(b"\n") == 2
    assert b"\r" not in event


@pytest.mark.parametrize("missing", ["id", "object", "created", "model"])
def test_what_clients_require_is_filled_in(missing: str) -> None:
    """From the request, where the provider left it out."""
    chunk = {name: value for name, value in faults.chunk(text="hi").items() if name != missing}

    (event,) = shaped(chunk, raw=json.dumps(chunk).encode())

    filled = {"id": "req_1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    assert parsed(event)[missing] == filled[missing]


def test_usage_beside_content_is_kept_for_the_end() -> None:
    """Some providers count as they go; the last count is the one."""
    shape = ChunkShape(ROUTED, include_usage=True)
    chunks = [ProviderChunk({**faults.chunk(text="a"), "usage": {"total_tokens": count}}) for count in (1, 2)]

    events = [parsed(event) for chunk in chunks for event in shape.events(chunk)]
    usage, done = shape.end()

    assert [event["choices"][0]["delta"] for event in events] == [{"content": "a"}] * 2
    assert not any("usage" in event for event in events)
    assert parsed(usage)["usage"] == {"total_tokens": 2}
    assert done == b"data: [DONE]\n\n"


def test_a_chunk_of_nothing_but_usage_is_not_shown() -> None:
    """Unless it was asked for, and then at the end."""
    assert shaped(faults.chunk(usage={"total_tokens": 1})) == []
    assert list(ChunkShape(ROUTED, include_usage=False).end()) == [b"data: [DONE]\n\n"]
