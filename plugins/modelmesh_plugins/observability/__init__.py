"""Observability connectors, one file each."""
