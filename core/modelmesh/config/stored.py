"""Configurations written: to a file, or as a record of a state store, from which they can be read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from modelmesh.config.load import load_storage
from modelmesh.config.mesh_config import MeshConfig
from modelmesh.config.reader import KeyPath, dotted
from modelmesh.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    from modelmesh.interfaces.state_store import StateStore
    from modelmesh.plugins import PluginHost

_PLAIN = (str, int, float, bool, type(None))


def text_of(config: MeshConfig, *, as_json: bool = False) -> str:
    """Return a configuration as it would be written; secret references stay references.

    Raises:
        ConfigurationError: It holds objects that were passed in, such as ready-made connectors; names each.
    """
    problems = [
        Problem(f"{type(value).__name__} was passed in and cannot be written; name a connector instead", dotted(path))
        for path, value in _objects(config.raw, ())
    ]
    if problems:
        raise ConfigurationError.from_problems(problems)
    if as_json:
        return json.dumps(config.raw, indent=2, ensure_ascii=False) + "\n"
    return yaml.safe_dump(_plain(config.raw), sort_keys=False, allow_unicode=True)


def write_file(config: MeshConfig, file: str | Path) -> None:
    """Write a configuration to a file, YAML or, by its suffix, JSON; it is there whole or not at all.

    Raises:
        ConfigurationError: It cannot be written, or the file cannot.
    """
    path = Path(file)
    text = text_of(config, as_json=path.suffix == ".json")
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigurationError(
            f"{path}: the configuration cannot be written: {error.strerror or type(error).__name__}; check the path"
        ) from error


def open_store(
    connector: str, settings: Mapping[str, Any], *, plugins: PluginHost, environ: Mapping[str, str]
) -> StateStore:
    """Return a state store by the settings that a ``storage`` section would have.

    Raises:
        ConfigurationError: There is no such store, or its settings are wrong.
    """
    section = load_storage({"connector": connector, **settings}, connectors=plugins, environ=environ)
    store: StateStore = plugins.build("state_stores", section.connector, section.settings)
    return store


async def read_stored(store: StateStore, key: str) -> MeshConfig:
    """Read a configuration from a store, and close it.

    Raises:
        ConfigurationError: There is none under the key, or it is none.
        StateStoreError: The store does not answer.
    """
    try:
        record = await store.load(key)
    finally:
        await store.close()
    if record is None:
        raise ConfigurationError(f"the store holds no configuration under {key!r}; write one there with save_config")
    try:
        text = record.data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"the record {key!r} is no configuration: it is not UTF-8") from None
    return MeshConfig.from_yaml(text)


async def write_stored(store: StateStore, key: str, config: MeshConfig) -> None:
    """Write a configuration to a store, and close it.

    Raises:
        StateStoreError: The store does not answer.
    """
    try:
        await store.save(key, text_of(config).encode())
    finally:
        await store.close()


def _objects(value: Any, path: KeyPath) -> list[tuple[KeyPath, Any]]:
    if isinstance(value, Mapping):
        return [found for key, item in value.items() for found in _objects(item, (*path, str(key)))]
    if isinstance(value, (list, tuple)):
        return [found for place, item in enumerate(value) for found in _objects(item, (*path, place))]
    return [] if isinstance(value, _PLAIN) else [(path, value)]


def _plain(value: Any) -> Any:
    """Return what YAML's safe writer knows: it takes exact types only."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
