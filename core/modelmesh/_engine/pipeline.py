"""The stages between a request and a chosen model, each replaceable.

A stage reads and writes the `PipelineContext`. The default ones narrow ``context.candidates`` through the pool's own
index, which costs a look-up; a stage of your own may set ``context.candidates`` to any list, and those after it then
filter that list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from modelmesh._engine.member import Member
from modelmesh._engine.model import SYNC, Model
from modelmesh._engine.pool import CapabilityPool
from modelmesh._engine.requirements import Fit, Needs, unsupported
from modelmesh._engine.resolver import CapabilityResolver, Resolution
from modelmesh.errors import NoActiveModelError, RoutingError, UnsupportedRequestError
from modelmesh.interfaces.runtime import Clock
from modelmesh.interfaces.strategy import SelectionRequest, SelectionResult

if TYPE_CHECKING:
    from modelmesh._engine.provider_service import ProviderService

_NO_METADATA: Mapping[str, Any] = {}


@dataclass(slots=True)
class PipelineRequest:
    """What is to be routed.

    Attributes:
        capability: Capability, pool or model name.
        delivery_mode: ``sync``, ``streaming`` or ``batch``.
        preferred_provider: Taken if it has a candidate left, ignored otherwise.
        session_id: For sticky strategies.
        metadata: The caller's.
        dry_run: Whether to leave every pointer where it is.
        payload: The request's body in OpenAI's shape, for what it needs of a model; None when there is none yet.
        request_id: For traces.
        batch: The bodies of all requests of a batch, which one model has to serve.
    """

    capability: str
    delivery_mode: str = SYNC
    preferred_provider: str | None = None
    session_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool = False
    payload: Mapping[str, Any] | None = None
    request_id: str | None = None
    batch: Sequence[Mapping[str, Any]] = ()

    @property
    def payloads(self) -> Sequence[Mapping[str, Any]]:
        """Every body there is."""
        return self.batch if self.payload is None else (self.payload,)


class PipelineContext:
    """What the stages know and decide.

    Attributes:
        request: What is to be routed.
        resolution: What its name stands for, after the first stage.
        pool: The pool under consideration, after the second.
        delivered: Whether candidates were narrowed to the delivery mode.
        active: Whether candidates were narrowed to active ones.
        fit: What candidates were narrowed to by what the request needs, or None.
        selection: The strategy's choice, after the fifth.
        selected: The chosen member.
        allowed: Whom a stage of somebody's own left; None when none has spoken. Binds retries and last resorts, too.
        fallback: Who stood to be chosen before a preference narrowed that; None without one.
        metadata: For stages to tell one another things.
    """

    __slots__ = (
        "_explicit",
        "_view",
        "active",
        "allowed",
        "delivered",
        "fallback",
        "fit",
        "metadata",
        "pool",
        "pool_index",
        "provider",
        "request",
        "resolution",
        "selected",
        "selection",
        "selection_request",
    )

    def __init__(self, request: PipelineRequest) -> None:
        self.request = request
        self.resolution: Resolution | None = None
        self.pool: CapabilityPool | None = None
        self.pool_index = 0
        self.delivered = False
        self.active = False
        self.fit: Fit | None = None
        self.provider: str | None = None
        self.selection: SelectionResult | None = None
        self.selected: Member | None = None
        self.selection_request: SelectionRequest | None = None
        self.allowed: Sequence[Member] | None = None
        self.fallback: Sequence[Member] | None = None
        self.metadata: dict[str, Any] = {}
        self._explicit: Sequence[Member] | None = None
        self._view: Sequence[Member] | None = None

    @property
    def capability(self) -> str:
        """As asked for."""
        return self.request.capability

    @property
    def delivery_mode(self) -> str:
        """``sync``, ``streaming`` or ``batch``."""
        return self.request.delivery_mode

    @property
    def selected_model(self) -> Model | None:
        """The chosen model."""
        return self.selected.model if self.selected is not None else None

    @property
    def candidates(self) -> Sequence[Member]:
        """Who is left, in pool order."""
        if self._explicit is not None:
            return self._explicit
        if self._view is None:
            if self.pool is None or self.resolution is None:
                return ()
            self._view = self.pool.candidates(
                node=self.resolution.node,
                only=self.resolution.only,
                mode=self.request.delivery_mode if self.delivered else None,
                provider=self.provider,
                active=self.active,
                fit=self.fit,
            )
        return self._view

    @candidates.setter
    def candidates(self, members: Sequence[Member]) -> None:
        self._explicit = self.allowed = members
        self.fallback = None

    def offer(self, members: Sequence[Member]) -> None:
        """Set the candidates without forbidding the others."""
        self._explicit = members

    def narrow(self, keep: Callable[[Member], bool]) -> None:
        """Filter the candidates, if a stage has set them itself; otherwise the pool's index does, by the flags."""
        self._view = None
        if self._explicit is not None:
            self._explicit = [member for member in self._explicit if keep(member)]

    def start_over(self) -> None:
        """Forget what the stages after pool selection decided."""
        self.delivered = self.active = False
        self.fit = None
        self.provider = None
        self.selection = None
        self.selected = None
        self.allowed = None
        self.fallback = None
        self._explicit = None
        self._view = None


class PipelineResult:
    """A routing decision with what is needed to carry it out.

    Attributes:
        pool: The pool that serves the request.
        selected: The chosen member.
        selection: The strategy's choice.
        candidates: Who was left when it chose.
        delivery_mode: As asked for.
        stages_executed: Names, in order.
    """

    __slots__ = ("candidates", "context", "delivery_mode", "pool", "selected", "selection", "stages_executed")

    def __init__(self, context: PipelineContext, pool: CapabilityPool, selected: Member, stages: Sequence[str]) -> None:
        assert context.selection is not None
        self.context = context
        self.pool = pool
        self.selected = selected
        self.selection = context.selection
        self.candidates = context.candidates
        self.delivery_mode = context.request.delivery_mode
        self.stages_executed = stages

    @property
    def model(self) -> Model:
        """The chosen model."""
        return self.selected.model

    @property
    def provider(self) -> ProviderService:
        """Its provider."""
        return self.selected.model.provider

    @property
    def score(self) -> float:
        """The strategy's score of it."""
        return self.selection.score

    def others(self) -> Sequence[Member]:
        """The other candidates, best first; asked of the strategy only when needed."""
        context = self.context
        candidates = self.candidates if context.fallback is None else context.fallback
        if len(candidates) < 2:
            return ()
        request = context.selection_request
        assert request is not None
        ranked = self.pool.chooser.rank(candidates, request, self.selection)
        if context.fallback is None:
            return ranked
        # A preference is no condition: those of the preferred provider first, and then everybody else.
        return sorted(ranked, key=lambda member: member.provider_id != context.provider)

    @property
    def fallback_chain(self) -> list[Model]:
        """Models that are tried next, best first."""
        return [member.model for member in self.others()]

    def fallback_ids(self) -> list[str]:
        """IDs of the models that are tried next, best first."""
        others = self.others()
        ids = getattr(others, "ids", None)
        if ids is not None:
            return cast("list[str]", ids())
        return [member.model_id for member in others]

    @property
    def only(self) -> frozenset[str] | None:
        """Models that were asked for by name; None when a pool or a capability was."""
        resolution = self.context.resolution
        return None if resolution is None else resolution.only

    def rested(self) -> Sequence[Member]:
        """Every member that could serve the request and was no candidate since it rested."""
        context = self.context
        known = self.candidates if context.fallback is None else context.fallback
        ids = {member.model_id for member in known}
        return [member for member in self.everyone() if member.model_id not in ids]

    def everyone(self) -> Sequence[Member]:
        """Every member that could serve the request, active or not."""
        resolution, allowed = self.context.resolution, self.context.allowed
        assert resolution is not None
        if allowed is not None:
            mode, fit = self.delivery_mode, self.context.fit
            return [
                member
                for member in allowed
                if mode in member.model.definition.delivery and (fit is None or fit.accepts(member))
            ]
        return self.pool.candidates(
            node=resolution.node, only=resolution.only, mode=self.delivery_mode, fit=self.context.fit
        )


class PipelineStage(ABC):
    """One step of routing.

    Attributes:
        name: Unique within a pipeline.
    """

    name: str

    @abstractmethod
    def process(self, context: PipelineContext) -> PipelineContext:
        """Read the context, decide, write; return it.

        Raises:
            RoutingError: No candidate is left; the next matching pool is tried.
        """


class ResolveCapability(PipelineStage):
    """Finds the pools a name stands for."""

    name = "capability-resolver"

    def __init__(self, resolver: CapabilityResolver) -> None:
        self.resolver = resolver

    def process(self, context: PipelineContext) -> PipelineContext:
        """Set ``context.resolution``."""
        context.resolution = self.resolver.find(context.request.capability)
        return context


class SelectPool(PipelineStage):
    """Takes the next matching pool, and lets the models return whose rest is over."""

    name = "pool-selection"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def process(self, context: PipelineContext) -> PipelineContext:
        """Set ``context.pool``."""
        assert context.resolution is not None
        pool = context.resolution.pools[context.pool_index]
        pool.sweep(self._clock.monotonic())
        context.pool = pool
        context.narrow(lambda member: member.pool is pool)
        return context


class FilterDelivery(PipelineStage):
    """Leaves candidates that offer the delivery mode."""

    name = "delivery-filter"

    def process(self, context: PipelineContext) -> PipelineContext:
        """Narrow to the delivery mode."""
        mode = context.request.delivery_mode
        context.delivered = True
        context.narrow(lambda member: mode in member.model.definition.delivery)
        if not context.candidates:
            raise self._nobody(context, mode)
        return context

    def _nobody(self, context: PipelineContext, mode: str) -> RoutingError:
        assert context.pool is not None
        if not context.pool.members:
            return context.pool.no_active_model()
        return RoutingError(
            f"no model of pool {context.pool.name!r} offers {context.capability!r} in delivery mode {mode!r}",
            pool_name=context.pool.name,
            details={"capability": context.capability, "delivery_mode": mode},
        )


class FilterRequirements(PipelineStage):
    """Leaves candidates that were not declared unable to do what the request needs."""

    name = "requirement-filter"

    def process(self, context: PipelineContext) -> PipelineContext:
        """Narrow to those that fit.

        Raises:
            UnsupportedRequestError: Nobody does; says what the request needs and what each candidate lacks.
        """
        payloads, pool = context.request.payloads, context.pool
        if not payloads:
            return context
        assert pool is not None
        fit = pool.declared.fit(*payloads)
        if fit is None:
            return context
        everyone = context.candidates
        context.fit = fit
        context.narrow(fit.accepts)
        if not context.candidates:
            raise unsupported(pool.name, Needs.of(*payloads), everyone)
        return context


class FilterState(PipelineStage):
    """Leaves candidates that take traffic, of the preferred provider if it has any."""

    name = "state-filter"

    def process(self, context: PipelineContext) -> PipelineContext:
        """Narrow to active candidates."""
        everyone = context.candidates
        context.active = True
        context.narrow(lambda member: member.active)
        if not context.candidates:
            context.offer(self._resting_after_errors(context, everyone))
        preferred = context.request.preferred_provider
        if preferred is not None:
            self._prefer(context, preferred)
        return context

    def _resting_after_errors(self, context: PipelineContext, everyone: Sequence[Member]) -> Sequence[Member]:
        """Nobody is active: rather than refuse, try whoever may have healed, the one due first leading."""
        assert context.pool is not None
        healing = sorted((member for member in everyone if member.may_have_healed()), key=lambda member: member.due)
        if not healing:
            raise context.pool.no_active_model(None if context.resolution is None else context.resolution.only)
        return healing

    def _prefer(self, context: PipelineContext, provider: str) -> None:
        before = context.candidates
        context.provider = provider
        context.narrow(lambda member: member.provider_id == provider)
        if context.candidates:
            context.fallback = before
        else:
            context.provider = None
            context.offer(before)


class SelectModel(PipelineStage):
    """Asks the pool's strategy."""

    name = "selection-strategy"

    def process(self, context: PipelineContext) -> PipelineContext:
        """Set ``context.selection`` and ``context.selected``."""
        request, pool = context.request, context.pool
        assert pool is not None
        if not context.candidates:
            raise RoutingError(
                f"no model of pool {pool.name!r} is left for {request.capability!r}: a routing stage removed them all",
                pool_name=pool.name,
                details={"capability": request.capability},
            )
        asked = context.selection_request = SelectionRequest(
            request.capability, request.delivery_mode, request.session_id, request.metadata
        )
        context.selection = chosen = pool.chooser.choose(context.candidates, asked, dry_run=request.dry_run)
        context.selected = pool.chooser.chosen(chosen, pool.members)
        return context


class AttachRetryPolicy(PipelineStage):
    """Tells later readers which retry policy the request is carried out under; the retrying itself is not here."""

    name = "retry-policy"

    def process(self, context: PipelineContext) -> PipelineContext:
        """Set ``context.metadata["retry_policy"]``."""
        assert context.pool is not None
        context.metadata["retry_policy"] = context.pool.policy.retry
        return context


class RoutingPipeline:
    """The stages, in order."""

    def __init__(self, stages: Sequence[PipelineStage], *, trace: Callable[[str, dict[str, Any]], None] | None) -> None:
        self._stages = list(stages)
        self._names = tuple(stage.name for stage in self._stages)
        self._trace = trace
        self._tracing: Callable[[], bool] = lambda: False

    @classmethod
    def default(
        cls,
        resolver: CapabilityResolver,
        clock: Clock,
        *,
        trace: Callable[[str, dict[str, Any]], None] | None = None,
        tracing: Callable[[], bool] = lambda: False,
    ) -> RoutingPipeline:
        """Build the six stages of the documentation, and before the state filter the one by what a request needs.

        Args:
            resolver: Names to pools.
            clock: Time.
            trace: Writes one DEBUG line a stage.
            tracing: Whether anybody reads such lines just now.
        """
        pipeline = cls(
            [
                ResolveCapability(resolver),
                SelectPool(clock),
                FilterDelivery(),
                FilterRequirements(),
                FilterState(),
                SelectModel(),
                AttachRetryPolicy(),
            ],
            trace=trace,
        )
        pipeline._tracing = tracing
        return pipeline

    def execute(self, request: PipelineRequest) -> PipelineResult:
        """Run the stages; when a pool has nobody, run them again for the next one that matches.

        Raises:
            CapabilityNotFoundError: Nothing has the asked name.
            NoActiveModelError: Candidates exist, and all of them rest.
            UnsupportedRequestError: No model of the pools can do what the request needs.
            RoutingError: No model can serve the request.
        """
        context = PipelineContext(request)
        trace = self._trace if self._tracing() else None
        first: RoutingError | UnsupportedRequestError | None = None
        while True:
            try:
                for stage in self._stages:
                    context = stage.process(context)
                    if trace is not None:
                        trace(stage.name, _stage_facts(context))
            except (RoutingError, UnsupportedRequestError) as error:
                # A pool whose models rest says more than one that never could: it is what the caller hears.
                first = error if first is None or isinstance(error, NoActiveModelError) else first
                context.pool_index += 1
                if context.resolution is None or context.pool_index >= len(context.resolution.pools):
                    raise first from None
                context.start_over()
                continue
            break
        if context.selected is None or context.pool is None:
            raise RoutingError(
                "the routing pipeline ended without a model: its stages never selected one",
                details={"stages": list(self._names)},
            )
        return PipelineResult(context, context.pool, context.selected, self._names)

    def begin(self, request: PipelineRequest) -> PipelineContext:
        """Return what the stages begin with."""
        return PipelineContext(request)

    def add_stage(self, stage: PipelineStage, position: int) -> None:
        """Insert a stage at a zero-based position."""
        self._stages.insert(position, stage)
        self._names = tuple(each.name for each in self._stages)

    def remove_stage(self, name: str) -> None:
        """Take a stage out.

        Raises:
            KeyError: There is none of this name.
        """
        if name not in self._names:
            raise KeyError(f"no stage {name!r}; there are {', '.join(self._names)}")
        self._stages = [stage for stage in self._stages if stage.name != name]
        self._names = tuple(stage.name for stage in self._stages)

    def take_over(self, before: RoutingPipeline) -> None:
        """Have the stages somebody had put together for an earlier configuration, each default one as it is here."""
        own = {type(stage): stage for stage in self._stages}
        self._stages = [own.get(type(stage), stage) for stage in before._stages]
        self._names = tuple(stage.name for stage in self._stages)

    def get_stages(self) -> list[PipelineStage]:
        """The stages in order; a copy."""
        return list(self._stages)


def _stage_facts(context: PipelineContext) -> dict[str, Any]:
    """Say what a stage left, and what the strategy said once it was asked."""
    facts: dict[str, Any] = {"capability": context.capability, "candidates": len(context.candidates)}
    if context.request.request_id is not None:
        facts["request_id"] = context.request.request_id
    if context.pool is not None:
        facts["pool"] = context.pool.name
    if context.selection is not None:
        chosen = context.selection
        facts |= {"selected": chosen.model_id, "score": chosen.score, "reason": chosen.reason}
    return facts
