"""What a pool asks of its strategy, who may be anybody's: it is named when it raises or returns what it should not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from modelmesh._engine.member import Member
from modelmesh._engine.origin import class_name, has_frame_of, told
from modelmesh._engine.rotation import RotationPolicyService
from modelmesh.errors import ModelMeshError, PluginError
from modelmesh.interfaces.strategy import SelectionRequest, SelectionResult

Answer = TypeVar("Answer")


class Chooser:
    """Asks the strategy of one pool, from one thread at a time.

    Args:
        pool: Its name.
        strategy_id: As configured.
        rotation: Holds the strategy, which a reload may put another in place of.
        lock: Under which it is asked.
        redact: Takes what looks like a secret out of a strategy's words.
    """

    def __init__(
        self,
        pool: str,
        strategy_id: str,
        rotation: RotationPolicyService,
        lock: threading.RLock,
        redact: Callable[[str], str],
    ) -> None:
        self._pool = pool
        self._strategy_id = strategy_id
        self._rotation = rotation
        self._lock = lock
        self._redact = redact

    def choose(
        self, candidates: Sequence[Member], request: SelectionRequest, *, dry_run: bool = False
    ) -> SelectionResult:
        """Ask the strategy; ``dry_run`` moves none of its pointers."""
        strategy = self._rotation.strategy
        return self._ask("choose", strategy.peek if dry_run else strategy.select, candidates, request)

    def chosen(self, result: SelectionResult, members: Mapping[str, Member]) -> Member:
        """Return the member that a strategy chose.

        Raises:
            PluginError: It chose none.
        """
        try:
            return members[result.model_id]
        except (KeyError, AttributeError, TypeError) as error:  # it may have returned anything
            named = getattr(result, "model_id", None)
            said = f"a {type(result).__name__}" if named is None else f"{named!r}, which is no model of the pool"
            raise PluginError(f"{self._who_chooses('choose')} returned {said}") from error

    def rank(
        self, candidates: Sequence[Member], request: SelectionRequest, selected: SelectionResult
    ) -> Sequence[Member]:
        """Order the others, best first.

        Raises:
            PluginError: The strategy returned what is no order of them.
        """

        def ranked() -> Sequence[Any]:
            order = self._rotation.strategy.rank(candidates, request, selected)
            return order if hasattr(order, "ids") else list(order)  # made of names, each is looked up when it is read

        order = self._ask("rank the models", ranked)
        if isinstance(order, list) and not all(isinstance(each, Member) for each in order):
            stranger = next(each for each in order if not isinstance(each, Member))
            raise PluginError(
                f"{self._who_chooses('rank the models')} returned a {type(stranger).__name__} among them,"
                " which is none of its candidates"
            )
        return order

    def score(self, member: Member, request: SelectionRequest) -> float:
        """Have the strategy rate a member, higher is better."""
        strategy = self._rotation.strategy
        return self._ask("rate a model", lambda: float(strategy.score(member, request)))

    def remarks(self, candidates: Sequence[Member], request: SelectionRequest) -> Mapping[str, str]:
        """Return what the strategy has to say of candidates, by model ID; empty where it says nothing of any."""
        remarks = getattr(self._rotation.strategy, "remarks", None)
        return {} if remarks is None else self._ask("remark on models", lambda: dict(remarks(candidates, request)))

    def pool_changed(self, pool_order: Sequence[str]) -> None:
        """Tell the strategy of the pool's members."""
        self._ask("take note of the pool's models", self._rotation.strategy.pool_changed, pool_order)

    def _ask(self, what: str, ask: Callable[..., Answer], *arguments: object) -> Answer:
        """Ask the strategy something, from one thread at a time.

        Raises:
            PluginError: It raised what is no error of ours.
        """
        with self._lock:
            try:
                return ask(*arguments)
            except ModelMeshError:
                raise
            except (Exception, SystemExit) as error:
                raise self._erred(what, error) from error

    def _who_chooses(self, what: str) -> str:
        name = class_name(type(self._rotation.strategy))
        strategy = name if self._strategy_id in ("", name) else f"{self._strategy_id!r} ({name})"
        return f"strategy {strategy} of pool {self._pool!r} could not {what}: it"

    def _erred(self, what: str, error: BaseException) -> PluginError:
        """Build the error that says which strategy raised what, where, and in which words."""
        cls = type(self._rotation.strategy)
        hint = ""
        if isinstance(error, (TypeError, ValueError, AttributeError)) and not has_frame_of(error, cls):
            hint = "; most likely it returned something else than its base class asks for"
        return PluginError(f"{self._who_chooses(what)} raised {told(error, cls, self._redact)}{hint}")
