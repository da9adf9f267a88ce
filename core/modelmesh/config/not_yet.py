"""Keys of the documented configuration whose parts are not built yet: refused, never ignored.

Whoever builds a part removes its line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelmesh.config.reader import Document, KeyPath
from modelmesh.errors import Problem

REFUSAL = "is not supported yet in this version; remove it"

NOT_YET: tuple[str, ...] = (
    "connectors",
    "discovery",
    "secrets.region",
    "secrets.reload_on_rotation",
    "providers.*.quota.query_current",
    "providers.*.quota.query_remaining",
    "providers.*.pricing",
    "providers.*.discovery",
    "providers.*.catalogue",
    "storage.encryption",
)
"""Keys that nothing reads yet, whatever connectors are installed; ``*`` stands for any one key."""

NOT_YET_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "providers": ("files", "fine_tuning", "connection_pool"),
    "strategies": (),
    "state_stores": (),
    "observability": (),
}
"""Settings of connectors to come, by kind; a connector that has one of this name, such as a third party's, reads it."""

NOT_YET_STORES = (
    "json-secrets",
    "memory-secrets",
    "encrypted-file",
    "keyring",
    "aws.secrets-manager",
    "google.secret-manager",
    "microsoft.key-vault",
    "1password.connect",
)
"""Secret stores to come."""


def refuse_not_yet(document: Document) -> list[Problem]:
    """Take what is not supported yet out of a document; return a problem for each key."""
    problems: list[Problem] = []
    for pattern in NOT_YET:
        _refuse(document, document.data, tuple(pattern.split(".")), (), problems)
    return problems


def _refuse(document: Document, here: Any, pattern: tuple[str, ...], path: KeyPath, problems: list[Problem]) -> None:
    """Follow a pattern into a document and refuse the key at its end."""
    if not isinstance(here, dict):
        return
    first, rest = pattern[0], pattern[1:]
    for key in list(here) if first == "*" else [first] if first in here else []:
        if rest:
            _refuse(document, here[key], rest, (*path, key), problems)
        else:
            del here[key]
            problems.append(document.problem((*path, key), REFUSAL))
