"""Router: receives capability requests, routes them, and answers with retry and rotation out of the caller's sight."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelmesh._engine.call import Call
from modelmesh._engine.driver import content_of, first_choice
from modelmesh._engine.model import BATCH, STREAMING, SYNC
from modelmesh._engine.operations import refuse_unanswerable
from modelmesh._engine.pipeline import PipelineRequest, PipelineResult, RoutingPipeline
from modelmesh._engine.pool import CapabilityPool
from modelmesh._engine.trace_context import RequestTrace, trace_headers
from modelmesh.errors import (
    AllProvidersExhaustedError,
    CapabilityNotFoundError,
    InvalidRequestError,
    ModelMeshError,
    ProviderError,
    RoutingError,
    UnsupportedRequestError,
    unknown_name,
)
from modelmesh.explanation import Explanation, explain
from modelmesh.interfaces.observability import ObservabilityConnector
from modelmesh.interfaces.provider import Operation, ProviderChunk, Receipt, TokenUsage
from modelmesh.replies import NO_MESSAGES

if TYPE_CHECKING:
    from modelmesh._engine.batch_jobs import Asked, Job
    from modelmesh._engine.engine import Engine
    from modelmesh._engine.events import EventEmitter
    from modelmesh._engine.request_log import RequestLogger


@dataclass
class RoutingOptions:
    """Optional hints that influence routing decisions."""

    delivery_mode: str | None = None
    """Requested delivery mode: 'sync', 'streaming', or 'batch'."""

    preferred_provider: str | None = None
    """Prefer a specific provider when multiple are available."""

    session_id: str | None = None
    """Session identifier for session-sticky routing."""

    metadata: dict[str, Any] = field(default_factory=dict)
    """Arbitrary metadata passed through to pipeline stages."""


@dataclass
class RoutingDecision:
    """Result of the routing pipeline: the resolved model and provider."""

    model_id: str
    """Identifier of the selected model."""

    provider_id: str
    """Identifier of the provider hosting the selected model."""

    pool_id: str
    """Identifier of the capability pool that sourced the model."""

    score: float
    """Numeric score assigned by the selection strategy."""

    fallback_chain: list[str] = field(default_factory=list)
    """Ordered list of fallback model identifiers if the primary fails."""


@dataclass
class CompletionRequest:
    """Unified completion request payload.

    ``metadata`` is the caller's own and is not sent to providers. The router reads these keys of it:
    ``request_id`` (printable ASCII; otherwise one is made up), ``session_id``, ``preferred_provider``, ``deadline``
    (seconds, for this request), ``headers`` (extra headers to pass on), ``traceparent`` and ``tracestate`` (W3C trace
    context, taken from ``headers`` as well), and ``parameters`` (a dict of further OpenAI parameters, such as
    ``top_p``).
    """

    messages: list[dict[str, Any]]
    temperature: float | None = None
    max_tokens: int | None = None
    stream: bool = False
    tools: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class CompletionResponse:
    """Unified completion response payload.

    ``model`` and ``provider`` are the configured IDs of who answered. ``metadata`` holds ``raw`` (the answer, or the
    chunk, in OpenAI's shape), ``receipt`` (a `Receipt`), ``request_id`` and ``finish_reason``. Of a stream, each
    response carries the text that was added, and the last ones ``finish_reason`` and ``usage``.
    """

    content: str
    model: str
    provider: str
    usage: dict[str, int] = field(default_factory=dict)
    latency_ms: float = 0.0
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class BatchJob:
    """Handle to a submitted batch job."""

    job_id: str
    status: str
    model: str
    provider: str
    request_count: int


@dataclass
class BatchProgress(BatchJob):
    """How far a batch is.

    ``status`` is ``queued``, ``in_progress``, ``completed``, ``failed`` (nothing was answered), ``cancelled`` or
    ``expired``; ``model`` and ``provider`` are empty for a batch that the mesh carries out.

    Attributes:
        completed: Requests that were answered.
        failed: Requests that nobody answered.
        created_at: Unix time.
        provider_job: The provider's own ID of the batch; empty for one that the mesh carries out.
        cost: USD of a batch that a provider has carried out; None before its end, when the price is not known, and for
            one that the mesh carries out, whose requests have receipts of their own.
    """

    completed: int = 0
    failed: int = 0
    created_at: float = 0.0
    provider_job: str = ""
    cost: float | None = None


def _progress(job: Job | None, job_id: str) -> BatchProgress:
    if job is None:
        raise KeyError(f"no batch has the ID {job_id!r}")
    carrier = job.carrier
    model, provider, theirs = ("", "", "") if carrier is None else (carrier.model, carrier.provider, carrier.job)
    counts = job.total, job.completed, job.failed
    return BatchProgress(job.id, job.status, model, provider, *counts, job.created_at, theirs, job.cost)


@dataclass(slots=True)
class Answer:
    """An answer in OpenAI's shape with what it took.

    Attributes:
        data: The provider's answer; ``data["model"]`` is the real model.
        receipt: Attempt by attempt.
        model_id: Configured ID of the model that answered.
        provider_id: Configured ID of its provider.
    """

    data: dict[str, Any]
    receipt: Receipt
    model_id: str
    provider_id: str


class RoutedStream:
    """A streamed answer: iterate it for chunks, close it to hang up on the provider."""

    def __init__(self, call: Call, chunks: AsyncGenerator[ProviderChunk, None]) -> None:
        self._call = call
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[ProviderChunk]:
        return self._chunks

    async def __anext__(self) -> ProviderChunk:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """End the stream; the provider's connection is closed before this returns."""
        await self._chunks.aclose()

    @property
    def generator(self) -> AsyncGenerator[ProviderChunk, None]:
        """The chunks as an async generator."""
        return self._chunks

    @property
    def is_over(self) -> bool:
        """Whether it was read to its end, or closed."""
        return getattr(self._chunks, "ag_frame", None) is None

    @property
    def request_id(self) -> str:
        """Shared by logs, traces and events of the request."""
        return self._call.request_id

    @property
    def model_id(self) -> str:
        """Configured ID of the model that is answering."""
        return (self._call.last_member or self._call.route.selected).model_id

    @property
    def provider_id(self) -> str:
        """Configured ID of its provider."""
        return (self._call.last_member or self._call.route.selected).provider_id

    @property
    def receipt(self) -> Receipt:
        """What it took so far; complete once the stream has ended."""
        return self._call.receipt()


class Router:
    """Central request orchestrator.

    `complete`, `batch` and everything else without ``async`` may be called from any thread, except that blocking
    methods refuse the mesh's own loop thread. `acomplete`, `stream`, `execute` and `execute_stream` run on the
    caller's event loop. All share one state.
    """

    _pipeline: RoutingPipeline
    _pools: dict[str, CapabilityPool]
    _event_emitter: EventEmitter
    _request_logger: RequestLogger
    _observability: ObservabilityConnector | None

    def __init__(
        self,
        pipeline: RoutingPipeline,
        pools: dict[str, CapabilityPool],
        event_emitter: EventEmitter,
        request_logger: RequestLogger,
        observability: ObservabilityConnector | None = None,
        *,
        engine: Engine,
    ) -> None:
        self._pipeline = pipeline
        self._pools = pools
        self._event_emitter = event_emitter
        self._request_logger = request_logger
        self._observability = observability
        self._engine = engine

    # --- routing ------------------------------------------------------------

    def route(self, capability: str, options: RoutingOptions | None = None) -> RoutingDecision:
        """Execute the routing pipeline and return a resolved model and provider.

        This is a real choice: it moves the strategy's pointer as a request would.

        Args:
            capability: Capability name or virtual model name.
            options: Optional routing hints.

        Returns:
            A RoutingDecision with the selected model, provider, and score.

        Raises:
            CapabilityNotFoundError: Nothing has this name.
            NoActiveModelError: Every candidate rests.
        """
        if options is None:
            request = PipelineRequest(capability)
        else:
            request = PipelineRequest(
                capability,
                options.delivery_mode or SYNC,
                options.preferred_provider,
                options.session_id,
                options.metadata,
            )
        result = self._pipeline.execute(request)
        return RoutingDecision(
            result.selected.model_id,
            result.selected.provider_id,
            result.pool.name,
            result.selection.score,
            result.fallback_ids(),
        )

    def explain(
        self,
        capability: str,
        request: CompletionRequest | Mapping[str, Any] | None = None,
        options: RoutingOptions | None = None,
    ) -> Explanation:
        """Say where a request would go and why: each candidate, what removed it, scores, and the order to be tried.

        Sends nothing, and moves no strategy's pointer.

        Args:
            capability: Capability name or virtual model name.
            request: What would be asked, or its body in OpenAI's shape; what it needs narrows the candidates.
            options: Routing hints.

        Raises:
            CapabilityNotFoundError: Nothing has this name.
        """
        payload = payload_of(request) if isinstance(request, CompletionRequest) else request
        options = options or RoutingOptions()
        asked = PipelineRequest(
            capability,
            options.delivery_mode or SYNC,
            options.preferred_provider,
            options.session_id,
            options.metadata,
            dry_run=True,
            payload=payload,
        )
        return explain(self._pipeline, asked)

    def adopt(self, other: Router) -> None:
        """Route as another router does from now on; requests on their way stay where they are."""
        self._engine, self._pools, self._pipeline = other._engine, other._pools, other._pipeline

    @property
    def pipeline(self) -> RoutingPipeline:
        """The stages; add, remove or replace them."""
        return self._pipeline

    # --- whole answers ----------------------------------------------------------

    def complete(self, capability: str, request: CompletionRequest) -> CompletionResponse:
        """Route and execute a synchronous completion request.

        Args:
            capability: Capability name or virtual model name.
            request: The completion request payload.

        Returns:
            The completion response from the selected provider.

        Raises:
            UsageError: Called on the mesh's own event loop; await `acomplete` there.
            ModelMeshError: As for `acomplete`.
        """
        return self._engine.loop.run(self.acomplete(capability, request))

    async def acomplete(self, capability: str, request: CompletionRequest) -> CompletionResponse:
        """Do what `complete` does, on the caller's event loop.

        Raises:
            RoutingError: Nobody could answer; the subclass and its attributes say why.
            InvalidRequestError: The request itself is wrong.
        """
        explanation = self._explained(capability, request) if request.metadata.get("explain") else None
        call = self._start("chat", capability, payload_of(request), SYNC, request.metadata)
        response = await self._engine.driver.complete(call)
        member = call.last_member
        assert member is not None
        record = call.attempts[-1]
        answer = CompletionResponse(
            content_of(response.data),
            member.model_id,
            member.provider_id,
            {
                "prompt_tokens": record.tokens_in,
                "completion_tokens": record.tokens_out,
                "total_tokens": record.tokens_in + record.tokens_out,
            },
            record.latency_ms,
            {
                "raw": response.data,
                "receipt": call.receipt(),
                "request_id": call.request_id,
                "finish_reason": first_choice(response.data).get("finish_reason"),
            },
        )
        if explanation is not None:
            answer.metadata["explanation"] = explanation
        return answer

    def _explained(self, capability: str, request: CompletionRequest) -> Explanation:
        given = request.metadata
        options = RoutingOptions(SYNC, given.get("preferred_provider"), given.get("session_id"), given)
        return self.explain(capability, request, options)

    async def execute(
        self,
        operation: Operation,
        capability: str,
        payload: Mapping[str, Any],
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Carry out any operation, in OpenAI's shape both ways.

        Args:
            operation: What kind of call it is.
            capability: Capability name or virtual model name.
            payload: OpenAI's request body without ``model`` and ``stream``; unknown keys are passed on.
            metadata: As `CompletionRequest.metadata`.

        Raises:
            ModelMeshError: As for `acomplete`.
        """
        call = self._start(operation, capability, payload, SYNC, metadata or {})
        response = await self._engine.driver.complete(call)
        member = call.last_member
        assert member is not None
        return Answer(response.data, call.receipt(), member.model_id, member.provider_id)

    # --- streams --------------------------------------------------------------------

    async def stream(self, capability: str, request: CompletionRequest) -> AsyncIterator[CompletionResponse]:
        """Route and execute a streaming request.

        Leaving the iteration early (``aclose``, or cancelling the task) closes the provider's connection.

        Args:
            capability: Capability name or virtual model name.
            request: The completion request payload.

        Yields:
            Incremental completion response chunks.

        Raises:
            StreamInterruptedError: It broke after content had been yielded; ``partial`` holds the text.
            ModelMeshError: Before any content, as for `acomplete`.
        """
        routed = self.execute_stream(capability, payload_of(request), metadata=request.metadata)
        async with aclosing(routed.generator) as chunks:
            async for chunk in chunks:
                yield CompletionResponse(
                    chunk.text,
                    routed.model_id,
                    routed.provider_id,
                    {} if chunk.usage is None else usage_of(chunk.usage),
                    0.0,
                    {"raw": chunk.data, "request_id": routed.request_id, "finish_reason": chunk.finish_reason},
                )

    def execute_stream(
        self, capability: str, payload: Mapping[str, Any], *, metadata: Mapping[str, Any] | None = None
    ) -> RoutedStream:
        """Route a streaming request now and answer it as it is iterated, in chunks of OpenAI's shape.

        Raises:
            RoutingError: At once, when nobody can serve it; later failures come with the iteration.
        """
        engine = self._engine
        call = self._start("chat", capability, payload, STREAMING, metadata or {})
        routed = RoutedStream(call, engine.driver.stream(call))
        engine.streams.add(routed)
        return routed

    # --- batches ------------------------------------------------------------------------

    def batch(self, capability: str, requests: list[CompletionRequest]) -> BatchJob:
        """Submit a batch: to a provider that takes batches, otherwise to the mesh itself.

        What a provider's batch may cost is claimed from every limit before it is handed over, as for a request; where
        a limit does not grant it whole, the mesh carries it out, as far as limits let it.

        The mesh carries a batch out in the background, a few requests at a time, through the same pool as any other
        request, each with its metadata. `get_batch` says how far it is, `get_batch_results` what came of it.

        Args:
            capability: Capability name or virtual model name.
            requests: List of completion request payloads.

        Returns:
            A BatchJob handle for tracking the submitted batch.

        Raises:
            ValueError: The list is empty.
            RoutingError: No model has this capability, or every provider that takes batches failed.
            BudgetExceededError: A budget does not grant it, and the pool says to tell the caller at once.
            InvalidRequestError: A request is wrong, or has something in its metadata that JSON has no form for.
        """
        if not requests:
            raise ValueError("a batch needs at least one request")
        return self._engine.loop.run(self._abatch(capability, requests))

    def get_batch(self, job_id: str) -> BatchProgress:
        """Say how far a batch is. A provider that carries it out is asked; once it has ended, what it took is booked.

        Raises:
            KeyError: There is no batch of this ID.
            ProviderError: The provider cannot be asked.
        """
        return _progress(self._engine.loop.run(self._engine.batches.status(job_id)), job_id)

    def get_batch_results(self, job_id: str) -> list[dict[str, Any] | None]:
        """Return what came of each request so far, in their order: ``response`` or ``error``; None where none yet.

        Raises:
            KeyError: There is no batch of this ID.
            ProviderError: The provider cannot be asked.
            UsageError: The provider is not configured any more.
        """
        results = self._engine.loop.run(self._engine.batches.results(job_id))
        if results is None:
            raise KeyError(f"no batch has the ID {job_id!r}")
        return results

    def cancel_batch(self, job_id: str) -> BatchProgress:
        """Send no further request of a batch; those on their way are let finish.

        Raises:
            KeyError: There is no batch of this ID.
            ProviderError: The provider cannot be asked, or has no way to cancel a batch.
            UsageError: The provider is not configured any more.
        """
        return _progress(self._engine.loop.run(self._engine.batches.cancel(job_id)), job_id)

    async def _abatch(self, capability: str, requests: list[CompletionRequest]) -> BatchJob:
        asked = [(payload_of(request), dict(request.metadata or {})) for request in requests]
        payloads = [payload for payload, _ in asked]
        try:
            result = self._pipeline.execute(
                PipelineRequest(
                    capability,
                    BATCH,
                    _shared_by_all(requests, "preferred_provider"),
                    _shared_by_all(requests, "session_id"),
                    batch=payloads,
                )
            )
        except CapabilityNotFoundError:
            raise
        except (RoutingError, UnsupportedRequestError):
            return await self._own_batch(capability, asked)
        last: ProviderError | None = None
        tried = 0
        for member in [result.selected, *result.others()]:
            given = await self._engine.batches.carriers.hand_over(capability, member, payloads)
            if isinstance(given, ProviderError):
                last, tried = given, tried + 1
            elif given is not None:
                return BatchJob(given.id, given.status, member.model_id, member.provider_id, given.total)
        if last is not None:
            raise AllProvidersExhaustedError(result.pool.name, attempts=tried, last_error=last) from last
        return await self._own_batch(capability, asked)

    async def _own_batch(self, capability: str, asked: list[Asked]) -> BatchJob:
        self._pipeline.execute(PipelineRequest(capability, dry_run=True))  # nobody to ask is told now, not per request
        job = await self._engine.batches.create(capability, asked)
        self._engine.loop.start(self._engine.batches.run(job.id))
        return BatchJob(job.id, job.status, "", "", job.total)

    # --- pools ----------------------------------------------------------------------------

    def get_pool(self, name: str) -> CapabilityPool:
        """Return a specific CapabilityPool by name.

        Args:
            name: Pool identifier.

        Returns:
            The matching CapabilityPool.

        Raises:
            KeyError: If no pool exists with the given name.
        """
        try:
            return self._pools[name]
        except KeyError:
            raise KeyError(unknown_name("pool", name, list(self._pools))) from None

    def list_pools(self) -> list[CapabilityPool]:
        """Return all registered capability pools."""
        return list(self._pools.values())

    # --- inside -----------------------------------------------------------------------------

    def _start(
        self,
        operation: Operation,
        capability: str,
        payload: Mapping[str, Any],
        delivery_mode: str,
        metadata: Mapping[str, Any],
    ) -> Call:
        engine = self._engine
        started = engine.clock.monotonic()
        unique_id = engine.request_ids()
        request_id = (_own_id(metadata) if metadata else None) or unique_id
        try:
            route: PipelineResult = self._pipeline.execute(
                PipelineRequest(
                    capability,
                    delivery_mode,
                    metadata.get("preferred_provider") if metadata else None,
                    metadata.get("session_id") if metadata else None,
                    metadata,
                    payload=payload,
                    request_id=request_id,
                )
            )
            refuse_unanswerable(operation, route)
        except ModelMeshError as error:
            engine.telemetry.unrouted(capability, request_id, error)
            raise
        headers = trace_headers(metadata) if metadata else _NO_HEADERS
        call = Call(
            request_id,
            capability,
            operation,
            payload,
            unique_id=unique_id,
            route=route,
            started=started,
            clock=engine.clock,
            random=engine.random,
            metadata=metadata,
            headers=headers,
            trace=RequestTrace(engine.random, headers) if engine.telemetry.wants_spans else None,
        )
        if route.selection.switched_from is not None:
            engine.telemetry.switched(call, route.selection.switched_from)
        if engine.telemetry.wants_debug:
            engine.telemetry.routed(call)
        return call


_NO_HEADERS: Mapping[str, str] = {}
_LONGEST_ID = 128


def _shared_by_all(requests: Sequence[CompletionRequest], key: str) -> Any:
    """Return what all requests of a batch say in their metadata; None where they differ, for one model serves them."""
    said = [(request.metadata or {}).get(key) for request in requests]
    return said[0] if all(each == said[0] for each in said) else None


def _own_id(metadata: Mapping[str, Any]) -> str | None:
    """Return the request ID a caller brings, if it is one: it goes into headers and log lines as it stands."""
    own = metadata.get("request_id")
    sound = isinstance(own, str) and 0 < len(own) <= _LONGEST_ID and own.isascii() and own.isprintable()
    return own if sound else None


def payload_of(request: CompletionRequest) -> dict[str, Any]:
    """Return a request as OpenAI's body; what was left unset stays unset."""
    if not request.messages:
        raise InvalidRequestError(NO_MESSAGES)
    payload: dict[str, Any] = {"messages": request.messages}
    if request.temperature is not None:
        payload["temperature"] = request.temperature
    if request.max_tokens is not None:
        payload["max_tokens"] = request.max_tokens
    if request.tools is not None:
        payload["tools"] = request.tools
    parameters = request.metadata.get("parameters") if request.metadata else None
    if parameters is not None:
        if not isinstance(parameters, Mapping):
            raise InvalidRequestError(
                f"metadata's parameters must be a mapping of OpenAI's parameters; it is a {type(parameters).__name__}"
            )
        payload.update(parameters)
    return payload


def usage_of(usage: TokenUsage) -> dict[str, int]:
    """Return token counts under OpenAI's names."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
