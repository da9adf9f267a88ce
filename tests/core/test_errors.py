"""Errors: one tree as drawn, facts as attributes, messages that say what to do."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator

import pytest

from modelmesh import errors
from modelmesh.errors import ConfigurationError, ModelMeshError, Problem, unknown_name

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ModelMeshError)]
CLASSES = list(dict.fromkeys(CLASSES))

EXAMPLES: dict[type[ModelMeshError], ModelMeshError] = {
    errors.CapabilityNotFoundError: errors.CapabilityNotFoundError("chta", known=["chat"]),
    errors.AllProvidersExhaustedError: errors.AllProvidersExhaustedError(
        "chat", attempts=2, last_error=errors.RateLimitError("slow down", retry_after=2.0)
    ),
    errors.SessionModelUnavailableError: errors.SessionModelUnavailableError("s", "gpt-4o", pool_name="chat"),
    errors.DeadlineExceededError: errors.DeadlineExceededError(5.0, pool_name="chat", attempts=2),
    errors.BudgetExceededError: errors.BudgetExceededError("daily", 10.0, 10.5),
    errors.QuotaExhaustedError: errors.QuotaExhaustedError("no credit", scope="provider", status_code=402),
    errors.ProviderTimeoutError: errors.ProviderTimeoutError("too slow", timeout_seconds=3.0, clock="idle"),
    errors.StreamInterruptedError: errors.StreamInterruptedError("broke", partial="Once upon"),
    errors.NoActiveModelError: errors.NoActiveModelError("all rest", pool_name="chat", retry_after=7.0),
    ConfigurationError: ConfigurationError.from_problems([Problem("wrong", "pools", "mesh.yaml", 3)]),
}


def example(cls: type[ModelMeshError]) -> ModelMeshError:
    """One error of a class."""
    return EXAMPLES.get(cls) or cls("it failed", details={"why": "because"})


def drawn() -> Iterator[tuple[str, str, str]]:
    """Name, parent and description of each line of the tree in the module's docstring."""
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    (?P<rails>(?:[│ ]  )*)(?P<branch>[├└]─ )?(?P<name>[A-Z]\w+)\s*(?P<text>.*)", line)
        if match is None:
            continue
        depth = len(match["rails"]) // 3 + bool(match["branch"])
        above[depth] = match["name"]
        yield match["name"], above.get(depth - 1, "Exception"), match["text"]


TREE = list(drawn())


def test_the_tree_is_drawn_whole() -> None:
    """Every class stands in the docstring, once."""
    assert sorted(name for name, _, _ in TREE) == sorted(cls.__name__ for cls in CLASSES)


@pytest.mark.parametrize(("name", "parent", "text"), TREE, ids=[name for name, _, _ in TREE])
def test_every_class_stands_where_it_is_drawn(name: str, parent: str, text: str) -> None:
    """Below its parent, retryable and also of a built-in type as the line says."""
    cls = getattr(errors, name)
    also = re.search(r"also (\w+)", text)

    assert cls.__bases__[0].__name__ == parent
    assert [base.__name__ for base in cls.__bases__[1:]] == ([also[1]] if also else [])
    assert cls.default_retryable is ("(retryable)" in text)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_prints_its_message(cls: type[ModelMeshError]) -> None:
    """Those that are a `KeyError`, too, which alone would print a repr."""
    error = example(cls)

    assert str(error) == error.message
    assert error.message
    assert isinstance(error.details, dict)
    assert error.retryable is cls.default_retryable


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("way", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_every_error_can_cross_into_another_process(cls: type[ModelMeshError], way: object) -> None:
    """With its type, its message and its facts."""
    error = example(cls)

    other = way(error)  # type: ignore[operator]  # both are callable

    assert type(other) is cls
    assert str(other) == str(error)
    assert {name: str(value) for name, value in vars(other).items()} == {
        name: str(value) for name, value in vars(error).items()
    }


def test_retryable_can_be_said_for_one_error() -> None:
    """A provider may know better than the class."""
    assert errors.RateLimitError("x", retryable=False).retryable is False
    assert errors.ProviderError("x", retryable=True).retryable is True


def test_details_are_the_errors_own() -> None:
    """Changing them reaches neither the caller's mapping nor another error."""
    given = {"a": 1}
    error = ModelMeshError("x", details=given)

    error.details["b"] = 2

    assert given == {"a": 1}
    assert ModelMeshError("y").details == {}


@pytest.mark.parametrize(
    ("cls", "facts"),
    [
        (errors.CapabilityNotFoundError, {"capability": "chta"}),
        (errors.AllProvidersExhaustedError, {"pool_name": "chat", "attempts": 2}),
        (errors.SessionModelUnavailableError, {"session_id": "s", "model_id": "gpt-4o", "pool_name": "chat"}),
        (errors.DeadlineExceededError, {"deadline": 5.0, "attempts": 2, "pool_name": "chat"}),
        (errors.BudgetExceededError, {"limit_type": "daily", "limit_value": 10.0, "actual_value": 10.5}),
        (errors.QuotaExhaustedError, {"scope": "provider", "status_code": 402, "category": "quota"}),
        (errors.ProviderTimeoutError, {"timeout_seconds": 3.0, "clock": "idle", "category": "timeout"}),
        (errors.StreamInterruptedError, {"partial": "Once upon", "category": "network"}),
        (errors.NoActiveModelError, {"pool_name": "chat", "retry_after": 7.0}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_facts_are_attributes(cls: type[ModelMeshError], facts: dict[str, object]) -> None:
    """Nobody has to parse a message."""
    error = EXAMPLES[cls]

    assert {name: getattr(error, name) for name in facts} == facts


def test_the_last_error_is_told_when_all_attempts_failed() -> None:
    """In the message and as an object."""
    error = EXAMPLES[errors.AllProvidersExhaustedError]

    assert str(error) == "every attempt in pool 'chat' failed (2 made); the last one: slow down"
    assert isinstance(error.last_error, errors.RateLimitError)  # type: ignore[attr-defined]  # an example of that class


@pytest.mark.parametrize(
    ("attempts", "last", "message"),
    [
        (
            0,
            errors.BudgetExceededError("daily", 1.0, 2.0),
            "no attempt was made in pool 'chat': the daily budget of $1 ",
        ),
        (0, None, "no attempt was made in pool 'chat'"),
        (1, None, "every attempt in pool 'chat' failed (1 made)"),
    ],
    ids=["budget", "nothing known", "no error kept"],
)
def test_a_request_that_nobody_was_called_for_is_not_told_as_failed_attempts(
    attempts: int, last: Exception | None, message: str
) -> None:
    """A budget that is used up is no failure of a provider."""
    error = errors.AllProvidersExhaustedError("chat", attempts=attempts, last_error=last)

    assert str(error).startswith(message)
    assert (error.attempts, error.last_error, error.details) == (attempts, last, {"attempts": attempts})


def test_an_older_name_is_the_same_class() -> None:
    """Documents use both."""
    assert errors.NoAvailableModelError is errors.NoActiveModelError


# --- configuration problems -----------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (Problem("wrong", "pools.chat", "mesh.yaml", 3), "mesh.yaml:3: pools.chat: wrong"),
        (Problem("wrong", "pools.chat", "mesh.yaml"), "mesh.yaml: pools.chat: wrong"),
        (Problem("wrong", "pools.chat"), "pools.chat: wrong"),
        (Problem("wrong", line=3), "line 3: wrong"),
        (Problem("wrong"), "wrong"),
    ],
    ids=["all", "no line", "mapping", "no file", "alone"],
)
def test_a_problem_says_where_it_is(problem: Problem, line: str) -> None:
    """As editors and terminals link it: file, colon, line."""
    assert str(problem) == line


@pytest.mark.parametrize(("count", "head"), [(1, "has 1 problem:"), (2, "has 2 problems:")])
def test_all_problems_come_at_once(count: int, head: str) -> None:
    """A line each, below how many there are."""
    problems = [Problem(f"wrong {number}") for number in range(count)]

    error = ConfigurationError.from_problems(problems)

    assert error.problems == tuple(problems)
    assert str(error).splitlines() == [f"the configuration {head}", *(f"  wrong {number}" for number in range(count))]


# --- unknown names ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("round-robbin", ["round-robin", "random"], "; did you mean 'round-robin'?; known: random, round-robin"),
        ("zzz", ["round-robin"], "; known: round-robin"),
        ("zzz", [], "; none is known"),
        ("b", list("ac"), "; known: a, c"),
        (
            "chat",
            ["chat-completion", "chat-completion-long", "chatting-on-and-on-and-on", "text"],
            "; did you mean 'chat-completion' or 'chat-completion-long'?; known: chat-completion, chat-completion-long,"
            " chatting-on-and-on-and-on, text",
        ),
        ("ch", ["chat-completion"], "; known: chat-completion"),
    ],
    ids=["near", "far", "none", "sorted", "beginning", "too short"],
)
def test_an_unknown_name_is_answered_with_the_near_match(name: str, known: list[str], message: str) -> None:
    """And with what there is."""
    assert unknown_name("strategy", name, known) == f"unknown strategy {name!r}{message}"


def test_a_long_list_of_known_names_is_cut() -> None:
    """It would bury the message; the near match is shown even if it is beyond the cut."""
    known = [f"name-{number:03}" for number in range(100)]

    message = unknown_name("model", "name-0999", known, limit=3)

    assert message.endswith("known: name-000, name-001, name-002, …")
    assert "did you mean 'name-099'" in message
