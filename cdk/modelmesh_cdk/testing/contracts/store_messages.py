"""The contract of state stores: messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import ClassVar

import pytest

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.state_store import StateStore
from modelmesh_cdk.testing.contracts.store_scenarios import StoreScenarios


class MessageScenarios(StoreScenarios):
    """Publish and subscribe.

    Attributes:
        tells_other_processes: Whether messages reach other processes; what `BaseStateStore` does by itself, does not.
    """

    tells_other_processes: ClassVar[bool] = True

    def test_messages_reach_every_subscriber_in_order(self) -> None:
        """Each hears all of its channel, nothing of others', as the bytes they were."""

        async def scenario(store: StateStore) -> None:
            one, two, other = store.subscribe("news"), store.subscribe("news"), store.subscribe("else")
            await _connected(store, "news", one, two)
            await _connected(store, "else", other)
            for message in (b"1", b"\x00\xff", b""):
                await store.publish("news", message)
            await store.publish("else", b"other")
            for listener in (one, two):
                assert [await anext(listener) for _ in range(3)] == [b"1", b"\x00\xff", b""]
            assert await anext(other) == b"other"
            for listener in (one, two, other):
                await listener.aclose()

        self.drive(scenario)

    def test_nobody_listening_is_no_error(self) -> None:
        """Then a message is gone: who comes later does not hear it."""

        async def scenario(store: StateStore) -> None:
            await store.publish("news", b"early")
            listener = store.subscribe("news")
            heard = await _connected(store, "news", listener)
            await store.publish("news", b"late")
            assert await anext(listener) == b"late"
            assert b"early" not in heard
            await listener.aclose()

        self.drive(scenario)

    def test_closing_ends_a_subscription(self) -> None:
        """And hurts no other; a subscription nobody reads hinders nobody either."""

        async def scenario(store: StateStore) -> None:
            gone, stays, unread = store.subscribe("news"), store.subscribe("news"), store.subscribe("news")
            await _connected(store, "news", gone, stays)
            await gone.aclose()
            await store.publish("news", b"after")
            assert await anext(stays) == b"after"
            with pytest.raises(StopAsyncIteration):
                await anext(gone)
            await stays.aclose()
            await unread.aclose()

        self.drive(scenario)

    def test_other_users_of_a_shared_store_hear_it(self) -> None:
        """A second handle on the same data, as another process has, hears within a second."""

        async def scenario(store: StateStore) -> None:
            if not store.guarantees.shared_between_processes or not self.tells_other_processes:
                pytest.skip("it is not shared, or does not say to reach other processes")
            from modelmesh_cdk.testing.store_worker import RealClock

            other = self.bound(RealClock())
            listener = store.subscribe("news")
            try:
                await _connected(other, "news", listener)
                async with asyncio.timeout(1.0):
                    await other.publish("news", b"from there")
                    assert await anext(listener) == b"from there"
            finally:
                await listener.aclose()
                await other.close()

        self.drive(scenario)

    def test_only_bytes_are_messages(self) -> None:
        """Text is refused, and so is a channel without a name."""

        async def scenario(store: StateStore) -> None:
            with pytest.raises(StateStoreError):
                await store.publish("news", "text")  # type: ignore[arg-type]  # that is the point
            with pytest.raises(StateStoreError):
                await store.publish("", b"data")

        self.drive(scenario)


async def _connected(store: StateStore, channel: str, *listeners: AsyncGenerator[bytes, None]) -> set[bytes]:
    """Publish until all hear it, since a subscription over a network takes a while to stand; return what they heard."""
    knocks = 0
    heard: set[bytes] = set()
    waiting = {asyncio.ensure_future(anext(listener)) for listener in listeners}
    while waiting:
        knocks += 1
        await store.publish(channel, b"knock-%d" % knocks)
        done, waiting = await asyncio.wait(waiting, timeout=0.05)
        heard.update(task.result() for task in done)
    await store.publish(channel, b"quiet")
    for listener in listeners:
        while (message := await anext(listener)) != b"quiet":
            heard.add(message)
    return heard
