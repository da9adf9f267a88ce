"""Keys of the documented configuration whose parts are not built yet: refused, never ignored.

What asks for nothing, such as ``encryption: false``, may be written: it is what happens. Whoever builds a part removes
its lines here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from modelmesh.config.reader import Document, KeyPath
from modelmesh.errors import Problem, unknown_name

REFUSAL = "is not supported yet in this version; remove it"

Keys = Mapping[str, Any]
"""Keys to come, each with the value that asks for nothing; null asks for nothing anywhere."""

TO_COME_BESIDE: Mapping[str, Keys] = {
    "secrets": {"region": None, "reload_on_rotation": False},
    "providers.*.quota": {"query_current": False, "query_remaining": False},
    "storage": {"encryption": False},
}
"""Keys to come in sections of which the rest is built; ``*`` stands for any one key."""

TO_COME: Mapping[str, Keys] = {
    "connectors": {"packages": [], "allow_remote": False},
    "discovery": {
        "sync": dict.fromkeys(
            ("enabled", "interval", "auto_register", "providers", "on_new_model", "on_deprecated_model")
        ),
        "health": dict.fromkeys(
            (
                "enabled",
                "interval",
                "timeout",
                "failure_threshold",
                "providers",
                "method",
                "ema_alpha",
                "min_availability",
                "change_threshold",
            )
        ),
        "connectors": [],
    },
    "providers.*.pricing": {"query": False},
    "providers.*.discovery": {"enumerate_models": False, "model_details": False, "capability_query": False},
    "providers.*.catalogue": {"refresh_interval": None},
}
"""Sections of which nothing is built, whatever connectors are installed; their parts run unless ``enabled`` is off."""

NOT_YET_SETTINGS: Mapping[str, Mapping[str, Keys]] = {
    "providers": {
        "files": {"upload": False, "max_size": None},
        "fine_tuning": {"supported": False},
        "connection_pool": {"max_connections": None, "timeout": None},
    },
    "strategies": {},
    "state_stores": {},
    "observability": {},
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

_INSTEAD: Mapping[str, str] = {
    "packages": "install connectors with pip, or register their classes in code",
    "reload_on_rotation": "reload_config reads secrets anew",
    "query_current": "what answers say of quotas is read without it",
    "query_remaining": "what answers say of quotas is read without it",
    "query": "give pricing under models",
    "enumerate_models": "name the models under models",
    "health": "recovery.probe_interval of a pool asks for those who rest",
    "max_connections": "rate_limit.concurrency bounds calls at a time",
}
"""What there is in place of a key."""


def refuse_not_yet(document: Document) -> list[Problem]:
    """Take what is not supported yet out of a document; return a problem for each key that asks for something."""
    problems: list[Problem] = []
    for pattern, keys in TO_COME_BESIDE.items():
        for path, section in _sections(document.data, tuple(pattern.split("."))):
            wanted = {key: section.pop(key) for key in keys if isinstance(section, dict) and key in section}
            problems += [document.problem(*each) for each in refusals(keys, wanted, path)]
    for pattern, keys in TO_COME.items():
        *outer, last = pattern.split(".")
        for path, section in _sections(document.data, tuple(outer)):
            if isinstance(section, dict) and last in section:
                found = section.pop(last)
                problems += [document.problem(*each) for each in refusals(keys, found, (*path, last))]
    return problems


def refusals(keys: Keys, section: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Yield what a section that nobody reads asks for: path and message of each key.

    Args:
        keys: Those it may hold.
        section: As it was written.
        path: Where it stands.
    """
    if not isinstance(section, dict):
        if section is not None:
            yield path, _refusal(path)
        return
    unknown = [key for key in section if key not in keys]
    for key in unknown:
        yield (*path, key), unknown_name("key", key, list(keys)) + "; remove or correct it"
    parts = [key for key, known in keys.items() if isinstance(known, dict)]
    if unknown or not all(key in section for key in parts):
        # What a misspelt key was meant to say nobody knows; a part that is not named runs.
        if not unknown:
            yield path, _refusal(path)
        return
    if "enabled" in keys:
        if section.get("enabled") is not False:
            yield path, _refusal(path)
        return
    for key, value in section.items():
        if key in parts:
            yield from refusals(keys[key], value, (*path, key))
        elif value is not None and value != keys[key]:
            yield (*path, key), _refusal((*path, key))


def _refusal(path: KeyPath) -> str:
    instead = _INSTEAD.get(str(path[-1]))
    return f"{REFUSAL}; {instead}" if instead else REFUSAL


def _sections(data: Any, pattern: tuple[str, ...], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield what stands at a pattern, with its path."""
    if not pattern:
        yield path, data
    elif isinstance(data, dict):
        for key in list(data) if pattern[0] == "*" else [pattern[0]] if pattern[0] in data else []:
            yield from _sections(data[key], pattern[1:], (*path, key))
