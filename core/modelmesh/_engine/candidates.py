"""Some members of a pool in pool order, with the look-ups that make a choice among a thousand as quick as among ten."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar, overload

from modelmesh.interfaces.strategy import Candidate

Item = TypeVar("Item", bound=Candidate)


class Candidates(Sequence[Item], Generic[Item]):
    """An immutable selection of a pool's members, in pool order.

    Args:
        order: All members of the pool.
        chosen: Those that stand to be chosen, in the same order.
    """

    __slots__ = ("_at", "_chosen", "_place", "_places")

    def __init__(self, order: Sequence[Item], chosen: Sequence[Item]) -> None:
        self._chosen = tuple(chosen)
        self._place = {member.model_id: place for place, member in enumerate(order)}
        self._places = [self._place[member.model_id] for member in self._chosen]
        self._at = {member.model_id: index for index, member in enumerate(self._chosen)}

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        return self._chosen[index]

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._chosen)

    def __contains__(self, member: object) -> bool:
        return member in self._chosen

    def get(self, model_id: str) -> Item | None:
        """Return the candidate of this ID, or None; a dictionary look-up."""
        index = self._at.get(model_id)
        return None if index is None else self._chosen[index]

    def at_or_after(self, model_id: str) -> Item:
        """Return this candidate, or the next one after its place in the pool, circularly.

        Works for members that are no candidates. An ID the pool does not know stands before the first.
        """
        place = self._place.get(model_id, 0)
        return self._chosen[bisect_left(self._places, place) % len(self._chosen)]

    def following(self, model_id: str) -> Item:
        """Return the next candidate after this member's place in the pool, circularly; the member itself last."""
        place = self._place.get(model_id, -1)
        return self._chosen[bisect_left(self._places, place + 1) % len(self._chosen)]

    def after(self, model_id: str) -> tuple[Item, ...]:
        """Return all candidates but this one, in circular pool order starting behind its place."""
        place = self._place.get(model_id, -1)
        start = bisect_left(self._places, place + 1)
        end = start - 1 if model_id in self._at else start
        return self._chosen[start:] + self._chosen[:end]
