"""OrderedStrategy: strategies that sort candidates by figures, and keep the order until a figure moves."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast, overload

from pydantic import BaseModel

from modelmesh.interfaces.runtime import Clock
from modelmesh.interfaces.strategy import Candidate, SelectionRequest, SelectionResult, TrackedCandidates
from modelmesh_cdk.figures import NEVER
from modelmesh_cdk.strategy import BaseStrategy

ConfigT = TypeVar("ConfigT", bound=BaseModel)
Figure = TypeVar("Figure")

_BOARDS = 8
"""Selections of candidates that are remembered: a pool has a few, by delivery mode and by what requests need."""


_FEW = 8
"""Figures that may have changed for moving their candidates one by one to be quicker than sorting all."""


class Order:
    """Candidates by ID, best first. Inherit it to keep more than the order, such as weights.

    Attributes:
        ids: All candidates' IDs.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids = list(ids)
        self._places: dict[str, int] | None = None

    def without(self, model_id: str) -> list[str]:
        """Return all IDs but this one, in order, as a new list."""
        rest = self.ids.copy()
        if rest and rest[0] == model_id:
            del rest[0]
            return rest
        if self._places is None:
            self._places = {name: place for place, name in enumerate(rest)}
        place = self._places.get(model_id)
        if place is not None:
            del rest[place]
        return rest


class Board(Generic[Figure]):
    """What was read of one selection of candidates, and their order.

    Attributes:
        figures: By model ID, in pool order.
        order: Made of the figures.
        stale_at: Monotonic time at which the figures have to be read again though nobody moved.
    """

    __slots__ = ("_by_id", "_places", "candidates", "figures", "moves", "order", "stale_at")

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self.moves = 0
        self.figures: dict[str, Figure] = {}
        self.order = Order(())
        self.stale_at = NEVER
        self._places: dict[str, int] | None = None
        get = getattr(candidates, "get", None)
        self._by_id: Callable[[str], Candidate | None] = (
            get if get is not None else {candidate.model_id: candidate for candidate in candidates}.get
        )

    def candidate(self, model_id: str) -> Candidate:
        """Return the candidate of an ID in the order."""
        return cast("Candidate", self._by_id(model_id))

    def move(self, model_id: str, figure: Figure) -> None:
        """Give a candidate another figure, and its place in a rising order, equal ones in pool order."""
        if self._places is None:
            self._places = {name: place for place, name in enumerate(self.figures)}
        figures, places, ids = self.figures, self._places, self.order.ids.copy()

        def key(name: str) -> Any:
            return figures[name], places[name]

        del ids[bisect_left(ids, key(model_id), key=key)]
        figures[model_id] = figure
        insort(ids, model_id, key=key)
        self.order = Order(ids)

    def without(self, model_id: str) -> Ranked:
        """Return the candidates in order, without this one."""
        return Ranked(self.order.without(model_id), self.candidate)


class Ranked(Sequence[Candidate]):
    """Candidates in an order of their IDs; naming them costs a copy.

    Args:
        ids: In order; taken over.
        candidate: Returns the candidate of an ID.
    """

    __slots__ = ("_candidate", "_ids")

    def __init__(self, ids: list[str], candidate: Callable[[str], Candidate]) -> None:
        self._ids = ids
        self._candidate = candidate

    def ids(self) -> list[str]:
        """Model IDs, in order."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Candidate]:
        return map(self._candidate, self._ids)

    @overload
    def __getitem__(self, index: int) -> Candidate: ...
    @overload
    def __getitem__(self, index: slice) -> list[Candidate]: ...
    def __getitem__(self, index: int | slice) -> Candidate | list[Candidate]:
        if isinstance(index, slice):
            return [self._candidate(model_id) for model_id in self._ids[index]]
        return self._candidate(self._ids[index])


class OrderedStrategy(BaseStrategy[ConfigT], Generic[ConfigT, Figure]):
    """Inherit this and write `read`: what of a candidate decides. By default the smallest comes first.

    The engine's candidates tell whose figures moved. Only those are read again, and as long as nobody's did, choosing
    costs a look-up in a pool of any size. Plain lists are read anew each time.
    """

    def __init__(self, config: ConfigT | None = None) -> None:
        super().__init__(config)
        self._boards: list[Board[Figure]] = []

    @abstractmethod
    def read(self, candidate: Candidate) -> Figure:
        """Return what decides about a candidate; equal figures leave the order as it is."""

    def arrange(self, figures: Mapping[str, Figure]) -> Order:
        """Order candidates by their figures, best first; what comes in stands in pool order.

        The default sorts rising, equal ones in pool order.
        """
        return Order(sorted(figures, key=cast("Mapping[str, float]", figures).__getitem__))

    def stale_at(self) -> float:
        """Return the monotonic time at which what was just read changes by itself; by default never."""
        return NEVER

    def pool_changed(self, pool_order: Sequence[str]) -> None:
        """Take note of the pool's members, and forget the orders."""
        super().pool_changed(pool_order)
        self._boards.clear()

    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        """Return the first of the order."""
        board = self.board(candidates)
        return board.candidate(board.order.ids[0]), self.reason(board)

    def reason(self, board: Board[Figure]) -> str:
        """Say in a word or two why the first is the first."""
        return "best"

    def rank(
        self, candidates: Sequence[Candidate], request: SelectionRequest, selected: SelectionResult
    ) -> Sequence[Candidate]:
        """Return the others in order."""
        return self.board(candidates).without(selected.model_id)

    def board(self, candidates: Sequence[Candidate]) -> Board[Figure]:
        """Return figures and order of candidates as they are now."""
        if not hasattr(candidates, "moved_since"):
            return self._filled(Board(candidates))
        tracked = cast("TrackedCandidates", candidates)
        for board in self._boards:
            if board.candidates is candidates:
                if board.moves != tracked.moves or (
                    board.stale_at != NEVER and self._clock.monotonic() >= board.stale_at
                ):
                    self._refresh(board, tracked)
                return board
        board = Board(candidates)
        board.moves = tracked.moves
        self._boards.insert(0, board)
        del self._boards[_BOARDS:]
        return self._filled(board)

    @property
    def _clock(self) -> Clock:
        return self.context.clock

    def _filled(self, board: Board[Figure]) -> Board[Figure]:
        board.figures = {candidate.model_id: self.read(candidate) for candidate in board.candidates}
        board.order = self.arrange(board.figures)
        board.stale_at = self.stale_at()
        return board

    def _refresh(self, board: Board[Figure], tracked: TrackedCandidates) -> None:
        """Read again who moved, and order anew if that changed anything."""
        # The count is taken first: a move that comes in between is read twice rather than never.
        moves = tracked.moves
        moved = tracked.moved_since(board.moves)
        board.moves = moves
        if moved is None or (board.stale_at != NEVER and self._clock.monotonic() >= board.stale_at):
            self._filled(board)
            return
        read = {candidate.model_id: self.read(candidate) for candidate in moved}
        changed = {name: figure for name, figure in read.items() if figure != board.figures[name]}
        if len(changed) <= _FEW and type(self).arrange is OrderedStrategy.arrange:
            for name, figure in changed.items():
                board.move(name, figure)
        elif changed:
            board.figures.update(changed)
            board.order = self.arrange(board.figures)
        board.stale_at = self.stale_at()
