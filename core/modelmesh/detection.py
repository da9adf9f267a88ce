"""Which providers the environment holds keys for, as a configuration: what ``create("chat-completion")`` runs on.

Every installed provider plugin is asked through its ``detect`` class method, so a package installed with pip is found
as the bundled ones are, once its key is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelmesh.capabilities import PREDEFINED_POOLS, CapabilityTree
from modelmesh.errors import (
    CapabilityNotFoundError,
    ConfigurationError,
    CreateArgumentError,
    NoProvidersError,
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


def detected_config(
    wanted: Detection, plugins: PluginHost, environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a configuration for what is wanted, and the keys that were passed in as secrets.

    Raises:
        CreateArgumentError: Nothing is wanted.
        NoProvidersError: No key was found for any installed provider.
        ConfigurationError: A pool, provider or model that does not exist.
    """
    pools = _pools(wanted)
    providers: dict[str, Any] = {}
    models: dict[str, Any] = {}
    keys: dict[str, str] = {}
    variables: list[str] = []
    for connector_id, cls in plugins.load_all("providers").items():
        names = tuple(getattr(cls, "environment_variables", ()))
        variables.extend(names)
        if wanted.providers is not None and not _is_one_of(connector_id, wanted.providers):
            continue
        environment = environ
        if wanted.api_keys is not None:
            environment = _given(connector_id, names, wanted.api_keys)
            keys.update(environment)
        found = cls.detect(environment) if hasattr(cls, "detect") else None
        if found is None:
            continue
        providers[connector_id] = {"connector": connector_id, **found.get("provider", {})}
        for name, definition in found.get("models", {}).items():
            if wanted.models is None or name in wanted.models:
                models.setdefault(name, {"provider": connector_id, **definition})
    if not providers:
        raise NoProvidersError(_nothing_found(wanted, variables))
    if not models:
        raise ConfigurationError(
            "none of the models asked for is offered by a provider that was found"
            f" ({', '.join(wanted.models or ())}; found: {', '.join(providers)})"
        )
    if wanted.models is not None:
        models = {name: models[name] for name in wanted.models if name in models}
    return {"providers": providers, "models": models, "pools": pools}, keys


def _pools(wanted: Detection) -> dict[str, Any]:
    if wanted.pool is not None:
        if wanted.pool not in PREDEFINED_POOLS:
            raise ConfigurationError(unknown_name("predefined pool", wanted.pool, list(PREDEFINED_POOLS)))
        return {wanted.pool: {"capability": PREDEFINED_POOLS[wanted.pool], "strategy": wanted.strategy}}
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


def _is_one_of(connector_id: str, wanted: tuple[str, ...]) -> bool:
    return connector_id in wanted or connector_id.split(".", maxsplit=1)[0] in wanted


def _given(connector_id: str, variables: tuple[str, ...], keys: Mapping[str, str]) -> dict[str, str]:
    """Return the keys that were passed for one connector, under its own variable names."""
    given = {name: keys[name] for name in variables if name in keys}
    for name in (connector_id, connector_id.split(".", maxsplit=1)[0]):
        if not given and variables and name in keys:
            given[variables[0]] = keys[name]
    return given


def _nothing_found(wanted: Detection, variables: list[str]) -> str:
    where = "among the api_keys given" if wanted.api_keys is not None else "in the environment"
    names = ", ".join(sorted(set(variables)))
    return (
        f"no provider was found {where}; set one of {names}, pass api_keys=..., "
        "or name providers in a configuration: create(config='mesh.yaml')"
    )
