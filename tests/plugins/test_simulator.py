"""The simulator answers in the shapes that callers ask for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modelmesh.errors import InvalidRequestError
from modelmesh.interfaces.provider import ProviderRequest, ProviderResponse
from modelmesh_plugins.providers.simulator import SimulatorConfig, SimulatorProvider

FORCED = {"tools": [{"type": "function", "function": {"name": "look_up"}}], "tool_choice": "required"}


def asked(**parameters: Any) -> ProviderRequest:
    """A request with these parameters."""
    return ProviderRequest("simulator-fast", {"messages": [{"role": "user", "content": "two words"}], **parameters})


def answer(**parameters: Any) -> ProviderResponse:
    """What the simulator says to it."""
    return asyncio.run(SimulatorProvider().complete(asked(**parameters)))


@pytest.mark.parametrize("parameters", [{}, FORCED], ids=["text", "tool call"])
def test_as_many_choices_come_as_are_asked_for(parameters: dict[str, Any]) -> None:
    """Each with its index, and each paid for."""
    one, three = answer(**parameters), answer(**parameters, n=3)

    assert [choice["index"] for choice in three.data["choices"]] == [0, 1, 2]
    assert {len(choice["message"]) for choice in three.data["choices"]} == {len(one.data["choices"][0]["message"])}
    assert one.usage is not None
    assert three.usage is not None
    assert three.usage.completion_tokens == 3 * one.usage.completion_tokens
    assert three.usage.prompt_tokens == one.usage.prompt_tokens


@pytest.mark.parametrize("parameters", [{}, FORCED], ids=["text", "tool call"])
def test_a_stream_has_all_choices(parameters: dict[str, Any]) -> None:
    """Each of them begins, goes on and ends."""

    async def stream() -> list[dict[str, Any]]:
        return [chunk.data async for chunk in SimulatorProvider().stream(asked(**parameters, n=2))]

    choices = [choice for data in asyncio.run(stream()) for choice in data["choices"]]
    texts = {0: "", 1: ""}
    for choice in choices:
        texts[choice["index"]] += choice["delta"].get("content") or ""

    assert texts == ({0: "two words", 1: "two words"} if not parameters else {0: "", 1: ""})
    assert [choice["index"] for choice in choices if choice["finish_reason"]] == [0, 1]


@pytest.mark.parametrize("count", [0, -1, 129, True, "2", 1.5])
def test_a_count_of_choices_that_means_nothing_is_the_callers_mistake(count: Any) -> None:
    """As it is with the real ones."""
    with pytest.raises(InvalidRequestError, match="n must be a whole number from 1 to 128"):
        answer(n=count)


@pytest.mark.parametrize(
    ("definition", "key"), [("Latency", "mean"), ("Failure", "retry_after"), ("Allowance", "period")]
)
def test_its_durations_are_those_of_every_other_setting(definition: str, key: str) -> None:
    """An editor takes a number with a unit, and knows the longest."""
    options = SimulatorConfig.model_json_schema()["$defs"][definition]["properties"][key]["anyOf"]
    kinds = {each["type"]: each for option in options for each in option.get("anyOf", [option])}

    assert "pattern" in kinds["string"]
    assert kinds["number"]["maximum"] == 10 * 365 * 86_400
