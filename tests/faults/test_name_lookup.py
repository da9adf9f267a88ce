"""Names of hosts: a resolver that hangs or fails holds nobody up, and an address that changed is found."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

NAME = "provider.invalid"
"""A name that no real resolver knows."""


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], str]], None]:
    """Looks the name up as it is told; there is no other way to a name that changes without a server for names."""
    look_up = socket.getaddrinfo

    def resolve(told: Callable[[], str]) -> None:
        def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
            is_ours = host in (NAME, NAME.encode())
            return look_up(told() if is_ours else host, *rest, **named)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return resolve


def test_a_lookup_that_hangs_runs_into_the_clock_of_connecting(world: Any, resolver: Any) -> None:
    """F1: the name belongs to the connection, and its time to the connection's."""
    released = threading.Event()

    def hang() -> str:
        released.wait(10.0)
        return "127.0.0.1"

    resolver(hang)
    world.elsewhere(f"http://{NAME}:9/v1")
    world.provider("second")
    world.build(timeouts={"connect": 0.05, "first_token": 2.0, "idle": 2.0, "total": 2.0})

    answer = world.ask()
    released.set()

    first, _ = answer.metadata["receipt"].attempts
    assert answer.content == "second"
    assert first.outcome == "timeout"
    assert "no connection in time" in first.reason


def test_a_resolver_that_fails_is_rotated_away(world: Any, resolver: Any) -> None:
    """F1: no resolver at all is a broken connection, and over when the resolver is back."""
    server = world.provider(default="first")
    world._urls[0] = server.url.replace("127.0.0.1", NAME)
    world.provider(default="second")
    is_down = True

    def fail() -> str:
        if is_down:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return "127.0.0.1"

    resolver(fail)
    world.build(strategy="modelmesh.priority-selection.v1", model_priority=["m0", "m1"])
    during = world.ask()
    is_down = False
    after = world.ask()

    assert [during.content, after.content] == ["second", "first"]
    assert during.metadata["receipt"].attempts[0].outcome == "network"


@pytest.mark.parametrize("transport", ["httpx"], indirect=True)  # aiohttp remembers an address for ten seconds
def test_an_address_that_changed_is_found(world: Any, resolver: Any) -> None:
    """F1: the next connection goes to the new address."""
    server = world.provider(default="first")
    world._urls[0] = server.url.replace("127.0.0.1", NAME)
    world.provider(default="second")
    address = "127.0.0.2"
    resolver(lambda: address)
    world.build(strategy="modelmesh.priority-selection.v1", model_priority=["m0", "m1"])

    before = world.ask()
    address = "127.0.0.1"
    after = world.ask()

    assert [before.content, after.content] == ["second", "first"]
