"""The ``observability`` section: which connector each part goes to, and where that connector's settings stand.

Settings of a connector stand beside its name, under ``config:``, or in a section of the connector's own name
(``console:``), which then serves wherever the connector is named. Several connectors are named in a list; each takes
those of the settings beside them that it knows.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from modelmesh.config.explain import written_keys
from modelmesh.config.observability import ObservabilityConfig, ObservabilityTarget, ObservedSection
from modelmesh.config.reader import KeyPath
from modelmesh.config.settings import Desk, Layer, setting_names
from modelmesh.errors import UnknownConnectorError, unknown_name

_DEFAULT_SINK = "modelmesh.console.v1"
_BASE: KeyPath = ("observability",)
_PARTS: dict[str, type[ObservedSection]] = {
    name: field.annotation
    for name, field in ObservabilityConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, ObservedSection)
}


def read_observability(desk: Desk) -> None:
    """Replace the connectors named in the section, and their settings, by targets."""
    section = desk.document.data.get("observability")
    if isinstance(section, dict):
        _Observability(desk, section).read()


class _Observability:
    """One section being read."""

    def __init__(self, desk: Desk, section: dict[str, Any]) -> None:
        self._desk = desk
        self._section = section
        self._sinks: dict[str, Layer] = {}
        self._used: set[str | None] = set()

    def read(self) -> None:
        section = self._section
        self._take_sinks()
        fields = {*_PARTS, "events", "connector", "instance"}
        values = {key: section.pop(key) for key in list(section) if key not in fields}
        self._targets(section, values, _BASE, default=_DEFAULT_SINK)
        for name in _PARTS:
            if isinstance(section.get(name), dict):
                self._part(name, section[name])
        for full, (path, _) in self._sinks.items():
            if full not in self._used and None not in self._used:
                message = f"no part of observability goes to {full!r}, so nothing reads this; remove it or name it"
                self._desk.add(path, f"{message} as a connector")

    def _take_sinks(self) -> None:
        """Take out the sections that hold one connector's settings; they are named like the connector."""
        for key in [key for key in self._section if key not in (*_PARTS, "events", "connector", "instance")]:
            value = self._section[key]
            try:
                full = self._desk.connectors.resolve_id("observability", key)
            except UnknownConnectorError:
                if isinstance(value, dict):
                    self._misspelt_sink(key)
                continue
            if value is None or isinstance(value, dict):
                del self._section[key]
                self._sinks[full] = ((*_BASE, key), value or {})

    def _misspelt_sink(self, key: str) -> None:
        """Note and take out a section that is named nearly like a connector."""
        from modelmesh.plugins import KINDS

        known = [*self._desk.connectors.load_all("observability"), *KINDS["observability"].aliases]
        short = {name.removeprefix("modelmesh.").rsplit(".v", 1)[0] for name in known}
        if get_close_matches(key, short, n=1, cutoff=0.8) and not get_close_matches(key, _PARTS, n=1, cutoff=0.8):
            del self._section[key]
            said = unknown_name("key", key, sorted({*short, *written_keys(ObservabilityConfig)}))
            self._desk.add((*_BASE, key), f"{said}; remove or correct it")

    def _part(self, name: str, part: dict[str, Any]) -> None:
        path: KeyPath = (*_BASE, name)
        fields = written_keys(_PARTS[name])
        values = {key: part.pop(key) for key in list(part) if key not in (*fields, "connector", "instance")}
        if part.get("connector") is not None or part.get("instance") is not None:
            self._targets(part, values, path)
            return
        part.pop("connector", None)
        part.pop("instance", None)
        for key in values:
            if any(key in setting_names(cls) for cls in self._desk.connectors.load_all("observability").values()):
                self._desk.add((*path, key), "belongs to a connector and none is named here; add connector:, or remove")
            else:
                self._desk.add((*path, key), unknown_name("key", key, [*fields, "connector"]) + "; remove it")

    def _targets(
        self, section: dict[str, Any], values: dict[str, Any], path: KeyPath, *, default: str | None = None
    ) -> None:
        """Replace what a section says of its connectors by targets."""
        instance = section.pop("instance", None)
        asked = section.pop("connector", default)
        if instance is not None and self._desk.is_ready_made(instance, (*path, "instance")):
            for key in values:
                self._desk.add((*path, key), "settings of a ready-made instance are set in code; remove it")
            section["target"] = ObservabilityTarget(connector=type(instance).__name__, instance=instance)
            return
        if not isinstance(asked, list):
            section["target"] = self._target(asked, values, path, (*path, "connector"))
            return
        if not asked:
            self._desk.add((*path, "connector"), "names no connector; name one, or 'null' in quotes for none")
            return
        unclaimed = set(values) - {name for each in asked for name in self._settings_of(each)}
        targets: list[ObservabilityTarget] = []
        for number, each in enumerate(asked):
            known = self._settings_of(each)
            # What nobody knows is the first one's to complain about.
            own = {key: values[key] for key in values if key in known or (number == 0 and key in unclaimed)}
            target = self._target(each, own, path, (*path, "connector", number))
            if target is not None:
                targets.append(target)
        section["target"] = targets[0] if targets else None
        section["more"] = tuple(targets[1:])

    def _settings_of(self, connector_id: Any) -> set[str]:
        cls = self._desk.class_of("observability", connector_id) if isinstance(connector_id, str) else None
        return set() if cls is None else setting_names(cls)

    def _target(
        self, asked: Any, values: dict[str, Any], path: KeyPath, name_path: KeyPath
    ) -> ObservabilityTarget | None:
        full, cls = self._desk.find("observability", asked, name_path)
        # Once an unknown connector is named, nobody can say which section goes unread.
        self._used.add(full if cls is not None else None)
        if cls is None:
            return None
        layers: list[Layer] = [(path, values)]
        if full in self._sinks:
            layers.insert(0, self._sinks[full])
        settings = self._desk.settings(
            "observability", cls, *layers, subject=f"connector {full!r}", section_keys=self._hints(path, cls)
        )
        return ObservabilityTarget(connector=full, settings=settings)

    def _hints(self, path: KeyPath, cls: type[Any]) -> list[str]:
        own = written_keys(ObservabilityConfig if path == _BASE else _PARTS[str(path[-1])])
        return sorted({*own, "connector", *setting_names(cls)})
