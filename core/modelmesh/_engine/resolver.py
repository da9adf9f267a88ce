"""From the name a caller asks for to the pools that may serve it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelmesh.capabilities import CapabilityTree
from modelmesh.errors import CapabilityNotFoundError, InvalidRequestError

if TYPE_CHECKING:
    from modelmesh._engine.pool import CapabilityPool


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a name stands for.

    Attributes:
        pools: Pools that may serve it, the best match first; never empty.
        node: Leaf paths a candidate must be registered at; None when a pool was named.
        only: Model IDs a candidate must be among; None unless a model was named.
    """

    pools: tuple[CapabilityPool, ...]
    node: frozenset[str] | None = None
    only: frozenset[str] | None = None


class CapabilityResolver:
    """Resolves pool names, capability paths, aliases and model names, in this order; remembers what it found."""

    def __init__(
        self, tree: CapabilityTree, pools: Mapping[str, CapabilityPool], *, allow_model_names: bool = True
    ) -> None:
        self._tree = tree
        self._pools = pools
        self._allow_model_names = allow_model_names
        self._known: dict[str, Resolution] = {}

    def forget(self) -> None:
        """Drop what was remembered, after pools or their members changed."""
        self._known.clear()

    def resolve(self, capability: str) -> list[CapabilityPool]:
        """Return the pools that may serve a name, most specific first.

        Raises:
            CapabilityNotFoundError: No pool, capability or model has this name, or no pool serves it.
        """
        return list(self.find(capability).pools)

    def get_matching_pools(self, node: str) -> list[CapabilityPool]:
        """Return the pools that target exactly this path, by priority, then in configured order."""
        return [pool for pool in self._by_priority() if pool.hierarchy_node == node]

    def find(self, name: str) -> Resolution:
        """Return what a name stands for; a dictionary look-up from the second time on.

        Raises:
            CapabilityNotFoundError: See `resolve`.
            InvalidRequestError: It is no text.
        """
        if not isinstance(name, str):
            raise InvalidRequestError(
                f"model must be the name of a pool, a capability or a model; it is of type {type(name).__name__}"
            )
        found = self._known.get(name)
        if found is None:
            found = self._find(name)
            # Names come from callers: a bounded memory, so that no flood of strange ones fills it.
            if len(self._known) < 10_000:
                self._known[name] = found
        return found

    def _find(self, name: str) -> Resolution:
        pool = self._pools.get(name)
        if pool is not None:
            return Resolution((pool,))
        path = self._tree.resolve(name)
        if path is not None:
            pools = self._serving(path)
            if pools:
                leaves = frozenset(node.path for node in self._tree.get_leaves(path))
                return Resolution(tuple(pools), node=leaves)
        elif self._allow_model_names:
            holding = tuple(pool for pool in self._by_priority() if name in pool.members)
            if holding:
                return Resolution(holding, only=frozenset({name}))
        raise CapabilityNotFoundError(name, known=self._names())

    def _serving(self, path: str) -> Sequence[CapabilityPool]:
        upward = [path, *(node.path for node in self._tree.get_ancestors(path))]
        pools = [pool for node in upward for pool in self.get_matching_pools(node)]
        if pools:
            return pools
        # A category request reaches every model below it, so pools further down serve it, the shallowest first.
        below = sorted(self._tree.get_descendants(path), key=lambda node: node.path.count("."))
        return [pool for node in below for pool in self.get_matching_pools(node.path)]

    def _by_priority(self) -> list[CapabilityPool]:
        return sorted(self._pools.values(), key=lambda pool: -pool.priority)

    def _names(self) -> list[str]:
        models = [name for pool in self._pools.values() for name in pool.members] if self._allow_model_names else []
        return [*dict.fromkeys([*self._pools, *models])]
