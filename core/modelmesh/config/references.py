"""Checks across sections: whether what refers to something else refers to something that is there.

They read the document and not the validated models, so that a wrong type in one place hides no dangling reference in
another. What has the wrong type is skipped here; validation reports it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modelmesh.capabilities import PREDEFINED_POOLS, CapabilityTree
from modelmesh.config.reader import Document, KeyPath
from modelmesh.errors import Problem, unknown_name

Entries = dict[str, dict[str, Any]]


def check_references(document: Document, known: list[Problem]) -> list[Problem]:
    """Return what is wrong between the sections of a document.

    Args:
        document: Rewritten to the canonical spelling; pools hold their strategy's validated settings.
        known: What was found before. Whether a pool can have members is asked only when nothing else is wrong with
            what decides it.
    """
    return _References(document, known).run()


class _References:
    """One check, collecting problems as it goes."""

    def __init__(self, document: Document, known: list[Problem]) -> None:
        self._document = document
        self._known = known
        self._problems: list[Problem] = []
        self._providers = _entries(document.data, "providers")
        self._models = _entries(document.data, "models")
        self._pools = _entries(document.data, "pools")
        self._tree = CapabilityTree.default()

    def run(self) -> list[Problem]:
        self._grow_tree()
        if not self._document.data.get("providers"):
            self._add(("providers",), "no providers configured; add at least one")
        for name, model in self._models.items():
            self._model(("models", name), model)
        if not self._document.data.get("pools"):
            self._add(("pools",), f"no pools configured; add one, such as {next(iter(PREDEFINED_POOLS))}")
        for name, pool in self._pools.items():
            self._pool(name, pool)
        self._events()
        return self._problems

    def _add(self, path: KeyPath, message: str) -> None:
        self._problems.append(self._document.problem(path, message))

    def _grow_tree(self) -> None:
        added = self._document.data.get("capabilities")
        for parent, children in (added if isinstance(added, dict) else {}).items():
            path = "" if parent == "" else self._tree.resolve(parent)
            if path is None:
                self._add(("capabilities", parent), unknown_name("capability", parent, self._tree.names()))
                continue
            for _, child in _texts(children):
                try:
                    self._tree.add_node(path, child)
                except ValueError as error:
                    self._add(("capabilities", parent), str(error))

    def _model(self, path: KeyPath, model: dict[str, Any]) -> None:
        provider = model.get("provider")
        if isinstance(provider, str):
            self._named((*path, "provider"), "provider", provider, self._providers)
        for place, capability in _texts(model.get("capabilities")):
            self._capability((*path, "capabilities", *place), capability)

    def _capability(self, path: KeyPath, capability: str) -> None:
        found = self._tree.resolve(capability)
        if found is None and "." in capability:
            try:
                _add_path(self._tree, capability)
            except ValueError as error:
                self._add(path, str(error))
        elif found is None:
            self._add(path, unknown_name("capability", capability, self._tree.names()))
        elif not self._tree.get_leaves(found) or self._tree.get_leaves(found)[0].path != found:
            leaves = ", ".join(leaf.name for leaf in self._tree.get_leaves(found))
            self._add(path, f"{capability!r} is no leaf; name one of {leaves}")

    def _pool(self, name: str, pool: dict[str, Any]) -> None:
        path: KeyPath = ("pools", name)
        for key in ("models", "include"):
            self._list((*path, key), "model", pool.get(key), self._models)
        for key in ("providers", "excluded_providers"):
            self._list((*path, key), "provider", pool.get(key), self._providers)
        selector = pool.get("selector")
        if isinstance(selector, dict):
            self._list((*path, "selector", "providers"), "provider", selector.get("providers"), self._providers)
        settings = pool.get("strategy_settings")
        self._list((*path, "model_priority"), "model", getattr(settings, "model_priority", None), self._models)
        self._list(
            (*path, "provider_priority"), "provider", getattr(settings, "provider_priority", None), self._providers
        )
        capability = pool.get("capability")
        if capability is not None and not isinstance(capability, str):
            return
        node = self._tree.resolve(name if capability is None else capability)
        if node is None and capability is not None:
            self._add((*path, "capability"), unknown_name("capability", capability, self._tree.names()))
        elif node is None and not any(pool.get(key) for key in ("models", "include", "selector")):
            self._add(path, f"{name!r} is no capability, so the pool needs capability:, models: or selector:")
        elif self._is_sound(name) and not self._has_members(node, pool):
            self._add(path, "no configured model can ever be in this pool; check capability, models and providers")

    def _named(self, path: KeyPath, kind: str, name: str, known: Entries) -> None:
        if name not in known:
            self._add(path, unknown_name(kind, name, list(known)))

    def _list(self, path: KeyPath, kind: str, names: Any, known: Entries) -> None:
        seen: set[str] = set()
        for place, name in _texts(names):
            self._named((*path, *place), kind, name, known)
            if name in seen:
                self._add((*path, *place), f"names {name!r} a second time; remove one of them")
            seen.add(name)

    def _is_sound(self, pool: str) -> bool:
        deciding = ("providers", "models", "capabilities", f"pools.{pool}")
        return not any(
            problem.path == part or problem.path.startswith((f"{part}.", f"{part}["))
            for problem in (*self._known, *self._problems)
            for part in deciding
        )

    def _has_members(self, node: str | None, pool: dict[str, Any]) -> bool:
        below = {leaf.path for leaf in self._tree.get_leaves(node)} | {node} if node is not None else None
        restricted, allowed = pool.get("models"), pool.get("providers")
        for name, model in self._models.items():
            provider = model["provider"]
            if self._providers[provider].get("enabled") is False:
                continue
            if name in (pool.get("include") or ()):
                return True
            if below is not None and below.isdisjoint(self._tree.resolve(each) for each in model["capabilities"]):
                continue
            if below is None and name not in (restricted or ()) and pool.get("selector") is None:
                continue
            if (restricted and name not in restricted) or (allowed and provider not in allowed):
                continue
            if provider not in (pool.get("excluded_providers") or ()):
                return True
        return False

    def _events(self) -> None:
        section = self._document.data.get("observability")
        events = section.get("events") if isinstance(section, dict) else None
        if not isinstance(events, dict):
            return
        from modelmesh._engine.observability import EVENT_GROUPS
        from modelmesh.interfaces.observability import EventType

        known = [*EVENT_GROUPS, *(event.value for event in EventType)]
        for place, name in _texts(events.get("filter")):
            if name not in known:
                self._add(("observability", "events", "filter", *place), unknown_name("event", name, known))


def _entries(data: dict[str, Any], section: str) -> Entries:
    entries = data.get(section)
    if not isinstance(entries, dict):
        return {}
    return {name: entry if isinstance(entry, dict) else {} for name, entry in entries.items()}


def _texts(value: Any) -> Iterator[tuple[KeyPath, str]]:
    """Yield the texts of a list, each with its place in it."""
    for place, item in enumerate(value if isinstance(value, (list, tuple)) else ()):
        if isinstance(item, str):
            yield (place,), item


def _add_path(tree: CapabilityTree, path: str) -> None:
    parent = ""
    for part in path.split("."):
        tree.add_node(parent, part)
        parent = f"{parent}.{part}" if parent else part
