"""Loads a configuration: reads, rewrites, validates, checks across sections, and reports everything at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelmesh.config.configuration import Configuration, SecretsConfig
from modelmesh.config.explain import problems_of, unknown_key, written_keys
from modelmesh.config.mesh_config import MeshConfig
from modelmesh.config.normalise import normalise
from modelmesh.config.not_yet import refuse_not_yet
from modelmesh.config.observed import read_observability
from modelmesh.config.pools import PoolConfig
from modelmesh.config.providers import ProviderConfig
from modelmesh.config.reader import Document, KeyPath, read_file
from modelmesh.config.references import check_references
from modelmesh.config.secrets import SecretResolver, build_store, expand_environment
from modelmesh.config.settings import ConnectorCatalogue, Desk, Layer, setting_names
from modelmesh.config.storage import StorageConfig
from modelmesh.errors import ConfigurationError, Problem
from modelmesh.interfaces.provider import FreeTier
from modelmesh.interfaces.runtime import Clock
from modelmesh.redaction import MIN_LENGTH, REDACTED

__all__ = ["ConnectorCatalogue", "load_config"]

COMPOSED = "modelmesh.composed.v1"
"""The strategy whose settings may be written in place of a strategy's name."""

_STRAY = (
    "a secret reference is not read here; references are read in the settings of connectors (under providers, pools,"
    " storage and observability) and in proxy"
)
_COMPUTED = frozenset(Configuration.model_fields) - frozenset(written_keys(Configuration))
_OWN_PROVIDER_KEYS = frozenset(ProviderConfig.model_fields) - {"settings"}
_OWN_POOL_KEYS = frozenset(PoolConfig.model_fields) - {"strategy_settings"}


def load_config(
    source: str | Path | Mapping[str, Any] | MeshConfig,
    *,
    connectors: ConnectorCatalogue,
    environ: Mapping[str, str],
    secrets: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> Configuration:
    """Return a checked configuration.

    Args:
        source: A YAML or JSON file, a mapping of the same shape, or a `MeshConfig`.
        connectors: Where the named connectors are looked up.
        environ: The environment, for secrets.
        secrets: Values for ``${secrets:NAME}`` that win over the secret store.
        clock: Time, for how long the resolver remembers a secret; without one it does until it is told to reload.

    Raises:
        ConfigurationError: Lists every problem with file, line and key path.
    """
    return _Loading(_document(source), connectors, environ, secrets, clock).run()


def load_storage(
    section: Mapping[str, Any], *, connectors: ConnectorCatalogue, environ: Mapping[str, str]
) -> StorageConfig:
    """Return a checked ``storage`` section that stands by itself.

    Raises:
        ConfigurationError: Lists every problem with its key path.
    """
    return _Loading(Document({"storage": _copied(section)}), connectors, environ, None, None).run_storage()


def _document(source: str | Path | Mapping[str, Any] | MeshConfig) -> Document:
    if isinstance(source, (str, Path)):
        return read_file(source)
    if isinstance(source, MeshConfig):
        return Document(_copied(source.raw), source.file, dict(source.lines))
    return Document(_copied(source))


def _copied(value: Any) -> Any:
    """Copy containers and keep what is in them: connector objects must stay the ones they are."""
    if isinstance(value, Mapping):
        return {str(key): _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(item) for item in value]
    return value


class _Loading:
    """One load, collecting problems as it goes."""

    def __init__(
        self,
        document: Document,
        connectors: ConnectorCatalogue,
        environ: Mapping[str, str],
        secrets: Mapping[str, str] | None,
        clock: Clock | None,
    ) -> None:
        self._document = document
        self._data = document.data
        self._problems: list[Problem] = []
        self._desk = Desk(document, connectors, self._problems)
        self._base = Path(document.file).parent if document.file else Path()
        self._environ = environ
        self._secrets = secrets
        self._clock = clock

    def run(self) -> Configuration:
        for section in [name for name, value in self._data.items() if value is None]:
            del self._data[section]  # a heading with nothing under it
        for key in _COMPUTED & self._data.keys():
            del self._data[key]
            self._desk.add((key,), unknown_key((key,), written_keys(Configuration)))
        self._problems += normalise(self._document)
        self._problems += refuse_not_yet(self._document)
        self._open_secrets()
        self._refuse_empty_names()
        self._each("providers", self._provider)
        self._each("providers", self._free_tier)
        self._each("models", self._refuse_unpriced)
        self._each("pools", self._strategy)
        self._storage()
        read_observability(self._desk)
        written = written_keys(Configuration)
        self._refuse_stray_references({key: each for key, each in self._data.items() if key in written}, ())
        if "proxy" in self._data:
            self._data["proxy"] = self._desk.resolve(self._data["proxy"], ("proxy",))
        configuration = self._validate()
        self._desk.add_new(check_references(self._document, self._problems))
        if self._problems:
            raise ConfigurationError.from_problems(self._shown())
        assert configuration is not None
        return configuration

    def run_storage(self) -> StorageConfig:
        self._problems += normalise(self._document)
        self._problems += refuse_not_yet(self._document)
        self._open_secrets()
        self._storage()
        storage: StorageConfig | None = None
        try:
            storage = StorageConfig.model_validate(self._data.get("storage", {}))
        except ValidationError as error:
            self._desk.add_new(problems_of(error, self._document, StorageConfig, ("storage",)))
        if self._problems or storage is None:
            raise ConfigurationError.from_problems(self._shown())
        return storage

    def _refuse_empty_names(self) -> None:
        for section in ("providers", "models", "pools"):
            entries = self._data.get(section)
            for name in entries if isinstance(entries, dict) else ():
                if not str(name).strip():
                    message = f"the name of a {section.removesuffix('s')} is empty, so nothing can mean it; give it one"
                    line = self._document.line_of((section, name))
                    self._problems.append(Problem(message, section, self._document.file, line))

    def _each(self, section: str, handle: Callable[[str, dict[str, Any]], None]) -> None:
        entries = self._data.get(section)
        if isinstance(entries, dict):
            for name in entries:
                if entries[name] is None:
                    entries[name] = {}
                if isinstance(entries[name], dict):
                    handle(name, entries[name])

    # --- secrets ----------------------------------------------------------------

    def _open_secrets(self) -> None:
        section = self._data.get("secrets", {})
        if not isinstance(section, dict):
            return  # validation says so
        before = len(self._problems)
        for key, value in section.items():
            if isinstance(value, str):
                try:
                    section[key] = expand_environment(value, self._environ)
                except ValueError as error:
                    self._desk.add(("secrets", key), str(error))
        if section.get("instance") is not None:
            self._desk.is_ready_made(section["instance"], ("secrets", "instance"))
        try:
            config = SecretsConfig.model_validate(section)
        except ValidationError as error:
            self._desk.add_new(problems_of(error, self._document, SecretsConfig, ("secrets",)))
        if len(self._problems) > before:
            del self._data["secrets"]  # it has been reported
            return
        try:
            store = build_store(config, self._environ, self._base, self._secrets)
        except ConfigurationError as error:
            for problem in error.problems:
                path = tuple(problem.path.split(".")) if problem.path else ("secrets", "path")
                self._problems.append(problem if problem.file else self._document.problem(path, problem.message))
            return
        self._desk.resolver = SecretResolver(
            store,
            clock=self._clock,
            cache_ttl=config.cache_ttl if config.cache_enabled else 0.0,
            fail_on_missing=config.fail_on_missing,
        )

    def _refuse_stray_references(self, value: Any, path: KeyPath) -> None:
        """Note references where nobody would resolve them; by now those in connectors' settings are gone."""
        if path in (("proxy",), ("secrets",)):
            return
        if isinstance(value, dict):
            for key, item in value.items():
                self._refuse_stray_references(item, (*path, key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self._refuse_stray_references(item, (*path, index))
        elif isinstance(value, str) and "${secrets:" in value:
            self._desk.add(path, _STRAY)

    # --- connectors ----------------------------------------------------------------

    def _provider(self, name: str, entry: dict[str, Any]) -> None:
        path: KeyPath = ("providers", name)
        values = {key: entry.pop(key) for key in list(entry) if key not in _OWN_PROVIDER_KEYS}
        if entry.get("instance") is not None and self._desk.is_ready_made(entry["instance"], (*path, "instance")):
            for key in values:
                self._desk.add((*path, key), "settings of a ready-made instance are set in code; remove it")
            entry["connector"] = type(entry["instance"]).__name__
            return
        if entry.get("enabled") is False:
            # What is switched off is not looked at: its plugin or its key may well be missing.
            entry.setdefault("connector", name)
            return
        named = (*path, "connector") if "connector" in entry else path
        if "connector" not in entry and "." not in name and not self._desk.knows("providers", name):
            self._desk.add(path, f"names no connector, and none is called {name!r}; add connector:, such as simulator")
            return
        entry["connector"], cls = self._desk.find("providers", entry.get("connector", name), named)
        if cls is not None:
            self._refuse_batches(entry, cls, path)
            subject = f"provider {entry['connector']!r}"
            entry["settings"] = self._desk.settings(
                "providers", cls, (path, values), subject=subject, section_keys=written_keys(ProviderConfig)
            )

    def _refuse_batches(self, entry: dict[str, Any], cls: type[Any], path: KeyPath) -> None:
        """Note that batches shall be handed to a provider whose connector has no way to."""
        batch = entry.get("batch")
        if isinstance(batch, dict) and batch.get("supported") is True and not hasattr(cls, "submit_batch"):
            said = f"connector {entry['connector']!r} hands no batches over; remove it, and the mesh carries them out"
            self._desk.add((*path, "batch", "supported"), said)

    def _free_tier(self, name: str, entry: dict[str, Any]) -> None:
        """Put the figures of the connector's free tier in the place of ``quota: {free_tier: true}``."""
        quota = entry.get("quota")
        if not isinstance(quota, dict) or quota.get("free_tier") is not True or len(quota) > 1:
            return
        connector = entry.get("instance") or self._desk.class_of("providers", entry.get("connector"))
        known: FreeTier | None = getattr(connector, "free_tier", None)
        if known is None:
            said = f"connector {entry.get('connector')!r} knows of no free tier; give requests or tokens"
            self._desk.add(("providers", name, "quota", "free_tier"), said)
            quota["free_tier"], quota["requests"] = False, 1
            return
        entry["quota"] = {
            "requests": known.requests,
            "tokens": known.tokens,
            "reset_schedule": known.schedule,
            "timezone": known.timezone,
        }

    def _refuse_unpriced(self, name: str, entry: dict[str, Any]) -> None:
        """Note a model under a provider's budget whose price nobody knows."""
        providers = self._data.get("providers")
        provider = providers.get(entry.get("provider")) if isinstance(providers, dict) else None
        budget = provider.get("budget") if isinstance(provider, dict) else None
        if not isinstance(budget, dict) or budget.get("unpriced_request") is not None or entry.get("pricing"):
            return
        assert isinstance(provider, dict)
        connector = provider.get("instance") or self._desk.class_of("providers", provider.get("connector"))
        known = getattr(connector, "known_models", {}).get(entry.get("model") or name)
        if known is None or known.pricing is None:
            self._desk.add(
                ("models", name),
                f"has no price, and provider {entry['provider']!r} has a budget; add pricing here, or"
                " unpriced_request to the budget",
            )

    def _strategy(self, name: str, entry: dict[str, Any]) -> None:
        path: KeyPath = ("pools", name)
        values = {key: entry.pop(key) for key in list(entry) if key not in _OWN_POOL_KEYS}
        ready_made = entry.get("strategy_instance")
        if ready_made is not None and self._desk.is_ready_made(ready_made, (*path, "strategy_instance")):
            for key in values:
                self._desk.add((*path, key), "settings of a ready-made strategy are set in code; remove it")
            return
        asked = entry.get("strategy", PoolConfig.model_fields["strategy"].default)
        composed = asked if isinstance(asked, dict) else None
        asked = asked if composed is None else COMPOSED
        entry["strategy"], cls = self._desk.find("strategies", asked, (*path, "strategy"))
        if cls is None:
            return
        reader, fields = f"strategy {entry['strategy']!r}", setting_names(cls)
        for key in [key for key in values if key not in fields]:
            del values[key]
            self._desk.add(
                (*path, key),
                self._desk.unread("strategies", (*path, key), reader, {*written_keys(PoolConfig), *fields}),
            )
        layers: list[Layer] = [(path, values)]
        if composed is not None:
            layers.append(((*path, "strategy"), composed))
        entry["strategy_settings"] = self._desk.settings("strategies", cls, *layers, subject=reader)
        self._fallback(entry, cls, path)

    def _fallback(self, entry: dict[str, Any], cls: type[Any], path: KeyPath) -> None:
        if not hasattr(cls, "set_fallback"):
            if "fallback_strategy" in entry:
                message = f"strategy {entry['strategy']!r} does not read it; remove it"
                self._desk.add((*path, "fallback_strategy"), message)
            return
        asked = entry.setdefault("fallback_strategy", "round-robin")
        if asked != "error":
            named = (*path, "fallback_strategy")
            entry["fallback_strategy"], _ = self._desk.find("strategies", asked, named)

    def _storage(self) -> None:
        section = self._data.get("storage")
        if not isinstance(section, dict):
            return
        own = written_keys(StorageConfig)
        values = {key: section.pop(key) for key in list(section) if key not in own}
        named = ("storage", "connector") if "connector" in section else ("storage",)
        asked = section.get("connector", StorageConfig.model_fields["connector"].default)
        section["connector"], cls = self._desk.find("state_stores", asked, named)
        if cls is not None:
            subject = f"state store {section['connector']!r}"
            for key in [each for each in values if each not in setting_names(cls)]:
                if self._desk.reader("state_stores", key) is not None:
                    del values[key]
                    self._desk.add(("storage", key), self._desk.unread("state_stores", ("storage", key), subject, own))
            section["settings"] = self._desk.settings(
                "state_stores", cls, (("storage",), values), subject=subject, section_keys=own
            )

    # --- the whole -------------------------------------------------------------------

    def _validate(self) -> Configuration | None:
        try:
            configuration = Configuration.model_validate(self._data)
        except ValidationError as error:
            self._desk.add_new(problems_of(error, self._document, Configuration))
            return None
        return configuration.model_copy(update={"resolver": self._desk.resolver})

    def _shown(self) -> list[Problem]:
        """Return the problems in the document's order, free of secrets whatever a connector's validator said."""
        secrets = self._desk.resolver.known_values() if self._desk.resolver is not None else set()
        hidden = sorted((value for value in secrets if len(value) >= MIN_LENGTH), key=len, reverse=True)
        shown: list[Problem] = []
        for problem in sorted(self._problems, key=lambda each: (each.file != self._document.file, each.line or 0)):
            message = problem.message
            for value in hidden:
                message = message.replace(value, REDACTED)
            shown.append(replace(problem, message=message))
        return shown
