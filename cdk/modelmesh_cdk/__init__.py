"""Connector development kit: base classes for ModelMesh plugins."""
