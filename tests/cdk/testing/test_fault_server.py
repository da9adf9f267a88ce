"""FaultServer does on a real socket what its script says, and sees what its clients do."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from modelmesh_cdk.testing import FaultServer, faults, refused_url

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """A plain client that gives up after two seconds, so that a broken server fails a test instead of hanging it."""
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        yield client


def post(client: httpx.Client, server: FaultServer, payload: dict[str, Any] = CHAT) -> httpx.Response:
    """Ask for a chat."""
    return client.post(f"{server.url}/chat/completions", json=payload)


def data_of(body: bytes) -> list[str]:
    """Return the data of each event in a body, comments dropped."""
    lines = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").decode().split("\n")
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def texts_of(data: list[str]) -> str:
    """Join the content of chat chunks."""
    chunks = [json.loads(each) for each in data if each.startswith("{") and each.endswith("}")]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk.get("choices", ()))


# --- good answers -----------------------------------------------------------------


def test_chats_embeddings_and_models_are_answered_without_a_script(client: httpx.Client) -> None:
    """An empty script is a healthy provider."""
    with FaultServer(models=["one", "two"]) as server:
        chat = post(client, server).json()
        vectors = client.post(f"{server.url}/embeddings", json={"model": "m", "input": ["a", "b"]}).json()
        models = client.get(f"{server.url}/models").json()

    assert chat["choices"][0]["message"]["content"] == "Hello from afar."
    assert [each["index"] for each in vectors["data"]] == [0, 1]
    assert [each["id"] for each in models["data"]] == ["one", "two"]


def test_a_script_is_followed_in_order_and_models_do_not_consume_it(client: httpx.Client) -> None:
    """POSTs take the steps one by one; then the default holds."""
    with FaultServer([503, "second"], default=429) as server:
        client.get(f"{server.url}/models")
        answers = [post(client, server) for _ in range(4)]
        server.script("added")
        last = post(client, server)

    assert [answer.status_code for answer in answers] == [503, 200, 429, 429]
    assert answers[1].json()["choices"][0]["message"]["content"] == "second"
    assert last.json()["choices"][0]["message"]["content"] == "added"


def test_requests_are_recorded(client: httpx.Client) -> None:
    """Path, headers in lower case, body and connection stand as they came."""
    with FaultServer() as server:
        client.post(f"{server.url}/chat/completions?x=1", json=CHAT, headers={"X-Trace": "t"})
        (request,) = server.requests

    assert (request.method, request.path) == ("POST", "/v1/chat/completions?x=1")
    assert request.headers["x-trace"] == "t"
    assert (request.json, request.model, request.wants_stream) == (CHAT, "m", False)
    assert request.connection == 1


def test_connections_are_kept_alive(client: httpx.Client) -> None:
    """Answers that end as announced leave the connection usable."""
    with FaultServer() as server:
        for _ in range(3):
            post(client, server)
        assert (server.connects, server.open_connections, server.disconnects) == (1, 1, 0)


# --- bad answers --------------------------------------------------------------------


def test_an_error_has_openais_shape(client: httpx.Client) -> None:
    """The body of a scripted status says message and code as OpenAI does."""
    with FaultServer([faults.status(429, error_code="insufficient_quota", message="pay")]) as server:
        answer = post(client, server)

    assert answer.status_code == 429
    assert answer.json()["error"] == {"message": "pay", "type": "scripted", "param": None, "code": "insufficient_quota"}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (3, "3"),
        (0.25, "0.25"),
        ("soon", "soon"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "Fri, 02 Jan 2026 03:04:05 GMT"),
    ],
    ids=["seconds", "fraction", "nonsense", "date"],
)
def test_retry_after_in_every_spelling(client: httpx.Client, given: float | str | datetime, sent: str) -> None:
    """The header is sent as seconds, as an HTTP date, or as whatever a server might say."""
    with FaultServer([faults.status(429, retry_after=given, retry_after_ms=1_500)]) as server:
        headers = post(client, server).headers

    assert headers["retry-after"] == sent
    assert headers["retry-after-ms"] == "1500"


@pytest.mark.parametrize("when", ["before_headers", "after_headers", "mid_body"])
def test_a_reset_breaks_the_connection(client: httpx.Client, when: faults.Moment) -> None:
    """A reset is a reset for the client, wherever in the answer it comes."""
    with FaultServer([faults.reset(when)]) as server, pytest.raises(httpx.ReadError, match="reset"):
        post(client, server)


@pytest.mark.parametrize("when", ["before_headers", "after_headers", "mid_body"])
def test_an_early_close_is_no_reset(client: httpx.Client, when: faults.Moment) -> None:
    """A close in the middle is a protocol error for the client."""
    with FaultServer([faults.close(when)]) as server, pytest.raises(httpx.RemoteProtocolError):
        post(client, server)


def test_a_body_shorter_than_announced_is_an_error(client: httpx.Client) -> None:
    """The content length lies, and the connection closes."""
    with (
        FaultServer([faults.too_short()]) as server,
        pytest.raises(httpx.RemoteProtocolError, match="complete message body"),
    ):
        post(client, server)


@pytest.mark.parametrize("when", ["before_headers", "after_headers", "mid_body"])
def test_a_hanging_server_notices_that_its_client_gave_up(when: faults.Moment) -> None:
    """A client's time-out is seen as a disconnect."""
    with FaultServer([faults.hang(when)]) as server, httpx.Client(timeout=0.05, trust_env=False) as client:
        with pytest.raises(httpx.ReadTimeout):
            post(client, server)

        assert server.wait_for_disconnect()
        assert server.disconnects == 1


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (faults.body(b"<html>", content_type="text/html"), b"<html>"),
        (faults.body(), b""),
        (faults.huge_header(50_000), b"{}"),
    ],
    ids=["html", "empty", "huge-header"],
)
def test_bodies_may_be_anything(client: httpx.Client, step: faults.Step, expected: bytes) -> None:
    """Status 200 promises nothing about the rest."""
    with FaultServer([step]) as server:
        answer = post(client, server)

    assert (answer.status_code, answer.content) == (200, expected)


def test_a_redirect_names_its_target(client: httpx.Client) -> None:
    """A client that must not follow redirects can be shown one."""
    with FaultServer([faults.redirect("http://169.254.169.254/")]) as server:
        answer = post(client, server)

    assert (answer.status_code, answer.headers["location"]) == (307, "http://169.254.169.254/")


def test_a_dripped_answer_arrives_whole(client: httpx.Client) -> None:
    """One byte at a time, headers included, is the same answer."""
    step = faults.drip(faults.body(b'{"a": 1}'), size=1, pause=0.0)
    with FaultServer([step]) as server:
        answer = post(client, server)
        actions = list(step(server.requests[0]))

    assert answer.json() == {"a": 1}
    assert all(len(action) == 1 for action in actions if isinstance(action, bytes))
    assert actions[1] == faults.Pause(0.0)


def test_a_delayed_answer_comes_later(client: httpx.Client) -> None:
    """The pause is real time."""
    with FaultServer([faults.delay(faults.chat(), 0.05)]) as server:
        started = time.monotonic()
        post(client, server)

    assert time.monotonic() - started >= 0.05


def test_a_connection_may_be_closed_behind_its_clients_back(client: httpx.Client) -> None:
    """After a good answer the connection is gone, though nothing announced it."""
    with FaultServer([faults.then_close(faults.chat("bye"))]) as server:
        answer = post(client, server)
        assert server.wait_until_unconnected()
        post(client, server)

        assert "connection" not in answer.headers
        assert server.connects == 2


def test_nobody_listens_at_a_refused_url(client: httpx.Client) -> None:
    """Connections are refused at once."""
    with pytest.raises(httpx.ConnectError):
        client.get(refused_url())


# --- streams -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("done", "[DONE]"),
        ("no_done", '"choices": [], "usage"'),
        ("silent", '"content": "lo"'),
        ("error", "scripted failure inside the stream"),
        ("malformed", "[DONE]"),
    ],
)
def test_streams_that_close_well_end_as_told(client: httpx.Client, end: faults.StreamEnd, last: str) -> None:
    """The HTTP answer is whole in each case; what is missing is missing from the events."""
    with FaultServer([faults.stream("Hel", "lo", end=end)]) as server:
        answer = post(client, server, STREAM)
    data = data_of(answer.content)

    assert answer.headers["content-type"] == "text/event-stream"
    assert texts_of(data) == "Hello"
    assert last in data[-1]
    assert any('"finish_reason": "stop"' in each for each in data) is (end in ("done", "no_done"))


def test_a_malformed_stream_has_a_chunk_that_is_no_json(client: httpx.Client) -> None:
    """The chunk before the end was cut inside its JSON."""
    with FaultServer([faults.stream("a", end="malformed")]) as server:
        data = data_of(post(client, server, STREAM).content)

    with pytest.raises(ValueError, match="Unterminated string"):
        json.loads(data[-2])


@pytest.mark.parametrize(
    ("end", "error"), [("cut", httpx.RemoteProtocolError), ("reset", httpx.ReadError)], ids=["cut", "reset"]
)
def test_a_broken_stream_delivers_what_came_before(
    client: httpx.Client, end: faults.StreamEnd, error: type[Exception]
) -> None:
    """The pieces arrive, and then the connection is gone."""
    parts: list[bytes] = []
    with (
        FaultServer([faults.stream("Hel", "lo", end=end)]) as server,
        client.stream("POST", f"{server.url}/chat/completions", json=STREAM) as answer,
        pytest.raises(error),
    ):
        parts.extend(answer.iter_bytes())

    assert texts_of(data_of(b"".join(parts))) == "Hello"


@pytest.mark.parametrize("end", ["stall", "comments"])
def test_a_stalled_stream_sees_its_reader_leave(client: httpx.Client, end: faults.StreamEnd) -> None:
    """After its pieces the stream goes on without content until the client closes it."""
    with FaultServer([faults.stream("Hel", end=end)]) as server:
        with client.stream("POST", f"{server.url}/chat/completions", json=STREAM) as answer:
            parts = answer.iter_bytes()
            arrived = b""
            while b"Hel" not in arrived or (end == "comments" and b"keep-alive" not in arrived):
                arrived += next(parts)
            assert server.disconnects == 0

        assert server.wait_for_disconnect()


def test_a_stream_read_to_its_end_is_no_disconnect(client: httpx.Client) -> None:
    """Only clients that leave early count."""
    with FaultServer() as server:
        post(client, server, STREAM)
        client.close()

        assert server.wait_until_unconnected()
        assert not server.wait_for_disconnect(timeout=0.0)


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n"], ids=["lf", "cr", "crlf"])
@pytest.mark.parametrize("split", [None, 1, 7], ids=["events", "bytes", "sevens"])
def test_streams_are_cut_and_ended_in_odd_ways(client: httpx.Client, line_end: str, split: int | None) -> None:
    """Line ends, keep-alive comments and the size of pieces change nothing about the events."""
    step = faults.stream("Grüße", " 🎉", line_end=line_end, split=split, comments=2)
    with FaultServer([step]) as server:
        body = post(client, server, STREAM).content
        frames = [action for action in step(server.requests[0]) if isinstance(action, bytes)][1:-1]

    assert texts_of(data_of(body)) == "Grüße 🎉"
    assert body.count(b": keep-alive") == 2 * 6
    assert len(frames) == (6 if split is None else -(-len(body) // split))


def test_events_may_be_written_out(client: httpx.Client) -> None:
    """Mappings become JSON, text stays text, and bytes go on the wire as they are."""
    step = faults.events(faults.chunk("m", text="a"), "plain", b"event: odd\ndata: raw\n\n", end="silent")
    with FaultServer([step]) as server:
        body = post(client, server, STREAM).content

    assert data_of(body)[1:] == ["plain", "raw"]
    assert b"event: odd\n" in body


# --- life ------------------------------------------------------------------------------


def test_a_step_is_any_function_of_the_request(client: httpx.Client) -> None:
    """A test may answer by what was asked."""
    with FaultServer(default=lambda request: [faults.response(request.model.encode())]) as server:
        assert post(client, server, {**CHAT, "model": "mine"}).text == "mine"


def test_what_a_step_raises_is_raised_at_the_end(client: httpx.Client) -> None:
    """A mistake in a test's own step is not mistaken for a fault of the connection."""

    def broken(request: faults.RecordedRequest) -> list[faults.Action]:
        raise ValueError("a mistake in the test")

    server = FaultServer([broken]).start()
    with pytest.raises(httpx.RemoteProtocolError):
        post(client, server)

    with pytest.raises(ValueError, match="a mistake in the test"):
        server.stop()


def test_stopping_is_quick_with_hanging_clients_and_may_be_repeated() -> None:
    """Open connections are broken, not waited for."""
    server = FaultServer(default=faults.hang()).start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=2.0) as plain:
        plain.sendall(b"POST /v1/x HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
        assert server.wait_for_requests()
        started = time.monotonic()
        server.stop()
        server.stop()

        assert time.monotonic() - started < 1.0
        assert server.open_connections == 0


def test_it_serves_asynchronous_tests() -> None:
    """The same server is an asynchronous context manager, and serves several requests at once."""

    async def scenario() -> list[int]:
        async with FaultServer() as server, httpx.AsyncClient(trust_env=False) as client:
            url = f"{server.url}/chat/completions"
            answers = await asyncio.gather(*(client.post(url, json=CHAT) for _ in range(5)))
        return [answer.status_code for answer in answers]

    assert asyncio.run(scenario()) == [200] * 5


def test_rubbish_on_the_wire_hurts_nobody_else(client: httpx.Client) -> None:
    """A client that speaks no HTTP loses its connection; the next one is served."""
    with FaultServer() as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=2.0) as plain:
            plain.sendall(b"rubbish\r\n\r\n")
            assert plain.recv(10) == b""

        assert post(client, server).status_code == 200
