"""Why a request would go where it goes: each candidate, what removed it, its score, and the order that would be tried.

Explaining sends nothing, and moves no strategy's pointer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from modelmesh._engine.requirements import Needs
from modelmesh.errors import RoutingError, UnsupportedRequestError
from modelmesh.lasting import lasting

if TYPE_CHECKING:
    from modelmesh._engine.member import Member
    from modelmesh._engine.pipeline import PipelineContext, PipelineRequest, PipelineStage, RoutingPipeline
    from modelmesh._engine.pool import CapabilityPool


@dataclass(slots=True)
class ExplainedCandidate:
    """One member of a pool, as a request sees it.

    Attributes:
        model_id: As configured.
        provider_id: As configured.
        place: 1-based place in the order that would be tried; None when it is not in it.
        score: The strategy's, higher is better; None when it was removed before.
        removed_by: Name of the stage that removed it; empty when none did.
        reason: Why it was removed, or chosen, in a few words.
        status: ``active`` or ``standby`` in this pool.
    """

    model_id: str
    provider_id: str
    place: int | None = None
    score: float | None = None
    removed_by: str = ""
    reason: str = ""
    status: str = "active"


@dataclass(slots=True)
class ExplainedPool:
    """One pool that was looked at.

    Attributes:
        name: Of the pool.
        strategy: ID of its strategy.
        candidates: Its members, those to be tried first and in that order, then the others in pool order.
        error: Why the pool cannot serve the request; empty when it can.
    """

    name: str
    strategy: str
    candidates: list[ExplainedCandidate] = field(default_factory=list)
    error: str = ""


@dataclass(slots=True)
class Explanation:
    """Where a request would go.

    Attributes:
        capability: What was asked for.
        delivery_mode: ``sync``, ``streaming`` or ``batch``.
        pools: Pools in the order they are looked at; the last one serves the request, unless it has an ``error``.
    """

    capability: str
    delivery_mode: str
    pools: list[ExplainedPool] = field(default_factory=list)

    @property
    def order(self) -> list[str]:
        """IDs of the models that would be tried, first to last; empty when nobody can serve the request."""
        if not self.pools:
            return []
        placed = [each for each in self.pools[-1].candidates if each.place is not None]
        return [each.model_id for each in sorted(placed, key=lambda each: each.place or 0)]

    @property
    def selected(self) -> str | None:
        """ID of the model that would be called first, or None."""
        return next(iter(self.order), None)

    # In short, about the pool that serves the request, or the last one looked at:

    @property
    def pool_name(self) -> str:
        """Its name."""
        return self.pools[-1].name if self.pools else ""

    @property
    def strategy(self) -> str:
        """ID of its strategy."""
        return self.pools[-1].strategy if self.pools else ""

    @property
    def selected_model(self) -> str | None:
        """Same as ``selected``."""
        return self.selected

    @property
    def candidates(self) -> list[ExplainedCandidate]:
        """Its members: those to be tried first and in that order, then the others."""
        return self.pools[-1].candidates if self.pools else []

    @property
    def reason(self) -> str:
        """Why the selected model was chosen, or why nobody was."""
        if not self.pools:
            return ""
        return self.pools[-1].error or next((each.reason for each in self.candidates if each.place == 1), "")

    def __getitem__(self, name: str) -> Any:
        """Return what the attribute of this name holds: ``explanation["selected_model"]``.

        Raises:
            KeyError: There is none.
        """
        if name.startswith("_") or not hasattr(self, name):
            raise KeyError(name)
        return getattr(self, name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {**asdict(self), "order": self.order}


def explain(pipeline: RoutingPipeline, request: PipelineRequest) -> Explanation:
    """Run the stages as a request would, and write down what each of them does.

    Args:
        pipeline: The router's.
        request: With ``dry_run`` set.

    Raises:
        CapabilityNotFoundError: Nothing has the asked name.
    """
    context = pipeline.begin(request)
    explanation = Explanation(request.capability, request.delivery_mode)
    while True:
        explained, removed = None, dict[str, ExplainedCandidate]()
        error = ""
        for stage in pipeline.get_stages():
            before = list(context.candidates) if context.pool is not None else []
            try:
                context = stage.process(context)
            except RoutingError as raised:
                if context.pool is None:
                    raise
                error = raised.message
            except UnsupportedRequestError as raised:
                error = raised.message
            if context.pool is None:
                continue
            if explained is None:
                explained = ExplainedPool(context.pool.name, context.pool.strategy_id)
                explanation.pools.append(explained)
                before = before or list(context.pool.members.values())
            _note_removed(removed, stage, context, before, everybody=bool(error))
            if error:
                break
        assert explained is not None
        explained.error = error
        explained.candidates = _placed(context, removed)
        context.pool_index += 1
        assert context.resolution is not None
        if not error or context.pool_index >= len(context.resolution.pools):
            return explanation
        context.start_over()


def _note_removed(
    removed: dict[str, ExplainedCandidate],
    stage: PipelineStage,
    context: PipelineContext,
    before: Sequence[Member],
    *,
    everybody: bool,
) -> None:
    left = set() if everybody else {member.model_id for member in context.candidates}
    for member in before:
        if member.model_id not in left and member.model_id not in removed:
            removed[member.model_id] = ExplainedCandidate(
                member.model_id, member.provider_id, None, None, stage.name, _why(stage.name, member, context)
            )


def _why(stage: str, member: Member, context: PipelineContext) -> str:
    if not member.active:
        left = member.cooldown_remaining
        return f"rests: {member.reason}" + ("" if left is None else f", {lasting(left)} left")
    if stage == "delivery-filter":
        return f"does not offer {context.request.delivery_mode}"
    if stage == "requirement-filter":
        lacks = Needs.of(context.request.payload or {}).lacking(member.model.definition)
        return "has " + ", ".join(lacks.values()) if lacks else "cannot serve what the request needs"
    if stage == "state-filter" and context.request.preferred_provider is not None:
        return _not_preferred(context)
    if stage == "pool-selection":
        return _not_asked_for(context)
    return "removed by this stage"


def _not_preferred(context: PipelineContext) -> str:
    return f"not of provider {context.request.preferred_provider!r}, which is preferred; tried after it"


def _not_asked_for(context: PipelineContext) -> str:
    if context.resolution is not None and context.resolution.only is not None:
        return "another model was asked for by name"
    return "does not have the capability asked for"


def _placed(context: PipelineContext, removed: Mapping[str, ExplainedCandidate]) -> list[ExplainedCandidate]:
    """Return a pool's members: those that would be tried in that order, then the others."""
    pool: CapabilityPool | None = context.pool
    assert pool is not None
    order: list[ExplainedCandidate] = []
    asked = context.selection_request
    # A preference only says who leads: whoever else stood to be chosen follows, as in a request.
    known = context.candidates if context.fallback is None else context.fallback
    remarks = {} if asked is None else pool.chooser.remarks(known, asked)
    if context.selection is not None and context.selected is not None:
        request = context.selection_request
        assert request is not None
        others = pool.chooser.rank(known, request, context.selection) if len(known) > 1 else ()
        if context.fallback is not None:
            others = sorted(others, key=lambda member: member.provider_id != context.provider)
        for place, member in enumerate((context.selected, *others), 1):
            score = context.selection.score if place == 1 else pool.chooser.score(member, request)
            reason = context.selection.reason if place == 1 else remarks.get(member.model_id, "")
            if context.fallback is not None and member.provider_id != context.provider:
                reason = "; ".join(filter(None, (_not_preferred(context), reason)))
            order.append(ExplainedCandidate(member.model_id, member.provider_id, place, score, "", reason))
    placed = {each.model_id for each in order}
    left = {member.model_id for member in known}
    rest = [
        _left_out(member, remarks.get(name, "left out by the strategy"))
        if name in left and (name not in removed or order)
        else removed.get(name) or ExplainedCandidate(name, member.provider_id, reason=_not_asked_for(context))
        for name, member in pool.members.items()
        if name not in placed
    ]
    for each in (*order, *rest):
        each.status = pool.members[each.model_id].status
    return [*order, *rest]


def _left_out(member: Member, by_strategy: str) -> ExplainedCandidate:
    return ExplainedCandidate(member.model_id, member.provider_id, removed_by="selection-strategy", reason=by_strategy)
