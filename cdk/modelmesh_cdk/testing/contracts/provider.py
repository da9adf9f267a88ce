"""The contract of provider connectors."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, ClassVar, TypeVar, cast, get_args

import pytest

from modelmesh.errors import AuthenticationError, Category, ProviderError, RateLimitError
from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.provider import (
    ErrorClassificationResult,
    ModelInfo,
    ModelPricing,
    ProviderChunk,
    ProviderConnector,
    ProviderRequest,
    QuotaStatus,
    RateLimitStatus,
)
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh_cdk.testing.clock import context

Result = TypeVar("Result")
Scenario = Callable[[ProviderConnector], Awaitable[Result]]


class ProviderContract:
    """Inherit it, write `make`, and `make_failing` and `make_hanging` where the provider can be brought to that.

    Attributes:
        model: A model the connector made by `make` answers for.
        secrets: What the connector was given and must never show.
        patience: Real seconds any one test may take before it counts as hanging.
    """

    model: ClassVar[str] = "test-model"
    secrets: ClassVar[tuple[str, ...]] = ()
    patience: ClassVar[float] = 10.0

    # --- what subclasses write --------------------------------------------------------

    def make(self, context: ConnectorContext) -> ProviderConnector:
        """Build a connector that answers; the contract binds it."""
        raise NotImplementedError(f"{type(self).__name__} must say in make() how its connector is built")

    def make_failing(self, context: ConnectorContext) -> ProviderConnector | None:
        """Build a connector whose every call fails; None when it cannot fail."""
        return None

    def make_hanging(self, context: ConnectorContext) -> ProviderConnector | None:
        """Build a connector whose every call waits for ever; None when it never waits."""
        return None

    def request(self, text: str = "Say hello.", *, stream: bool = False) -> ProviderRequest:
        """Build a request that the connector can answer."""
        return ProviderRequest(self.model, {"messages": [{"role": "user", "content": text}]}, stream=stream)

    # --- answering --------------------------------------------------------------------

    def test_it_is_a_provider(self) -> None:
        """It has every method the engine calls."""
        assert isinstance(self.make(context()), ProviderConnector)

    def test_a_whole_answer_has_openais_shape(self) -> None:
        """The answer holds choices with messages, and usage that adds up if any is reported."""
        response = self.drive(lambda connector: connector.complete(self.request()))

        choices = response.data["choices"]
        assert choices, "an answer needs at least one choice"
        for choice in choices:
            message = choice["message"]
            assert message["role"] == "assistant"
            assert isinstance(message.get("content"), str) or message.get("tool_calls")
            assert isinstance(choice["finish_reason"], str)
        if response.usage is not None:
            assert response.usage.prompt_tokens >= 0
            assert response.usage.completion_tokens >= 0
            assert response.usage.total_tokens >= max(response.usage.prompt_tokens, response.usage.completion_tokens)

    def test_a_stream_ends_with_a_terminal_signal(self) -> None:
        """Some content comes, then one finish_reason, and no content after it."""
        chunks = self.drive(self._read)

        finished = [place for place, chunk in enumerate(chunks) if chunk.finish_reason is not None]
        assert finished, "no chunk has a finish_reason: the engine takes the stream for cut"
        assert any(chunk.commits for chunk in chunks[: finished[0] + 1]), "no chunk carries content"
        assert not any(chunk.commits for chunk in chunks[finished[0] + 1 :]), "content after the end"

    def test_chunks_say_what_their_data_say(self) -> None:
        """The text of a chunk is the first choice's content in its data, and text commits."""
        for chunk in self.drive(self._read):
            said = "".join(
                choice["delta"].get("content") or ""
                for choice in chunk.data["choices"]
                if choice.get("index", 0) == 0 and isinstance(choice.get("delta"), dict)
            )
            assert chunk.text == said
            assert chunk.commits or not chunk.text, "text that does not commit would be thrown away"

    def test_the_request_is_left_as_it_was(self) -> None:
        """A request is shared by several attempts: the connector reads it and never writes to it."""
        for stream in (False, True):
            request = self.request(stream=stream)
            before = copy.deepcopy(request)

            self.drive(lambda connector, request=request: self._answered(connector, request))  # type: ignore[misc]  # bound now

            assert request == before

    def test_it_answers_many_at_once(self) -> None:
        """One instance serves many requests at a time, whole and streamed, each with an answer of its own."""

        async def scenario(connector: ProviderConnector) -> list[dict[str, Any]]:
            whole = [connector.complete(self.request(f"number {number}")) for number in range(6)]
            streamed = [self._read(connector) for _ in range(4)]
            responses, streams = await asyncio.gather(asyncio.gather(*whole), asyncio.gather(*streamed))
            assert all(any(chunk.commits for chunk in chunks) for chunks in streams)
            return [response.data for response in responses]

        answers = self.drive(scenario)

        assert len({id(answer) for answer in answers}) == 6, "answers share one object"

    def test_two_connectors_do_not_share_their_life(self) -> None:
        """Closing one instance leaves another one working."""

        async def scenario(connector: ProviderConnector) -> None:
            other = self._bound(self.make)
            await other.complete(self.request())
            await other.close()
            await connector.complete(self.request())

        self.drive(scenario)

    # --- ending -----------------------------------------------------------------------

    def test_a_cancelled_call_ends_and_the_next_one_is_answered(self) -> None:
        """Cancellation is passed on at once, and harms nobody else."""

        async def scenario(connector: ProviderConnector) -> bool:
            task = asyncio.ensure_future(self._answered(connector, self.request()))
            await _turns()
            task.cancel()
            ended, _ = await asyncio.wait([task], timeout=2.0)
            assert ended, "the call went on after it was cancelled"
            return task.cancelled()

        if self._bound(self.make_hanging, may_be_none=True) is not None:
            assert self.drive(scenario, self.make_hanging), "the call swallowed its cancellation"

        async def and_another(connector: ProviderConnector) -> None:
            await scenario(connector)
            await connector.complete(self.request())

        self.drive(and_another)

    def test_a_cancelled_stream_ends_at_once(self) -> None:
        """A reader that is cancelled while it waits for a chunk does not wait for the provider."""

        async def scenario(connector: ProviderConnector) -> None:
            task = asyncio.ensure_future(self._read(connector))
            await _turns()
            task.cancel()
            ended, _ = await asyncio.wait([task], timeout=2.0)
            assert ended, "the stream went on after its reader was cancelled"
            assert task.cancelled(), "the stream swallowed the cancellation"

        self._need(self.make_hanging, "make_hanging")
        self.drive(scenario, self.make_hanging)

    def test_a_stream_may_be_closed_early(self) -> None:
        """Closing an unfinished stream raises nothing, and the next request is answered."""

        async def scenario(connector: ProviderConnector) -> None:
            stream = cast("Any", connector.stream(self.request(stream=True)))
            await anext(stream)
            await stream.aclose()
            assert await anext(stream, None) is None, "a closed stream still gives chunks"
            await connector.complete(self.request())

        self.drive(scenario)

    def test_close_may_be_repeated(self) -> None:
        """A second close does nothing, with or without requests before."""

        async def scenario(connector: ProviderConnector) -> None:
            await connector.complete(self.request())
            await connector.close()
            await connector.close()

        async def unused(connector: ProviderConnector) -> None:
            await connector.close()

        self.drive(scenario)
        self.drive(unused)

    def test_close_works_on_another_loop(self) -> None:
        """A mesh may be closed from another event loop than the one its requests ran on, which still runs."""
        connector = self._bound(self.make)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._in_time(connector.complete(self.request())), loop).result()
            asyncio.run(self._in_time(connector.close()))
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    # --- failing ----------------------------------------------------------------------

    def test_a_failed_call_raises_a_provider_error(self) -> None:
        """Failures come as `ProviderError`, whole or streamed, so that the engine knows whose fault they are."""
        self._need(self.make_failing, "make_failing")

        for error in self._failures():
            assert isinstance(error, ProviderError), f"got {type(error).__name__}"
            assert error.category in get_args(Category)

    def test_errors_hold_no_secret(self) -> None:
        """Neither an error nor what it was raised from shows a credential."""
        self._need(self.make_failing, "make_failing")

        for error in self._failures():
            link: BaseException | None = error
            while link is not None:
                self._assert_clean(f"{link!r} {link} {getattr(link, 'details', '')}", "an error")
                link = link.__cause__ or link.__context__

    def test_errors_are_classified(self) -> None:
        """Any exception at all has a category; the core's own errors keep theirs."""
        connector = self._bound(self.make)
        wait = connector.classify_error(RateLimitError("slow down", retry_after=3.0))
        key = connector.classify_error(AuthenticationError("bad key"))

        assert (wait.category, wait.retryable, wait.retry_after) == ("rate_limit", True, 3.0)
        assert (key.category, key.retryable) == ("auth", False)
        for error in (TimeoutError(), ConnectionResetError(), ValueError("odd"), RuntimeError()):
            result = connector.classify_error(error)
            assert isinstance(result, ErrorClassificationResult)
            assert result.category in get_args(Category)
            assert connector.is_retryable(error) is result.retryable

    def test_nothing_it_says_holds_a_secret(self) -> None:
        """Neither its repr, nor that of its settings, nor what it traces shows a credential."""
        traces: list[tuple[Severity, str]] = []
        connector = self.make(context(traces=traces))

        async def scenario() -> None:
            connector.bind(context(traces=traces))
            await connector.complete(self.request())
            await connector.close()

        asyncio.run(self._in_time(scenario()))

        self._assert_clean(f"{connector!r} {connector}", "its repr")
        self._assert_clean(repr(getattr(connector, "config", "")), "the repr of its settings")
        self._assert_clean(repr(traces), "a trace")

    # --- what it is ---------------------------------------------------------------------

    def test_it_does_what_it_says_it_does(self) -> None:
        """It supports each capability it names, and none that it does not."""
        connector = self._bound(self.make)

        capabilities = list(connector.get_capabilities())
        assert capabilities
        assert all(connector.supports(capability) for capability in capabilities)
        assert not connector.supports("no-such-work.at-all")

    def test_models_are_described(self) -> None:
        """The list serves as a health probe: IDs once each, what they do, and the same when asked for one."""

        async def scenario(connector: ProviderConnector) -> None:
            models = list(await connector.list_models())
            assert all(type(model) is ModelInfo and model.id and model.capabilities for model in models)
            assert len({model.id for model in models}) == len(models), "a model stands twice in the list"
            for model in models:
                assert (await connector.get_model_info(model.id)).id == model.id

        self.drive(scenario)

    def test_unknown_models_are_key_errors(self) -> None:
        """Asking about a model that does not exist raises KeyError, for its description and for its price."""

        async def scenario(connector: ProviderConnector) -> None:
            with pytest.raises(KeyError):
                await connector.get_model_info("no-such-model-anywhere")
            with pytest.raises(KeyError):
                await connector.get_pricing("no-such-model-anywhere")

        self.drive(scenario)

    def test_prices_are_prices(self) -> None:
        """A model's price is known and not negative, or not known and a KeyError."""

        async def scenario(connector: ProviderConnector) -> None:
            for model in await connector.list_models():
                try:
                    pricing = await connector.get_pricing(model.id)
                except KeyError:
                    continue
                assert isinstance(pricing, ModelPricing)
                assert min(pricing.input_per_1k_tokens, pricing.output_per_1k_tokens, pricing.per_request or 0.0) >= 0.0

        self.drive(scenario)

    def test_quota_and_limits_are_known_or_none(self) -> None:
        """Figures are not negative: what is not known is None, before the first request and after."""

        async def scenario(connector: ProviderConnector) -> None:
            for _ in range(2):
                quota, limits = await connector.check_quota(), await connector.get_rate_limits()
                assert type(quota) is QuotaStatus
                assert type(limits) is RateLimitStatus
                for figure in (quota.used, quota.remaining, limits.requests_remaining, limits.tokens_remaining):
                    assert figure is None or figure >= 0
                response = await connector.complete(self.request())
                if response.usage is not None:
                    connector.report_usage(self.model, response.usage)

        self.drive(scenario)

    # --- inside -------------------------------------------------------------------------

    def drive(
        self, scenario: Scenario[Result], make: Callable[[ConnectorContext], ProviderConnector | None] | None = None
    ) -> Result:
        """Run a scenario with a bound connector, on a loop of its own, and close the connector after it."""

        async def run() -> Result:
            connector = self._bound(make or self.make)
            try:
                return await scenario(connector)
            finally:
                await connector.close()

        return asyncio.run(self._in_time(run()))

    async def _in_time(self, work: Awaitable[Result]) -> Result:
        async with asyncio.timeout(self.patience):
            return await work

    def _bound(
        self, make: Callable[[ConnectorContext], ProviderConnector | None], *, may_be_none: bool = False
    ) -> ProviderConnector:
        about = context("contract")
        connector = make(about)
        if connector is not None:
            connector.bind(about)
        assert connector is not None or may_be_none
        return cast("ProviderConnector", connector)

    def _need(self, make: Callable[[ConnectorContext], ProviderConnector | None], name: str) -> None:
        if make(context()) is None:
            pytest.skip(f"{type(self).__name__} has no {name}()")

    async def _read(self, connector: ProviderConnector) -> list[ProviderChunk]:
        async with aclosing(cast("Any", connector.stream(self.request(stream=True)))) as chunks:
            return [chunk async for chunk in chunks]

    async def _answered(self, connector: ProviderConnector, request: ProviderRequest) -> None:
        if not request.stream:
            await connector.complete(request)
            return
        async with aclosing(cast("Any", connector.stream(request))) as chunks:
            async for _ in chunks:
                pass

    def _failures(self) -> list[BaseException]:
        async def scenario(connector: ProviderConnector) -> list[BaseException]:
            errors: list[BaseException] = []
            for stream in (False, True):
                try:
                    await self._answered(connector, self.request(stream=stream))
                except Exception as error:
                    errors.append(error)
            return errors

        errors = self.drive(scenario, self.make_failing)
        assert len(errors) == 2, "a connector made to fail has answered"
        return errors

    def _assert_clean(self, text: str, where: str) -> None:
        for secret in self.secrets:
            assert secret not in text, f"{where} shows a secret"


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
