"""The stages between a request and a chosen model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh._engine.pipeline import PipelineContext, PipelineRequest, PipelineStage
from modelmesh.errors import (
    AllProvidersExhaustedError,
    CapabilityNotFoundError,
    NoActiveModelError,
    ProviderServerError,
    RoutingError,
)
from modelmesh.router import RoutingOptions
from modelmesh_cdk.strategy import SequentialStrategy
from modelmesh_cdk.testing import ScriptedProvider

Build = Callable[..., Any]
STAGES = [
    "capability-resolver",
    "pool-selection",
    "delivery-filter",
    "requirement-filter",
    "state-filter",
    "selection-strategy",
    "retry-policy",
]
NO_RETRY = {"max_attempts": 0}


def down() -> ScriptedProvider:
    """A provider that fails every time."""
    return ScriptedProvider(default=ProviderServerError("down", status_code=500))


class Only(PipelineStage):
    """Leaves the named models, as a rule about where data may go would."""

    name = "only"

    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed
        self.seen: list[str] = []

    def process(self, context: PipelineContext) -> PipelineContext:
        self.seen = [member.model_id for member in context.candidates]
        context.candidates = [member for member in context.candidates if member.model_id in self.allowed]
        return context


class Listening(SequentialStrategy[Any]):
    """Takes the first, and remembers what it was asked."""

    asked: Any = None

    def choose(self, candidates: Any, request: Any) -> Any:
        self.asked = request
        return candidates[0], "first"


# --- the stages -----------------------------------------------------------------------


def test_seven_stages_run_in_order(build: Build) -> None:
    """Their names are the documentation's, and the result tells which ran."""
    world = build(a=[])

    result = world.router.pipeline.execute(PipelineRequest("chat"))

    assert [stage.name for stage in world.router.pipeline.get_stages()] == STAGES
    assert list(result.stages_executed) == STAGES
    assert (result.model.name, result.provider.name, result.score) == ("a", "a", 1.0)
    assert result.context.metadata["retry_policy"] is world.pool.policy.retry


def test_the_list_of_stages_is_a_copy(build: Build) -> None:
    """Changing it changes nothing."""
    pipeline = build(a=[]).router.pipeline

    pipeline.get_stages().clear()

    assert len(pipeline.get_stages()) == 7


def test_stages_are_inserted_at_a_position_and_removed_by_name(build: Build) -> None:
    """Positions count from zero; an unknown name is an error that lists what there is."""
    pipeline = build(a=[]).router.pipeline

    pipeline.add_stage(Only("a"), 3)
    names = [stage.name for stage in pipeline.get_stages()]
    pipeline.remove_stage("only")

    assert names == [*STAGES[:3], "only", *STAGES[3:]]
    with pytest.raises(KeyError, match="state-filter"):
        pipeline.remove_stage("only")


# --- stages of one's own ---------------------------------------------------------------


@pytest.mark.parametrize(
    "position", [2, 3, 4, 5], ids=["before-delivery", "before-requirements", "before-state", "before-choice"]
)
def test_a_stage_of_ones_own_narrows_the_choice(build: Build, position: int) -> None:
    """Wherever it stands, nobody else is chosen."""
    world = build(a=[], b=[], c=[])
    world.router.pipeline.add_stage(Only("c", "b"), position)

    decision = world.router.route("chat")

    assert (decision.model_id, decision.fallback_chain) == ("b", ["c"])


@pytest.mark.parametrize(
    "position", [2, 3, 4, 5], ids=["before-delivery", "before-requirements", "before-state", "before-choice"]
)
def test_a_stage_of_ones_own_binds_the_whole_request(build: Build, position: int) -> None:
    """No rotation, no last resort and no retry leads to a model that it left out."""
    world = build(a=[], b=down(), retry={"max_attempts": 1, "prefer": "retry", "scope": "any"})
    world.pool.deactivate_member(world.member("a"), "error_threshold", rest=60, now=world.clock.monotonic())
    world.router.pipeline.add_stage(Only("b"), position)

    with pytest.raises(AllProvidersExhaustedError):
        world.ask()

    assert world.calls("a") == 0


def test_a_stage_before_the_state_filter_leaves_it_to_that_to_drop_resting_models(build: Build) -> None:
    """A list set by hand is filtered like the pool's own."""
    world = build(a=[], b=[], c=[])
    world.pool.deactivate(world.member("b").model)
    stage = Only("b", "c")
    world.router.pipeline.add_stage(stage, 3)

    assert (world.router.route("chat").model_id, stage.seen) == ("c", ["a", "b", "c"])


def test_a_stage_that_leaves_nobody_is_a_routing_error(build: Build) -> None:
    """The error says which pool and that nobody was left, rather than failing somewhere inside."""
    world = build(a=[])
    world.router.pipeline.add_stage(Only(), 4)

    with pytest.raises(RoutingError, match="'chat'"):
        world.ask()


def test_a_stage_that_leaves_nobody_makes_the_next_pool_be_tried(build: Build) -> None:
    """As when all models of a pool rest."""
    world = build(
        a=[],
        b=[],
        pools={
            "first": {"capability": "chat-completion", "models": ["a"], "priority": 1},
            "second": {"capability": "chat-completion", "models": ["b"]},
        },
    )
    world.router.pipeline.add_stage(Only("b"), 4)

    assert world.router.route("chat-completion").pool_id == "second"


def test_stages_tell_one_another_through_the_metadata(build: Build) -> None:
    """The caller's metadata comes with the request; the context's is the stages' own."""

    class Tenant(PipelineStage):
        name = "tenant"

        def process(self, context: PipelineContext) -> PipelineContext:
            context.metadata["tenant"] = context.request.metadata["tenant"]
            return context

    world = build(a=[])
    world.router.pipeline.add_stage(Tenant(), 0)

    result = world.router.pipeline.execute(PipelineRequest("chat", metadata={"tenant": "blue"}))

    assert result.context.metadata["tenant"] == "blue"


def test_a_pipeline_that_never_chooses_says_so(build: Build) -> None:
    """Removing the strategy is a mistake with an error of its own."""
    world = build(a=[])
    world.router.pipeline.remove_stage("selection-strategy")

    with pytest.raises(RoutingError, match="never selected"):
        world.ask()


# --- filters ----------------------------------------------------------------------------


def test_models_that_cannot_deliver_are_left_out(build: Build) -> None:
    """A stream goes to a model that streams."""
    world = build(
        providers={"acme": []},
        models={"a": {"provider": "acme", "delivery": "sync"}, "b": {"provider": "acme", "delivery": "streaming"}},
    )

    assert world.router.route("chat").model_id == "a"
    assert world.router.route("chat", RoutingOptions(delivery_mode="streaming")).model_id == "b"


def test_nobody_who_can_deliver_is_an_error_that_says_what_was_asked(build: Build) -> None:
    """Its details hold capability and mode."""
    world = build(providers={"acme": []}, models={"a": {"provider": "acme", "delivery": "sync"}})

    with pytest.raises(RoutingError, match="delivery mode 'streaming'") as caught:
        world.router.route("chat", RoutingOptions(delivery_mode="streaming"))

    assert caught.value.details == {"capability": "chat", "delivery_mode": "streaming"}


def test_the_next_matching_pool_is_tried_when_one_has_nobody(build: Build) -> None:
    """The most specific pool first, then the others."""
    world = build(
        a=[],
        b=[],
        pools={
            "first": {"capability": "chat-completion", "models": ["a"], "priority": 1},
            "second": {"capability": "chat-completion", "models": ["b"]},
        },
    )
    world.router.get_pool("first").deactivate(world.member("a", "first").model)

    assert world.router.route("chat-completion").pool_id == "second"


def test_resting_models_are_what_the_caller_hears_of(build: Build) -> None:
    """A pool whose models rest says more than one that could never serve."""
    world = build(
        providers={"acme": []},
        models={"a": {"provider": "acme", "delivery": "sync"}, "b": {"provider": "acme", "delivery": "streaming"}},
        pools={
            "first": {"capability": "chat-completion", "models": ["a"], "priority": 1},
            "second": {"capability": "chat-completion", "models": ["b"]},
        },
    )
    world.router.get_pool("second").deactivate(world.member("b", "second").model)

    with pytest.raises(NoActiveModelError, match="second"):
        world.router.route("chat-completion", RoutingOptions(delivery_mode="streaming"))


# --- hints -------------------------------------------------------------------------------


def test_the_preferred_provider_is_taken_if_it_has_anybody(build: Build) -> None:
    """Among its models the strategy chooses."""
    world = build(a=[], b=[])

    assert world.ask(preferred_provider="b").model == "b"


@pytest.mark.parametrize("provider", ["b", "nobody"], ids=["resting", "unknown"])
def test_a_preference_that_cannot_be_met_is_ignored(build: Build, provider: str) -> None:
    """It is a hint, no condition."""
    world = build(a=[], b=[])
    world.pool.deactivate(world.member("b").model)

    assert world.ask(preferred_provider=provider).model == "a"


def test_a_preferred_provider_that_fails_gives_way_to_the_others(build: Build) -> None:
    """The preference orders the candidates, its own first; it does not cost the caller the failover."""
    world = build(
        providers={"acme": down(), "other": []},
        models={"x": "other", "a": "acme", "b": "acme"},
        retry=NO_RETRY,
    )

    reply = world.ask(preferred_provider="acme")

    assert [attempt.model_id for attempt in reply.metadata["receipt"].attempts] == ["a", "b", "x"]
    assert world.router.route("chat", RoutingOptions(preferred_provider="acme")).fallback_chain == ["b", "x"]


def test_session_and_metadata_reach_the_strategy(build: Build) -> None:
    """Read from the request's metadata, since ``complete`` takes no options."""
    strategy = Listening()
    world = build(a=[], strategy_instance=strategy)

    world.ask(session_id="s-1", team="blue")

    assert (strategy.asked.session_id, strategy.asked.metadata["team"], strategy.asked.capability) == (
        "s-1",
        "blue",
        "chat",
    )


def test_a_dry_run_moves_no_pointer(build: Build) -> None:
    """Looking is not choosing."""
    world = build(a=[], b=[], strategy="round-robin")

    looked = [world.router.pipeline.execute(PipelineRequest("chat", dry_run=True)).model.name for _ in range(3)]

    assert (looked, [world.ask().model for _ in range(3)]) == (["a", "a", "a"], ["a", "b", "a"])


def test_an_unknown_name_lists_the_near_ones(build: Build) -> None:
    """A typo is answered with what there is."""
    with pytest.raises(CapabilityNotFoundError, match="'chat'"):
        build(a=[]).ask("chatt")
