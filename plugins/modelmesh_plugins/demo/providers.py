"""The demo's three providers: real HTTP servers on loopback, each with a temper of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

from modelmesh_cdk.testing import FaultServer, faults
from modelmesh_cdk.testing.faults import Action, RecordedRequest, Step

FREE_REQUESTS = 60
"""What the free provider answers before its quota is used up."""

_FREE_SECONDS, _FLAKY_SECONDS, _STEADY_SECONDS = 0.02, 0.03, 0.06
_SILENCE = "stall"


def question(number: int) -> str:
    """Return what request ``number`` asks."""
    return f"Question {number}: what stays up when a provider goes down?"


def expected(number: int) -> str:
    """Return the whole answer to request ``number``: whoever answers says this, word for word."""
    return (
        f"Answer {number}: your program does, as long as one provider can answer. This is the end of answer {number}."
    )


def free() -> FaultServer:
    """Return the provider that costs nothing and has a quota."""
    left = iter(range(FREE_REQUESTS))

    def step(request: RecordedRequest) -> Iterable[Action]:
        if next(left, None) is None:
            return faults.status(429, error_code="insufficient_quota", message="the free quota is used up")(request)
        return _answer(request, _FREE_SECONDS)

    return FaultServer(default=step)


def flaky() -> FaultServer:
    """Return the provider that fails, drops connections and cuts streams, in bursts."""
    numbers = count(1)

    def step(request: RecordedRequest) -> Iterable[Action]:
        trouble = _TROUBLES.get(next(numbers) % _CYCLE)
        if trouble is None:
            return _answer(request, _FLAKY_SECONDS)
        if isinstance(trouble, str):
            words = _text(request).split(" ")[:5]
            broken = faults.stream(*(f"{word} " for word in words), end="stall" if trouble == _SILENCE else "cut")
            return broken(request) if request.wants_stream else faults.reset()(request)
        return trouble(request)

    return FaultServer(default=step)


def steady() -> FaultServer:
    """Return the provider that always answers, and costs most."""
    return FaultServer(default=lambda request: _answer(request, _STEADY_SECONDS))


_CYCLE = 23
_TROUBLES: dict[int, Step | str] = {
    3: faults.status(503, message="overloaded"),
    6: "cut",
    9: faults.body(b"<html>Bad gateway</html>", content_type="text/html"),
    12: _SILENCE,
    15: faults.status(500, message="internal error"),
    16: faults.status(500, message="internal error"),
    18: faults.reset(),
    21: "cut",
}
"""What goes wrong, by the number of the request within a cycle."""


def _answer(request: RecordedRequest, seconds: float) -> Iterator[Action]:
    text = _text(request)
    if not request.wants_stream:
        return iter(faults.delay(faults.chat(text), seconds)(request))
    words = text.split(" ")
    pieces = [*(f"{word} " for word in words[:-1]), words[-1]]
    return iter(faults.delay(faults.stream(*pieces, pause=seconds / len(pieces)), seconds / 2)(request))


def _text(request: RecordedRequest) -> str:
    asked: str = request.json["messages"][-1]["content"]
    return expected(int(asked.split(":", maxsplit=1)[0].removeprefix("Question ")))
