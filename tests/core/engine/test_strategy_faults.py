"""A strategy with a mistake of its own: the error says which one, of which pool, where, and what it said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh.errors import PluginError, ProviderServerError, RoutingError
from modelmesh_cdk import BaseStrategy
from modelmesh_cdk.testing import ScriptedProvider

Build = Callable[..., Any]
KEY = "sk-canary0123456789abcdef"


class Broken(BaseStrategy[Any]):
    """Does what it is told to, wherever a strategy may go wrong."""

    def __init__(self, *, choose: Any = None, changed: Any = None, **does: Any) -> None:
        super().__init__()
        self.does = {"choose": choose, "changed": changed, **does}

    def _go_wrong(self, where: str) -> Any:
        what = self.does[where]
        if isinstance(what, BaseException):
            raise what
        return what

    def pool_changed(self, pool_order: Any) -> None:
        super().pool_changed(pool_order)
        self._go_wrong("changed")

    def choose(self, candidates: Any, request: Any) -> Any:
        if self.does["choose"] is None:
            return candidates[0], "first"
        return self._go_wrong("choose")

    def rank(self, candidates: Any, request: Any, selected: Any) -> Any:
        if "rank" in self.does:
            return self._go_wrong("rank")
        return [each for each in candidates if each.model_id != selected.model_id]

    def score(self, candidate: Any, request: Any) -> Any:
        is_chosen = candidate.model_id == "a"
        return self._go_wrong("score") if "score" in self.does and not is_chosen else 1.0

    def remarks(self, candidates: Any, request: Any) -> Any:
        return self._go_wrong("remarks") if "remarks" in self.does else {}


class Nothing(Broken):
    """Chooses nobody."""

    def choose(self, candidates: Any, request: Any) -> Any:
        return None


class Handmade(Broken):
    """Returns whatever it was given, and inherits no way to choose."""

    def select(self, candidates: Any, request: Any) -> Any:
        return self._go_wrong("choose")

    peek = select


def ask(world: Any) -> None:
    """Ask for an answer."""
    world.ask()


def explain(world: Any) -> None:
    """Ask who would be called."""
    world.router.explain("chat")


@pytest.mark.parametrize("door", [ask, explain])
@pytest.mark.parametrize("fault", [RuntimeError("boom in choose"), SystemExit("boom in choose")], ids=["error", "exit"])
def test_a_strategy_that_raises_is_named_with_its_pool_its_place_and_its_words(
    build: Build, door: Callable[[Any], None], fault: BaseException
) -> None:
    """Its author finds the line, and the original is the cause."""
    world = build(a=[], strategy_instance=Broken(choose=fault))

    with pytest.raises(PluginError) as caught:
        door(world)

    said = caught.value.message
    assert said.startswith(f"strategy {__name__}.Broken of pool 'chat' could not choose: it raised ")
    assert f"{type(fault).__name__} at {__name__.replace(chr(46), chr(47))}.py:" in said
    assert said.endswith(" in _go_wrong: boom in choose")
    assert caught.value.__cause__ is fault


def test_a_strategy_that_chooses_nobody_is_told_so(build: Build) -> None:
    """The mistake shows in the base class, and the message says whose it most likely is."""
    world = build(a=[], strategy_instance=Nothing())

    with pytest.raises(PluginError, match=r"Nothing of pool 'chat' could not choose: it raised TypeError") as caught:
        world.ask()

    assert caught.value.message.endswith("most likely it returned something else than its base class asks for")


class Elsewhere:
    """A choice that names a model the pool does not have."""

    model_id = "nobody"


@pytest.mark.parametrize(
    ("result", "said"),
    [((), "returned a tuple"), (Elsewhere(), "returned 'nobody', which is no model of the pool")],
    ids=["no result", "a stranger"],
)
def test_a_strategy_that_returns_no_model_of_the_pool_is_told_what(build: Build, result: Any, said: str) -> None:
    """Also one that inherits nothing."""
    world = build(a=[], strategy_instance=Handmade(choose=result))

    with pytest.raises(PluginError, match=rf"Handmade of pool 'chat' could not choose: it {said}"):
        world.ask()


def test_a_strategy_that_cannot_rank_is_named_when_others_are_to_be_tried(build: Build) -> None:
    """The request ends with what is wrong, not with a stranger's exception."""
    failing = ScriptedProvider(default=ProviderServerError("down", status_code=500))
    world = build(a=failing, b=[], strategy_instance=Broken(rank=LookupError("no order")))

    with pytest.raises(PluginError, match=r"could not rank the models: it raised LookupError at .*: no order"):
        world.ask()


@pytest.mark.parametrize("door", [ask, explain])
@pytest.mark.parametrize(
    ("order", "said"),
    [
        (None, "it raised TypeError at .*: 'NoneType' object is not iterable; most likely it returned something else"),
        (["b"], "it returned a str among them, which is none of its candidates"),
    ],
    ids=["nothing", "names"],
)
def test_a_strategy_that_ranks_something_else_is_told_what(
    build: Build, door: Callable[[Any], None], order: Any, said: str
) -> None:
    """The request ends with whose mistake it was, whoever asks."""
    failing = ScriptedProvider(default=ProviderServerError("down", status_code=500))
    world = build(a=failing, b=[], strategy_instance=Broken(rank=order))

    with pytest.raises(PluginError, match=f"Broken of pool 'chat' could not rank the models: {said}"):
        door(world)


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ({"score": KeyError("rate")}, "rate a model: it raised KeyError at .* in _go_wrong: 'rate'"),
        ({"score": "best"}, "rate a model: it raised ValueError at .*; most likely it returned something else"),
        ({"remarks": KeyError("why")}, "remark on models: it raised KeyError at .* in _go_wrong: 'why'"),
        ({"remarks": 5}, "remark on models: it raised TypeError at .*; most likely it returned something else"),
    ],
    ids=["score raises", "score is no number", "remarks raise", "remarks are none"],
)
def test_a_strategy_that_cannot_explain_itself_is_named(build: Build, does: dict[str, Any], said: str) -> None:
    """What only explaining asks of it fails no request."""
    world = build(a=[], b=[], strategy_instance=Broken(**does))

    with pytest.raises(PluginError, match=f"Broken of pool 'chat' could not {said}"):
        explain(world)

    assert world.ask() is not None


def test_a_strategy_that_cannot_take_the_pools_models_is_named_at_the_start(build: Build) -> None:
    """Before anybody asks."""
    with pytest.raises(PluginError, match=r"could not take note of the pool's models: it raised OSError at .*: full"):
        build(a=[], strategy_instance=Broken(changed=OSError("full")))


def test_a_strategys_words_are_told_without_keys(build: Build) -> None:
    """A stranger's exception may say anything."""
    world = build(a=[], strategy_instance=Broken(choose=RuntimeError(f"no answer for {KEY}\nand more")))

    with pytest.raises(PluginError) as caught:
        world.ask()

    assert caught.value.message.endswith("no answer for ***REDACTED***")


def test_a_refusal_of_a_strategy_goes_through_as_it_is(build: Build) -> None:
    """One of ours is no mistake of the strategy."""
    refusal = RoutingError("not for you")
    world = build(a=[], strategy_instance=Broken(choose=refusal))

    with pytest.raises(RoutingError) as caught:
        world.ask()

    assert caught.value is refusal
