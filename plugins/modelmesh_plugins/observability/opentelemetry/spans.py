"""From request records to spans: one a request, with one child an attempt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from modelmesh.interfaces.observability import LogLevel, RequestLogEntry, TraceLink
from modelmesh_cdk.labels import BoundedLabels
from modelmesh_plugins.observability.opentelemetry import genai_names as names

Attributes = dict[str, AttributeValue]

_PROPAGATOR = TraceContextTextMapPropagator()
_SUCCESS, _CANCELLED = "success", "cancelled"


class DrawnIds(RandomIdGenerator):
    """Gives spans the IDs that were drawn for them when their request came in."""

    def __init__(self) -> None:
        self.trace_id = 0
        self.span_id = 0

    def generate_trace_id(self) -> int:
        """Return the trace's ID."""
        return self.trace_id or super().generate_trace_id()

    def generate_span_id(self) -> int:
        """Return the span's ID."""
        return self.span_id or super().generate_span_id()


class SpanWriter:
    """Writes spans into a tracer provider; for one thread.

    Args:
        provider: Samples, collects and exports.
        ids: The provider's own.
        redact: Takes secrets out of texts.
    """

    def __init__(self, provider: TracerProvider, ids: DrawnIds, redact: Callable[[str], str]) -> None:
        self._sampler = provider.sampler
        self._tracer = provider.get_tracer("modelmesh", schema_url=names.SCHEMA_URL)
        self._ids = ids
        self._redact = redact

    def write(self, entry: RequestLogEntry, link: TraceLink, *, content: bool) -> None:
        """Write an attempt's span, and its request's when it was the last.

        Args:
            entry: The attempt.
            link: Its IDs, and those of its caller.
            content: Whether prompts and answers may be told.
        """
        trace_id = int(link.trace_id, 16)
        caller = _caller(link)
        operation = entry.operation or "chat"
        request_name = f"{operation} {entry.capability}"
        # Asked once for both, as an attempt's span is written before the request's, which is its parent.
        if self._sampler.should_sample(caller, trace_id, request_name).decision is not Decision.RECORD_AND_SAMPLE:
            return
        ended = int(entry.timestamp.timestamp() * 1e6) * 1_000
        began = ended - int((entry.request_ms or entry.latency_ms) * 1e6)
        own = SpanContext(
            trace_id,
            int(link.request_span_id, 16),
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
            trace_state=get_current_span(caller).get_span_context().trace_state,
        )
        name = f"{operation} {entry.upstream_model or entry.model_id}"
        attributes = attempt_attributes(entry)
        if content:
            attributes |= content_attributes(entry, self._redact)
        parent = set_span_in_context(NonRecordingSpan(own), Context())
        attempt_began = max(began, ended - int(entry.latency_ms * 1e6))
        self._span(entry, link.attempt_span_id, name, SpanKind.CLIENT, parent, attributes, attempt_began, ended)
        if entry.is_last:
            self._ids.trace_id = trace_id
            self._span(
                entry,
                link.request_span_id,
                request_name,
                SpanKind.INTERNAL,
                caller,
                request_attributes(entry),
                began,
                ended,
            )

    def _span(
        self,
        entry: RequestLogEntry,
        span_id: str,
        name: str,
        kind: SpanKind,
        parent: Context,
        attributes: Attributes,
        began: int,
        ended: int,
    ) -> None:
        self._ids.span_id = int(span_id, 16)
        span = self._tracer.start_span(name, parent, kind, attributes, start_time=began)
        if _is_failure(entry):
            span.set_status(Status(StatusCode.ERROR, self._redact(entry.error or "")))
        span.end(ended)


def request_attributes(entry: RequestLogEntry) -> Attributes:
    """Return what a request's span says, from the record of its last attempt."""
    attributes: Attributes = {
        names.OPERATION_NAME: entry.operation or "chat",
        names.REQUEST_MODEL: entry.capability,
        names.ATTEMPTS: entry.attempt,
        **_told({names.REQUEST_ID: entry.request_id, names.POOL: entry.pool_id, names.OUTCOME: entry.outcome}),
    }
    if entry.overhead_us is not None:
        attributes[names.OVERHEAD_US] = entry.overhead_us
    return attributes | _way(entry)


def attempt_attributes(entry: RequestLogEntry) -> Attributes:
    """Return what an attempt's span says; encoding each costs more than all our work on it, so none is said twice."""
    model = entry.upstream_model or entry.model_id
    attributes: Attributes = {
        names.OPERATION_NAME: entry.operation or "chat",
        names.PROVIDER_NAME: entry.provider_id,
        names.REQUEST_MODEL: model,
        names.USAGE_INPUT_TOKENS: entry.tokens_in,
        names.USAGE_OUTPUT_TOKENS: entry.tokens_out,
        names.STATUS_CODE: entry.status_code,
        names.ATTEMPT: entry.attempt,
        **_told({names.POOL: entry.pool_id, names.ROUTING_REASON: entry.routing_reason}),
    }
    if entry.model_id != model:
        attributes[names.MODEL] = entry.model_id
    if entry.cost is not None:
        attributes[names.COST_USD] = entry.cost
    if entry.time_to_first_token_ms is not None:
        attributes[names.TIME_TO_FIRST_CHUNK] = entry.time_to_first_token_ms / 1000.0
    return attributes | _way(entry)


def metric_attributes(entry: RequestLogEntry, labels: BoundedLabels) -> Attributes:
    """Return what tells the time series of attempts apart; labels see to it that there are only so many."""
    told: dict[str, str | None] = {
        names.OPERATION_NAME: entry.operation or "chat",
        names.PROVIDER_NAME: entry.provider_id,
        names.REQUEST_MODEL: entry.upstream_model or entry.model_id,
        names.POOL: entry.pool_id,
    }
    if _is_failure(entry):
        told[names.ERROR_TYPE] = entry.outcome or "_OTHER"
    return {name: labels.value(name, value) for name, value in told.items() if value is not None}


def content_attributes(entry: RequestLogEntry, redact: Callable[[str], str]) -> Attributes:
    """Return prompts and answers in OpenTelemetry's shape; nothing of what is not whole JSON any more."""
    asked, answered = _json(entry.request_payload), _json(entry.response_payload)
    attributes: Attributes = {}
    if isinstance(asked, dict) and isinstance(asked.get("messages"), list):
        messages = [_message(each, each.get("role")) for each in asked["messages"] if isinstance(each, dict)]
        attributes[names.INPUT_MESSAGES] = redact(json.dumps(messages, ensure_ascii=False))
    replies: list[dict[str, Any]] = []
    if isinstance(answered, dict) and isinstance(answered.get("choices"), list):
        for choice in answered["choices"]:
            message = choice.get("message") if isinstance(choice, dict) else None
            if isinstance(message, dict):
                replies.append({**_message(message, "assistant"), "finish_reason": choice.get("finish_reason")})
    elif entry.delivery_mode == "streaming" and entry.response_payload:
        replies = [_message({"content": entry.response_payload}, "assistant")]
    if replies:
        attributes[names.OUTPUT_MESSAGES] = redact(json.dumps(replies, ensure_ascii=False))
    return attributes


def wants_content(entry: RequestLogEntry, level: LogLevel) -> bool:
    """Whether prompts and answers may be told: at level full, of the mesh and of the connector."""
    return entry.log_level is LogLevel.FULL and level is LogLevel.FULL


def _caller(link: TraceLink) -> Context:
    carrier = _told({"traceparent": link.traceparent, "tracestate": link.tracestate})
    return _PROPAGATOR.extract(carrier, Context())


def _told(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _is_failure(entry: RequestLogEntry) -> bool:
    """Whether an attempt failed; a caller who went away is no failure."""
    return entry.error is not None if entry.outcome is None else entry.outcome not in (_SUCCESS, _CANCELLED)


def _way(entry: RequestLogEntry) -> Attributes:
    """Return what is said only where it is not as usual: that it was a stream, and how it failed."""
    stream: Attributes = {names.REQUEST_STREAM: True} if entry.delivery_mode == "streaming" else {}
    return {**stream, names.ERROR_TYPE: entry.outcome or "_OTHER"} if _is_failure(entry) else stream


def _message(message: Mapping[str, Any], role: object) -> dict[str, Any]:
    content = message.get("content")
    parts: list[dict[str, Any]] = []
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            parts.append({"type": "text", "content": text})
        elif isinstance(part, dict):
            # Images and sound are named, not sent along.
            parts.append({"type": str(part.get("type", "unknown"))})
    parts += [
        {"type": "tool_call", "id": call.get("id"), **(call.get("function") or {})}
        for call in message.get("tool_calls") or ()
        if isinstance(call, dict)
    ]
    return {"role": role if isinstance(role, str) else "user", "parts": parts}


def _json(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None
