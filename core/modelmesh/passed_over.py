"""Who is in a state that was saved, and not in the mesh it is given to: such a mesh passes them over."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelmesh.state_manager import SystemState

_NAMED = 5
"""Names of a kind that are told; the others are counted."""

_LONGEST = 60
"""Characters of a name that are told: whoever wrote the file chose them."""


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Names that nothing in a mesh has; as text ``models 'a', 'b'; pool 'c'``, bounded in length.

    Attributes:
        models: Of models.
        providers: Of providers.
        pools: Of pools.
        is_all: Whether the state knows of no model and no provider of the mesh, so that it would change nothing there.
    """

    models: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    is_all: bool = False

    @classmethod
    def of(
        cls, state: SystemState, models: Collection[str], providers: Collection[str], pools: Collection[str]
    ) -> PassedOver:
        """Compare a state with the names that a mesh has."""
        return cls(
            tuple(name for name in state.models if name not in models),
            tuple(name for name in state.providers if name not in providers),
            tuple(name for name in state.pools if name not in pools),
            is_all=set(models).isdisjoint(state.models) and set(providers).isdisjoint(state.providers),
        )

    def __bool__(self) -> bool:
        """Whether there is anybody."""
        return bool(self.models or self.providers or self.pools)

    def __str__(self) -> str:
        """Name them, a few of each kind."""
        kinds = (("model", self.models), ("provider", self.providers), ("pool", self.pools))
        parts = [f"{kind}{'' if len(names) == 1 else 's'} {_listed(names)}" for kind, names in kinds if names]
        return "; ".join(parts)


def _listed(names: tuple[str, ...]) -> str:
    told = [repr(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…") for name in names[:_NAMED]]
    more = len(names) - len(told)
    return ", ".join(told) + (f" and {more:,} more" if more else "")
