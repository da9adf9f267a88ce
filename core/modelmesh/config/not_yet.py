"""Keys of the documented configuration whose parts are not built yet: refused, never ignored.

``*`` stands for any one key. Whoever builds a part removes its line here.
"""

from __future__ import annotations

from typing import Any

from modelmesh.config.reader import Document, KeyPath
from modelmesh.errors import Problem

NOT_YET: tuple[str, ...] = (
    "connectors",
    "discovery",
    "secrets.region",
    "secrets.reload_on_rotation",
    "providers.*.quota",
    "providers.*.budget",
    "providers.*.rate_limit",
    "providers.*.pricing",
    "providers.*.error",
    "providers.*.discovery",
    "providers.*.catalogue",
    "providers.*.batch",
    "providers.*.files",
    "providers.*.fine_tuning",
    "providers.*.connection_pool",
    "providers.*.auth",
    "pools.*.balance_mode",
    "pools.*.sampling",
    "pools.*.cost_basis",
    "pools.*.affinity_mode",
    "pools.*.session_timeout",
    "pools.*.rate_limit",
    "pools.*.on_budget_exceeded",
    "pools.*.deactivation.error_window",
    "pools.*.deactivation.quota_window",
    "pools.*.deactivation.maintenance_window",
    "pools.*.deactivation.maintenance_duration",
    "pools.*.recovery.probe_on_start",
    "pools.*.recovery.probe_interval",
    "pools.*.recovery.require_probe",
    "pools.*.recovery.on_quota_reset",
    "pools.*.recovery.quota_reset_schedule",
    "storage.path",
    "storage.sync_interval",
    "storage.format",
    "storage.compression",
    "storage.encryption",
    "storage.locking",
    "observability.local-file",
    "observability.webhook",
    "observability.prometheus",
)


def refuse_not_yet(document: Document) -> list[Problem]:
    """Take keys that are not supported yet out of a document; return a problem for each."""
    problems: list[Problem] = []
    for pattern in NOT_YET:
        _refuse(document, document.data, tuple(pattern.split(".")), (), problems)
    return problems


def _refuse(document: Document, here: Any, pattern: tuple[str, ...], path: KeyPath, problems: list[Problem]) -> None:
    if not isinstance(here, dict):
        return
    first, rest = pattern[0], pattern[1:]
    for key in list(here) if first == "*" else [first] if first in here else []:
        if rest:
            _refuse(document, here[key], rest, (*path, key), problems)
        else:
            del here[key]
            problems.append(document.problem((*path, key), "is not supported yet in this version; remove it"))
