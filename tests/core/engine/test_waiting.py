"""A wait that a strategy asks for: the engine carries it out, and the strategy does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelmesh._engine.pipeline import PipelineRequest
from modelmesh.errors import ProviderServerError
from modelmesh.interfaces.strategy import Candidate, SelectionRequest
from modelmesh_cdk.strategy import BaseStrategy


class Waiting(BaseStrategy[Any]):
    """Takes the first and lets some seconds pass."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        return candidates[0], "first"

    def wait(self, chosen: Candidate, request: SelectionRequest) -> float:
        return self.seconds


def test_the_wait_comes_before_the_first_call_and_is_no_overhead(build: Any) -> None:
    """It stands in the receipt's time but not on the router's account."""
    world = build(a=[], strategy_instance=Waiting(7.0))

    receipt = world.ask().metadata["receipt"]

    assert world.clock.sleeps[0] == 7.0
    assert (len(receipt.attempts), receipt.overhead_us) == (1, 0.0)


def test_streams_wait_as_well(build: Any) -> None:
    """Both doors use the same machine."""
    world = build(a=[], strategy_instance=Waiting(7.0))

    assert world.stream()
    assert world.clock.sleeps[0] == 7.0


def test_the_others_are_called_without_waiting_again(build: Any) -> None:
    """The wait was for the chosen one."""
    world = build(a=[ProviderServerError("down")], b=[], strategy_instance=Waiting(7.0))

    assert world.ask().model == "b"
    assert world.clock.sleeps == [7.0]


def test_a_wait_beyond_the_deadline_is_not_begun(build: Any) -> None:
    """The others are called at once, and the chosen one after them."""
    world = build(a=[], b=[ProviderServerError("down")], strategy_instance=Waiting(30.0), deadline=20)

    assert world.ask().model == "a"
    assert (world.calls("b"), world.clock.sleeps) == (1, [])


def test_alone_the_chosen_one_is_called_without_the_wait(build: Any) -> None:
    """A limit that comes near is not yet reached; refusing would be worse."""
    world = build(a=[], strategy_instance=Waiting(30.0), deadline=20)

    assert (world.ask().model, world.clock.sleeps) == ("a", [])


def test_a_dry_run_shows_the_wait(build: Any) -> None:
    """It is part of the selection."""
    world = build(a=[], strategy_instance=Waiting(7.0))

    assert world.router.pipeline.execute(PipelineRequest("chat", dry_run=True)).selection.wait_seconds == 7.0
