"""Metrics for Prometheus: counted as records come, shown as a page when somebody asks."""

from __future__ import annotations

from modelmesh_plugins.observability.prometheus.connector import PrometheusConfig, PrometheusObservability

__all__ = ["PrometheusConfig", "PrometheusObservability"]
