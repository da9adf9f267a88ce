"""The SDK's parts: batches on threads of their own, exported over OTLP/HTTP, closed within a limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from modelmesh_plugins.observability.opentelemetry.spans import DrawnIds

_GIVEN_UP_SECONDS = 0.2
"""Time that what was given up gets to notice."""


class CountingExporter(SpanExporter):
    """Exports spans, and counts those that the collector did not take.

    Args:
        exporter: Does it.
        report: Told how many are lost by now when that begins, and None when spans are taken again.

    Attributes:
        lost: Spans the collector did not take.
    """

    def __init__(self, exporter: SpanExporter, report: Callable[[int | None], None]) -> None:
        self._exporter = exporter
        self._report = report
        self._is_failing = False
        self._is_closed = False
        self.lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed:
            self.lost += len(spans)
        if failed != self._is_failing:
            self._is_failing = failed
            self._report(self.lost if failed else None)
        return result

    def shutdown(self) -> None:
        """Give up what is being sent."""
        if not self._is_closed:
            self._is_closed = True
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing waits here."""
        return True


class Pipeline:
    """Providers of traces and metrics, both exporting to one collector.

    Args:
        endpoint: The collector's base URL; None for what the ``OTEL_EXPORTER_OTLP_…`` environment says.
        headers: Sent along; none for what the environment says.
        resource: Attributes of this service.
        timeout: Seconds a batch may take, repetitions included.
        interval: Seconds between two exports of metrics.
        delay: Seconds that spans gather before they are sent.
        queue_size: Spans that may wait; the oldest are dropped for more.
        report: See `CountingExporter`.
    """

    def __init__(
        self,
        *,
        endpoint: str | None,
        headers: Mapping[str, str],
        resource: Mapping[str, str],
        timeout: float,
        interval: float,
        delay: float,
        queue_size: int,
        report: Callable[[int | None], None],
    ) -> None:
        about = Resource.create(dict(resource))
        base = None if endpoint is None else endpoint.rstrip("/")
        sent = dict(headers) or None
        self.ids = DrawnIds()
        self.exporter = CountingExporter(
            OTLPSpanExporter(endpoint=base and f"{base}/v1/traces", headers=sent, timeout=timeout), report
        )
        self.traces = TracerProvider(resource=about, shutdown_on_exit=False, id_generator=self.ids)
        self.traces.add_span_processor(
            BatchSpanProcessor(
                self.exporter,
                max_queue_size=queue_size,
                max_export_batch_size=min(512, queue_size),
                schedule_delay_millis=delay * 1000.0,
            )
        )
        self._metric_exporter = OTLPMetricExporter(
            endpoint=base and f"{base}/v1/metrics", headers=sent, timeout=timeout
        )
        reader = PeriodicExportingMetricReader(
            self._metric_exporter, export_interval_millis=interval * 1000.0, export_timeout_millis=timeout * 1000.0
        )
        self.metrics = MeterProvider([reader], resource=about, shutdown_on_exit=False)

    def flush(self) -> None:
        """Send what waits, now."""
        self.traces.force_flush()
        self.metrics.force_flush()

    def close(self, within: float) -> None:
        """Send what waits and end the threads; after so many seconds, give up what is not sent."""
        # The SDK's own limits do not hold while it waits for a collector that says nothing.
        ending = threading.Thread(target=self._end, name="modelmesh-otel-end", daemon=True)
        ending.start()
        ending.join(within)
        if ending.is_alive():
            self.exporter.shutdown()
            self._metric_exporter.shutdown()
            ending.join(_GIVEN_UP_SECONDS)

    def _end(self) -> None:
        self.traces.shutdown()
        self.metrics.shutdown()
