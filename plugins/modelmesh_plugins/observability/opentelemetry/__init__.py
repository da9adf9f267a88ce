"""Traces and metrics for OpenTelemetry, under its names for generative AI, sent over OTLP/HTTP."""

from __future__ import annotations

from modelmesh_plugins.observability.opentelemetry.connector import OpenTelemetryConfig, OpenTelemetryObservability

__all__ = ["OpenTelemetryConfig", "OpenTelemetryObservability"]
