"""What a log says about how a model would have answered at some moment, and how far that can be trusted."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from modelmesh_plugins.replay.records import Attempt, Request

Source = Literal["own", "near", "assumed"]

HORIZON = 60.0
"""Seconds within which a failure of one request is taken to strike another that calls the same model."""

_ABOUT_THE_REQUEST = frozenset({400, 404, 405, 409, 413, 415, 422})
"""Statuses that say something about a request and nothing about the model."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replayed call meets.

    Attributes:
        latency: Seconds; 0 where nothing is known.
        status: 200, or that of the failure.
        error: Its text.
        source: ``own``: recorded of this very request; ``near``: of another, close in time; ``assumed``: the log never
            saw the model, which is taken to answer.
    """

    latency: float
    status: int
    error: str | None
    tokens_in: int
    tokens_out: int
    source: Source


class _Series:
    """One model's attempts in the order of time."""

    def __init__(self, attempts: Iterable[Attempt]) -> None:
        self._all = sorted(attempts, key=lambda attempt: attempt.ended)
        self._good = [attempt for attempt in self._all if attempt.is_good]
        self._times = [attempt.ended for attempt in self._all]
        self._good_times = [attempt.ended for attempt in self._good]

    def near(self, when: float) -> Attempt | None:
        """Return the attempt closest in time; an answer, unless a failure lies within the horizon."""
        closest = _closest(self._all, self._times, when)
        if closest is not None and (closest.is_good or abs(closest.ended - when) <= HORIZON):
            return closest
        return _closest(self._good, self._good_times, when)


class Evidence:
    """Everything a log says.

    Args:
        requests: As recorded.
    """

    def __init__(self, requests: Iterable[Request]) -> None:
        self._requests = {request.request_id: request for request in requests}
        by_model: dict[tuple[str, str], list[Attempt]] = {}
        for request in self._requests.values():
            for attempt in request.attempts:
                if attempt.status not in _ABOUT_THE_REQUEST:
                    by_model.setdefault((attempt.provider_id, attempt.model_id), []).append(attempt)
        self._series = {name: _Series(attempts) for name, attempts in by_model.items()}
        self._used: dict[tuple[str, str, str], int] = {}

    def outcome(self, request_id: str, provider_id: str, model_id: str, when: float) -> Outcome:
        """Say what a call meets.

        Args:
            request_id: Of the recorded request.
            provider_id: As configured; a model of the same name elsewhere is another one.
            model_id: As configured.
            when: Unix time of the call.
        """
        request = self._requests[request_id]
        own = [a for a in request.attempts if (a.provider_id, a.model_id) == (provider_id, model_id)]
        key = (request_id, provider_id, model_id)
        number = self._used[key] = self._used.get(key, 0) + 1
        if number <= len(own):
            return _as_outcome(own[number - 1], request, "own")
        refused = next((a for a in request.attempts if a.status in _ABOUT_THE_REQUEST), None)
        if refused is not None and request.answered_by is None:
            # What one model refuses as malformed is malformed for the others, too.
            return _as_outcome(refused, request, "near")
        series = self._series.get((provider_id, model_id))
        closest = None if series is None else series.near(when)
        if closest is None:
            return Outcome(0.0, 200, None, *_tokens(request), "assumed")
        return _as_outcome(closest, request, "near")


def _as_outcome(attempt: Attempt, request: Request, source: Source) -> Outcome:
    if attempt.is_good:
        return Outcome(attempt.latency, 200, None, *_tokens(request), source)
    # Tokens of a failure are those of a broken stream, and only its own request's.
    tokens = (attempt.tokens_in, attempt.tokens_out) if source == "own" else (0, 0)
    return Outcome(attempt.latency, attempt.status, attempt.error, *tokens, source)


def _tokens(request: Request) -> tuple[int, int]:
    """Return the tokens an answer to a request is taken to have: those of its recorded answer."""
    last = next((attempt for attempt in reversed(request.attempts) if attempt.is_good), None)
    if last is not None:
        return last.tokens_in, last.tokens_out
    return max(attempt.tokens_in for attempt in request.attempts), 0


def _closest(attempts: list[Attempt], times: list[float], when: float) -> Attempt | None:
    place = bisect_left(times, when)
    around = attempts[max(0, place - 1) : place + 1]
    return min(around, key=lambda attempt: abs(attempt.ended - when), default=None)
