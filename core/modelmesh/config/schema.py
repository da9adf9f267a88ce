"""One JSON Schema for editors, made from the configuration's models and those of the installed plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import BaseModel

from modelmesh.config.configuration import Configuration
from modelmesh.config.load import COMPOSED
from modelmesh.config.pools import PoolConfig
from modelmesh.config.providers import ProviderConfig

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class LoadedConnectors(Protocol):
    """Where the classes of installed connectors come from."""

    def load_all(self, kind: str) -> Mapping[str, type[Any]]:
        """Return the usable classes of a kind by ID."""
        ...


def build_schema(connectors: LoadedConnectors) -> dict[str, Any]:
    """Return a JSON Schema (draft 2020-12) of the whole configuration.

    Entries of ``providers`` and ``pools`` take the settings of the connector they name; where several connectors
    have a setting of the same name, either shape is accepted.
    """
    schema = Configuration.model_json_schema(mode="validation")
    schema["$schema"] = _DIALECT
    schema["title"] = "ModelMesh configuration"
    definitions = schema["$defs"]
    _extend(definitions, ProviderConfig, connectors.load_all("providers"))
    strategies = connectors.load_all("strategies")
    _extend(definitions, PoolConfig, strategies)
    if COMPOSED in strategies:
        _compose(definitions, strategies[COMPOSED])
    _open(definitions, "ObservabilityConfig", connectors.load_all("observability"))
    if "StorageConfig" in definitions:
        _extend_properties(definitions, "StorageConfig", connectors.load_all("state_stores"))
    for hidden in ("settings", "strategy_settings", "strategy_instance", "instance", "target", "resolver"):
        for definition in (*definitions.values(), schema):
            definition.get("properties", {}).pop(hidden, None)
    return schema


def _extend(definitions: dict[str, Any], model: type[BaseModel], classes: Mapping[str, type[Any]]) -> None:
    _extend_properties(definitions, model.__name__, classes)


def _extend_properties(definitions: dict[str, Any], name: str, classes: Mapping[str, type[Any]]) -> None:
    """Add the settings of every connector to a definition's properties."""
    properties = definitions[name].setdefault("properties", {})
    for connector_id, cls in classes.items():
        for key, value in _settings(definitions, cls).items():
            shape = {**value, "description": f"{value.get('description', '')} ({connector_id})".strip()}
            known = properties.get(key)
            if known is None:
                properties[key] = shape
            elif "anyOf" in known and known.get("x-connectors"):
                known["anyOf"].append(shape)
            elif _bare(known) != _bare(shape):
                properties[key] = {"anyOf": [known, shape], "x-connectors": True}


def _compose(definitions: dict[str, Any], cls: type[Any]) -> None:
    """Let ``strategy`` be a mapping, which holds the settings of the composed one."""
    properties = definitions[PoolConfig.__name__]["properties"]
    mapping = {"type": "object", "properties": _settings(definitions, cls), "additionalProperties": False}
    name = {key: value for key, value in properties["strategy"].items() if key in ("type", "minLength")}
    rest = {key: value for key, value in properties["strategy"].items() if key not in name}
    properties["strategy"] = {**rest, "anyOf": [name, mapping]}


def _settings(definitions: dict[str, Any], cls: type[Any]) -> dict[str, Any]:
    """Return a connector's settings as properties, older spellings included; what they refer to is added."""
    model: type[BaseModel] | None = getattr(cls, "config_model", None)
    if model is None:
        return {}
    own = model.model_json_schema(mode="validation", by_alias=False)
    definitions.update({key: value for key, value in own.pop("$defs", {}).items() if key not in definitions})
    properties: dict[str, Any] = own.get("properties", {})
    for name, field in model.model_fields.items():
        for alias in getattr(field.validation_alias, "choices", [field.validation_alias]):
            if isinstance(alias, str) and name in properties:
                properties.setdefault(alias, properties[name])
    return properties


def _open(definitions: dict[str, Any], name: str, classes: Mapping[str, type[Any]]) -> None:
    """Let ``observability`` and its sections name a connector and hold its settings."""
    from modelmesh.plugins import KINDS

    aliases = KINDS["observability"].aliases
    sections = (name, "RoutingEventsConfig", "LoggingConfig", "StatisticsConfig", "TracingConfig")
    for section in sections:
        if section in definitions:
            definitions[section].setdefault("properties", {})["connector"] = {
                "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
            }
            _extend_properties(definitions, section, classes)
    for connector_id, cls in classes.items():
        shape = {
            "type": "object",
            "description": f"Settings of {connector_id}, wherever it is named.",
            "properties": _settings(definitions, cls),
            "additionalProperties": False,
        }
        short = connector_id.removeprefix("modelmesh.").rsplit(".v", 1)[0]
        older = {alias.removeprefix("modelmesh.") for alias, meant in aliases.items() if meant == f"modelmesh.{short}"}
        for spelling in (connector_id, short, *sorted(older)):
            definitions[name]["properties"].setdefault(spelling, shape)


def _bare(shape: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in shape.items() if key not in ("description", "title", "default")}
