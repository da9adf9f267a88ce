"""Explaining a request: each candidate, what removed it, its score, and the order, with nothing sent or moved."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from modelmesh import ModelMesh
from modelmesh.errors import CapabilityNotFoundError
from modelmesh.explanation import Explanation
from modelmesh.router import CompletionRequest, RoutingOptions
from modelmesh_cdk.testing import ScriptedProvider
from modelmesh_plugins.commands.explain import command


@pytest.fixture
def mesh() -> Iterator[Callable[..., ModelMesh]]:
    """Build meshes of models over one scripted provider each, and shut them down."""
    built: list[ModelMesh] = []

    def make(models: dict[str, dict[str, Any]], **pool: Any) -> ModelMesh:
        one = ModelMesh(environ={})
        built.append(one)
        one.initialize(
            {
                "providers": {f"{name}-provider": {"instance": ScriptedProvider()} for name in models},
                "models": {
                    name: {"provider": f"{name}-provider", "capabilities": ["chat-completion"], **each}
                    for name, each in models.items()
                },
                "pools": {"chat": {"capability": "chat-completion", **pool}},
            }
        )
        return one

    yield make
    for one in built:
        one.shutdown()


def rows(explanation: Explanation) -> dict[str, tuple[int | None, str, str]]:
    """Return place, stage and reason of each candidate of the last pool."""
    return {each.model_id: (each.place, each.removed_by, each.reason) for each in explanation.pools[-1].candidates}


HELLO = {"messages": [{"role": "user", "content": "hi"}]}


def test_the_answer_in_short_reads_like_a_dict(mesh: Any) -> None:
    """Pool, strategy, the model and why, and each candidate with its status; nothing but what is public."""
    here = mesh({"a": {}, "b": {}})
    pool = here.get_router().get_pool("chat")
    pool.deactivate(pool.members["a"].model)

    explanation = here.get_client().explain(model="chat")

    assert [explanation[name] for name in ("pool_name", "strategy", "selected_model", "reason")] == [
        "chat",
        "modelmesh.stick-until-failure.v1",
        "b",
        explanation.pools[0].candidates[0].reason,
    ]
    assert {each.model_id: each.status for each in explanation["candidates"]} == {"a": "standby", "b": "active"}
    for name in ("_fields", "nonsense"):
        with pytest.raises(KeyError, match=name):
            explanation[name]


def test_why_nobody_can_serve_a_request_is_the_reason(mesh: Any) -> None:
    """There is no selected model then."""
    here = mesh({"a": {"features": {"tool_calling": False}}})

    explanation = here.get_router().explain("chat", {**HELLO, "tools": [{"type": "function"}]})

    assert explanation["selected_model"] is None
    assert "tools" in explanation["reason"]


def test_candidates_stand_in_the_order_they_would_be_tried(mesh: Any) -> None:
    """With the strategy's score, the chosen one with its reason."""
    here = mesh({"a": {}, "b": {}, "c": {}}, strategy="priority-selection", model_priority=["c", "a"])

    explanation = here.get_router().explain("chat")
    first = explanation.pools[0].candidates[0]

    assert explanation.order == ["c", "a", "b"]
    assert explanation.selected == "c"
    assert (first.model_id, first.place, first.score, first.reason) == ("c", 1, 1002.0, "model_priority")


def test_whoever_was_removed_is_listed_with_the_stage_and_the_reason(mesh: Any) -> None:
    """Delivery, needs and state each say what they took out."""
    here = mesh(
        {
            "whole": {"delivery": "sync"},
            "plain": {"delivery": "streaming", "features": {"tool_calling": False}},
            "tired": {"delivery": "streaming"},
            "fine": {"delivery": "streaming"},
        }
    )
    pool = here.get_router().get_pool("chat")
    pool.deactivate(pool.members["tired"].model)

    payload = {**HELLO, "tools": [{"type": "function", "function": {"name": "f"}}]}
    explanation = here.get_router().explain("chat", payload, RoutingOptions("streaming"))

    assert rows(explanation) == {
        "fine": (1, "", "first"),
        "whole": (None, "delivery-filter", "does not offer streaming"),
        "plain": (None, "requirement-filter", "has no tools"),
        "tired": (None, "state-filter", "rests: manual"),
    }


@pytest.mark.parametrize(
    ("if_none", "expected"),
    [
        ("ignore_filters", {"cheap": (1, "", "best"), "dear": (2, "", "does not pass the filter price")}),
        ("error", {"cheap": (1, "", "best"), "dear": (None, "selection-strategy", "does not pass the filter price")}),
    ],
)
def test_a_composed_strategy_names_the_filter_that_a_model_fails(mesh: Any, if_none: str, expected: Any) -> None:
    """Whether it is tried last or not at all."""
    price = {"dear": 9.0, "cheap": 0.001}
    here = mesh(
        {name: {"pricing": {"output_per_1k_tokens": dollars}} for name, dollars in price.items()},
        strategy={"filter": [{"price": {"below": 0.01}}], "score": ["cost"], "if_none": if_none},
    )

    assert rows(here.get_router().explain("chat")) == expected


def test_explaining_moves_no_pointer_and_sends_nothing(mesh: Any) -> None:
    """The next request goes where it would have gone anyway."""
    here = mesh({"a": {}, "b": {}}, strategy="round-robin")
    router = here.get_router()

    explained = [router.explain("chat").selected for _ in range(3)]
    routed = [router.route("chat").model_id for _ in range(3)]

    assert explained == ["a", "a", "a"]
    assert routed == ["a", "b", "a"]


def test_when_nobody_is_left_the_reason_is_the_error_a_request_would_get(mesh: Any) -> None:
    """And nobody has a place."""
    here = mesh({"a": {}})
    pool = here.get_router().get_pool("chat")
    pool.deactivate(pool.members["a"].model)

    explanation = here.get_router().explain("chat")

    assert explanation.order == []
    assert "no model of pool 'chat' is active: a (manual)" in explanation.pools[0].error
    assert rows(explanation)["a"] == (None, "state-filter", "rests: manual")


def test_an_unknown_name_is_the_usual_error(mesh: Any) -> None:
    """There is nothing to explain."""
    with pytest.raises(CapabilityNotFoundError):
        mesh({"a": {}}).get_router().explain("chta")


def test_a_preferred_provider_leads_and_the_others_are_said_to_follow(mesh: Any) -> None:
    """They are tried after it."""
    here = mesh({"a": {}, "b": {}})

    explanation = here.get_router().explain("chat", HELLO, RoutingOptions(preferred_provider="b-provider"))

    assert explanation.selected == "b"
    assert "not of provider 'b-provider'" in rows(explanation)["a"][2]


def test_the_order_holds_whoever_is_tried_after_the_preferred_provider(mesh: Any) -> None:
    """A preference is no condition: the order is the one that a request takes."""
    here = mesh({"a": {}, "b": {}, "c": {}, "d": {}})
    options = RoutingOptions(preferred_provider="b-provider")
    pool = here.get_router().get_pool("chat")
    pool.deactivate(pool.members["d"].model)

    explanation = here.get_router().explain("chat", HELLO, options)
    routed = here.get_router().route("chat", options)

    assert explanation.order == [routed.model_id, *routed.fallback_chain] == ["b", "c", "a"]
    assert {name: (place, stage) for name, (place, stage, _) in rows(explanation).items()} == {
        "b": (1, ""),
        "c": (2, ""),
        "a": (3, ""),
        "d": (None, "state-filter"),
    }
    assert rows(explanation)["a"][2] == "not of provider 'b-provider', which is preferred; tried after it"


def test_how_long_a_model_rests_is_said_as_people_do(mesh: Any) -> None:
    """In days and hours."""
    here = mesh({"a": {}, "b": {}})
    pool = here.get_router().get_pool("chat")
    pool.deactivate_member(pool.members["a"], "quota_exhausted", rest=803_483.0, now=pool.clock.monotonic())

    assert rows(here.get_router().explain("chat"))["a"][2] == "rests: quota_exhausted, 9d 7h left"


def test_whoever_was_not_named_is_not_called_incapable(mesh: Any) -> None:
    """The caller asked for a model, and the others can do the same."""
    explanation = mesh({"a": {}, "b": {}}).get_router().explain("b")

    assert explanation.order == ["b"]
    assert rows(explanation)["a"][2] == "another model was asked for by name"


def test_the_client_explains_what_it_would_create(mesh: Any) -> None:
    """With the same arguments."""
    client = mesh({"a": {}, "b": {}}).get_client()

    assert client.explain(model="chat", messages=HELLO["messages"], stream=True).delivery_mode == "streaming"


def test_an_answer_brings_its_explanation_on_demand(mesh: Any) -> None:
    """The record of the moment it was routed at."""
    here = mesh({"a": {}, "b": {}})
    request = CompletionRequest(HELLO["messages"], metadata={"explain": True})

    answer = asyncio.run(here.get_router().acomplete("chat", request))
    plain = asyncio.run(here.get_router().acomplete("chat", CompletionRequest(HELLO["messages"])))

    assert answer.metadata["explanation"].selected == answer.model
    assert "explanation" not in plain.metadata


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration of two simulated models."""
    file = tmp_path / "modelmesh.yaml"
    file.write_text(
        "providers: {here: {connector: modelmesh.simulator.v1}}\n"
        "models:\n"
        "  small: {provider: here, capabilities: [chat-completion], features: {vision: false}}\n"
        "  large: {provider: here, capabilities: [chat-completion]}\n"
        "pools: {chat-completion: {}}\n"
    )
    return file


def run(*arguments: str) -> Any:
    """Run ``modelmesh explain`` with these arguments."""
    return CliRunner().invoke(command, list(arguments), standalone_mode=False)


def test_the_command_shows_the_order(config: Path) -> None:
    """As a table, and as JSON for programs."""
    table = run("chat-completion", "--config", str(config))
    data = json.loads(run("chat-completion", "--config", str(config), "--json").output)

    assert "order: small → large" in table.output
    assert table.return_value == 0
    assert data["order"] == ["small", "large"]


def test_the_command_reads_what_a_request_needs(config: Path, tmp_path: Path) -> None:
    """An image goes past the model that cannot see."""
    request = tmp_path / "request.json"
    part = {"type": "image_url", "image_url": {"url": "data:,"}}
    request.write_text(json.dumps({"messages": [{"role": "user", "content": [part]}]}))

    result = run("chat-completion", "--config", str(config), "--request", str(request))

    assert "order: large" in result.output
    assert "has no images" in result.output


@pytest.mark.parametrize(
    ("text", "said"), [(None, "cannot be read"), ("{", "is no JSON"), ("[]", "is a JSON object")], ids=str
)
def test_a_request_that_is_none_is_one_line(config: Path, tmp_path: Path, text: str | None, said: str) -> None:
    """With the file's name."""
    file = tmp_path / "request.json"
    if text is not None:
        file.write_text(text)

    error = run("chat-completion", "--config", str(config), "--request", str(file)).exception

    assert said in error.format_message()
    assert "request.json" in error.format_message()
