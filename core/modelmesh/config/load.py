"""Loads a configuration: reads, rewrites, validates, checks across sections, and reports everything at once."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from modelmesh.capabilities import PREDEFINED_POOLS, CapabilityTree
from modelmesh.config.explain import problems_of
from modelmesh.config.mesh_config import MeshConfig
from modelmesh.config.models import Configuration, ModelConfig, ObservabilityTarget, PoolConfig, ProviderConfig
from modelmesh.config.normalise import normalise
from modelmesh.config.not_yet import refuse_not_yet
from modelmesh.config.reader import Document, KeyPath, read_file
from modelmesh.config.secrets import SecretResolver, build_store
from modelmesh.errors import ConfigurationError, Problem, SecretNotFoundError, unknown_name

_SINKS = {"console": "modelmesh.console.v1"}
"""Sections of ``observability`` that hold the settings of one connector, wherever that is named."""

_TARGETED = ("routing", "logging", "statistics", "tracing")
_DEFAULT_SINK = "modelmesh.console.v1"


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


def load_config(
    source: str | Path | Mapping[str, Any] | MeshConfig,
    *,
    connectors: ConnectorCatalogue,
    environ: Mapping[str, str],
) -> Configuration:
    """Return a checked configuration.

    Args:
        source: A YAML or JSON file, a mapping of the same shape, or a `MeshConfig`.
        connectors: Where the named connectors are looked up.
        environ: The environment, for secrets.

    Raises:
        ConfigurationError: Lists every problem with file, line and key path.
    """
    document = _document(source)
    return _Loading(document, connectors, environ).run()


def _document(source: str | Path | Mapping[str, Any] | MeshConfig) -> Document:
    if isinstance(source, (str, Path)):
        return read_file(source)
    if isinstance(source, MeshConfig):
        return Document(deepcopy(source.raw), source.file, dict(source.lines))
    return Document(_copied(source))


def _copied(value: Any) -> Any:
    """Copy containers and keep what is in them: connector objects must stay the ones they are."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(item) for item in value]
    return value


class _Loading:
    """One load, collecting problems as it goes."""

    def __init__(self, document: Document, connectors: ConnectorCatalogue, environ: Mapping[str, str]) -> None:
        self._document = document
        self._data = document.data
        self._connectors = connectors
        self._problems: list[Problem] = []
        self._base = Path(document.file).parent if document.file else Path()
        self._environ = environ
        self._resolver: SecretResolver | None = None

    def run(self) -> Configuration:
        self._problems += normalise(self._document)
        self._problems += refuse_not_yet(self._document)
        self._open_secrets()
        self._each("providers", self._provider)
        self._each("pools", self._strategy)
        self._storage()
        self._observability()
        self._resolve(("proxy",))
        configuration = self._validate()
        if configuration is not None:
            self._check(configuration)
        if self._problems:
            problems = sorted(self._problems, key=lambda problem: problem.line or 0)
            raise ConfigurationError.from_problems(problems)
        assert configuration is not None
        return configuration

    def _add(self, path: KeyPath, message: str) -> None:
        self._problems.append(self._document.problem(path, message))

    def _each(self, section: str, handle: Any) -> None:
        entries = self._data.get(section)
        if isinstance(entries, dict):
            for name in entries:
                if entries[name] is None:
                    entries[name] = {}
                if isinstance(entries[name], dict):
                    handle(name, entries[name])

    # --- secrets ----------------------------------------------------------------

    def _open_secrets(self) -> None:
        section = self._data.get("secrets") or {}
        try:
            store = build_store(section if isinstance(section, dict) else {}, self._environ, self._base)
        except ConfigurationError as error:
            self._problems += error.problems or [self._document.problem(("secrets",), error.message)]
            return
        self._resolver = SecretResolver(store)

    def _resolve(self, path: KeyPath) -> Any:
        """Replace the secret references below a path; a problem each where there is no value."""
        if self._resolver is None:
            return None
        parent: Any = self._data
        for part in path[:-1]:
            parent = parent.get(part, {})
        if isinstance(parent, dict) and path[-1] in parent:
            parent[path[-1]] = self._resolved(parent[path[-1]], path)
        return None

    def _resolved(self, value: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: self._resolved(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._resolved(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, str) and self._resolver is not None:
            try:
                return self._resolver.resolve(value)
            except (SecretNotFoundError, ValueError) as error:
                self._add(path, str(error))
                return "unresolved"
        return value

    # --- connectors ----------------------------------------------------------------

    def _find(self, kind: str, connector_id: Any, path: KeyPath) -> tuple[str, type[Any] | None]:
        """Return a connector's full ID and class; the class is None when there is a problem, which is noted."""
        if not isinstance(connector_id, str):
            self._add(path, "must be a connector ID")
            return "", None
        try:
            full = self._connectors.resolve_id(kind, connector_id)
            return full, self._connectors.find(kind, full)
        except ConfigurationError as error:
            self._add(path, error.message)
            return connector_id, None

    def _settings(self, cls: type[Any], values: dict[str, Any], path: KeyPath, *, subject: str) -> Any:
        """Validate a connector's own settings; None when it has none or they do not fit, which is noted."""
        model: type[BaseModel] | None = getattr(cls, "config_model", None)
        if model is None:
            for key in values:
                self._add((*path, key), f"{subject} has no setting {key!r}; remove it")
            return None
        shown = Document(self._document.data, self._document.file, self._document.lines)
        resolved = self._resolved(values, path)
        try:
            return model.model_validate(resolved)
        except ValidationError as error:
            holder: Any = self._data
            for part in path[:-1]:
                holder = holder[part]
            # The settings were taken out of their section; put them back for the error's sake, to find their lines.
            before = holder[path[-1]]
            holder[path[-1]] = {**values, **(before if isinstance(before, dict) else {})}
            self._problems += problems_of(error, shown, model, path)
            holder[path[-1]] = before
            return None

    def _provider(self, name: str, entry: dict[str, Any]) -> None:
        path: KeyPath = ("providers", name)
        values = {key: entry.pop(key) for key in list(entry) if key not in _own_fields(ProviderConfig)}
        if entry.get("instance") is not None:
            for key in values:
                self._add((*path, key), "settings of a ready-made instance are set in code; remove it")
            entry["connector"] = type(entry["instance"]).__name__
            return
        if entry.get("enabled") is False:
            # What is switched off is not looked at: its plugin or its key may well be missing.
            entry.setdefault("connector", name)
            return
        named = (*path, "connector") if "connector" in entry else path
        entry["connector"], cls = self._find("providers", entry.get("connector", name), named)
        if cls is not None:
            entry["settings"] = self._settings(cls, values, path, subject=f"provider {entry['connector']!r}")

    def _strategy(self, name: str, entry: dict[str, Any]) -> None:
        path: KeyPath = ("pools", name)
        values = {key: entry.pop(key) for key in list(entry) if key not in _own_fields(PoolConfig)}
        if entry.get("strategy_instance") is not None:
            for key in values:
                self._add((*path, key), "settings of a ready-made strategy are set in code; remove it")
            return
        asked = entry.get("strategy", PoolConfig.model_fields["strategy"].default)
        entry["strategy"], cls = self._find("strategies", asked, (*path, "strategy"))
        if cls is None:
            return
        model: type[BaseModel] | None = getattr(cls, "config_model", None)
        fields = set(model.model_fields) if model is not None else set()
        for key in [key for key in values if key not in fields]:
            del values[key]
            self._add((*path, key), self._unread(key, entry["strategy"], fields))
        if model is not None:
            entry["strategy_settings"] = self._settings(cls, values, path, subject=f"strategy {entry['strategy']!r}")
        self._fallback(entry, cls, path)

    def _fallback(self, entry: dict[str, Any], cls: type[Any], path: KeyPath) -> None:
        if not hasattr(cls, "set_fallback"):
            if "fallback_strategy" in entry:
                self._add((*path, "fallback_strategy"), f"strategy {entry['strategy']!r} does not read it; remove it")
            return
        asked = entry.setdefault("fallback_strategy", "round-robin")
        if asked != "error":
            entry["fallback_strategy"], _ = self._find("strategies", asked, (*path, "fallback_strategy"))

    def _unread(self, key: str, strategy: str, fields: set[str]) -> str:
        for other, cls in self._connectors.load_all("strategies").items():
            model = getattr(cls, "config_model", None)
            if model is not None and key in model.model_fields:
                return f"strategy {strategy!r} does not read it ({other!r} does); remove it or change the strategy"
        return unknown_name("key", key, [*_own_fields(PoolConfig), *fields], limit=30) + "; remove or correct it"

    def _storage(self) -> None:
        section = self._data.get("storage")
        if not isinstance(section, dict):
            return
        values = {key: section.pop(key) for key in list(section) if key not in ("connector", "sync_policy")}
        named = ("storage", "connector") if "connector" in section else ("storage",)
        section["connector"], cls = self._find("state_stores", section.get("connector", "modelmesh.memory.v1"), named)
        if cls is not None:
            section["settings"] = self._settings(cls, values, ("storage",), subject="the state store")

    def _observability(self) -> None:
        section = self._data.get("observability")
        if not isinstance(section, dict):
            return
        sinks = {full: section.pop(short) for short, full in _SINKS.items() if isinstance(section.get(short), dict)}
        path: KeyPath = ("observability",)
        known = {"routing", "events", "logging", "statistics", "tracing", "connector", "instance"}
        values = {key: section.pop(key) for key in list(section) if key not in known}
        default = self._target(section, {"connector": _DEFAULT_SINK} | values, path, sinks)
        section.pop("connector", None)
        section.pop("instance", None)
        section["target"] = default
        for name in _TARGETED:
            inner = section.get(name)
            if not isinstance(inner, dict):
                continue
            fields = _section_fields(name)
            own = {key: inner.pop(key) for key in list(inner) if key not in fields and key not in known}
            if "connector" in inner or "instance" in inner:
                target = self._target(inner, own, (*path, name), sinks)
                inner.pop("connector", None)
                inner.pop("instance", None)
                inner["target"] = target
            else:
                for key in own:
                    self._add((*path, name, key), unknown_name("key", key, [*fields, "connector"]) + "; remove it")

    def _target(
        self, section: dict[str, Any], values: dict[str, Any], path: KeyPath, sinks: Mapping[str, Any]
    ) -> ObservabilityTarget | None:
        instance = section.get("instance")
        asked = section.get("connector", values.pop("connector", None))
        values.pop("connector", None)
        if instance is not None:
            return ObservabilityTarget(connector=type(instance).__name__, instance=instance)
        full, cls = self._find("observability", asked, (*path, "connector"))
        if cls is None:
            return None
        settings = self._settings(cls, {**sinks.get(full, {}), **values}, path, subject=f"connector {full!r}")
        return ObservabilityTarget(connector=full, settings=settings)

    # --- the whole -------------------------------------------------------------------

    def _validate(self) -> Configuration | None:
        try:
            configuration = Configuration.model_validate(self._data)
        except ValidationError as error:
            self._problems += problems_of(error, self._document, Configuration)
            return None
        return configuration.model_copy(update={"resolver": self._resolver})

    def _check(self, configuration: Configuration) -> None:
        tree = self._tree(configuration)
        if not configuration.providers and not any(p.path.startswith("providers") for p in self._problems):
            self._add(("providers",), "no providers configured; add at least one")
        for name, model in configuration.models.items():
            self._check_model(name, model, configuration, tree)
        if not configuration.pools:
            self._add(("pools",), f"no pools configured; add one, such as {next(iter(PREDEFINED_POOLS))}")
        for name, pool in configuration.pools.items():
            self._check_pool(name, pool, configuration, tree)
        self._check_events(configuration)

    def _tree(self, configuration: Configuration) -> CapabilityTree:
        tree = CapabilityTree.default()
        for parent, children in configuration.capabilities.items():
            path = "" if parent == "" else tree.resolve(parent)
            if path is None:
                self._add(("capabilities", parent), unknown_name("capability", parent, tree.names()))
                continue
            for child in children:
                try:
                    tree.add_node(path, child)
                except ValueError as error:
                    self._add(("capabilities", parent), str(error))
        return tree

    def _check_model(self, name: str, model: ModelConfig, configuration: Configuration, tree: CapabilityTree) -> None:
        path: KeyPath = ("models", name)
        if model.provider not in configuration.providers:
            message = unknown_name("provider", model.provider, list(configuration.providers))
            self._add((*path, "provider"), message)
        for capability in model.capabilities:
            found = tree.resolve(capability)
            if found is None and "." in capability:
                try:
                    _add_path(tree, capability)
                except ValueError as error:
                    self._add((*path, "capabilities"), str(error))
            elif found is None:
                self._add((*path, "capabilities"), unknown_name("capability", capability, tree.names()))
            elif not tree.get_leaves(found) or tree.get_leaves(found)[0].path != found:
                leaves = ", ".join(leaf.name for leaf in tree.get_leaves(found))
                self._add((*path, "capabilities"), f"{capability!r} is no leaf; name one of {leaves}")

    def _check_pool(self, name: str, pool: PoolConfig, configuration: Configuration, tree: CapabilityTree) -> None:
        path: KeyPath = ("pools", name)
        for key in ("models", "include"):
            for place, model in enumerate(getattr(pool, key)):
                if model not in configuration.models:
                    self._add((*path, key, place), unknown_name("model", model, list(configuration.models)))
        for key in ("providers", "excluded_providers"):
            for place, provider in enumerate(getattr(pool, key)):
                if provider not in configuration.providers:
                    self._add((*path, key, place), unknown_name("provider", provider, list(configuration.providers)))
        self._check_priorities(path, pool, configuration)
        node = tree.resolve(pool.capability if pool.capability is not None else name)
        if node is None and pool.capability is not None:
            self._add((*path, "capability"), unknown_name("capability", pool.capability, tree.names()))
        elif node is None and not pool.models and not pool.include and pool.selector is None:
            self._add(path, f"{name!r} is no capability, so the pool needs capability:, models: or selector:")
        elif not self._problems and not self._has_members(node, pool, configuration, tree):
            self._add(path, "no configured model can ever be in this pool; check capability, models and providers")

    def _check_priorities(self, path: KeyPath, pool: PoolConfig, configuration: Configuration) -> None:
        known = {"model_priority": list(configuration.models), "provider_priority": list(configuration.providers)}
        for key, names in known.items():
            for place, each in enumerate(getattr(pool.strategy_settings, key, None) or ()):
                if each not in names:
                    self._add((*path, key, place), unknown_name(key.split("_")[0], each, names))

    def _has_members(
        self, node: str | None, pool: PoolConfig, configuration: Configuration, tree: CapabilityTree
    ) -> bool:
        below = {leaf.path for leaf in tree.get_leaves(node)} | {node} if node is not None else None
        for name, model in configuration.models.items():
            provider = configuration.providers[model.provider]
            if not provider.enabled:
                continue
            if name in pool.include:
                return True
            if below is not None and below.isdisjoint(tree.resolve(each) for each in model.capabilities):
                continue
            if below is None and name not in pool.models and pool.selector is None:
                continue
            if pool.models and name not in pool.models:
                continue
            if pool.providers and model.provider not in pool.providers:
                continue
            if model.provider not in pool.excluded_providers:
                return True
        return False

    def _check_events(self, configuration: Configuration) -> None:
        if configuration.observability is None:
            return
        from modelmesh._engine.observability import EVENT_GROUPS
        from modelmesh.interfaces.observability import EventType

        known = [*EVENT_GROUPS, *(event.value for event in EventType)]
        for place, name in enumerate(configuration.observability.events.filter):
            if name not in known:
                self._add(("observability", "events", "filter", place), unknown_name("event", name, known))


def _add_path(tree: CapabilityTree, path: str) -> None:
    parent = ""
    for part in path.split("."):
        tree.add_node(parent, part)
        parent = f"{parent}.{part}" if parent else part


def _own_fields(model: type[BaseModel]) -> list[str]:
    """Return the keys a document may hold that belong to a section itself."""
    return [name for name in model.model_fields if name not in ("settings", "strategy_settings", "target")]


def _section_fields(name: str) -> list[str]:
    from modelmesh.config.models import ObservabilityConfig

    annotation = ObservabilityConfig.model_fields[name].annotation
    assert annotation is not None
    return [field for field in annotation.model_fields if field != "target"]
