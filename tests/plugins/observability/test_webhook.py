"""The webhook connector, against a receiver on a real socket."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from modelmesh import ModelMesh
from modelmesh.interfaces.observability import (
    AggregateStats,
    EventType,
    ObservabilityConnector,
    RoutingEvent,
    Severity,
    TraceEntry,
)
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, ObservabilityContract
from modelmesh_plugins.observability.webhook import WebhookConfig, WebhookConnector, WebhookError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "whsec-canary-0123456789"


class _Highest:
    """Randomness that always draws the most: waits are then as long as they get."""

    def random(self) -> float:
        return 1.0

    def uniform(self, a: float, b: float) -> float:
        return b


@dataclass
class Delivery:
    """One POST as it came in."""

    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """An HTTP server that answers as it is told: statuses in turn, then 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b"ok"
    got: list[Delivery] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on loopback."""
    receiver = Receiver()
    receiver.gate.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.connections.add(self.client_address)
            receiver.got.append(Delivery({name.lower(): value for name, value in self.headers.items()}, body))
            receiver.arrived.set()
            receiver.gate.wait(15)
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(receiver.answer)))
            self.end_headers()
            self.wfile.write(receiver.answer)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: Any) -> None:
            """Say nothing of clients that went away."""

    server = Server(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook?token=canary-in-the-url"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield receiver
    receiver.gate.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def connect(receiver: Receiver) -> Iterator[Callable[..., Any]]:
    """Build connectors to the receiver that wait on paper alone; ``waits`` are the seconds they would have."""
    made: list[WebhookConnector] = []

    def connecting(**settings: Any) -> Any:
        waits: list[float] = []
        config = WebhookConfig(**{"url": receiver.url, **settings})
        connector: Any = WebhookConnector(config, wait=lambda seconds: bool(waits.append(seconds)))
        connector.bind(ConnectorContext("webhook", FakeClock(), _Highest()))
        connector.waits = waits
        made.append(connector)
        return connector

    yield connecting
    for connector in made:
        connector.close()


def trace(message: str = "hello") -> TraceEntry:
    """A trace line."""
    return TraceEntry(Severity.INFO, NOW, "router", message)


def stats() -> AggregateStats:
    """Figures of one model."""
    return AggregateStats(1, 1, 0, 1, 1, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0, NOW)


def batch(connector: WebhookConnector, *messages: str) -> None:
    """Hand over a batch, as the core does."""
    connector.begin_batch()
    for message in messages:
        connector.trace(trace(message))
    connector.end_batch()


class TestWebhook(ObservabilityContract):
    """``modelmesh.webhook.v1``."""

    @pytest.fixture(autouse=True)
    def _receiver(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def make(self, context: ConnectorContext) -> ObservabilityConnector:
        return WebhookConnector(WebhookConfig(url=self.receiver.url, batch_size=100))

    def output(self) -> str:
        return "".join(delivery.body.decode() for delivery in self.receiver.got)


# --- what is sent ------------------------------------------------------------------------


def test_a_record_is_posted_as_one_object(receiver: Receiver, connect: Callable[..., Any]) -> None:
    """With the default batch size of one."""
    batch(connect(), "one")

    (delivery,) = receiver.got
    assert (delivery.json["type"], delivery.json["message"]) == ("trace", "one")
    assert delivery.headers["content-type"] == "application/json"


def test_a_batch_is_posted_as_an_array(receiver: Receiver, connect: Callable[..., Any]) -> None:
    """Always, so that a receiver knows what it gets; the core is told how large batches are."""
    connector = connect(batch_size=3, batch_wait="2s")

    batch(connector, "one", "two")
    batch(connector, "three")

    assert [[each["message"] for each in delivery.json] for delivery in receiver.got] == [["one", "two"], ["three"]]
    assert (connector.batch_size, connector.batch_wait) == (3, 2.0)


def test_statistics_are_spread_over_deliveries(receiver: Receiver, connect: Callable[..., Any]) -> None:
    """They are one record with many lines."""
    connector = connect(batch_size=2)
    connector.begin_batch()
    connector.flush({name: stats() for name in "abcde"})
    connector.end_batch()

    assert [[each["scope_id"] for each in delivery.json] for delivery in receiver.got] == [
        ["a", "b"],
        ["c", "d"],
        ["e"],
    ]


def test_lines_are_posted_where_they_are_asked_for(receiver: Receiver, connect: Callable[..., Any]) -> None:
    """``application/x-ndjson``: one object a line."""
    batch(connect(batch_size=9, content_type="application/x-ndjson; charset=utf-8"), "one", "zwei ü")

    lines = receiver.got[0].body.decode().splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["one", "zwei ü"]
    assert receiver.got[0].headers["content-type"] == "application/x-ndjson; charset=utf-8"


def test_nothing_is_posted_of_what_the_filter_keeps(receiver: Receiver, connect: Callable[..., Any]) -> None:
    """A batch without a line is no delivery."""
    connector = connect(event_filter=["recovery"])
    connector.begin_batch()
    connector.emit(RoutingEvent(EventType.MODEL_ROTATED, NOW))
    connector.end_batch()

    assert receiver.got == []


def test_headers_go_along_and_may_be_secret(receiver: Receiver, connect: Callable[..., Any]) -> None:
    """They are sent as they are, and shown nowhere."""
    connector = connect(headers={"Authorization": f"Bearer {SECRET}", "X-Team": "ops"})

    batch(connector, "one")

    headers = receiver.got[0].headers
    assert (headers["authorization"], headers["x-team"]) == (f"Bearer {SECRET}", "ops")
    assert SECRET not in repr(connector.config)
    assert "canary" not in repr(connector.config)


def test_a_delivery_is_signed(receiver: Receiver, connect: Callable[..., Any]) -> None:
    """The receiver computes the same from the timestamp, a full stop and the body."""
    batch(connect(secret=SECRET), "one")

    (delivery,) = receiver.got
    timestamp = delivery.headers["x-modelmesh-timestamp"]
    expected = hmac.new(SECRET.encode(), timestamp.encode() + b"." + delivery.body, hashlib.sha256).hexdigest()
    assert timestamp == "1767225600"
    assert delivery.headers["x-modelmesh-signature"] == f"sha256={expected}"


def test_an_unsigned_delivery_says_so(receiver: Receiver, connect: Callable[..., Any]) -> None:
    """Without a secret there is no signature."""
    batch(connect(), "one")

    assert "x-modelmesh-signature" not in receiver.got[0].headers


def test_one_connection_serves_all_deliveries(receiver: Receiver, connect: Callable[..., Any]) -> None:
    """To connect anew each time would cost more than the delivery."""
    connector = connect()

    for _ in range(5):
        batch(connector, "one")

    assert (len(receiver.got), len(receiver.connections)) == (5, 1)


# --- trouble -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 408, 425, 429])
def test_a_failure_that_may_pass_is_tried_again(receiver: Receiver, connect: Callable[..., Any], status: int) -> None:
    """With the same delivery ID, so that the receiver can tell it from a new one."""
    receiver.statuses = [status, status]
    connector = connect(retry_delay="1s")

    batch(connector, "one")

    assert len(receiver.got) == 3
    assert len({delivery.headers["x-modelmesh-delivery"] for delivery in receiver.got}) == 1
    assert connector.waits == [1.0, 2.0]


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 410, 413, 422])
def test_a_refusal_is_not_tried_again(receiver: Receiver, connect: Callable[..., Any], status: int) -> None:
    """The same body would be refused again; and nobody is followed elsewhere."""
    receiver.statuses = [status]
    receiver.headers = {"Location": receiver.url}

    with pytest.raises(WebhookError, match=f"127.0.0.1 answered {status}"):
        batch(connect(), "one")

    assert len(receiver.got) == 1


def test_tries_come_to_an_end(receiver: Receiver, connect: Callable[..., Any]) -> None:
    """After ``retry_count`` more, with the last answer as the reason; waits double up to their limit."""
    receiver.statuses = [500] * 9
    connector = connect(retry_count=4, retry_delay=1, max_retry_delay="3s")

    with pytest.raises(WebhookError, match="answered 500"):
        batch(connector, "one")

    assert (len(receiver.got), connector.waits) == (5, [1.0, 2.0, 3.0, 3.0])


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [("7", 7.0), ("Thu, 01 Jan 2026 00:00:09 GMT", 9.0), ("3600", 30.0), ("0", 0.5), ("soon", 0.5), ("-5", 0.5)],
    ids=["seconds", "date", "too long", "none", "nonsense", "negative"],
)
def test_the_receiver_may_say_when_to_come_back(
    receiver: Receiver, connect: Callable[..., Any], retry_after: str, wait: float
) -> None:
    """``Retry-After`` is heeded up to the longest wait, and never makes it shorter."""
    receiver.statuses = [429]
    receiver.headers = {"Retry-After": retry_after}
    connector = connect()

    batch(connector, "one")

    assert connector.waits == [wait]


def test_a_receiver_that_does_not_answer_is_given_up(receiver: Receiver, connect: Callable[..., Any]) -> None:
    """After ``timeout``; the message names the host and nothing that may be secret."""
    receiver.gate.clear()

    with pytest.raises(WebhookError) as caught:
        batch(connect(timeout=0.05, retry_count=0), "one")

    assert str(caught.value) == "127.0.0.1 could not be reached: ReadTimeout"


def test_a_receiver_that_is_not_there_is_tried_again(connect: Callable[..., Any]) -> None:
    """A refused connection may be a restart."""
    connector = connect(url="http://127.0.0.1:1/", retry_count=2, retry_delay=0)

    with pytest.raises(WebhookError, match="ConnectError"):
        batch(connector, "one")

    assert len(connector.waits) == 2


def test_an_endless_answer_is_not_read(receiver: Receiver, connect: Callable[..., Any]) -> None:
    """Its status is all that matters."""
    receiver.answer = b"x" * 10_000_000
    connector = connect()

    batch(connector, "one")
    batch(connector, "two")

    assert len(receiver.got) == 2


def test_shutdown_ends_waiting(receiver: Receiver) -> None:
    """Each delivery is tried once more, and then no more."""
    receiver.statuses = [503] * 9
    connector = WebhookConnector(WebhookConfig(url=receiver.url, retry_delay="1h", max_retry_delay="1h"))
    connector.stop_waiting()

    for message in ("one", "two"):
        with pytest.raises(WebhookError):
            batch(connector, message)

    assert len(receiver.got) == 2
    connector.close()


# --- settings ------------------------------------------------------------------------------


def test_settings_have_the_documented_defaults() -> None:
    """As the reference says."""
    config = WebhookConfig(url="https://hooks.example.com/mesh")

    assert (config.timeout, config.retry_count, config.batch_size, config.content_type) == (
        10.0,
        3,
        1,
        "application/json",
    )
    assert (config.headers, config.secret, config.retry_delay, config.batch_wait) == ({}, None, 0.5, 1.0)


@pytest.mark.parametrize("url", ["", "hooks.example.com", "ftp://example.com", "http://", "file:///etc/passwd", "\x00"])
def test_what_is_no_web_address_is_refused(url: str) -> None:
    """At the start, without repeating what may be a secret."""
    with pytest.raises(ValidationError, match="is no web address"):
        WebhookConfig(url=url)


# --- in a mesh --------------------------------------------------------------------------------


def mesh_with(receiver: Receiver, **settings: Any) -> ModelMesh:
    """Build a mesh of one simulated model that posts to the receiver."""
    mesh = ModelMesh(environ={"HOOK_SECRET": SECRET})
    mesh.initialize(
        {
            "providers": {"modelmesh.simulator.v1": {}},
            "models": {"m": {"provider": "modelmesh.simulator.v1", "capabilities": ["chat-completion"]}},
            "pools": {"chat-completion": {}},
            "observability": {
                "connector": "webhook",
                "webhook": {"url": receiver.url, "secret": "${secrets:HOOK_SECRET}", **settings},
            },
        }
    )
    return mesh


def ask(mesh: ModelMesh, text: str = "hi") -> None:
    """Make one request."""
    mesh.get_router().complete("chat-completion", CompletionRequest([{"role": "user", "content": text}]))


def test_everything_of_a_mesh_arrives(receiver: Receiver) -> None:
    """In batches, before shutdown returns, and signed with a secret that itself never does."""
    with mesh_with(receiver, batch_size=50, batch_wait="1h") as mesh:
        for _ in range(20):
            ask(mesh)

    records = [record for delivery in receiver.got for record in delivery.json]
    (counts,) = mesh.delivery_counts().values()
    assert {record["type"] for record in records} >= {"log", "stats", "trace"}
    assert sum(record["type"] == "log" for record in records) == 20
    assert (counts.failed, counts.dropped, counts.waiting) == (0, 0, 0)
    assert SECRET not in str(receiver.got)


def test_a_receiver_that_hangs_delays_neither_requests_nor_shutdown(receiver: Receiver) -> None:
    """Ten seconds it would take; requests take none of it and shutdown keeps its limit."""
    receiver.gate.clear()
    mesh = mesh_with(receiver, timeout="10s")
    ask(mesh)
    assert receiver.arrived.wait(5)

    started = time.monotonic()
    for _ in range(50):
        ask(mesh)
    asked = time.monotonic()
    graph = mesh._graph
    assert graph is not None
    graph.close_observability(0.2)
    mesh.shutdown()
    ended = time.monotonic()

    (counts,) = mesh.delivery_counts().values()
    assert asked - started < 2.0
    assert ended - asked < 2.0
    assert counts.dropped > 100
    assert counts.emitted == counts.delivered + counts.failed + counts.dropped + counts.waiting
