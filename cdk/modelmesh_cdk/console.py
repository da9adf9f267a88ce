"""ConsoleObservability: what happens, as lines a person reads."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from typing import Any, Literal, TextIO

from pydantic import AliasChoices, ConfigDict, Field

from modelmesh.interfaces.observability import AggregateStats, RequestLogEntry, RoutingEvent, Severity, TraceEntry
from modelmesh_cdk.observability import BaseObservability, BaseObservabilityConfig

_COLOURS = {"debug": "2", "info": "36", "warning": "33", "error": "31", "critical": "1;31", "event": "35", "ok": "32"}

_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029], " ")


class ConsoleConfig(BaseObservabilityConfig):
    """Settings of the console connector."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)

    use_color: bool | None = Field(
        default=None,
        validation_alias=AliasChoices("use_color", "colorize"),
        description="By default on a terminal, unless NO_COLOR is set.",
    )
    show_timestamp: bool = Field(default=True, description="Whether lines begin with the time.")
    timestamp_format: str = Field(default="ISO8601", description="ISO8601, UNIX, or a strftime pattern.")
    prefix: str = Field(default="[ModelMesh]", description="What lines begin with.")
    verbose: bool = Field(default=False, description="Whether metadata is shown as well.")
    stream: Literal["stdout", "stderr"] = Field(default="stderr", description="Where lines go.")


class ConsoleObservability(BaseObservability[ConsoleConfig]):
    """Writes one readable line a record."""

    config_model = ConsoleConfig

    def __init__(self, config: ConsoleConfig | None = None, *, output: TextIO | None = None) -> None:
        super().__init__(config)
        # Looked up now, so that a test's or an application's redirected stream is the one that is written to.
        self._output = output or (sys.stdout if self.config.stream == "stdout" else sys.stderr)
        self._colour = self._wants_colour()

    def _wants_colour(self) -> bool:
        if self.config.use_color is not None:
            return self.config.use_color
        return not os.environ.get("NO_COLOR") and self._output.isatty()

    def _write(self, line: str) -> None:
        print(line, file=self._output, flush=True)

    def _format_event(self, event: RoutingEvent) -> str:
        where = " ".join(
            f"{name}={value}"
            for name, value in (("model", event.model_id), ("provider", event.provider_id), ("pool", event.pool_id))
            if value
        )
        facts = event.metadata if self.config.verbose else _main_facts(event.metadata)
        return self._line(event.timestamp, "event", event.event_type.value, f"{where}{self._shown(facts)}")

    def _format_log(self, entry: RequestLogEntry) -> str:
        colour = "ok" if entry.error is None else "error"
        cost = "" if entry.cost is None else f" ${entry.cost:.6f}"
        text = (
            f"{entry.model_id} [{entry.provider_id}] {entry.status_code} {entry.latency_ms:.1f} ms "
            f"{entry.tokens_in}+{entry.tokens_out} tokens{cost}"
        )
        if entry.error is not None:
            text += f" {entry.error}"
        return self._line(entry.timestamp, colour, "request", text)

    def _format_stats(self, scope_id: str, stats: AggregateStats) -> str:
        text = (
            f"{scope_id}: {stats.requests_total} requests, {stats.error_rate:.1%} failed, "
            f"p95 {stats.p95_latency_ms:.1f} ms, {stats.tokens_in}+{stats.tokens_out} tokens, ${stats.cost_total:.4f}"
        )
        return self._line(stats.last_updated, "info", "stats", text)

    def _format_trace(self, entry: TraceEntry) -> str:
        text = f"{entry.component}: {entry.message}"
        if entry.error:
            text += f" ({entry.error})"
        if self.config.verbose or entry.severity is Severity.DEBUG:
            text += self._shown(entry.metadata)
        return self._line(entry.timestamp, entry.severity.value, entry.severity.value, text)

    def _shown(self, facts: dict[str, Any]) -> str:
        # A line no longer tells where a value ends, so what stands under a secret's name goes before it is made one.
        clean = self._redactor.mapping(facts) if self.config.redact_secrets else facts
        return "".join(f" {name}={value}" for name, value in clean.items())

    def _line(self, moment: datetime, colour: str, label: str, text: str) -> str:
        # A line break would make two records of one; an escape sequence in a provider's message would run the terminal.
        text = text.translate(_CONTROLS)
        shown = f"\x1b[{_COLOURS[colour]}m{label}\x1b[0m" if self._colour else label
        return " ".join(part for part in (self._time(moment), self.config.prefix, shown, text) if part)

    def _time(self, moment: datetime) -> str:
        if not self.config.show_timestamp:
            return ""
        pattern = self.config.timestamp_format
        if pattern == "ISO8601":
            return moment.isoformat(timespec="milliseconds")
        return f"{moment.timestamp():.3f}" if pattern == "UNIX" else moment.strftime(pattern)


def _main_facts(metadata: dict[str, Any]) -> dict[str, Any]:
    names = ("reason", "trigger", "cause", "from_model", "cooldown")
    return {name: metadata[name] for name in names if metadata.get(name) is not None}
