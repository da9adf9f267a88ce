"""CallbackObservability: records handed to functions of the application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from modelmesh.errors import ConfigurationError
from modelmesh.interfaces.observability import AggregateStats, RequestLogEntry, RoutingEvent, TraceEntry
from modelmesh_cdk.observability import BaseObservability, BaseObservabilityConfig

Record = RoutingEvent | RequestLogEntry | TraceEntry | dict[str, AggregateStats]

_Function = Annotated[SkipJsonSchema[Callable[[Any], object] | None], Field(repr=False)]


class CallbackConfig(BaseObservabilityConfig):
    """Functions that are called; they are given in code."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    on_event: _Function = Field(default=None, description="Called with each RoutingEvent.")
    on_log: _Function = Field(default=None, description="Called with each RequestLogEntry.")
    on_stats: _Function = Field(default=None, description="Called with statistics by ID.")
    on_trace: _Function = Field(default=None, description="Called with each TraceEntry.")
    callback: _Function = Field(default=None, description="Called with each record that has no function of its own.")


class CallbackObservability(BaseObservability[CallbackConfig]):
    """Calls functions with the records themselves, after filters.

    The functions run on a thread of the connector's own, one at a time and in order. They may take their time and
    may raise: no request notices.

    Raises:
        ConfigurationError: No function is given.
    """

    config_model = CallbackConfig

    def __init__(
        self,
        config: CallbackConfig | None = None,
        *,
        on_event: Callable[[RoutingEvent], object] | None = None,
        on_log: Callable[[RequestLogEntry], object] | None = None,
        on_stats: Callable[[dict[str, AggregateStats]], object] | None = None,
        on_trace: Callable[[TraceEntry], object] | None = None,
        callback: Callable[[Any], object] | None = None,
    ) -> None:
        super().__init__(config)
        given = self.config
        self._on_event = on_event or given.on_event or callback or given.callback
        self._on_log = on_log or given.on_log or callback or given.callback
        self._on_stats = on_stats or given.on_stats or callback or given.callback
        self._on_trace = on_trace or given.on_trace or callback or given.callback
        if not (self._on_event or self._on_log or self._on_stats or self._on_trace):
            raise ConfigurationError(
                "the callback connector has no function to call"
                "\n  try: pass one in code, as in instance: CallbackObservability(on_event=print); YAML cannot hold it"
            )

    def emit(self, event: RoutingEvent) -> None:
        """Hand over an event that passes the filter."""
        if self._on_event is not None and self._takes_event(event):
            self._on_event(event)

    def log(self, entry: RequestLogEntry) -> None:
        """Hand over a request record."""
        if self._on_log is not None:
            self._on_log(entry)

    def flush(self, stats: dict[str, AggregateStats]) -> None:
        """Hand over the statistics of the scopes asked for."""
        wanted = {scope_id: figures for scope_id, figures in stats.items() if self._takes_scope(scope_id)}
        if self._on_stats is not None and wanted:
            self._on_stats(wanted)

    def trace(self, entry: TraceEntry) -> None:
        """Hand over a trace of sufficient severity."""
        if self._on_trace is not None and self._takes_trace(entry):
            self._on_trace(entry)
