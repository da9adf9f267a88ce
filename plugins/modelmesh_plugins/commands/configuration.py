"""How commands are given the configuration's file: as an argument or an option, or in ``MODELMESH_CONFIG``."""

from __future__ import annotations

from typing import Any

import click

VARIABLE = "MODELMESH_CONFIG"
"""The environment variable that names the file where the command line does not."""


class ConfigurationPath(click.Path):
    """The configuration's file; where it is missing, both ways to name it are told."""

    def get_missing_message(self, *args: Any, **kwargs: Any) -> str:  # its arguments differ between click 8.1 and 8.2
        """Return what stands behind "Missing argument 'FILE'." or its like."""
        return f"Name the configuration's file there, or set {VARIABLE} to its path"
