"""What one process reads in a provider's headers, the others know: when it matters, and in few messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh._engine.kept_headroom import is_material
from modelmesh._engine.provider_service import ProviderService
from modelmesh._engine.shared_headroom import SharedHeadroom
from modelmesh.interfaces.provider import RateLimitStatus
from modelmesh.state import ProviderState


class Facts:
    """Keeps what is told until it is let out to the others."""

    def __init__(self) -> None:
        self.told: dict[str, Callable[[], Any]] = {}
        self.lost: Callable[[Any], None] = lambda fact: None
        self.take: Callable[[Any], None] = lambda fact: None
        self.sent = 0

    def on(self, kind: str, take: Callable[[Any], None]) -> None:
        assert kind == "headroom"
        self.take = take

    def tell(self, kind: str, name: str, make: Callable[[], Any], *, lost: Callable[[Any], None]) -> None:
        self.told[name], self.lost = make, lost

    def lose(self) -> None:
        told, self.told = self.told, {}
        for make in told.values():
            self.lost(make())

    def let_out(self, *others: Facts) -> None:
        told, self.told = self.told, {}
        for make in told.values():
            fact = make()
            if fact is not None:
                self.sent += 1
                for other in others:
                    other.take(fact)


def process() -> tuple[ProviderService, Facts]:
    """Build one provider's service with its part in the sharing."""
    telemetry: Any = None
    connector: Any = None
    provider = ProviderService("p", connector, ProviderState(), telemetry=telemetry)
    facts: Any = Facts()
    SharedHeadroom(facts, {"p": provider}).attach()
    return provider, facts


def status(remaining: int | None, tokens: int | None = None) -> RateLimitStatus:
    """Return what an answer said of 1,000 requests."""
    return RateLimitStatus(remaining, tokens, 30.0, 1_000)


def test_what_an_answer_said_here_is_known_there() -> None:
    """And it is not told back."""
    (here, told), (there, theirs) = process(), process()

    here.take_rate_limits(status(400))
    told.let_out(theirs)

    assert there.rate_limits == status(400)
    assert not theirs.told


def test_a_thousand_answers_are_as_many_messages_as_the_limit_has_steps() -> None:
    """One in twenty of the limit is a step."""
    here, told = process()

    for remaining in range(1_000, 0, -1):
        here.take_rate_limits(status(remaining))
        told.let_out()

    assert told.sent == 20


def test_two_processes_that_use_one_limit_tell_no_more_than_one() -> None:
    """What the other told needs no telling."""
    (here, told), (there, theirs) = process(), process()

    for remaining in range(1_000, 0, -1):
        (here, there)[remaining % 2].take_rate_limits(status(remaining))
        told.let_out(theirs)
        theirs.let_out(told)

    assert told.sent + theirs.sent <= 20


def test_the_message_says_how_it_is_when_it_goes_out() -> None:
    """Answers that came while it waited are in it."""
    (here, told), (there, theirs) = process(), process()

    for remaining in (900, 800, 700):
        here.take_rate_limits(status(remaining))
    told.let_out(theirs)

    assert told.sent == 1
    assert there.rate_limits == status(700)


def test_what_could_not_be_told_is_told_with_the_next_answer() -> None:
    """However little that says that is new."""
    (here, told), (there, theirs) = process(), process()
    here.take_rate_limits(status(400))
    told.lose()

    here.take_rate_limits(status(399))
    told.let_out(theirs)

    assert there.rate_limits == status(399)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        pytest.param(None, status(1_000), True, id="first-word"),
        pytest.param(status(500), status(460), False, id="small-step"),
        pytest.param(status(500), status(450), True, id="a-twentieth"),
        pytest.param(status(20), status(0), True, id="used-up"),
        pytest.param(status(0), status(10), True, id="some-again"),
        pytest.param(status(5), status(1_000), True, id="window-began-anew"),
        pytest.param(status(500, 100), status(500, 50), True, id="tokens"),
        pytest.param(status(500), status(None), True, id="no-longer-said"),
        pytest.param(status(None, 100), status(500, 100), True, id="said-now"),
        pytest.param(status(None, 100), status(None, 100), False, id="never-said"),
    ],
)
def test_material_changes(before: RateLimitStatus | None, now: RateLimitStatus, expected: bool) -> None:
    """A change matters when others would choose differently."""
    assert is_material(before, now) is expected
