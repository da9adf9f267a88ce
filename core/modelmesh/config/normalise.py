"""The one place that knows other spellings: rewrites them to the canonical, flat ones before validation."""

from __future__ import annotations

from typing import Any

from modelmesh.config.reader import Document, KeyPath, dotted
from modelmesh.errors import Problem, unknown_name

Move = tuple[str, str]
"""From where to where, as dotted paths below a section; ``*`` at the end of the first lifts every key under it."""

_ROOT: tuple[Move, ...] = (
    ("state", "storage"),
    ("secret-store.resolution.*", "secrets"),
)
_SECTIONS: dict[str, tuple[Move, ...]] = {
    "secrets": (
        ("connector", "store"),
        ("config.*", ""),
        ("secret-store.resolution.*", ""),
        ("file_path", "path"),
    ),
    "storage": (
        ("config.*", ""),
        ("persistence.*", ""),
    ),
    "observability": (
        ("config.*", ""),
        ("routing.config.*", "routing"),
        ("logging.config.*", "logging"),
        ("statistics.config.*", "statistics"),
        ("tracing.config.*", "tracing"),
        ("logging.redact", "logging.redact_secrets"),
        ("routing.events", "events.filter"),
    ),
}
_ENTRIES: dict[str, tuple[Move, ...]] = {
    "providers": (
        ("auth.api_key", "api_key"),
        ("catalogue.auto_discover", "discovery.enumerate_models"),
        ("provider.execution.*", ""),
        ("config.*", ""),
    ),
    "pools": (
        ("hierarchy_node", "capability"),
        ("allowed_providers", "providers"),
        ("rotation.policy", "strategy"),
        ("rotation.selection.policy", "strategy"),
        ("rotation.selection.*", ""),
        ("rotation.selection", "strategy"),
        ("rotation.deactivation", "deactivation"),
        ("rotation.recovery", "recovery"),
        ("rotation.retry", "retry"),
        ("retry.non_retryable", "retry.non_retryable_codes"),
        ("retry.retryable", "retry.retryable_codes"),
        ("recovery.recover_on_quota_reset", "recovery.on_quota_reset"),
    ),
}
_DOTTED = ("provider.execution.", "secret-store.resolution.", "storage.persistence.")
"""What other documents write as one key; written so, it means the same as nested."""


_WRAPPERS = ("rotation", "secret-store", "persistence")
"""Keys of other spellings that hold nothing of their own: what is left in one was misspelt there."""


def other_spellings(path: KeyPath) -> list[str]:
    """Return the keys of other spellings that may stand where a path ends, for hints."""
    section = str(path[0])
    if len(path) == 1 or (section not in _SECTIONS and section not in _ENTRIES):
        moves, outer = _ROOT, tuple(path[:-1])
    elif section in _SECTIONS:
        moves, outer = _SECTIONS[section], tuple(path[1:-1])
    else:
        moves, outer = _ENTRIES[section], tuple(path[2:-1])
    olds = [tuple(old.split(".")) for old, _ in moves]
    found = {old[len(outer)] for old in olds if old[: len(outer)] == outer and len(old) > len(outer)}
    return sorted(found - {"*"})


def normalise(document: Document) -> list[Problem]:
    """Rewrite other spellings in place; return those that are given twice with different values."""
    rewriting = _Rewriting(document)
    rewriting.section((), _ROOT)
    for name, moves in _SECTIONS.items():
        rewriting.section((name,), moves)
    for name, moves in _ENTRIES.items():
        entries = document.data.get(name)
        for entry in list(entries) if isinstance(entries, dict) else ():
            rewriting.section((name, entry), moves)
    return rewriting.problems


class _Rewriting:
    """One document being rewritten."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.problems: list[Problem] = []

    def section(self, base: KeyPath, moves: tuple[Move, ...]) -> None:
        """Apply moves below a path."""
        here = _get(self._document.data, base)
        if not isinstance(here, dict):
            return
        for key in list(here):
            if key.startswith(_DOTTED):
                self._put(base, tuple(key.split(".")), here.pop(key), (*base, key))
        for old, new in moves:
            self._move(base, here, tuple(old.split(".")), tuple(new.split(".")) if new else ())
        for wrapper in _WRAPPERS:
            if isinstance(here.get(wrapper), dict) and wrapper in other_spellings((*base, wrapper)):
                for key in here.pop(wrapper):
                    path = (*base, wrapper, key)
                    said = unknown_name("key", key, other_spellings(path)) + "; remove or correct it"
                    self.problems.append(self._document.problem(path, said))

    def _move(self, base: KeyPath, here: dict[str, Any], old: KeyPath, new: KeyPath) -> None:
        lifted = old[-1] == "*"
        parent = _get(here, old[:-1])
        if not isinstance(parent, dict):
            return
        for key in list(parent) if lifted else [old[-1]]:
            if key in parent:
                target = (*new, key) if lifted else new
                self._put(base, target, parent.pop(key), (*base, *old[:-1], key))
        _prune(here, old[:-1])

    def _put(self, base: KeyPath, new: KeyPath, value: Any, written: KeyPath) -> None:
        """Put a value where it belongs, key by key when a mapping stands there already."""
        document = self._document
        target: Any = _get(document.data, base)
        for part in new[:-1]:
            if target.get(part) is None:
                target[part] = {}
            target = target[part]
            if not isinstance(target, dict):
                # Validation reports that no mapping stands there; until then nothing can be put in.
                return
        there = target.get(new[-1])
        if isinstance(there, dict) and isinstance(value, dict):
            for key, item in value.items():
                self._put(base, (*new, key), item, (*written, key))
            return
        if new[-1] in target and there != value:
            other = document.line_of((*base, *new))
            where = f", line {other}" if other is not None else ""
            canonical = dotted((*base, *new))
            self.problems.append(document.problem(written, f"says otherwise than {canonical}{where}; keep one"))
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
