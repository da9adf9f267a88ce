"""Carries out what the attempt machine decides: awaits providers, enforces the clocks, reports outcomes.

Both doors use the same machine. `Driver.complete` awaits whole answers; `Driver.stream` yields chunks and knows the
commit point, the first content of an answer: before it everything is held back and may be thrown away with a failed
attempt, after it nothing is replayed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Literal

from modelmesh._engine import hooks
from modelmesh._engine.attempt import Pause, Steps, attempts
from modelmesh._engine.call import Call
from modelmesh._engine.deadlines import Deadlines
from modelmesh._engine.limits import Hold, Limits
from modelmesh._engine.member import Member
from modelmesh._engine.recorder import Recorder
from modelmesh._engine.streaming import StreamProgress
from modelmesh._engine.tokens import estimate_usage
from modelmesh.errors import (
    MalformedResponseError,
    ModelMeshError,
    ProviderError,
    ProviderTimeoutError,
    StreamInterruptedError,
)
from modelmesh.interfaces.provider import ProviderChunk, ProviderRequest, ProviderResponse
from modelmesh.middleware import MiddlewareStack, ShortCircuit

if TYPE_CHECKING:
    from modelmesh._engine.shared_trials import SharedTrials
    from modelmesh.plugins import PluginHost


class Driver:
    """Awaits what the machine asks for."""

    def __init__(
        self, recorder: Recorder, plugins: PluginHost, limits: Limits, middleware: MiddlewareStack | None = None
    ) -> None:
        self._recorder = recorder
        self.middleware = middleware or MiddlewareStack()
        self.limits = limits
        self._plugins = plugins
        self._deadlines = Deadlines()
        self.trials: SharedTrials | None = None

    # --- whole answers ------------------------------------------------------

    async def complete(self, call: Call) -> ProviderResponse:
        """Answer the request whole.

        Raises:
            ModelMeshError: See `modelmesh._engine.attempt.attempts`.
        """
        self._open(call)
        steps = attempts(call, call.route.selected, _Others(call))
        error: ProviderError | None = None
        try:
            step = next(steps)
            while True:
                member = await self._until_a_call(call, steps, step)
                made = self._limited_attempt if member.is_limited else self._attempt
                before = len(call.attempts)
                answer = await made(call, member, error)
                if self.middleware.members and isinstance(answer, ProviderError) and len(call.attempts) > before:
                    answer = await hooks.after_failure(self.middleware, call, answer)
                if isinstance(answer, ProviderResponse):
                    return answer
                error = answer
                step = steps.send(error)
        except ShortCircuit as answered:
            return hooks.answer_of(answered, call)
        except ModelMeshError as final:
            self._recorder.gave_up(call, final)
            raise
        finally:
            steps.close()
            self._close(call)

    async def _until_a_call(self, call: Call, steps: Steps, step: Member | Pause) -> Member:
        """Wait as the walk says, and leave trials to other processes, until somebody is to be called."""
        while True:
            if type(step) is Pause:
                await self._pause(call, step)
                step = steps.send(None)
                continue
            assert isinstance(step, Member)
            refusal = await self._begin_trial(call, step) if step.probation else None
            if refusal is None:
                return step
            step = steps.send(refusal)

    async def _begin_trial(self, call: Call, member: Member) -> ProviderError | None:
        """Ask whether another process tries a member that has just come back, for no longer than the request has time.

        Returns:
            The error that stands for the call, or None to make it.
        """
        if self.trials is None:
            return None
        try:
            with self._deadlines.within(call.time_left) as timer:
                return await self.trials.begin(call, member)
        except TimeoutError:
            if not timer.expired:
                raise
            return ProviderTimeoutError(f"who tries {member.model_id} was not known in time", sent=False)

    async def _limited_attempt(
        self, call: Call, member: Member, before: ProviderError | None
    ) -> ProviderResponse | ProviderError:
        """Make one call under a claim on its limits, if they grant it."""
        hold = await self._reserve(call, member)
        if isinstance(hold, ProviderError):
            return hold
        answer: ProviderResponse | ProviderError | None = None
        is_left = False
        try:
            answer = await self._attempt(call, member, before)
        except GeneratorExit:
            is_left = True  # nothing may be awaited any more; the lease settles it
            raise
        finally:
            if not is_left:
                await self.limits.close(call, hold, answer if isinstance(answer, ProviderError) else None)
        return answer

    async def _reserve(self, call: Call, member: Member) -> Hold | ProviderError:
        """Claim a member's limits, for no longer than the request has time."""
        try:
            with self._deadlines.within(call.time_left) as timer:
                return await self.limits.reserve(call, member)
        except TimeoutError:
            if not timer.expired:
                raise
            return ProviderTimeoutError(f"the limits of {member.model_id} were not checked in time", sent=False)

    async def _attempt(
        self, call: Call, member: Member, before: ProviderError | None
    ) -> ProviderResponse | ProviderError:
        """Make one call; return its answer or what was wrong."""
        request = self._begin(call, member, before)
        if self.middleware.members:
            request = await hooks.before(self.middleware, call, member, request)
        model, clock = member.model, call.clock
        limit, which = _time_for_an_answer(call)
        model.in_flight += 1
        started = clock.monotonic()
        owner = asyncio.current_task()
        error: ProviderError
        try:
            with self._deadlines.within(limit) as timer:
                response = _checked(await model.provider.connector.complete(request), member)
        except (asyncio.CancelledError, GeneratorExit) as raised:
            if is_being_cancelled() if isinstance(raised, asyncio.CancelledError) else not _is_running(owner):
                self._recorder.cancelled(
                    call, member, latency=clock.monotonic() - started, usage=estimate_usage(call.payload, "")
                )
                raise
            # The connector cancelled itself: a failed attempt like any other.
            error = ProviderError(f"provider {member.provider_id!r} cancelled its own call")
        except Exception as raised:
            if isinstance(raised, TimeoutError) and timer.expired:
                error = ProviderTimeoutError(
                    f"no answer from {member.model_id} in {limit:g} s",
                    timeout_seconds=limit,
                    clock=which,
                )
                error = model.provider.understand(error, model)
            else:
                error = model.provider.understand(raised, model)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:
            error = model.provider.understand(raised, model)
        else:
            latency = clock.monotonic() - started
            call.provider_seconds += latency
            usage = response.usage
            if usage is None:
                usage = estimate_usage(call.payload, content_of(response.data))
            record = self._recorder.succeeded(call, member, latency=latency, usage=usage, response=response.data)
            if response.rate_limits is not None:
                self._recorder.heed(member, response.rate_limits)
            if self._plugins.has_attempt_hooks:
                self._plugins.after_attempt(request, record)
            if call.context is not None:
                response = await hooks.after(self.middleware, call, response, usage)
            return response
        finally:
            model.in_flight -= 1
        self._failed(call, member, request, error, started)
        return error

    def _failed(
        self, call: Call, member: Member, request: ProviderRequest, error: ProviderError, started: float
    ) -> None:
        """Take account of a call that was not answered."""
        latency = call.clock.monotonic() - started
        call.provider_seconds += latency
        self._recorder.failed(call, member, error, latency=latency)
        if self._plugins.has_attempt_hooks:
            self._plugins.after_attempt(request, call.attempts[-1])

    # --- streams --------------------------------------------------------------

    async def stream(self, call: Call) -> AsyncGenerator[ProviderChunk, None]:
        """Answer the request in chunks.

        Raises:
            StreamInterruptedError: The stream broke after its first content; ``partial`` holds the text so far.
            ModelMeshError: Before the first content, as for `complete`.
        """
        self._open(call)
        steps = attempts(call, call.route.selected, _Others(call))
        error: ProviderError | None = None
        try:
            step = next(steps)
            while True:
                member = await self._until_a_call(call, steps, step)
                hold = await self._reserve(call, member) if member.is_limited else None
                if isinstance(hold, ProviderError):
                    error = hold
                    step = steps.send(error)
                    continue
                progress = StreamProgress(call, member)
                try:
                    async with aclosing(self._stream_attempt(call, member, error, progress)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                finally:
                    if hold is not None:
                        await self.limits.close(call, hold, progress.error)
                if progress.error is None:
                    return
                error = progress.error
                if self.middleware.members:
                    error = await hooks.after_failure(self.middleware, call, error, committed=progress.committed)
                if progress.committed and call.policy.on_stream_failure != "continue":
                    raise error
                if progress.committed:
                    call.continue_after(progress.text)
                step = steps.send(error)
        except ShortCircuit as answered:
            for ready in hooks.as_chunks(hooks.answer_of(answered, call)):
                yield ready
        except ModelMeshError as final:
            self._give_up(call, final)
            raise
        finally:
            steps.close()
            self._close(call)

    def _give_up(self, call: Call, final: ModelMeshError) -> None:
        """Take account of a stream that nobody could finish; raises what its caller is told, where that differs."""
        ended = _with_partial(final, call)
        self._recorder.gave_up(call, ended)
        if ended is not final:
            raise ended from final

    async def _stream_attempt(
        self, call: Call, member: Member, before: ProviderError | None, progress: StreamProgress
    ) -> AsyncGenerator[ProviderChunk, None]:
        """Yield what one attempt may show the caller; its failure, if any, is left in ``progress.error``."""
        request = self._begin(call, member, before)
        if self.middleware.members:
            request = await hooks.before(self.middleware, call, member, request)
        model, clock = member.model, call.clock
        model.in_flight += 1
        progress.started = clock.monotonic()
        upstream: AsyncIterator[ProviderChunk] | None = None
        try:
            upstream = model.provider.connector.stream(request)
            while True:
                limit, which = progress.limit(clock.monotonic())
                try:
                    with self._deadlines.within(limit) as timer:
                        chunk = await anext(upstream)
                except StopAsyncIteration:
                    break
                except TimeoutError as raised:
                    if not timer.expired:
                        progress.error = model.provider.understand(raised, model)
                    else:
                        progress.error = progress.timed_out(which)
                    break
                for ready in progress.take(chunk, clock.monotonic()):
                    shown_at = clock.monotonic()
                    yield ready
                    progress.consumer_seconds += clock.monotonic() - shown_at
            if progress.error is None:
                progress.end()
        except (asyncio.CancelledError, GeneratorExit) as raised:
            if isinstance(raised, GeneratorExit) or is_being_cancelled():
                self._leave_stream(call, member, request, progress)
                raise
            progress.error = ProviderError(f"provider {member.provider_id!r} cancelled its own call")
        except KeyboardInterrupt:
            raise
        except BaseException as raised:
            progress.error = model.provider.understand(raised, model)
        finally:
            model.in_flight -= 1
            await _close_quietly(upstream)
        self._settle_stream(call, member, request, progress)
        if progress.error is None:
            for ready in progress.release():
                yield ready
            if call.context is not None:
                await hooks.after_stream(self.middleware, call, member, progress)

    def _leave_stream(self, call: Call, member: Member, request: ProviderRequest, progress: StreamProgress) -> None:
        """Take account of a stream whose caller reads no further; many stop at the finish reason, content."""
        if progress.finished:
            self._settle_stream(call, member, request, progress)
            return
        latency = call.clock.monotonic() - progress.started
        self._recorder.cancelled(call, member, latency=latency, usage=progress.usage_so_far())

    def _settle_stream(self, call: Call, member: Member, request: ProviderRequest, progress: StreamProgress) -> None:
        if progress.finished:
            progress.error = None  # the answer is whole: what went wrong after its terminal signal concerns nobody
        latency = call.clock.monotonic() - progress.started - progress.consumer_seconds
        call.provider_seconds += latency
        call.waited_seconds += progress.consumer_seconds
        if progress.error is None:
            self._recorder.succeeded(
                call,
                member,
                latency=latency,
                usage=progress.usage_so_far(),
                first_token=progress.first_token_seconds,
                response=progress.text,
            )
        else:
            progress.error = member.model.provider.understand(progress.error, member.model)
            progress.attach_partial()
            self._recorder.failed(
                call,
                member,
                progress.error,
                latency=latency,
                usage=progress.usage_so_far() if progress.text else None,
                first_token=progress.first_token_seconds,
            )
        if self._plugins.has_attempt_hooks:
            self._plugins.after_attempt(request, call.attempts[-1])

    # --- both -------------------------------------------------------------------

    def _open(self, call: Call) -> None:
        call.pool.retries.enter()

    def _close(self, call: Call) -> None:
        if self.trials is not None:
            self.trials.end(call)
        self._recorder.release_log(call, is_last=True)
        pool = call.pool
        pool.retries.leave(retried=call.retrying)
        pool.total_requests += 1
        call.retrying = False

    def _begin(self, call: Call, member: Member, error: ProviderError | None) -> ProviderRequest:
        before = call.last_member
        if before is not None:
            self._recorder.release_log(call)
        self._recorder.begins(call, member, error)
        call.last_member = member
        call.during_rest = None if member.active else member.due
        request = call.request_for(member)
        if self._plugins.has_attempt_hooks:
            self._plugins.before_attempt(
                request,
                {
                    "model_id": member.model_id,
                    "provider_id": member.provider_id,
                    "pool_id": call.pool.name,
                    "attempt": len(call.attempts) + 1,
                },
            )
        return request

    async def _pause(self, call: Call, pause: Pause) -> None:
        self._recorder.paused(call, pause.seconds, pause.error)
        started = call.clock.monotonic()
        await call.clock.sleep(pause.seconds)
        call.waited_seconds += call.clock.monotonic() - started


class _Others:
    """The candidates after the chosen one, ranked only if the chosen one fails."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def __iter__(self) -> Iterator[Member]:
        return iter(self._call.route.others())


def _with_partial(final: ModelMeshError, call: Call) -> ModelMeshError:
    """Return what a stream ends with: whoever has seen content already is given the text of it, whatever the reason."""
    if not call.partial:
        return final
    if isinstance(final, StreamInterruptedError):  # middleware raised it
        final.partial = final.partial or call.partial
        return final
    return StreamInterruptedError(f"the stream broke and nobody could continue it: {final}", partial=call.partial)


def _is_running(task: asyncio.Task[Any] | None) -> bool:
    """Whether a task is the one that runs just now.

    A coroutine whose loop is gone is closed by the garbage collector, wherever that comes by.
    """
    try:
        return asyncio.current_task() is task
    except RuntimeError:
        return False


def is_being_cancelled() -> bool:
    """Whether somebody cancelled the running task, rather than the connector itself raising CancelledError."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _close_quietly(upstream: AsyncIterator[ProviderChunk] | None) -> None:
    """Close a provider's stream, and with it its connection; what it raises then concerns nobody any more."""
    close = getattr(upstream, "aclose", None)
    if close is None:
        return
    with suppress(Exception):  # the attempt's outcome is settled
        await close()


def _time_for_an_answer(call: Call) -> tuple[float | None, Literal["total", "deadline"]]:
    """Return how long a whole answer may take, in seconds, and which clock says so."""
    total, left = call.timeouts.total, call.time_left
    return (left, "deadline") if left is not None and (total is None or left < total) else (total, "total")


def _checked(response: Any, member: Member) -> ProviderResponse:
    """Return what a connector answered, if it is an answer at all."""
    if isinstance(response, ProviderResponse) and isinstance(response.data, dict):
        return response
    found = type(response.data if isinstance(response, ProviderResponse) else response).__name__
    raise MalformedResponseError(f"provider {member.provider_id!r} answered with {found} instead of a response")


def first_choice(data: dict[str, Any]) -> dict[str, Any]:
    """Return the first choice of a chat answer; empty when it has none that can be read."""
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def content_of(data: dict[str, Any]) -> str:
    """Return the text of the first choice of a chat answer; empty when it has none."""
    message = first_choice(data).get("message")
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""
