"""The engine's one way to say what happens: builds events, logs and traces, and only when somebody reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from modelmesh._engine.dispatch import Dispatcher
from modelmesh.errors import CapabilityNotFoundError, ModelMeshError
from modelmesh.interfaces.observability import EventType, RequestLogEntry, RoutingEvent, Severity, TraceEntry
from modelmesh.interfaces.provider import AttemptRecord
from modelmesh.interfaces.runtime import Clock

if TYPE_CHECKING:
    from modelmesh._engine.call import Call
    from modelmesh._engine.events import EventEmitter
    from modelmesh._engine.request_log import RequestLogger


class Telemetry:
    """Events, logs and traces of one mesh.

    Attributes:
        wants_spans: Whether a connector records spans, so that requests and attempts need IDs for theirs.
    """

    def __init__(self, dispatcher: Dispatcher, emitter: EventEmitter, logger: RequestLogger, clock: Clock) -> None:
        self.emitter = emitter
        self.logger = logger
        self._clock = clock
        self.speak_to(dispatcher)

    def speak_to(self, dispatcher: Dispatcher) -> None:
        """Hand everything to this dispatcher from now on, and look again at what its connectors want."""
        self.dispatcher = dispatcher
        self.wants_spans = any(getattr(each, "wants_spans", False) for each in dispatcher.connectors)

    @property
    def wants_logs(self) -> bool:
        """Whether anybody reads request logs."""
        return self.dispatcher.wants_logs

    @property
    def wants_info(self) -> bool:
        """Whether anybody reads INFO traces."""
        return self.dispatcher.wants_info

    @property
    def wants_debug(self) -> bool:
        """Whether anybody reads DEBUG traces."""
        return self.dispatcher.wants_debug

    @property
    def wants_warning(self) -> bool:
        """Whether anybody reads WARNING traces."""
        return self.dispatcher.wants_warning

    @property
    def wants_error(self) -> bool:
        """Whether anybody reads ERROR traces."""
        return self.dispatcher.wants_error

    def wall_time(self) -> float:
        """The wall clock, Unix time."""
        return self._clock.time()

    def now(self) -> datetime:
        """The wall clock, timezone-aware UTC."""
        return datetime.fromtimestamp(self._clock.time(), UTC)

    def event(
        self,
        event_type: EventType,
        *,
        model_id: str | None = None,
        provider_id: str | None = None,
        pool_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Emit a routing event."""
        if self.dispatcher.wants_events:
            self.emitter.emit(RoutingEvent(event_type, self.now(), model_id, provider_id, pool_id, metadata or {}))

    def trace(
        self,
        severity: Severity,
        component: str,
        message: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        error: str | None = None,
    ) -> None:
        """Write one trace line."""
        if self.dispatcher.wants_trace(severity):
            facts = metadata if type(metadata) is dict else dict(metadata or {})
            self.dispatcher.trace(TraceEntry(severity, self.now(), component, message, facts, error))

    def routed(self, call: Call) -> None:
        """Trace a routing decision before it is carried out: what was asked, who was chosen and why."""
        route = call.route
        self.trace(
            Severity.DEBUG,
            "router",
            f"{call.capability} goes to {route.selected.model_id}",
            {
                "request_id": call.request_id,
                "capability": call.capability,
                "model": route.selected.model_id,
                "provider": route.selected.provider_id,
                "delivery_mode": call.delivery_mode,
                "pool": call.pool.name,
                "reason": route.selection.reason,
                "candidates": len(route.candidates),
                "fallback_chain": route.fallback_ids(),
                "routing_latency_us": round(call.overhead_us(), 1),
            },
        )

    def switched(self, call: Call, before: str) -> None:
        """Tell that a strategy left a model before its provider's limit was reached."""
        chosen, left = call.route.selected, call.pool.members.get(before)
        self.event(
            EventType.MODEL_ROTATED,
            model_id=chosen.model_id,
            provider_id=chosen.provider_id,
            pool_id=call.pool.name,
            metadata={
                "from_model": before,
                "from_provider": None if left is None else left.provider_id,
                "reason": "rate_limit",
                "attempt": 1,
                "request_id": call.request_id,
            },
        )

    def unrouted(self, capability: str, request_id: str, error: ModelMeshError) -> None:
        """Trace a request for which no model was found; a name that does not exist is the caller's mistake."""
        severity = Severity.WARNING if isinstance(error, CapabilityNotFoundError) else Severity.ERROR
        if self.dispatcher.wants_trace(severity):
            self.trace(
                severity,
                "router",
                f"{capability} was not answered: {type(error).__name__}",
                {"request_id": request_id, "capability": capability, "attempts": 0},
                error=str(error),
            )

    def log(self, call: Call, record: AttemptRecord, *, status_code: int, response: object = None) -> None:
        """Write one request log record, with payloads where a sink asks for them.

        That of a failed attempt waits for `log_held`: only then is it known whether another attempt follows.
        """
        is_last = record.outcome in ("success", "cancelled")
        entry = RequestLogEntry(
            self.now(),
            record.model_id,
            record.provider_id,
            call.capability,
            call.delivery_mode,
            record.latency_ms,
            status_code,
            record.tokens_in,
            record.tokens_out,
            record.cost,
            record.reason,
            request_id=call.request_id,
            pool_id=call.pool.name,
            routing_reason=_reason(call),
            attempt=len(call.attempts),
            overhead_us=call.overhead_us() if record.outcome == "success" else None,
            outcome=record.outcome,
            operation=call.operation,
            upstream_model=None if call.last_member is None else call.last_member.model.wire_name,
            time_to_first_token_ms=record.time_to_first_token_ms,
            request_ms=(self._clock.monotonic() - call.started) * 1000.0,
            is_last=is_last,
            trace=None if call.trace is None else call.trace.link(),
        )
        if self.dispatcher.wants_payloads:
            entry.request_payload = _as_text(call.payload)
            entry.response_payload = None if response is None else _as_text(response)
        if is_last:
            self.logger.log(entry)
        else:
            call.held_log = entry

    def log_held(self, call: Call, *, is_last: bool = False) -> None:
        """Write the record of the last attempt if it waits: another one begins, or the request is over."""
        entry = call.held_log
        if entry is not None:
            call.held_log = None
            entry.is_last = is_last
            self.logger.log(entry)


def _reason(call: Call) -> str:
    """Say why the latest attempt called its model."""
    attempts = call.attempts
    if len(attempts) == 1:
        return call.route.selection.reason
    return "retry" if attempts[-2].model_id == attempts[-1].model_id else "rotation"


def _as_text(payload: object) -> str:
    return payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False, default=str)
