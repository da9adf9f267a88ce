"""One model per conversation."""

from __future__ import annotations

from typing import Any

import pytest

from modelmesh.errors import SessionModelUnavailableError
from modelmesh_plugins.strategies.session_stickiness import MAX_SESSIONS, SessionConfig, SessionStickiness

THREE: dict[str, dict[str, Any]] = {"a": {}, "b": {}, "c": {}}


def sticky(**settings: Any) -> SessionStickiness:
    """Build the strategy with these settings."""
    return SessionStickiness(SessionConfig.model_validate(settings))


def test_a_session_stays_with_its_model(bench: Any) -> None:
    """Even when one that new sessions would get is there."""
    on = bench(sticky(), **THREE)

    first = on.choose("bc", session="s")
    later = on.result("abc", session="s")

    assert (first, later.model_id, later.reason) == ("b", "b", "session")
    assert on.choose("abc", session="other") == "a"


def test_new_sessions_get_the_preferred_model(bench: Any) -> None:
    """Models by priority, then providers, then pool order."""
    on = bench(sticky(model_priority=["c"], provider_priority=["pb"]), **THREE)

    assert [on.choose(names, session=names) for names in ("abc", "ab", "a")] == ["c", "b", "a"]
    assert on.ranked("a") == "cb"


def test_requests_without_a_session_are_not_remembered(bench: Any) -> None:
    """Each is chosen for anew."""
    on = bench(sticky(), **THREE)

    assert [on.choose("bc"), on.choose("abc")] == ["b", "a"]


def test_a_session_whose_model_rests_is_given_another_for_good(bench: Any) -> None:
    """Fallback: the session stays with the new one when the old one returns."""
    on = bench(sticky(), **THREE)
    chosen = [on.choose(names, session="s") for names in ("abc", "bc", "abc")]

    assert chosen == ["a", "b", "b"]


def test_a_strict_session_whose_model_rests_is_refused(bench: Any) -> None:
    """The error names session, model and pool; the session is still there when the model is back."""
    on = bench(sticky(affinity_mode="strict"), **THREE)
    on.choose(session="s")

    with pytest.raises(SessionModelUnavailableError, match="'a' is standby") as caught:
        on.choose("bc", session="s")

    assert (caught.value.session_id, caught.value.model_id, caught.value.pool_name) == ("s", "a", "chat")
    assert on.choose("abc", session="s") == "a"


def test_nobody_else_answers_a_strict_session(bench: Any) -> None:
    """A request without session may still go on to the others."""
    on = bench(sticky(affinity_mode="strict"), **THREE)

    assert on.ranked("a", session="s") == ""
    assert on.ranked("b") == "ac"


def test_a_strict_session_whose_model_left_the_pool_starts_anew(bench: Any) -> None:
    """Waiting for a model that is gone would be for ever."""
    on = bench(sticky(affinity_mode="strict"), **THREE)
    on.choose(session="s")

    on.strategy.pool_changed("bc")

    assert on.choose("bc", session="s") == "b"


def test_a_session_is_forgotten_after_a_time_without_requests(bench: Any) -> None:
    """Each request begins the time anew."""
    on = bench(sticky(session_timeout="10m"), **THREE)
    on.choose("bc", session="s")
    chosen = []
    for seconds in (599, 599, 600):
        on.clock.advance(seconds)
        chosen.append(on.choose(session="s"))

    assert chosen == ["b", "b", "a"]


def test_no_more_than_ten_thousand_sessions_are_remembered(bench: Any) -> None:
    """The one unused for longest makes room; using one keeps it."""
    on = bench(sticky(), **THREE)
    for number in range(MAX_SESSIONS):
        on.choose("bc", session=str(number))
    on.choose(session="0")

    on.choose(session="one more")

    assert [on.choose(session=session) for session in ("0", "9999", "1")] == ["b", "b", "a"]


def test_how_many_sessions_are_remembered_can_be_said(bench: Any) -> None:
    """For as many as a pool's processes have together."""
    on = bench(sticky(max_sessions=2), **THREE)
    for session in "xyz":
        on.choose("bc", session=session)

    assert [on.choose(session=session) for session in "yzx"] == ["b", "b", "a"]


def test_sessions_that_ended_make_room_by_themselves(bench: Any) -> None:
    """Memory follows the traffic of the last half hour, not that of the year."""
    on = bench(sticky(), **THREE)
    for number in range(100):
        on.choose(session=str(number))
    on.clock.advance(1_800)

    on.choose(session="new")

    assert len(on.strategy._sessions) == 1


def test_the_sessions_model_is_rated_highest(bench: Any) -> None:
    """The others as priority-selection does."""
    on = bench(sticky(model_priority=["b"]), **THREE)

    assert [on.result(session="s").score, on.result(session="s").score, on.score("b"), on.score("a")] == [
        1001.0,
        2000.0,
        1001.0,
        1.0,
    ]
