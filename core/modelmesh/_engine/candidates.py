"""Some members of a pool in pool order, with the look-ups that make a choice among a thousand as quick as among ten."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from typing import Generic, TypeVar, overload

from modelmesh._engine.changes import Changes
from modelmesh.interfaces.strategy import Candidate

Item = TypeVar("Item", bound=Candidate)


class Candidates(Sequence[Item], Generic[Item]):
    """An immutable selection of a pool's members, in pool order.

    Args:
        order: All members of the pool.
        chosen: Those that stand to be chosen, in the same order.
        changes: Where moves of their figures are noted; one that nobody writes to by default.
    """

    __slots__ = ("_at", "_by_provider", "_changes", "_chosen", "_ids", "_place", "_places")

    def __init__(self, order: Sequence[Item], chosen: Sequence[Item], changes: Changes | None = None) -> None:
        self._changes = changes or Changes()
        self._chosen = tuple(chosen)
        self._place = {member.model_id: place for place, member in enumerate(order)}
        self._places = [self._place[member.model_id] for member in self._chosen]
        self._ids = tuple(member.model_id for member in self._chosen)
        self._at = {model_id: index for index, model_id in enumerate(self._ids)}
        self._by_provider: dict[str, tuple[Item, ...]] | None = None

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

    def after(self, model_id: str) -> Ranking[Item]:
        """Return all candidates but this one, in circular pool order starting behind its place."""
        place = self._place.get(model_id, -1)
        start = bisect_left(self._places, place + 1)
        end = start - 1 if model_id in self._at else start
        return Ranking(self._chosen, self._ids, ((start, len(self._ids)), (0, end)))

    def without(self, model_ids: Collection[str]) -> Ranking[Item]:
        """Return all candidates but these, in pool order."""
        spans: list[tuple[int, int]] = []
        begin = 0
        for index in sorted({self._at[model_id] for model_id in model_ids if model_id in self._at}):
            spans.append((begin, index))
            begin = index + 1
        return Ranking(self._chosen, self._ids, (*spans, (begin, len(self._ids))))

    @property
    def moves(self) -> int:
        """How often figures of the mesh's models have moved; as long as it stands, what was read still holds."""
        return self._changes.count

    def moved_since(self, moves: int) -> Sequence[Item] | None:
        """Return the candidates whose figures moved after `moves` stood at this, or None for all of them."""
        moved = self._changes.since(moves)
        if moved is None:
            return None
        models, providers = moved
        found = [self._chosen[self._at[name]] for name in models if name in self._at]
        for provider in providers:
            found += [each for each in self.of_provider(provider) if each.model_id not in models]
        return found

    def of_provider(self, provider_id: str) -> Sequence[Item]:
        """Return the candidates of one provider, in pool order; looked up once per selection of candidates."""
        if self._by_provider is None:
            found: dict[str, list[Item]] = {}
            for member in self._chosen:
                found.setdefault(member.provider_id, []).append(member)
            self._by_provider = {provider: tuple(members) for provider, members in found.items()}
        return self._by_provider.get(provider_id, ())


class Ranking(Sequence[Item], Generic[Item]):
    """An order over candidates, kept as spans of what is there already: naming the IDs of a thousand is a copy or two.

    Args:
        chosen: The candidates.
        ids: Their IDs.
        spans: Pairs of start and end, in order.
        first: Candidates that come before all spans.
    """

    __slots__ = ("_chosen", "_first", "_ids", "_spans")

    def __init__(
        self,
        chosen: tuple[Item, ...],
        ids: tuple[str, ...],
        spans: tuple[tuple[int, int], ...],
        first: tuple[Item, ...] = (),
    ) -> None:
        self._chosen = chosen
        self._ids = ids
        self._spans = spans
        self._first = first

    def led_by(self, first: Sequence[Item]) -> Ranking[Item]:
        """Return this order with other candidates put before it."""
        return Ranking(self._chosen, self._ids, self._spans, (*first, *self._first))

    def ids(self) -> list[str]:
        """Model IDs, in order."""
        names = [member.model_id for member in self._first]
        for start, end in self._spans:
            names += self._ids[start:end]
        return names

    def __len__(self) -> int:
        return len(self._first) + sum(end - start for start, end in self._spans)

    def __iter__(self) -> Iterator[Item]:
        yield from self._first
        for start, end in self._spans:
            for index in range(start, end):
                yield self._chosen[index]

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        return list(self)[index]
