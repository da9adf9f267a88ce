"""ModelMesh: builds everything from a configuration and owns its lifetime."""

from __future__ import annotations


class ModelMesh:
    """A router over providers, built from a configuration."""
