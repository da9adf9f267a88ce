"""Which providers the environment holds keys for, as a configuration: what ``create("chat-completion")`` runs on.

Every installed provider plugin is asked through its ``detect`` class method, so a package installed with pip is found
as the bundled ones are, once its key is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelmesh.capabilities import PREDEFINED_POOLS, CapabilityTree
from modelmesh.errors import (
    CapabilityNotFoundError,
    ConfigurationError,
    CreateArgumentError,
    NoProvidersError,
    PluginError,
    unknown_name,
)

if TYPE_CHECKING:
    from modelmesh.plugins import PluginHost


@dataclass(frozen=True, slots=True)
class Detection:
    """What `modelmesh.create` was asked for; see there."""

    capabilities: tuple[str, ...] = ()
    pool: str | None = None
    providers: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    strategy: str = "stick-until-failure"
    api_keys: Mapping[str, str] | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def detected_config(
    wanted: Detection, plugins: PluginHost, environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a configuration for what is wanted, and the keys that were passed in as secrets.

    Raises:
        CreateArgumentError: Nothing is wanted.
        NoProvidersError: No key was found for any installed provider.
        ConfigurationError: A pool, provider or model that does not exist; names the near match.
        PluginError: A provider that was named is installed and cannot be used.
    """
    pools = _pools(wanted)
    classes = _chosen(wanted, plugins)
    providers: dict[str, Any] = {}
    models: dict[str, Any] = {}
    keys: dict[str, str] = {}
    open_ended: list[str] = []
    for connector_id, cls in classes.items():
        environment = environ
        if wanted.api_keys is not None:
            environment = _given(connector_id, _variables(cls), wanted.api_keys)
            keys.update(environment)
        own = wanted.settings.get(connector_id) or wanted.settings.get(_vendor(connector_id)) or {}
        if own and _variables(cls):
            # It is wanted as it is set here, whatever the environment holds; a key that is missing is told as such.
            environment = {_variables(cls)[0]: "(wanted)", **environment}
        found = _ask(connector_id, cls, environment, needed=wanted.providers is not None)
        if found is None:
            continue
        providers[connector_id] = {"connector": connector_id, **found.get("provider", {}), **own}
        for name, definition in found.get("models", {}).items():
            models.setdefault(name, {"provider": connector_id, **definition})
        if found.get("any_model"):
            open_ended.append(connector_id)
    _take_in_open_ended(wanted, open_ended, providers, models, pools)
    if not providers:
        raise NoProvidersError(_nothing_found(wanted, classes))
    if wanted.models is not None:
        models = {name: _known("model", name, models, f"; found: {', '.join(providers)}") for name in wanted.models}
    if not models:
        if open_ended:
            raise NoProvidersError(
                "a local server is named in the environment, and nobody knows its models; name them in models=[...], or"
                " in a configuration"
            )
        raise ConfigurationError(f"{', '.join(providers)} brings no models; name them in a configuration")
    return {"providers": providers, "models": models, "pools": pools}, keys


def _take_in_open_ended(
    wanted: Detection, open_ended: list[str], providers: dict[str, Any], models: dict[str, Any], pools: dict[str, Any]
) -> None:
    """Give models that nobody knows to the first provider that takes any; without such models, leave those out."""
    unknown = [name for name in wanted.models or () if name not in models]
    tree = CapabilityTree.default()
    leaves = [leaf.path for pool in pools.values() for leaf in tree.get_leaves(pool["capability"])]
    for place, connector_id in enumerate(open_ended):
        if place == 0 and unknown:
            models.update({name: {"provider": connector_id, "capabilities": leaves} for name in unknown})
        elif models or place > 0:
            # Nothing would ever go there, and nobody asked for it.
            del providers[connector_id]


def _chosen(wanted: Detection, plugins: PluginHost) -> dict[str, type[Any]]:
    """Return the usable provider classes that may be asked, by connector ID."""
    classes = plugins.load_all("providers")
    installed = plugins.known_ids("providers")
    vendors = {_vendor(connector_id): connector_id for connector_id in installed}
    if wanted.api_keys is not None:
        variables = dict.fromkeys(name for cls in classes.values() for name in _variables(cls))
        for name in wanted.api_keys:
            _known("provider of a key", name, {**vendors, **dict.fromkeys(installed), **variables})
    if wanted.providers is None:
        return classes
    chosen: set[str] = set()
    for name in wanted.providers:
        same = [connector_id for connector_id in installed if name in (connector_id, _vendor(connector_id))]
        if not same:
            _known("provider", name, {**vendors, **dict.fromkeys(installed)})
        if classes.keys().isdisjoint(same):
            plugins.find("providers", same[0])  # it is installed and cannot be used: raises with the reason
        chosen.update(same)
    return {connector_id: cls for connector_id, cls in classes.items() if connector_id in chosen}


def _ask(connector_id: str, cls: type[Any], environ: Mapping[str, str], *, needed: bool) -> Mapping[str, Any] | None:
    """Ask a provider class what the environment holds for it; one that fails is passed over unless it is needed."""
    detect = getattr(cls, "detect", None)
    if detect is None:
        return None
    try:
        found: Mapping[str, Any] | None = detect(environ)
    except Exception as error:
        if needed:
            # Its text stays out of the message: what a plugin says about keys may hold one.
            raise PluginError(
                f"provider {connector_id!r} could not be asked for its keys: its detect raised {type(error).__name__};"
                " name it in a configuration, or report it to its author"
            ) from None
        return None
    return found


def _variables(cls: type[Any]) -> tuple[str, ...]:
    return tuple(getattr(cls, "environment_variables", ()))


def _vendor(connector_id: str) -> str:
    return connector_id.split(".", maxsplit=1)[0]


def _known(kind: str, name: str, known: Mapping[str, Any], more: str = "") -> Any:
    """Return the value under a name, or raise an error with the near match."""
    if name not in known:
        raise ConfigurationError(unknown_name(kind, name, list(known)) + more)
    return known[name]


def _pools(wanted: Detection) -> dict[str, Any]:
    if wanted.pool is not None:
        capability = _known("predefined pool", wanted.pool, PREDEFINED_POOLS)
        return {wanted.pool: {"capability": capability, "strategy": wanted.strategy}}
    if not wanted.capabilities:
        raise CreateArgumentError(
            'specify capabilities, a pool, or a configuration: create("chat-completion"), '
            'create(pool="text-generation") or create(config="mesh.yaml")'
        )
    tree = CapabilityTree.default()
    pools = {}
    for capability in wanted.capabilities:
        path = tree.resolve(capability)
        if path is None:
            raise CapabilityNotFoundError(capability, known=tree.names())
        pools[capability] = {"capability": path, "strategy": wanted.strategy}
    return pools


def _given(connector_id: str, variables: tuple[str, ...], keys: Mapping[str, str]) -> dict[str, str]:
    """Return the keys that were passed for one connector, under its own variable names."""
    given = {name: keys[name] for name in variables if name in keys}
    for name in (connector_id, _vendor(connector_id)):
        if not given and variables and name in keys:
            given[variables[0]] = keys[name]
    return given


def _nothing_found(wanted: Detection, classes: Mapping[str, type[Any]]) -> str:
    where = "among the api_keys given" if wanted.api_keys is not None else "in the environment"
    names = sorted({name for cls in classes.values() for name in _variables(cls)})
    hint = f"set {'one of ' if len(names) > 1 else ''}{', '.join(names)}, " if names else ""
    return (
        f"no provider was found {where}; {hint}pass api_keys=..., "
        "or name providers in a configuration: create(config='mesh.yaml')"
    )
