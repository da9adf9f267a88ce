"""Reads request logs: the JSON lines that observability connectors write, grouped back into requests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from modelmesh.errors import ModelMeshError

CALLER_LEFT = 499
"""Status of an attempt whose caller went away: nobody's failure."""


class LogError(ModelMeshError):
    """A log cannot be replayed; the message says why."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One recorded call.

    Attributes:
        ended: Unix time.
        latency: Seconds.
        cost: USD, or None where no price was known.
        error: What was wrong, or None.
    """

    model_id: str
    provider_id: str
    ended: float
    latency: float
    status: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    error: str | None

    @property
    def is_good(self) -> bool:
        """Whether it answered, as far as it was let."""
        return self.status < 400 or self.status == CALLER_LEFT


@dataclass(slots=True)
class Request:
    """One recorded request.

    Attributes:
        asked_for: The capability, or the pool where the log does not say; what is asked of the other configuration.
        streamed: Whether it was answered in chunks.
        payload: What was sent, or None where the log does not hold all of it.
        is_cut: Whether the log holds a part of the payload.
    """

    request_id: str
    asked_for: str
    streamed: bool
    payload: dict[str, Any] | None
    is_cut: bool
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def arrived(self) -> float:
        """Unix time at which its first attempt began."""
        return self.attempts[0].ended - self.attempts[0].latency

    @property
    def answered_by(self) -> str | None:
        """The model that answered, or None when nobody did."""
        last = self.attempts[-1]
        return last.model_id if last.is_good else None

    @property
    def cost(self) -> float | None:
        """USD over all attempts; None when an answer's price was not known."""
        return total_cost((attempt.cost, attempt.is_good) for attempt in self.attempts)

    @property
    def latency(self) -> float:
        """Seconds over all attempts, without the waits between them."""
        return sum(attempt.latency for attempt in self.attempts)


@dataclass(slots=True)
class Log:
    """What was read.

    Attributes:
        requests: By arrival.
        unreadable: Lines that are no JSON objects, such as one cut off by a crash.
        others: Records of other kinds: events, statistics, traces.
    """

    requests: list[Request] = field(default_factory=list)
    unreadable: int = 0
    others: int = 0


def read_log(lines: Iterable[str]) -> Log:
    """Read a log.

    Raises:
        LogError: It holds no request; says what it holds instead.
    """
    log = Log()
    found: dict[str, Request] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError
            if record.get("type") != "log":
                log.others += 1
                continue
            _take(record, found, number)
        except (ValueError, KeyError, TypeError, RecursionError):
            log.unreadable += 1
    if not found:
        raise LogError(_nothing_found(log))
    for request in found.values():
        request.attempts.sort(key=lambda attempt: attempt.ended)
    log.requests = sorted(found.values(), key=lambda request: request.arrived)
    return log


def total_cost(costs: Iterable[tuple[float | None, bool]]) -> float | None:
    """Add up (cost, whether it was an answer); None when an answer's cost is not known."""
    total = 0.0
    for cost, is_answer in costs:
        if cost is None and is_answer:
            return None
        total += cost or 0.0
    return total


def _take(record: Mapping[str, Any], found: dict[str, Request], number: int) -> None:
    attempt = Attempt(
        str(record["model_id"]),
        str(record["provider_id"]),
        datetime.fromisoformat(record["timestamp"]).timestamp(),
        float(record["latency_ms"]) / 1000.0,
        int(record["status_code"]),
        int(record.get("tokens_in") or 0),
        int(record.get("tokens_out") or 0),
        None if record.get("cost") is None else float(record["cost"]),
        record.get("error"),
    )
    request_id = str(record.get("request_id") or f"line-{number}")
    request = found.get(request_id)
    if request is None:
        asked_for = record.get("capability") or record["pool_id"]
        text = record.get("request_payload")
        payload = _payload(text)
        request = found[request_id] = Request(
            request_id,
            str(asked_for),
            record.get("delivery_mode") == "streaming",
            payload,
            is_cut=text is not None and payload is None,
        )
    request.attempts.append(attempt)


def _payload(text: object) -> dict[str, Any] | None:
    if not isinstance(text, str):
        return None
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):  # cut to its size, or a secret was taken out across a quote
        return None
    return payload if isinstance(payload, dict) else None


def _nothing_found(log: Log) -> str:
    if log.others:
        return (
            f"the log holds {log.others:,} events, statistics or traces, and no request; "
            "let observability.logging name the file connector"
        )
    if log.unreadable:
        return "the log holds no JSON lines; give a file that the file or json-log connector wrote"
    return "the log is empty"
