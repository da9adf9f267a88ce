"""The one place that knows other spellings: rewrites them to the canonical, flat ones before validation."""

from __future__ import annotations

from typing import Any

from modelmesh.config.reader import Document, KeyPath
from modelmesh.errors import Problem

Move = tuple[str, str]

_POOL: tuple[Move, ...] = (
    ("hierarchy_node", "capability"),
    ("allowed_providers", "providers"),
    ("rotation.policy", "strategy"),
    ("rotation.selection", "strategy"),
    ("rotation.deactivation", "deactivation"),
    ("rotation.recovery", "recovery"),
    ("rotation.retry", "retry"),
    ("retry.non_retryable", "retry.non_retryable_codes"),
    ("retry.retryable", "retry.retryable_codes"),
    ("recovery.recover_on_quota_reset", "recovery.on_quota_reset"),
)
_PROVIDER: tuple[Move, ...] = (
    ("auth.api_key", "api_key"),
    ("provider.execution.timeout", "timeout"),
    ("provider.execution.max_retries", "max_retries"),
)
_ROOT: tuple[Move, ...] = (
    ("state", "storage"),
    ("storage.persistence.sync_policy", "storage.sync_policy"),
    ("secrets.connector", "secrets.store"),
    ("secrets.file_path", "secrets.path"),
    ("secrets.config.prefix", "secrets.prefix"),
    ("secrets.config.path", "secrets.path"),
    ("observability.logging.redact", "observability.logging.redact_secrets"),
    ("observability.routing.events", "observability.events.filter"),
)
_SECRETS_CACHE: tuple[Move, ...] = (("secret-store.resolution.cache_ttl", "secrets.cache_ttl"),)


def normalise(document: Document) -> list[Problem]:
    """Rewrite other spellings in place; return those that are given twice with different values."""
    problems: list[Problem] = []
    for move in (*_ROOT, *_SECRETS_CACHE):
        _move(document, (), move, problems)
    for section, moves in (("pools", _POOL), ("providers", _PROVIDER)):
        entries = document.data.get(section)
        if not isinstance(entries, dict):
            continue
        for name, entry in entries.items():
            if isinstance(entry, dict):
                for move in moves:
                    _move(document, (section, name), move, problems)
                if section == "providers":
                    _flatten_config(document, (section, name), problems)
    for section in ("storage", "observability"):
        if isinstance(document.data.get(section), dict):
            _flatten_config(document, (section,), problems)
    return problems


def _move(document: Document, base: KeyPath, move: Move, problems: list[Problem]) -> None:
    old, new = (tuple(path.split(".")) for path in move)
    here = _get(document.data, base)
    if not isinstance(here, dict):
        return
    parent = _get(here, old[:-1])
    if not isinstance(parent, dict) or old[-1] not in parent:
        return
    value = parent.pop(old[-1])
    _prune(here, old[:-1])
    _put(document, base, new, value, (*base, *old), problems)


def _flatten_config(document: Document, base: KeyPath, problems: list[Problem]) -> None:
    """Lift the keys under ``config:`` to the level of ``config:`` itself."""
    here = _get(document.data, base)
    nested = here.get("config") if isinstance(here, dict) else None
    if not isinstance(nested, dict):
        return
    del here["config"]
    for key, value in nested.items():
        _put(document, base, (key,), value, (*base, "config", key), problems)


def _put(
    document: Document, base: KeyPath, new: KeyPath, value: Any, written: KeyPath, problems: list[Problem]
) -> None:
    target = _get(document.data, base)
    for part in new[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            return
    if new[-1] in target and target[new[-1]] != value:
        other = document.line_of((*base, *new))
        where = f", line {other}" if other is not None else ""
        problems.append(
            document.problem(written, f"says otherwise than {'.'.join(str(p) for p in (*base, *new))}{where}; keep one")
        )
        return
    target.setdefault(new[-1], value)
    # What was written under the old path is reported there.
    for path, line in list(document.lines.items()):
        if path[: len(written)] == written:
            document.lines.setdefault((*base, *new, *path[len(written) :]), line)


def _get(data: Any, path: KeyPath) -> Any:
    for part in path:
        if not isinstance(data, dict) or part not in data:
            return None
        data = data[part]
    return data


def _prune(data: dict[str, Any], path: KeyPath) -> None:
    """Remove the mappings along a path that became empty."""
    while path:
        parent = _get(data, path[:-1])
        if not isinstance(parent, dict) or parent.get(path[-1]) != {}:
            return
        del parent[path[-1]]
        path = path[:-1]
