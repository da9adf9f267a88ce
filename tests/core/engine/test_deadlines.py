"""Time limits by the thousand, on one timer of the loop."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from modelmesh._engine.deadlines import Deadlines

SHORT = 0.01
LONG = 30.0


async def forever() -> None:
    """Wait for what never comes."""
    await asyncio.get_running_loop().create_future()


def test_a_limit_ends_its_block() -> None:
    """What the block awaits is cancelled, and the block raises TimeoutError."""

    async def main() -> bool:
        with pytest.raises(TimeoutError), Deadlines().within(SHORT) as limit:
            await forever()
        return limit.expired

    assert asyncio.run(main()) is True


def test_a_block_that_ends_in_time_is_left_alone() -> None:
    """Its timer ends nothing afterwards, and the task is not marked as cancelled."""

    async def main() -> tuple[bool, int]:
        with Deadlines().within(SHORT) as limit:
            await asyncio.sleep(0)
        await asyncio.sleep(2 * SHORT)
        task = asyncio.current_task()
        assert task is not None
        return limit.expired, task.cancelling()

    assert asyncio.run(main()) == (False, 0)


def test_no_limit_is_none() -> None:
    """None sets no timer at all."""

    async def main() -> bool:
        deadlines = Deadlines()
        with deadlines.within(None) as limit:
            await asyncio.sleep(0)
        return limit.running or limit.expired

    assert asyncio.run(main()) is False


@pytest.mark.parametrize("seconds", [0.0, -1.0], ids=["nought", "past"])
def test_a_limit_without_time_ends_at_the_first_wait(seconds: float) -> None:
    """Work that never waits is not interrupted."""

    async def main() -> None:
        with Deadlines().within(seconds):
            await forever()

    with pytest.raises(TimeoutError):
        asyncio.run(main())


def test_an_error_of_the_block_is_its_own() -> None:
    """A limit changes no other exception."""

    async def main() -> None:
        with Deadlines().within(LONG):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        asyncio.run(main())


# --- several at once --------------------------------------------------------------------


def test_the_inner_of_two_limits_ends_only_the_inner_block() -> None:
    """The outer one goes on."""

    async def main() -> str:
        deadlines = Deadlines()
        with deadlines.within(LONG) as outer:
            with pytest.raises(TimeoutError), deadlines.within(SHORT):
                await forever()
            await asyncio.sleep(0)
        return f"outer expired: {outer.expired}"

    assert asyncio.run(main()) == "outer expired: False"


def test_the_outer_of_two_limits_passes_through_the_inner_block() -> None:
    """The inner block is cancelled, not timed out."""

    async def main() -> tuple[bool, bool]:
        deadlines = Deadlines()
        inner_timed_out = False
        try:
            with deadlines.within(SHORT) as outer:
                try:
                    with deadlines.within(LONG):
                        await forever()
                except TimeoutError:
                    inner_timed_out = True
                    raise
        except TimeoutError:
            pass
        return outer.expired, inner_timed_out

    assert asyncio.run(main()) == (True, False)


def test_two_limits_that_end_together_end_both_blocks() -> None:
    """Each block raises TimeoutError, and the task is clean afterwards."""

    async def main() -> int:
        deadlines = Deadlines()
        with pytest.raises(TimeoutError), deadlines.within(SHORT), deadlines.within(SHORT):
            await forever()
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert asyncio.run(main()) == 0


def test_a_later_and_shorter_limit_is_served_first() -> None:
    """The one timer moves to whoever is due first."""

    async def main() -> list[str]:
        deadlines, ended = Deadlines(), []

        async def limited(name: str, seconds: float) -> None:
            try:
                with deadlines.within(seconds):
                    await forever()
            except TimeoutError:
                ended.append(name)

        await asyncio.gather(limited("long", 5 * SHORT), limited("short", SHORT), limited("middle", 3 * SHORT))
        return ended

    assert asyncio.run(main()) == ["short", "middle", "long"]


def test_it_works_inside_the_librarys_own_timeout() -> None:
    """Whichever is due first wins, and is told apart."""

    async def main(ours: float, theirs: float) -> str:
        try:
            async with asyncio.timeout(theirs):
                try:
                    with Deadlines().within(ours):
                        await forever()
                except TimeoutError:
                    return "ours"
        except TimeoutError:
            return "theirs"
        return "none"

    assert [asyncio.run(main(SHORT, LONG)), asyncio.run(main(LONG, SHORT))] == ["ours", "theirs"]


# --- cancelled by others -------------------------------------------------------------------


def cancelled_by_another(body: Callable[[Deadlines], Coroutine[Any, Any, None]]) -> tuple[bool, int]:
    """Cancel a task in its block; return whether it ended as cancelled, and what is left to uncancel."""

    async def main() -> tuple[bool, int]:
        task = asyncio.create_task(body(Deadlines()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled(), task.cancelling()

    return asyncio.run(main())


def test_a_foreign_cancellation_stays_one() -> None:
    """Who cancels the task gets a cancelled task, no TimeoutError."""

    async def body(deadlines: Deadlines) -> None:
        with deadlines.within(LONG):
            await forever()

    assert cancelled_by_another(body) == (True, 1)


def test_a_foreign_cancellation_wins_over_a_limit_that_ends_at_the_same_time() -> None:
    """Both cancelled the task: it is cancelled."""

    async def main() -> bool:
        async def body() -> None:
            with Deadlines().within(LONG) as limit:
                asyncio.get_running_loop().call_soon(limit.expire)
                await forever()

        task = asyncio.create_task(body())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(main()) is True


def test_a_block_that_swallows_the_cancellation_is_not_cancelled_later() -> None:
    """An end that came too late leaves no trace in the task."""

    async def main() -> int:
        with Deadlines().within(SHORT), suppress(asyncio.CancelledError):
            await forever()
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert asyncio.run(main()) == 0


# --- many, and many loops --------------------------------------------------------------------


def test_a_thousand_limits_take_one_timer() -> None:
    """The loop is asked for a timer when the first limit comes, and not again for later ones."""

    async def main() -> int:
        loop, deadlines, timers = asyncio.get_running_loop(), Deadlines(), 0
        call_at = loop.call_at

        def counting(*args: Any, **kwargs: Any) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return call_at(*args, **kwargs)

        async def limited() -> None:
            with deadlines.within(LONG):
                await asyncio.sleep(0)

        loop.call_at = counting  # type: ignore[method-assign]  # the loop is this test's own
        await asyncio.gather(*(limited() for _ in range(1_000)))
        return timers

    assert asyncio.run(main()) == 1


def test_limits_that_are_over_do_not_pile_up() -> None:
    """A long limit is forgotten soon after its block, not when its time comes."""

    async def main() -> int:
        deadlines = Deadlines()
        for _ in range(5_000):
            with deadlines.within(LONG):
                pass
        return len(deadlines._loops[asyncio.get_running_loop()]._heap)

    assert asyncio.run(main()) <= 65


def test_a_thousand_limits_all_fire() -> None:
    """None is lost when many are due together."""

    async def main() -> int:
        deadlines = Deadlines()

        async def limited(number: int) -> bool:
            try:
                with deadlines.within(SHORT if number % 2 else LONG):
                    await (forever() if number % 2 else asyncio.sleep(0))
            except TimeoutError:
                return True
            return False

        return sum(await asyncio.gather(*(limited(number) for number in range(1_000))))

    assert asyncio.run(main()) == 500


def test_each_loop_has_its_own_limits_and_closed_loops_are_forgotten() -> None:
    """A mesh may outlive many loops."""
    deadlines = Deadlines()

    async def main() -> int:
        with pytest.raises(TimeoutError), deadlines.within(SHORT):
            await forever()
        return len(deadlines._loops)

    assert [asyncio.run(main()) for _ in range(3)] == [1, 1, 1]


def test_a_limit_needs_a_task() -> None:
    """Outside of one there is nothing to cancel."""
    loop = asyncio.new_event_loop()
    errors: list[Exception] = []

    def outside() -> None:
        try:
            with Deadlines().within(SHORT):
                pass
        except RuntimeError as error:
            errors.append(error)
        loop.stop()

    loop.call_soon(outside)
    loop.run_forever()
    loop.close()

    assert "needs a task" in str(errors[0])


def test_an_ended_block_keeps_nothing_of_its_task() -> None:
    """Its entry stays until the time has come; what the task returned, an answer mostly, does not."""

    class Answer:
        pass

    async def work(deadlines: Deadlines) -> Answer:
        with deadlines.within(600):
            await asyncio.sleep(0)
        return Answer()

    async def main() -> weakref.ref[Answer]:
        deadlines = Deadlines()
        return weakref.ref(await asyncio.create_task(work(deadlines)))

    async def look() -> bool:
        found = await main()
        await asyncio.sleep(0)  # who woke us up holds the task until the loop comes round
        gc.collect()
        return found() is None

    assert asyncio.run(look())
