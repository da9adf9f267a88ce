"""Batches that providers carry out: handed over under a claim, asked after, cancelled, and booked when they end.

A connector that can has ``submit_batch``; `modelmesh.interfaces.provider.BatchConnector` says what that and its
siblings take and return.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelmesh._engine.batch_books import BatchBooks, bill_of, nothing_done
from modelmesh._engine.batch_jobs import CANCELLED, ENDED, IN_PROGRESS, STATES, Carrier, Job, Jobs
from modelmesh._engine.deadlines import Deadlines
from modelmesh.errors import (
    MalformedResponseError,
    ProviderError,
    ProviderTimeoutError,
    UnsupportedRequestError,
    UsageError,
)
from modelmesh.interfaces.observability import Severity

if TYPE_CHECKING:
    from modelmesh._engine.limits import Limits
    from modelmesh._engine.member import Member
    from modelmesh._engine.model import Model
    from modelmesh._engine.provider_service import ProviderService
    from modelmesh._engine.telemetry import Telemetry

_PATIENCE = 600.0
"""Seconds a connector may take to hand a batch over or to fetch its results; they have shorter clocks of their own."""

_REFUSED = frozenset({"client_error", "unsupported", "auth"})
"""Categories of errors that say that a batch was not taken."""

_MISSING = object()


class ProviderBatches:
    """Speaks to the providers that carry batches out.

    Args:
        jobs: Where jobs are kept.
        providers: By configured ID.
        books: Claims before, and books after.
        telemetry: Told of trouble.
    """

    def __init__(
        self, jobs: Jobs, providers: Mapping[str, ProviderService], books: BatchBooks, telemetry: Telemetry
    ) -> None:
        self._jobs = jobs
        self._providers = providers
        self._books = books
        self._telemetry = telemetry
        self._deadlines = Deadlines()

    def move_to(self, providers: Mapping[str, ProviderService], limits: Limits) -> None:
        """Go on with the providers and limits of another configuration."""
        self._providers = providers
        self._books.move_to(limits)

    # --- handing over -----------------------------------------------------------------

    async def hand_over(
        self, capability: str, member: Member, payloads: Sequence[Mapping[str, Any]]
    ) -> Job | ProviderError | None:
        """Hand a batch to a model's provider.

        Returns:
            The job; the error of a provider that did not take it; None where it cannot be handed over at all: there is
            no way to, it is too large, or a limit forbids it.

        Raises:
            BudgetExceededError: A budget is reached, and the pool says to tell the caller at once.
            StateStoreError: The job could not be kept; the provider was told to drop it.
        """
        submit = _submitter(member.model, payloads)
        if submit is None:
            return None
        job = self._jobs.new(capability, len(payloads))
        carrier = await self._books.claim(job, member, payloads)
        if carrier is None:
            return None
        given = await self._submit(member, submit, payloads)
        if isinstance(given, ProviderError):
            if not given.sent or given.status_code is not None or given.category in _REFUSED:
                await self._books.give_back(job)
            return given  # what the provider may have taken all the same stays claimed
        carrier.job, job.carrier = given, carrier
        try:
            await self._jobs.save(job)
        except BaseException:
            await self._drop(member, given)
            raise
        return job

    async def _submit(
        self, member: Member, submit: Callable[..., Awaitable[object]], payloads: Sequence[Mapping[str, Any]]
    ) -> str | ProviderError:
        model = member.model
        model.in_flight += 1
        try:
            with self._deadlines.within(_PATIENCE):
                given = await submit(model.wire_name, payloads)
            if not isinstance(given, str) or not given:
                raise MalformedResponseError(f"submit_batch returned {type(given).__name__} instead of the job's ID")
            return given
        except (Exception, SystemExit) as error:
            return model.provider.understand(_named(error), model)
        finally:
            model.in_flight -= 1

    async def _drop(self, member: Member, provider_job: str) -> None:
        """Cancel a batch that nobody could ask after; what it may cost stays claimed."""
        stop = getattr(member.model.provider.connector, "cancel_batch", None)
        try:
            if stop is not None:
                await stop(provider_job)
        except (Exception, SystemExit) as error:
            self._warn(f"batch {provider_job} could neither be kept nor cancelled", member.provider_id, error)

    # --- asking -------------------------------------------------------------------------

    async def refresh(self, job: Job, carrier: Carrier) -> Job:
        """Return a job as its provider says it stands now, and book what it took once it has ended.

        Raises:
            ProviderError: The provider cannot be asked.
        """
        if carrier.is_settled or carrier.provider not in self._providers:
            return job
        said = await self._ask(carrier, "get_batch")
        if said is not _MISSING:
            self._take(job, said)
        if job.status not in ENDED:
            await self._jobs.save(job, only_unchanged=True)
            return job
        return await self._settle(job, carrier, counted=said is not _MISSING and "completed" in said)

    def _take(self, job: Job, said: object) -> None:
        if not isinstance(said, Mapping):
            raise MalformedResponseError(f"get_batch returned {type(said).__name__} instead of a mapping")
        status = said.get("status", job.status)
        if job.status not in ENDED or status in ENDED:
            job.status = status if status in STATES else IN_PROGRESS
        job.completed = _count(said.get("completed"), job.completed, job.total)
        job.failed = _count(said.get("failed"), job.failed, job.total)

    async def _settle(self, job: Job, carrier: Carrier, *, counted: bool) -> Job:
        """Book a batch that has ended; of several processes that learn of it, one does."""
        if counted and job.completed == 0:
            bill = nothing_done(job, carrier)
        else:
            try:
                results = await self._fetch(job, carrier)
            except ProviderError as error:
                self._warn(f"results of batch {job.id} cannot be had yet", carrier.provider, error)
                results = None
            if results is None:  # what it took is not known: it goes on counting as it was estimated
                await self._jobs.save(job, only_unchanged=True)
                return job
            bill = bill_of(results, job, carrier)
            job.completed, job.failed = bill.answered, max(job.failed, bill.failed)
        job.cost, carrier.is_settled = bill.cost, True
        if not await self._jobs.save(job, only_unchanged=True):
            return await self._jobs.find(job.id) or job
        await self._books.settle(job, carrier, bill, self._member(carrier))
        return job

    async def results(self, job: Job, carrier: Carrier) -> list[dict[str, Any] | None]:
        """Return what came of each request so far, in their order.

        Raises:
            ProviderError: The provider cannot be asked.
            UsageError: It is not configured any more.
        """
        if carrier.provider not in self._providers:
            raise UsageError(
                f"batch {job.id} is with provider {carrier.provider!r}, which is not configured any more; configure it"
                " again to have the results"
            )
        model = self._model(carrier)
        if job.status not in ENDED and model is not None and model.definition.batch.get("partial_results") is False:
            return [None] * job.total  # the provider has none yet, and would say so in its own way
        return await self._fetch(job, carrier) or [None] * job.total

    async def _fetch(self, job: Job, carrier: Carrier) -> list[dict[str, Any] | None] | None:
        given = await self._ask(carrier, "get_batch_results")
        if given is _MISSING:
            return None
        if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
            raise MalformedResponseError(f"get_batch_results returned {type(given).__name__} instead of a list")
        results = [_result(each) for each in given[: job.total]]
        return [*results, *[None] * (job.total - len(results))]

    async def cancel(self, job: Job, carrier: Carrier) -> Job:
        """Tell a provider to drop a batch; it may answer what it has begun, and says when it is done with that.

        Raises:
            UnsupportedRequestError: It has no way to; the batch goes on.
            ProviderError: The provider cannot be asked.
            UsageError: It is not configured any more.
        """
        if carrier.provider not in self._providers:
            raise UsageError(
                f"batch {job.id} is with provider {carrier.provider!r}, which is not configured any more; configure it"
                " again to cancel the batch"
            )
        if await self._ask(carrier, "cancel_batch") is _MISSING:
            raise UnsupportedRequestError(
                f"provider {carrier.provider!r} has no way to cancel a batch; {job.id} goes on",
                provider_id=carrier.provider,
                model_id=carrier.model,
            )
        if not hasattr(self._providers[carrier.provider].connector, "get_batch"):
            job.status = CANCELLED
        return await self.refresh(job, carrier)

    # --- inside -------------------------------------------------------------------------

    async def _ask(self, carrier: Carrier, hook: str) -> Any:
        """Ask a connector about its job; `_MISSING` where it has no such method."""
        service = self._providers[carrier.provider]
        ask = getattr(service.connector, hook, None)
        if ask is None:
            return _MISSING
        try:
            with self._deadlines.within(_PATIENCE):
                return await ask(carrier.job)
        except (Exception, SystemExit) as error:
            raise service.understand(_named(error), self._model(carrier)) from error

    def _model(self, carrier: Carrier) -> Model | None:
        models = self._providers[carrier.provider].models
        return next((model for model in models if model.name == carrier.model), None)

    def _member(self, carrier: Carrier) -> Member | None:
        model = self._model(carrier)
        members = [] if model is None else model.members
        return next((member for member in members if member.pool.name == carrier.pool), None)

    def _warn(self, message: str, provider: str, error: BaseException) -> None:
        facts = {"provider": provider, "error_type": type(error).__name__}
        self._telemetry.trace(Severity.WARNING, "batch", message, facts)


def _submitter(model: Model, payloads: Sequence[Mapping[str, Any]]) -> Callable[..., Awaitable[object]] | None:
    """Return what hands a batch to a model's provider; None where it has no way to, or the batch is too large."""
    provider, limits = model.provider, model.definition.batch
    submit: Callable[..., Awaitable[object]] | None = getattr(provider.connector, "submit_batch", None)
    if submit is None or not provider.takes_batches:
        return None
    items = [limit for limit in (limits.get("max_items"), provider.batch_items) if limit is not None]
    if len(payloads) > min(items, default=len(payloads)):
        return None
    size = limits.get("max_payload")
    if size is not None and sum(len(json.dumps(each, default=str)) for each in payloads) > size:
        return None
    return submit


def _named(error: BaseException) -> BaseException:
    """Give a time limit that ran out its own name."""
    if isinstance(error, ProviderError) or not isinstance(error, TimeoutError):
        return error
    return ProviderTimeoutError("the provider did not answer about a batch in time")


def _count(said: object, before: int, most: int) -> int:
    return min(said, most) if isinstance(said, int) and said >= 0 else before


def _result(given: object) -> dict[str, Any] | None:
    """Return one result as it is handed out: ``response`` or ``error``."""
    if given is None:
        return None
    if isinstance(given, Mapping) and isinstance(given.get("response"), Mapping):
        return {"response": dict(given["response"])}
    if isinstance(given, Mapping) and given.get("error") is not None:
        error = given["error"]
        said = dict(error) if isinstance(error, Mapping) else {"message": str(error)}
        return {"error": {"type": "ProviderError", **said}}
    return {"error": {"type": "MalformedResponseError", "message": "the provider's result cannot be read"}}
