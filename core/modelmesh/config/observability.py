"""The section of observability: what is reported, and the connectors each part of it goes to.

How a file names those connectors is read in `modelmesh.config.observed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from modelmesh.config.durations import PositiveDuration, Size
from modelmesh.config.section import Section


class ObservabilityTarget(Section):
    """One connector that reports go to.

    Attributes:
        connector: Its full ID, or its class's name when it was passed in ready-made.
        settings: An instance of its own settings model, or None.
        instance: The connector itself, when it was passed in.
    """

    connector: str
    settings: Any = Field(default=None, repr=False, exclude=True)
    instance: Any = Field(default=None, repr=False, exclude=True)

    def is_same(self, other: ObservabilityTarget) -> bool:
        """Whether one connector can serve both: the same object, or the same ID with equal settings."""
        if self.instance is not None or other.instance is not None:
            return self.instance is other.instance
        return self.connector == other.connector and bool(self.settings == other.settings)


class ObservedSection(Section):
    """A part of observability that may name connectors of its own; ``target`` is None when it does not.

    ``more`` are those after the first.
    """

    target: SkipJsonSchema[ObservabilityTarget | None] = Field(default=None, repr=False, exclude=True)
    more: SkipJsonSchema[tuple[ObservabilityTarget, ...]] = Field(default=(), repr=False, exclude=True)

    def connectors(self) -> tuple[ObservabilityTarget, ...]:
        """The connectors this part names itself."""
        return () if self.target is None else (self.target, *self.more)


class RoutingEventsConfig(ObservedSection):
    """Where routing events go."""


class EventsConfig(Section):
    """Which routing events are sent."""

    filter: tuple[str, ...] = Field(
        default=(),
        description="Event types, or the groups rotation, deactivation, recovery and health; all when empty.",
    )
    include_metadata: bool = Field(default=True, description="Whether events carry their metadata.")


class LoggingConfig(ObservedSection):
    """The log of requests."""

    level: Literal["metadata", "summary", "full"] = Field(
        default="metadata", description="metadata: no payloads; summary: shortened payloads; full: whole payloads."
    )
    redact_secrets: bool = Field(default=True, description="Replace keys and tokens in payloads.")
    max_payload_size: Size | None = Field(
        default=None, description="Longest payload (size); summary takes 1KB when it is absent, full no limit."
    )


class StatisticsConfig(ObservedSection):
    """Aggregate figures."""

    flush_interval: PositiveDuration = Field(
        default=60.0, description="How often what accrued goes to the connector (duration)."
    )
    retention: PositiveDuration = Field(default=7 * 86400.0, description="How far back queries reach (duration).")
    scopes: tuple[Literal["model", "provider", "pool"], ...] = Field(
        default=("model", "provider", "pool"), min_length=1, description="What figures are kept for."
    )


class TracingConfig(ObservedSection):
    """Diagnostic messages."""

    min_severity: Literal["debug", "info", "warning", "error", "critical"] = Field(
        default="info", description="Messages below are dropped."
    )


class ObservabilityConfig(Section):
    """What is reported, and where to.

    ``target``, and ``more`` after it, are the connectors of every part that names none of its own.
    """

    target: SkipJsonSchema[ObservabilityTarget | None] = Field(default=None, repr=False, exclude=True)
    more: SkipJsonSchema[tuple[ObservabilityTarget, ...]] = Field(default=(), repr=False, exclude=True)
    routing: RoutingEventsConfig = Field(default_factory=RoutingEventsConfig, description="Where routing events go.")
    events: EventsConfig = Field(default_factory=EventsConfig, description="Which routing events are sent.")
    logging: LoggingConfig = Field(default_factory=LoggingConfig, description="The log of requests.")
    statistics: StatisticsConfig = Field(default_factory=StatisticsConfig, description="Aggregate figures.")
    tracing: TracingConfig = Field(default_factory=TracingConfig, description="Diagnostic messages.")

    def targets(self) -> Iterator[tuple[str, ObservabilityTarget]]:
        """Yield each part with each connector it goes to; tracing only when it names its own."""
        for name, section in (("events", self.routing), ("logging", self.logging), ("statistics", self.statistics)):
            own = section.connectors()
            if not own and self.target is not None:
                own = (self.target, *self.more)
            for target in own:
                yield name, target
        for target in self.tracing.connectors():
            yield "tracing", target
