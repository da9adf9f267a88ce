"""How the contract of state stores builds, drives and closes a store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ClassVar, TypeVar

from modelmesh.interfaces.runtime import Clock, ConnectorContext
from modelmesh.interfaces.state_store import StateStore
from modelmesh_cdk.testing.clock import FakeClock, context

Result = TypeVar("Result")


class StoreScenarios:
    """What all parts of the contract stand on.

    Attributes:
        patience: Real seconds any one test may take before it counts as hanging.
        own_clock: Whether the store tells time itself, as a server does. Then time really passes in the tests.
        tick: Seconds that the contract's leases and locks last; make it small for a store with its own clock.
        examples: How many lists of operations the store is compared over with the reference model.
        shrinks: Whether a list they differ over is narrowed down to the shortest, which takes a while.
    """

    patience: ClassVar[float] = 20.0
    own_clock: ClassVar[bool] = False
    tick: ClassVar[float] = 10.0
    examples: ClassVar[int] = 25
    shrinks: ClassVar[bool] = True

    # --- what subclasses write ------------------------------------------------------------

    def make(self, context: ConnectorContext) -> StateStore:
        """Build a store; the contract binds it. A second call within a test opens the same data again."""
        raise NotImplementedError(f"{type(self).__name__} must say in make() how its store is built")

    def factory(self) -> Callable[[], StateStore]:
        """Return what another process builds the same store with; it must be picklable.

        By default the store's class with its settings, ``.config``.
        """
        store: Any = self.make(context())
        cls: Callable[..., StateStore] = type(store)
        return partial(cls, store.config)

    async def pass_time(self, clock: FakeClock, seconds: float) -> None:
        """Let so much time pass for the store: really, if it has its own clock."""
        if self.own_clock:
            await asyncio.sleep(seconds)
        else:
            clock.advance(seconds)

    # --- inside -----------------------------------------------------------------------------

    def drive(self, scenario: Callable[[StateStore], Awaitable[Result]], *, clock: Clock | None = None) -> Result:
        """Run a scenario with a bound store, on a loop of its own, and close the store after it."""

        async def run() -> Result:
            store = self.bound(clock or FakeClock())
            try:
                async with asyncio.timeout(self.patience):
                    return await scenario(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def bound(self, clock: Clock) -> StateStore:
        """Build a store and hand it a context with this clock."""
        about = context("storage", clock=clock)
        store = self.make(about)
        bind = getattr(store, "bind", None)
        if bind is not None:
            bind(about)
        return store
