"""Connectors' own settings: found in the document, secrets resolved, validated against the connector's model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from modelmesh.config.explain import problems_of, unknown_key
from modelmesh.config.not_yet import NOT_YET_SETTINGS, REFUSAL, refusals
from modelmesh.config.reader import Document, KeyPath
from modelmesh.config.secrets import SecretResolver
from modelmesh.errors import ConfigurationError, Problem, SecretNotFoundError, UnknownConnectorError

_NEAR_REFERENCE = re.compile(r"\$\{\s*(?:secrets?|env)\s*:\s*([^}]*?)\s*\}", re.IGNORECASE)
_BARE_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Z][A-Z0-9_]*_[A-Z0-9_]+))")

Layer = tuple[KeyPath, Mapping[str, Any]]
"""Some settings, and the path of what they stand under."""


class ConnectorCatalogue(Protocol):
    """Where connector classes come from; `modelmesh.plugins.PluginHost` is one."""

    def find(self, kind: str, connector_id: str) -> type[Any]:
        """Return a class, or raise UnknownConnectorError or PluginError."""
        ...

    def resolve_id(self, kind: str, connector_id: str) -> str:
        """Return the full ID, or raise UnknownConnectorError."""
        ...

    def load_all(self, kind: str) -> Mapping[str, type[Any]]:
        """Return the usable classes of a kind by ID."""
        ...


class Desk:
    """What every part of one load works with: the document, the connectors, the secrets, the problems so far.

    Args:
        document: As it was read and rewritten.
        connectors: Where named connectors are looked up.
        problems: Collects what is found.
    """

    def __init__(self, document: Document, connectors: ConnectorCatalogue, problems: list[Problem]) -> None:
        self.document = document
        self.connectors = connectors
        self.problems = problems
        self.resolver: SecretResolver | None = None
        """None when there is no store to look in, which is a problem of its own."""

    def add(self, path: KeyPath, message: str) -> None:
        """Note a problem."""
        self.problems.append(self.document.problem(path, message))

    def add_new(self, problems: Iterable[Problem]) -> None:
        """Note problems of places that have none yet: what follows from a mistake is no second mistake."""
        known = {problem.path for problem in self.problems}
        self.problems += [problem for problem in problems if problem.path not in known]

    def find(self, kind: str, connector_id: Any, path: KeyPath) -> tuple[str, type[Any] | None]:
        """Return a connector's full ID and class; the class is None when there is a problem, which is noted."""
        if not isinstance(connector_id, str):
            is_null = connector_id is None and kind == "observability"
            hint = "; write 'null' in quotes to name the connector that writes nothing" if is_null else ""
            self.add(path, f"must be a connector ID{hint}")
            return "", None
        try:
            full = self.connectors.resolve_id(kind, connector_id)
            return full, self.connectors.find(kind, full)
        except ConfigurationError as error:
            self.add(path, error.message)
            return connector_id, None

    def class_of(self, kind: str, connector_id: Any) -> type[Any] | None:
        """Return a connector's class, or None where there is a problem, which somebody else notes."""
        try:
            return self.connectors.find(kind, connector_id)
        except (ConfigurationError, TypeError):
            return None

    def knows(self, kind: str, connector_id: str) -> bool:
        """Whether a connector goes by this name, usable or not."""
        try:
            self.connectors.resolve_id(kind, connector_id)
        except UnknownConnectorError:
            return False
        return True

    def is_ready_made(self, value: Any, path: KeyPath) -> bool:
        """Whether a value is a Python object; one that came from a file cannot be, which is noted."""
        if isinstance(value, (str, int, float, dict, list)):
            self.add(path, "a ready-made object is passed in code and cannot be written in a file; remove it")
        return True

    def settings(
        self, kind: str, cls: type[Any], *layers: Layer, subject: str, section_keys: Iterable[str] = ()
    ) -> Any:
        """Return a connector's validated settings; None when it has none or they do not fit, which is noted.

        Args:
            kind: The connector's kind.
            cls: Its class.
            layers: The settings; where two give the same key, the later wins. What is missing belongs to the last.
            subject: The connector, for messages.
            section_keys: Keys that may stand beside the settings, for hints.
        """
        model: type[BaseModel] | None = getattr(cls, "config_model", None)
        known = _keys(model)
        resolved: dict[str, Any] = {}
        for path, values in layers:
            for key, value in values.items():
                if key not in known and key in NOT_YET_SETTINGS[kind]:
                    for where, message in refusals(NOT_YET_SETTINGS[kind][key], value, (*path, key)):
                        self.add(where, message)
                elif model is None:
                    self.add((*path, key), f"{subject} has no setting {key!r}; remove it")
                else:
                    resolved[key] = self.resolve(value, (*path, key))
        if model is None:
            return None
        try:
            return model.model_validate(resolved)
        except ValidationError as error:
            # What is missing has no owner; the last layer answers for it.
            owners = {key: number for number, (_, values) in enumerate(layers) for key in values}
            for number, (path, values) in enumerate(layers):
                scratch = Document(_nest(path, values), self.document.file, self.document.lines)
                owns = _owner(owners, number, len(layers) - 1)
                self.add_new(problems_of(error, scratch, model, path, also=section_keys, only=owns))
            return None

    def resolve(self, value: Any, path: KeyPath) -> Any:
        """Return a value with the secret references in it replaced; a problem is noted where there is no secret."""
        if isinstance(value, dict):
            return {key: self.resolve(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, (*path, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or self.resolver is None:
            return value
        bare = _BARE_VARIABLE.fullmatch(value)
        if bare is not None:
            self.add(path, f"would be taken literally; write ${{secrets:{bare[1] or bare[2]}}} for a secret")
        near = _NEAR_REFERENCE.search(value)
        if near is not None and not near[0].startswith("${secrets:"):
            self.add(path, f"{near[0]} would be taken literally; write ${{secrets:{near[1]}}} for a secret")
        try:
            return self.resolver.resolve(value)
        except (SecretNotFoundError, ConfigurationError, ValueError) as error:
            self.add(path, str(error))
            return "unresolved"

    def unread(self, kind: str, path: KeyPath, reader: str, known: Iterable[str]) -> str:
        """Say why a key that the chosen connector does not read is an error, and who reads it if somebody does."""
        key = path[-1]
        other = self.reader(kind, key)
        if other is not None:
            return f"{reader} does not read it ({other!r} does); remove it or change the connector"
        if key in NOT_YET_SETTINGS[kind]:
            return REFUSAL
        return unknown_key(path, known, limit=30)

    def reader(self, kind: str, key: object) -> str | None:
        """Return a connector of a kind that reads a key, by its ID; None when nobody does."""
        classes = self.connectors.load_all(kind).items()
        return next((name for name, cls in classes if key in setting_names(cls)), None)


def _keys(model: type[BaseModel] | None) -> set[str]:
    """Return the keys a settings model takes, older spellings included."""
    keys: set[str] = set()
    for name, field in (model.model_fields if model is not None else {}).items():
        keys.add(name)
        aliases = getattr(field.validation_alias, "choices", [field.validation_alias])
        keys |= {alias for alias in aliases if isinstance(alias, str)}
    return keys


def _owner(owners: Mapping[Any, int], number: int, last: int) -> Callable[[object], bool]:
    return lambda key: owners.get(key, last) == number


def setting_names(cls: type[Any]) -> set[str]:
    """Return the keys a connector's settings may hold."""
    return _keys(getattr(cls, "config_model", None))


def _nest(path: KeyPath, values: Mapping[str, Any]) -> dict[str, Any]:
    nested: Any = dict(values)
    for part in reversed(path):
        nested = {part: nested}
    return nested  # type: ignore[no-any-return]  # a path is never empty and its first part always text
