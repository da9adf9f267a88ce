"""What a request needs, and the stage that leaves out models which were declared unable to give it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modelmesh._engine.model import ModelDefinition
from modelmesh._engine.requirements import Declared, Fit, Needs
from modelmesh.errors import (
    AllProvidersExhaustedError,
    ContextLengthError,
    NoActiveModelError,
    ProviderServerError,
    UnsupportedRequestError,
)
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import fail

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4_000}}
TOOL = {"type": "function", "function": {"name": "look_up"}}
STRATEGIES = [
    "stick-until-failure",
    "priority-selection",
    "round-robin",
    "cost-first",
    "latency-first",
    "session-stickiness",
    "rate-limit-aware",
    "load-balanced",
    "composed",
]


def ask(text: str = "hi", **body: Any) -> dict[str, Any]:
    """Return a request's body."""
    return {"messages": [{"role": "user", "content": text}], **body}


def lacks(*features: str, **constraints: int) -> dict[str, Any]:
    """Return a model that was declared without these features and with these limits."""
    return {"features": dict.fromkeys(features, False), "constraints": constraints}


def with_model(models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what builds a world of these models, each at a provider of its own name."""
    return {
        "providers": {name: [] for name in models},
        "models": {name: {"provider": name, **declared} for name, declared in models.items()},
    }


# --- reading a request ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (ask("x" * 41), Needs(frozenset(), 11, 0, 0)),
        (ask("x" * 40, max_tokens=90), Needs(frozenset(), 100, 90, 0)),
        (ask("x" * 40, max_tokens=90, max_completion_tokens=50), Needs(frozenset(), 60, 50, 0)),
        (ask("", tools=[TOOL]), Needs(frozenset({"tool_calling"}), 0, 0, 0)),
        (ask("", functions=[{}]), Needs(frozenset({"tool_calling"}), 0, 0, 0)),
        (ask("", tools=[]), Needs(frozenset(), 0, 0, 0)),
        (ask("", response_format={"type": "json_object"}), Needs(frozenset({"json_mode"}), 0, 0, 0)),
        (ask("", response_format={"type": "json_schema"}), Needs(frozenset({"structured_output"}), 0, 0, 0)),
        (ask("", response_format={"type": "text"}), Needs(frozenset(), 0, 0, 0)),
        ({"messages": [{"content": [IMAGE, {"text": "x" * 8}, IMAGE]}]}, Needs(frozenset({"vision"}), 2, 0, 2)),
        ({"input": "x" * 8}, Needs(frozenset(), 2, 0, 0)),
        ({"input": ["x" * 8, "x" * 12]}, Needs(frozenset(), 3, 0, 0)),
        ({"messages": ["?", {"content": None}, {"content": ["?"]}], "max_tokens": "many"}, Needs(frozenset(), 0, 0, 0)),
        ({}, Needs(frozenset(), 0, 0, 0)),
    ],
    ids=[
        "text", "output", "newer-output", "tools", "functions", "no-tools", "json-mode", "json-schema", "plain",
        "images", "one-input", "longest-input", "nonsense", "nothing",
    ],
)  # fmt: skip
def test_a_request_tells_what_it_needs(body: dict[str, Any], expected: Needs) -> None:
    """Images by their number, not their size; each input of an embedding has to fit by itself."""
    assert Needs.of(body) == expected


def declared(*models: dict[str, Any]) -> Declared:
    """Return what these models declare together."""
    return Declared(ModelDefinition("p", (), **model) for model in models)


def test_needs_no_member_speaks_of_narrow_nothing() -> None:
    """The common case: nothing is declared, and nothing is read."""
    body = ask("x" * 4_000, tools=[TOOL])

    assert declared(lacks(), {"features": {"tool_calling": True}}).fit(body) is None
    assert declared(lacks("vision", context_window=1_000)).fit(body) is None


@pytest.mark.parametrize(
    ("tokens", "window"), [(10, None), (100, None), (101, 500), (500, 500), (501, 501), (9_999, 501)]
)
def test_sizes_are_rounded_up_to_what_members_declare(tokens: int, window: int | None) -> None:
    """So that a pool has few different needs to remember, whatever is asked."""
    fit = declared(lacks(context_window=100), lacks(context_window=500), lacks()).fit(ask("x" * 4 * tokens))

    assert fit == (None if window is None else Fit(context_window=window))


def test_a_batch_needs_the_most_any_of_its_requests_needs() -> None:
    """All features together, and each size by itself: one model serves them all."""
    bodies = [ask("x" * 400), ask("", tools=[TOOL], max_tokens=30), {"messages": [{"content": [IMAGE]}]}]

    assert Needs.of(*bodies) == Needs(frozenset({"tool_calling", "vision"}), 100, 30, 1)
    assert declared(lacks("vision", context_window=80)).fit(*bodies) == Fit(frozenset({"vision"}), context_window=81)


# --- the stage --------------------------------------------------------------------------

NEEDY = {
    "tools": (ask(tools=[TOOL]), lacks("tool_calling")),
    "images": ({"messages": [{"role": "user", "content": [IMAGE]}]}, lacks("vision")),
    "number-of-images": ({"messages": [{"role": "user", "content": [IMAGE, IMAGE]}]}, lacks(max_images=1)),
    "context": (ask("x" * 4_004), lacks(context_window=1_000)),
    "context-with-output": (ask("x" * 400, max_tokens=901), lacks(context_window=1_000)),
    "output": (ask(max_tokens=501), lacks(max_output_tokens=500)),
    "json-mode": (ask(response_format={"type": "json_object"}), lacks("json_mode")),
    "json-schema": (ask(response_format={"type": "json_schema"}), lacks("structured_output")),
}


@pytest.mark.parametrize(("body", "unable"), NEEDY.values(), ids=NEEDY)
def test_a_model_declared_unable_is_left_out(build: Any, body: dict[str, Any], unable: dict[str, Any]) -> None:
    """Neither chosen, nor tried after a failure, nor retried; one that declares nothing is not left out."""
    world = build(
        **with_model({"a": unable, "b": lacks(), "c": unable}), retry={"max_attempts": 0}, strategy="round-robin"
    )
    world.providers["b"].script(fail(ProviderServerError("down")))

    with pytest.raises(AllProvidersExhaustedError):
        world.run(world.router.execute("chat", "chat", body))

    assert [world.calls(name) for name in "abc"] == [0, 1, 0]
    assert world.ask().model == "c"


def test_a_model_that_rests_is_no_last_resort_for_what_it_cannot_do(build: Any) -> None:
    """When everybody else has failed, those that may have healed are tried, but only if they fit."""
    world = build(**with_model({"a": lacks("tool_calling"), "b": {}, "c": {}}), retry={"max_attempts": 0})
    for name in "ac":
        world.pool.deactivate(world.member(name).model, "error_threshold")
    for name in "bc":
        world.providers[name].script(fail(ProviderServerError("down")))

    with pytest.raises(AllProvidersExhaustedError):
        world.run(world.router.execute("chat", "chat", ask(tools=[TOOL])))

    assert [world.calls(name) for name in "abc"] == [0, 1, 1]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_filter_is_on_for_every_strategy(build: Any, strategy: str) -> None:
    """No strategy has to know about tools."""
    world = build(
        **with_model({name: lacks("tool_calling") if name != "d" else {} for name in "abcd"}), strategy=strategy
    )

    answers = [world.run(world.router.execute("chat", "chat", ask(tools=[TOOL]))).model_id for _ in range(4)]

    assert answers == ["d"] * 4


def test_streams_are_filtered_too(build: Any) -> None:
    """Both doors go through the same stages."""
    world = build(**with_model({"a": lacks("tool_calling"), "b": {}}))

    assert world.router.execute_stream("chat", ask(tools=[TOOL])).model_id == "b"


def test_when_nobody_is_left_the_error_says_what_is_needed_and_what_each_lacks(build: Any) -> None:
    """The caller's mistake, or the pool's: either way it is told, at once and without a call."""
    world = build(**with_model({"a": lacks("tool_calling"), "b": lacks("vision", context_window=10)}))
    body = {"messages": [{"role": "user", "content": [IMAGE, {"text": "x" * 100}]}], "tools": [TOOL]}

    with pytest.raises(UnsupportedRequestError) as caught:
        world.run(world.router.execute("chat", "chat", body))

    assert caught.value.message == (
        "no model of pool 'chat' can serve this request, which needs tools, images, about 25 tokens of context: "
        "a has no tools; b has no images, only 10 tokens of context"
    )
    assert caught.value.details["lacks"] == {"a": ["tool_calling"], "b": ["vision", "context_window"]}
    assert (caught.value.category, caught.value.retryable, world.calls("a"), world.calls("b")) == (
        "unsupported",
        False,
        0,
        0,
    )


def test_a_request_that_is_too_long_for_all_is_called_so(build: Any) -> None:
    """Clients shorten a conversation when they are told this code; of many models the first five are shown."""
    world = build(**with_model({name: lacks(context_window=10) for name in "abcdefg"}))

    with pytest.raises(ContextLengthError, match=r"e has only 10 tokens of context; and 2 more") as caught:
        world.ask(text="x" * 100)

    assert caught.value.code == "context_length_exceeded"


def test_another_pool_that_can_is_asked_next(build: Any) -> None:
    """As for every other reason for which nobody of a pool is left."""
    world = build(
        **with_model({"a": lacks("tool_calling"), "b": {}}),
        pools={
            "first": {"capability": "chat-completion", "models": ["a"], "priority": 2},
            "second": {"capability": "chat-completion", "models": ["b"]},
        },
    )

    assert world.run(world.router.execute("chat", "chat-completion", ask(tools=[TOOL]))).model_id == "b"


def test_models_that_rest_are_not_said_to_be_unable(build: Any) -> None:
    """Somebody who can will be back: that is worth a retry, and the error says so."""
    world = build(**with_model({"a": lacks("tool_calling"), "b": {}}))
    world.pool.deactivate(world.member("b").model)

    with pytest.raises(NoActiveModelError):
        world.run(world.router.execute("chat", "chat", ask(tools=[TOOL])))


def test_a_new_declaration_counts_from_the_next_request_on(build: Any) -> None:
    """What a pool's members declare is read once, and again when a member changes."""
    world = build(**with_model({"a": {}, "b": {}}))
    first = world.run(world.router.execute("chat", "chat", ask(tools=[TOOL]))).model_id
    registry = world.mesh.get_registry()
    registry.register(replace(registry.get_model("a").definition, features={"tool_calling": False}))

    assert first + world.run(world.router.execute("chat", "chat", ask(tools=[TOOL]))).model_id == "ab"


def test_routing_without_a_request_asks_nobody_what_they_lack(build: Any) -> None:
    """``route`` knows of no needs."""
    world = build(**with_model({"a": lacks("tool_calling", context_window=1)}))

    assert world.router.route("chat").model_id == "a"
    assert isinstance(world.run(world.router.acomplete("chat", CompletionRequest([{"role": "user"}]))).model, str)
