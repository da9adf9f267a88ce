"""Connections that are refused, break or go stale: each is the network's fault, and the next provider answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from modelmesh.errors import AllProvidersExhaustedError, StreamInterruptedError
from modelmesh_cdk.testing import faults, refused_url

BROKEN = {
    "reset before headers": faults.reset("before_headers"),
    "reset after headers": faults.reset("after_headers"),
    "reset mid body": faults.reset("mid_body"),
    "close before headers": faults.close("before_headers"),
    "close after headers": faults.close("after_headers"),
    "close mid body": faults.close("mid_body"),
    "fewer bytes than announced": faults.too_short(),
}


@pytest.mark.parametrize("step", list(BROKEN.values()), ids=list(BROKEN))
def test_a_broken_connection_is_the_networks_fault_and_the_next_provider_answers(world: Any, step: Any) -> None:
    """F4: wherever it breaks, it is reported as broken rather than as slow or malformed."""
    world.provider(step)
    world.provider("second")

    answer = world.ask()

    first, _ = answer.metadata["receipt"].attempts
    assert answer.content == "second"
    assert first.outcome == "network"
    assert "connection broke" in first.reason


@pytest.mark.parametrize("step", list(BROKEN.values()), ids=list(BROKEN))
def test_a_connection_that_breaks_before_the_first_content_is_unseen_in_a_stream(
    world: Any, texts: Any, step: Any
) -> None:
    """F4: the same for streams."""
    world.provider(step)
    world.provider("second")

    assert texts(world.stream()) == "second"
    assert [len(server.requests) for server in world.servers] == [1, 1]


@pytest.mark.parametrize("step", [BROKEN["reset before headers"], BROKEN["close mid body"]], ids=["reset", "close"])
def test_the_last_error_names_the_provider_and_the_network(world: Any, step: Any) -> None:
    """F4: with nobody left the caller learns who failed and how, and may try again."""
    world.provider(step)

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.ask()

    error = caught.value.last_error
    assert (error.category, error.provider_id, error.model_id, error.retryable) == ("network", "p0", "m0", True)


def test_a_refused_connection_is_rotated_away_without_a_wait(world: Any) -> None:
    """F2: refused means refused, and waiting for it helps nobody."""
    world.elsewhere(refused_url())
    world.provider("second")

    answer = world.ask()

    first, _ = answer.metadata["receipt"].attempts
    assert answer.content == "second"
    assert (first.outcome, world.clock.sleeps) == ("network", [])
    assert "cannot connect" in first.reason


def test_a_name_that_nobody_knows_is_rotated_away(world: Any) -> None:
    """F1: a host without an address is a broken connection."""
    world.elsewhere("http://nobody.invalid/v1")
    world.provider("second")

    answer = world.ask()

    assert answer.content == "second"
    assert answer.metadata["receipt"].attempts[0].outcome == "network"


@pytest.mark.parametrize("host", ["a" * 64 + ".invalid", "a..invalid"], ids=["label too long", "empty label"])
def test_a_name_that_cannot_be_looked_up_is_rotated_away(world: Any, host: str) -> None:
    """F1: a host name that the resolver itself refuses is no crash."""
    world.elsewhere(f"http://{host}/v1")
    world.provider("second")

    answer = world.ask()

    assert answer.content == "second"
    assert answer.metadata["receipt"].attempts[0].outcome == "network"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A base URL whose connections are never accepted: its queue is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        for filler in fillers:
            filler.close()


def test_a_connection_that_never_stands_runs_into_its_own_clock(world: Any, black_hole: str) -> None:
    """F2: a black hole is left after the connect time, long before the whole attempt's time."""
    world.elsewhere(black_hole)
    world.provider("second")
    world.build(timeouts={"connect": 0.05, "first_token": 2.0, "idle": 2.0, "total": 2.0})

    answer = world.ask()

    first, _ = answer.metadata["receipt"].attempts
    assert answer.content == "second"
    assert first.outcome == "timeout"
    assert "no connection in time" in first.reason
    assert first.latency_ms < 1_000


def test_a_connection_is_used_again(world: Any) -> None:
    """F6: what is healthy is kept: ten requests need one connection."""
    server = world.provider()

    for _ in range(10):
        world.ask()

    assert server.connects == 1


def test_a_connection_that_its_server_has_closed_is_not_used_again(world: Any) -> None:
    """F6: a keep-alive connection that died in the pool costs no attempt."""
    server = world.provider(*[faults.then_close(faults.chat("one"))] * 5)

    answers = [world.ask() for _ in range(5) if server.wait_until_unconnected()]

    assert [len(answer.metadata["receipt"].attempts) for answer in answers] == [1] * 5
    assert server.connects == 5


def test_a_connection_that_dies_at_the_moment_of_its_reuse_is_rotated(world: Any) -> None:
    """F6: the race that no client can win: the server closes while the request is on its way."""
    world.provider("first", faults.close("before_headers"))
    world.provider("second")
    world.ask()

    answer = world.ask()

    assert answer.content == "second"
    assert [attempt.outcome for attempt in answer.metadata["receipt"].attempts] == ["network", "success"]


def test_a_request_that_broke_is_sent_once_and_not_again_behind_the_engines_back(world: Any) -> None:
    """F4: the outcome of a broken request is unknown, so only the engine decides to repeat it."""
    server = world.provider("kept alive", faults.reset("before_headers"))
    world.ask()

    with pytest.raises(AllProvidersExhaustedError):
        world.ask()

    assert len(server.requests) == 2


def test_a_stream_that_breaks_after_content_hands_over_what_had_come(world: Any) -> None:
    """F13: after the commit point nothing is replayed; the error carries the text."""
    world.provider(faults.stream("Hel", "lo", end="cut"))
    second = world.provider("second")
    stream = world.stream()
    seen = [next(stream).content for _ in range(3)]  # the first says only whose turn it is

    with pytest.raises(StreamInterruptedError) as caught:
        next(stream)

    assert ("".join(seen), caught.value.partial) == ("Hello", "Hello")
    assert (caught.value.category, second.requests) == ("network", [])
