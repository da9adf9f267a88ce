"""The models of a mesh, and the pools they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelmesh._engine.model import Model, ModelDefinition
from modelmesh._engine.pool import CapabilityPool
from modelmesh._engine.provider_service import ProviderService
from modelmesh._engine.resolver import CapabilityResolver
from modelmesh.capabilities import CapabilityTree
from modelmesh.errors import ConfigurationError, unknown_name
from modelmesh.state import ModelState


@dataclass(frozen=True, slots=True)
class Membership:
    """Which models belong to a pool.

    Attributes:
        node: Capability path; models at it or below belong. None for an explicit pool.
        models: IDs the pool is restricted to, in this order; for an explicit pool, its members.
        include: IDs that belong whatever their capabilities.
        providers: Providers a model must be of; empty for any.
        excluded_providers: Providers a model must not be of.
        selector: What else a model must be, or None.
    """

    node: str | None
    models: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    providers: frozenset[str] = frozenset()
    excluded_providers: frozenset[str] = frozenset()
    selector: Callable[[Model], bool | float] | None = None

    def members(self, registered: Mapping[str, Model], tree: CapabilityTree) -> list[Model]:
        """Return the models that belong, in pool order."""
        if self.node is None:
            chosen = [registered[name] for name in self.models if name in registered]
            if not self.models:
                chosen = list(registered.values()) if self.selector is not None else []
        else:
            below = {leaf.path for leaf in tree.get_leaves(self.node)} | {self.node}
            chosen = [model for model in registered.values() if not below.isdisjoint(model.definition.capabilities)]
            if self.models:
                order = {name: place for place, name in enumerate(self.models)}
                chosen = sorted((m for m in chosen if m.name in order), key=lambda model: order[model.name])
        chosen = [
            model
            for model in chosen
            if (not self.providers or model.provider.name in self.providers)
            and model.provider.name not in self.excluded_providers
        ]
        if self.selector is not None:
            chosen = _by_score(chosen, self.selector)
        extra = [registered[name] for name in self.include if name in registered]
        return list(dict.fromkeys([*chosen, *extra]))


def _by_score(models: list[Model], selector: Callable[[Model], bool | float]) -> list[Model]:
    """Keep models with a truthy score, the highest first; equal scores keep their order."""
    scored = [(float(selector(model)), model) for model in models]
    kept = [(score, model) for score, model in scored if score > 0]
    return [model for _, model in sorted(kept, key=lambda pair: -pair[0])]


class ModelRegistry:
    """All models; whoever registers or unregisters one has the pools filled anew."""

    def __init__(
        self,
        tree: CapabilityTree,
        providers: Mapping[str, ProviderService],
        pools: Mapping[str, CapabilityPool],
        memberships: Mapping[str, Membership],
        resolver: CapabilityResolver,
        *,
        new_state: Callable[[], ModelState],
    ) -> None:
        self._tree = tree
        self._providers = providers
        self._pools = pools
        self._memberships = memberships
        self._resolver = resolver
        self._new_state = new_state
        self._models: dict[str, Model] = {}

    def register(self, definition: ModelDefinition, *, refresh: bool = True) -> Model:
        """Add a model, or replace the definition of one, keeping its state.

        Args:
            definition: The model.
            refresh: Whether to fill the pools now; pass False for all but the last of many.

        Raises:
            ConfigurationError: Its provider is not configured, or it stands at no leaf.
        """
        provider = self._providers.get(definition.provider)
        if provider is None:
            known = list(self._providers)
            raise ConfigurationError(
                f"model {definition.name!r}: {unknown_name('provider', definition.provider, known)}"
            )
        for path in definition.capabilities:
            node = self._tree.get_node(path)
            if node is None or not node.is_leaf:
                raise ConfigurationError(
                    f"model {definition.name!r}: {path!r} is no leaf of the capability tree; models register at leaves"
                )
        before = self._models.get(definition.name)
        model = Model(definition, provider, before.state if before is not None else self._new_state())
        if before is not None:
            before.provider.models.remove(before)
        self._models[definition.name] = model
        provider.models.append(model)
        if refresh:
            self.refresh()
        return model

    def unregister(self, name: str) -> bool:
        """Remove a model from the registry and all pools; return whether it was there."""
        model = self._models.pop(name, None)
        if model is None:
            return False
        model.provider.models.remove(model)
        self.refresh()
        return True

    def get_model(self, name: str) -> Model | None:
        """Return a model by ID, or None."""
        return self._models.get(name)

    def list_models(self) -> list[Model]:
        """All models, in the order they were registered."""
        return list(self._models.values())

    def find_by_capability(self, node: str) -> list[Model]:
        """Models at a capability or below it.

        Raises:
            KeyError: There is no such capability.
        """
        path = self._tree.resolve(node)
        if path is None:
            raise KeyError(f"unknown capability {node!r}")
        return Membership(path).members(self._models, self._tree)

    def find_by_provider(self, provider_id: str) -> list[Model]:
        """Models of one provider."""
        return [model for model in self._models.values() if model.provider.name == provider_id]

    def refresh(self) -> None:
        """Fill every pool anew."""
        for name, pool in self._pools.items():
            pool.fill(self._memberships[name].members(self._models, self._tree))
        for provider in self._providers.values():
            provider.count_active()
        self._resolver.forget()
