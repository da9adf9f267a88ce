"""Answers that are no answers: malformed, empty, huge, compressed wrongly, slow, or sent elsewhere."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from modelmesh.errors import AllProvidersExhaustedError
from modelmesh_cdk.http import MAX_BODY_BYTES
from modelmesh_cdk.testing import faults
from modelmesh_cdk.testing.faults import CLOSE, Pause, RecordedRequest

DEEP = b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
GOOD = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
}


def raw(data: bytes) -> Any:
    """Send these bytes as they are and close."""
    return lambda _: [data, CLOSE]


def encoded(data: bytes, encoding: str, kind: str = "application/json") -> Any:
    """Answer with a body that claims a content encoding."""
    return lambda _: [faults.response(data, content_type=kind, headers={"content-encoding": encoding})]


MALFORMED: dict[str, Any] = {
    "nothing": faults.body(b""),
    "null": faults.body(b"null"),
    "list": faults.body(b"[]"),
    "text": faults.body(b'"fine"'),
    "number": faults.body(b"1"),
    "html": faults.body(b"<html>gateway</html>", content_type="text/html"),
    "cut json": faults.body(b'{"choices": [{"mess'),
    "no utf-8": faults.body(b'{"choices": "\xff\xfe"}'),
    "deep json": faults.body(DEEP),
    "no choices": faults.body(b'{"id": "1"}'),
    "empty choices": faults.body(b'{"choices": []}'),
    "choices null": faults.body(b'{"choices": null}'),
    "choices a mapping": faults.body(b'{"choices": {"0": {}}}'),
    "choice a text": faults.body(b'{"choices": ["fine"]}'),
    "no message": faults.body(b'{"choices": [{"index": 0}]}'),
    "message a text": faults.body(b'{"choices": [{"index": 0, "message": "fine"}]}'),
    "an error in a 200": faults.body(b'{"error": {"message": "overloaded", "code": 503}}'),
    "an error as text": faults.body(b'{"error": "overloaded"}'),
    "a failed choice": faults.body(b'{"choices": [{"finish_reason": "error", "message": {"content": ""}}]}'),
}
BROKEN_HTTP: dict[str, Any] = {
    "no HTTP": raw(b"220 mail.example ESMTP\r\n\r\n"),
    "a bad status": raw(b"HTTP/1.1 abc OK\r\n\r\n"),
    "a bad header": raw(b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n{}"),
    "a bad length": raw(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}"),
    "a negative length": raw(b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n{}"),
    "a chunk that lies": raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n"),
    "a huge header": faults.huge_header(),
    "broken gzip": encoded(b"no gzip at all", "gzip"),
    "cut gzip": encoded(gzip.compress(json.dumps(GOOD).encode())[:-20], "gzip"),
    "broken deflate": encoded(b"no deflate at all", "deflate"),
}


@pytest.mark.parametrize("step", list(MALFORMED.values()), ids=list(MALFORMED))
def test_a_malformed_answer_is_rotated_away(lone_world: Any, step: Any) -> None:
    """F12: whatever a provider sends in place of an answer, the next one answers."""
    lone_world.provider(step)
    lone_world.provider("second")

    answer = lone_world.ask()

    assert answer.content == "second"
    assert answer.metadata["receipt"].attempts[0].outcome in ("malformed", "server_error")


@pytest.mark.parametrize("step", list(MALFORMED.values()), ids=list(MALFORMED))
def test_a_malformed_answer_in_place_of_a_stream_is_rotated_away(lone_world: Any, texts: Any, step: Any) -> None:
    """F12, F13: the same instead of server-sent events."""
    lone_world.provider(step)
    lone_world.provider("second")

    assert texts(lone_world.stream()) == "second"


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("step", list(BROKEN_HTTP.values()), ids=list(BROKEN_HTTP))
def test_broken_http_is_rotated_away(world: Any, texts: Any, step: Any, is_streamed: bool) -> None:
    """F12: each transport has its own words for it; the request goes on all the same."""
    world.provider(step)
    world.provider("second")

    assert (texts(world.stream()) if is_streamed else world.ask().content) == "second"


@pytest.mark.parametrize("status", [500, 529])
@pytest.mark.parametrize(
    "page", [b"<html>Bad gateway</html>", b"", b"\xff\xfe\x00", b"null", b"[]", DEEP], ids=range(6)
)
def test_an_error_page_is_read_by_its_status(lone_world: Any, status: int, page: bytes) -> None:
    """F11: HTML, nothing, nonsense and depth in the body of an error change nothing."""
    lone_world.provider(faults.body(page, code=status))
    lone_world.provider("second")

    answer = lone_world.ask()

    assert answer.content == "second"
    assert answer.metadata["receipt"].attempts[0].status_code == status


@pytest.mark.parametrize(
    "usage",
    [None, [], "none", {"prompt_tokens": "3"}, {"prompt_tokens": None}, {"prompt_tokens": -1}, {"total_tokens": 1e300}],
    ids=["null", "list", "text", "text number", "null number", "negative", "enormous"],
)
def test_odd_token_counts_do_not_spoil_an_answer(lone_world: Any, usage: Any) -> None:
    """F12: an answer is an answer, whatever its usage says; counts stay whole numbers from zero."""
    lone_world.provider(faults.body(json.dumps({**GOOD, "usage": usage}).encode()))

    answer = lone_world.ask()

    assert answer.content == "fine"
    assert all(isinstance(count, int) and count >= 0 for count in answer.usage.values())


@pytest.mark.parametrize("content", [None, 5, [], {"text": "fine"}], ids=["null", "number", "list", "mapping"])
def test_odd_content_does_not_raise(lone_world: Any, content: Any) -> None:
    """F12: content that is no text (a call of a tool has none) reads as empty."""
    message = {"role": "assistant", "content": content}
    lone_world.provider(faults.body(json.dumps({"choices": [{"index": 0, "message": message}]}).encode()))

    assert lone_world.ask().content == ""


def test_a_body_beyond_the_limit_is_left_unread(world: Any) -> None:
    """F12: a provider that never stops sending is left at the limit, not when memory is full."""
    sent: list[int] = []

    def endless(_: RecordedRequest) -> Iterator[Any]:
        yield b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
        while True:
            sent.append(65_536)
            yield b" " * 65_536

    world.provider(endless)
    world.provider("second")

    answer = world.ask()

    assert answer.content == "second"
    assert answer.metadata["receipt"].attempts[0].outcome == "malformed"
    assert sum(sent) < 2 * MAX_BODY_BYTES


def test_a_decompression_bomb_is_left_at_the_limit(world: Any) -> None:
    """F37: what counts is the size after decompression."""
    bomb = gzip.compress(b" " * 40_000_000, compresslevel=1)
    world.provider(encoded(bomb, "gzip"))
    world.provider("second")

    answer = world.ask()

    assert answer.content == "second"
    assert answer.metadata["receipt"].attempts[0].outcome == "malformed"


def test_a_decompression_bomb_in_a_stream_is_left_at_the_limit(world: Any, texts: Any) -> None:
    """F13, F37: a single event without an end is cut off at its own limit."""
    bomb = zlib.compress(b"data: " + b" " * 12_000_000, level=1)
    world.provider(encoded(bomb, "deflate", "text/event-stream"))
    world.provider("second")

    assert texts(world.stream()) == "second"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_answer_is_read(world: Any, encoding: str) -> None:
    """F12: the good case next to the broken ones."""
    data = json.dumps(GOOD).encode()
    world.provider(encoded(gzip.compress(data) if encoding == "gzip" else zlib.compress(data), encoding))

    assert world.ask().content == "fine"


def test_no_encoding_is_asked_for_that_cannot_be_read(world: Any) -> None:
    """F12: an answer in Brotli or Zstandard could not be read without further libraries, so none is asked for."""
    server = world.provider("fine")
    world.ask()

    asked = server.requests[0].headers.get("accept-encoding", "identity")

    assert {each.strip() for each in asked.split(",")} <= {"identity", "gzip", "deflate"}


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
def test_a_slow_drip_is_read_to_its_end(world: Any, texts: Any, is_streamed: bool) -> None:
    """F5: one byte at a time, headers included, is slow and right."""
    world.provider(faults.drip(faults.chat("drop by drop"), size=3, pause=0.0))

    answer = texts(world.stream()) if is_streamed else world.ask().content

    assert answer == "drop by drop"


def test_a_drip_that_never_ends_runs_into_the_whole_attempts_clock(world: Any) -> None:
    """F5, R8: bytes that keep coming are no progress in themselves."""

    def dripping(_: RecordedRequest) -> Iterator[Any]:
        yield b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
        while True:
            yield b" "
            yield Pause(0.002)

    world.provider(dripping)
    world.provider("second")
    world.build(timeouts={"connect": 2.0, "total": 0.2})

    answer = world.ask()

    first, _ = answer.metadata["receipt"].attempts
    assert answer.content == "second"
    assert first.outcome == "timeout"
    assert 200 <= first.latency_ms < 1_000


@pytest.mark.parametrize("code", [301, 303, 308])
@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
def test_a_redirect_is_not_followed(world: Any, texts: Any, code: int, is_streamed: bool) -> None:
    """F40: the key and the prompt go nowhere but where the configuration says; the next provider answers."""
    first, third = world.provider(), world.provider()
    world._urls.pop()  # the third is nobody's provider: it is where the first points to
    world.provider("second")
    first.script(faults.redirect(f"{third.url}/chat/completions", code=code))

    answer = texts(world.stream()) if is_streamed else world.ask().content

    assert answer == "second"
    assert (len(first.requests), third.requests) == (1, [])


def test_a_redirect_alone_says_what_to_check(world: Any) -> None:
    """F40: the error of a redirect names the setting that is probably wrong, and not the target."""
    world.provider(faults.redirect("http://169.254.169.254/latest/meta-data"))

    with pytest.raises(AllProvidersExhaustedError, match="base_url") as caught:
        world.ask()

    assert "169.254" not in str(caught.value)


def test_cookies_are_not_kept(world: Any) -> None:
    """F40: what one answer sets is not sent with the next request."""
    server = world.provider(default=faults.chat("fine", headers={"set-cookie": "session=1; Path=/"}))
    world._urls = [server.url.replace("127.0.0.1", "localhost")]

    for _ in range(2):
        world.ask()

    assert [request.headers.get("cookie") for request in server.requests] == [None, None]


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_proxies_of_the_environment_do_not_get_the_key(world: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """F40: only the configuration says where a request goes."""
    proxy, server = world.provider(), world.provider("fine")
    world._urls = [server.url]
    monkeypatch.setenv(name, proxy.url)

    assert world.ask().content == "fine"
    assert proxy.requests == []


@pytest.mark.parametrize("field", ["api_base", "base_url", "api_key", "extra_headers", "api_version"])
def test_fields_of_a_request_steer_no_egress(world: Any, canary: str, field: str) -> None:
    """F40: a request cannot name another address or key."""
    server, elsewhere = world.provider("fine"), world.provider()
    world._urls.pop()
    parameters = {field: {"authorization": "x"} if field == "extra_headers" else elsewhere.url}

    world.ask(parameters=parameters)

    assert elsewhere.requests == []
    assert server.requests[0].headers["authorization"] == f"Bearer {canary}"
