"""BaseStrategy: a selection strategy is one method that chooses; the rest follows from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict

from modelmesh.hookspecs import hookimpl
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.strategy import Candidate, CandidateSequence, SelectionRequest, SelectionResult

ConfigT = TypeVar("ConfigT", bound=BaseModel)


class NoConfig(BaseModel):
    """Settings of a strategy that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class BaseStrategy(ABC, Generic[ConfigT]):
    """Inherit this and write `choose`.

    `choose` only looks; whatever the strategy has to remember of a choice it notes in `commit`. That is why `peek`,
    which explanations use, can never move a pointer.

    Attributes:
        config_model: Settings the strategy reads from its pool's section of the configuration.
        connector_id: Set it only when one plugin offers several connectors; else the entry point's name is the ID.
        context: Clock and randomness of the pool, once bound.
        config: The settings.
        pool_order: Model IDs of all members, active or not, in pool order.
    """

    config_model: ClassVar[type[BaseModel]] = NoConfig
    connector_id: ClassVar[str] = ""
    context: ConnectorContext

    def __init__(self, config: ConfigT | None = None) -> None:
        self.config = config if config is not None else cast("ConfigT", self.config_model())
        self.pool_order: tuple[str, ...] = ()

    @classmethod
    @hookimpl
    def modelmesh_strategies(cls) -> Mapping[str, type[BaseStrategy[Any]]]:
        """Offer this class under its entry point's name."""
        return {cls.connector_id: cls}

    def bind(self, context: ConnectorContext) -> None:
        """Receive the pool's context."""
        self.context = context

    def pool_changed(self, pool_order: Sequence[str]) -> None:
        """Take note of the pool's members; extend it when the strategy keeps something per member."""
        self.pool_order = tuple(pool_order)

    @abstractmethod
    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        """Return one of the candidates and the reason in a word or two. Change nothing.

        Args:
            candidates: Active models that can deliver what is asked, in pool order; never empty.
            request: What is asked.
        """

    def commit(self, chosen: Candidate, request: SelectionRequest) -> None:
        """Note that a candidate was really chosen: move pointers, remember sessions."""

    def wait(self, chosen: Candidate, request: SelectionRequest) -> float:
        """Return the seconds to let pass before the chosen model is called; 0.0 by default. Change nothing.

        Asked before `commit`. The engine waits, within the request's deadline; a strategy never does.
        """
        return 0.0

    def score(self, candidate: Candidate, request: SelectionRequest) -> float:
        """Rate a candidate, higher is better; by default 1.0 minus its error rate."""
        return 1.0 - candidate.error_rate

    def select(self, candidates: Sequence[Candidate], request: SelectionRequest) -> SelectionResult:
        """Choose and commit."""
        chosen, reason = self.choose(candidates, request)
        # Rated before the commit, which may move what the score is measured from.
        result = self._result(chosen, request, reason)
        self.commit(chosen, request)
        return result

    def peek(self, candidates: Sequence[Candidate], request: SelectionRequest) -> SelectionResult:
        """Choose without committing."""
        chosen, reason = self.choose(candidates, request)
        return self._result(chosen, request, reason)

    def _result(self, chosen: Candidate, request: SelectionRequest, reason: str) -> SelectionResult:
        return SelectionResult(
            chosen.model_id, chosen.provider_id, self.score(chosen, request), reason, self.wait(chosen, request)
        )

    def rank(
        self, candidates: Sequence[Candidate], request: SelectionRequest, selected: SelectionResult
    ) -> Sequence[Candidate]:
        """Order the others by score, best first; equal scores in pool order."""
        others = [candidate for candidate in candidates if candidate.model_id != selected.model_id]
        return sorted(others, key=lambda candidate: -self.score(candidate, request))

    def in_order(self, candidates: Sequence[Candidate]) -> CandidateSequence:
        """Return the candidates as something that answers by ID and place; the engine's own do already."""
        # isinstance against a protocol takes microseconds, on every choice; one attribute tells as much.
        if hasattr(candidates, "at_or_after"):
            return cast("CandidateSequence", candidates)
        return _Placed(candidates, self.pool_order or tuple(candidate.model_id for candidate in candidates))


class SequentialStrategy(BaseStrategy[ConfigT]):
    """For strategies that go through the pool in order: the next candidate is the one behind, circularly."""

    def rank(
        self, candidates: Sequence[Candidate], request: SelectionRequest, selected: SelectionResult
    ) -> Sequence[Candidate]:
        """Order the others from behind the selected one, circularly."""
        return self.in_order(candidates).after(selected.model_id)


class _Placed:
    """A plain list of candidates with look-ups by place: slow and simple, for tests and filtered pools."""

    def __init__(self, candidates: Sequence[Candidate], pool_order: Sequence[str]) -> None:
        self._candidates = list(candidates)
        # Candidates that the order does not name, a stage's own say, stand behind those it does.
        names = dict.fromkeys([*pool_order, *(each.model_id for each in candidates)])
        self._order = {name: place for place, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self._candidates)

    def __getitem__(self, index: int) -> Candidate:
        return self._candidates[index]

    def _place(self, name: str) -> int:
        return self._order.get(name, -1)

    def get(self, model_id: str) -> Candidate | None:
        return next((each for each in self._candidates if each.model_id == model_id), None)

    def at_or_after(self, model_id: str) -> Candidate:
        return self.get(model_id) or self.following(model_id)

    def following(self, model_id: str) -> Candidate:
        place = self._place(model_id)
        later = [each for each in self._candidates if self._place(each.model_id) > place]
        return later[0] if later else self._candidates[0]

    def after(self, model_id: str) -> Sequence[Candidate]:
        place = self._place(model_id)
        later = [each for each in self._candidates if self._place(each.model_id) > place]
        earlier = [each for each in self._candidates if self._place(each.model_id) < place]
        return [*later, *earlier]

    def without(self, model_ids: Collection[str]) -> Sequence[Candidate]:
        return [each for each in self._candidates if each.model_id not in model_ids]

    def of_provider(self, provider_id: str) -> Sequence[Candidate]:
        return [each for each in self._candidates if each.provider_id == provider_id]
