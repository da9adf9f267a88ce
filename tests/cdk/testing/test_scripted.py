"""ScriptedProvider does what it was told, in order, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from modelmesh.errors import ProviderConnectionError, RateLimitError
from modelmesh.interfaces.provider import ProviderChunk, ProviderConnector, ProviderRequest
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, answer, context, fail, hang, pieces


def ask(text: str = "hi", *, stream: bool = False) -> ProviderRequest:
    """Build a request of one message."""
    return ProviderRequest("m", {"messages": [{"role": "user", "content": text}]}, stream=stream)


async def read(provider: ScriptedProvider) -> list[ProviderChunk]:
    """Read a stream to its end."""
    return [chunk async for chunk in provider.stream(ask(stream=True))]


def test_steps_are_taken_in_order_and_then_the_default() -> None:
    """Each request meets the next step; after the last one, the default answers."""
    provider = ScriptedProvider(["one", RateLimitError("slow down", retry_after=3.0)], default="default")

    async def scenario() -> list[str]:
        texts = [(await provider.complete(ask("a"))).data["choices"][0]["message"]["content"]]
        with pytest.raises(RateLimitError, match="slow down"):
            await provider.complete(ask("b"))
        return [*texts, (await provider.complete(ask("c"))).data["choices"][0]["message"]["content"]]

    assert asyncio.run(scenario()) == ["one", "default"]
    assert [request.last_text for request in provider.requests] == ["a", "b", "c"]
    assert provider.steps_left == 0


def test_an_answer_reports_its_tokens() -> None:
    """Usage is what the step says, in whole answers and in streams."""
    provider = ScriptedProvider([answer("one two", 5, prompt_tokens=7)] * 2)

    whole = asyncio.run(provider.complete(ask()))
    chunks = asyncio.run(read(provider))

    assert whole.usage is not None
    assert whole.usage == chunks[-1].usage
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 5)
    assert [chunk.text for chunk in chunks if chunk.commits] == ["one ", "two"]
    assert chunks[-1].finish_reason == "stop"


def test_a_cut_stream_ends_without_a_terminal_signal() -> None:
    """The pieces come, and then nothing says that the answer is whole."""
    provider = ScriptedProvider([pieces("a", "b", end="cut")])

    chunks = asyncio.run(read(provider))

    assert [chunk.text for chunk in chunks] == ["", "a", "b"]
    assert all(chunk.finish_reason is None for chunk in chunks)


def test_a_stream_may_end_with_an_error() -> None:
    """The pieces come first, then the error is raised."""
    provider = ScriptedProvider([pieces("a", end=ProviderConnectionError("gone"))])

    async def scenario() -> list[str]:
        stream = provider.stream(ask(stream=True))
        seen = [(await anext(stream)).text, (await anext(stream)).text]
        with pytest.raises(ProviderConnectionError, match="gone"):
            await anext(stream)
        return seen

    assert asyncio.run(scenario()) == ["", "a"]


def test_a_stalled_stream_counts_as_closed_when_its_reader_leaves() -> None:
    """Closing the iterator and cancelling the reader are both seen."""
    provider = ScriptedProvider([pieces("a", end="stall")] * 2)

    async def scenario() -> None:
        async with aclosing(provider.stream(ask(stream=True))) as chunks:
            await anext(chunks)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await read(provider)

    asyncio.run(scenario())

    assert (provider.closed, provider.active) == (2, 0)


def test_a_hanging_call_ends_by_cancellation_or_release() -> None:
    """Cancelled calls are counted; released ones answer by default."""
    provider = ScriptedProvider([hang(), hang()], default="late")

    async def scenario() -> str:
        first, second = (asyncio.ensure_future(provider.complete(ask())) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        provider.release()
        return str((await second).data["choices"][0]["message"]["content"])

    assert asyncio.run(scenario()) == "late"
    assert (provider.cancelled, provider.most_active, provider.active) == (1, 2, 0)


def test_delays_run_on_the_contexts_clock() -> None:
    """No test waits for a scripted delay."""
    clock = FakeClock(auto_advance=True)
    provider = ScriptedProvider([answer(delay=30.0), fail(RateLimitError("x"), delay=5.0), pieces("a", "b", pause=1.0)])
    provider.bind(context(clock=clock))

    async def scenario() -> None:
        await provider.complete(ask())
        with pytest.raises(RateLimitError):
            await provider.complete(ask())
        await read(provider)

    asyncio.run(scenario())

    assert clock.sleeps == [30.0, 5.0, 1.0]


@pytest.mark.parametrize(
    ("step", "expected"),
    [(pieces("a", "b"), "ab"), (pieces("a", end="cut"), None)],
    ids=["joined", "cut"],
)
def test_pieces_asked_for_whole_are_joined_or_break(step: object, expected: str | None) -> None:
    """A script of pieces serves whole answers as well; a cut one is a broken connection."""
    provider = ScriptedProvider([step])  # type: ignore[list-item]  # parametrised

    if expected is None:
        with pytest.raises(ProviderConnectionError):
            asyncio.run(provider.complete(ask()))
    else:
        response = asyncio.run(provider.complete(ask()))
        assert response.data["choices"][0]["message"]["content"] == expected


def test_it_is_a_provider_connector() -> None:
    """It has all that the engine needs of a provider."""
    provider = ScriptedProvider(models=["a", "b"])

    assert isinstance(provider, ProviderConnector)
    assert [info.id for info in asyncio.run(provider.list_models())] == ["a", "b"]
