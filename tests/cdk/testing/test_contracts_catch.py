"""Each test of a contract fails for a connector that breaks just that promise, so none of them is an ornament."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast
from unicodedata import category

import pytest
from pydantic import SecretStr

from modelmesh.errors import (
    AuthenticationError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderError,
    ProviderServerError,
    StateStoreError,
)
from modelmesh.interfaces.observability import AggregateStats, RequestLogEntry, RoutingEvent, TraceEntry
from modelmesh.interfaces.provider import (
    ErrorClassificationResult,
    ModelInfo,
    ModelPricing,
    ProviderChunk,
    ProviderRequest,
    ProviderResponse,
    RateLimitStatus,
)
from modelmesh.interfaces.state_store import StateRecord, StoreGuarantees
from modelmesh.interfaces.strategy import Candidate, SelectionRequest, SelectionResult
from modelmesh_cdk.console import ConsoleConfig, ConsoleObservability
from modelmesh_cdk.openai_compatible import OpenAICompatibleConfig, OpenAICompatibleProvider
from modelmesh_cdk.strategy import NoConfig, SequentialStrategy
from modelmesh_cdk.testing import (
    ObservabilityContract,
    OpenAIProviderContract,
    ProviderContract,
    ScriptedProvider,
    StateStoreContract,
    StrategyContract,
    hang,
)

CAUGHT = (Exception, pytest.fail.Exception)
KEY = OpenAIProviderContract.secrets[0]


def own_tests(contract: type[Any]) -> list[str]:
    """Return the names of a contract's own tests."""
    return sorted(name for name in vars(contract) if name.startswith("test_"))


def run(contract: Any, test: str) -> None:
    """Run one test of a contract as pytest would."""
    setup, teardown = (getattr(contract, name, None) for name in ("setup_method", "teardown_method"))
    if setup is not None:
        setup()
    try:
        getattr(contract, test)()
    finally:
        if teardown is not None:
            teardown()


# --- providers --------------------------------------------------------------------


class Provider(ScriptedProvider):
    """A provider that keeps the contract; each class below breaks one promise."""


class LacksMethod:
    """Has nothing."""


class NoChoices(Provider):
    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        return ProviderResponse({"choices": []})


class NoEnd(Provider):
    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        async for chunk in super().stream(request):
            chunk.finish_reason = None
            yield chunk


class SaysOtherwise(Provider):
    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        async for chunk in super().stream(request):
            chunk.text = chunk.text.upper()
            yield chunk


class WritesToRequest(Provider):
    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        cast("dict[str, Any]", request.payload)["stream"] = False
        return await super().complete(request)


class SharesAnswers(Provider):
    _answer: ProviderResponse | None = None

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        if self._answer is None:
            self._answer = await super().complete(request)
        return self._answer


class SharesLife(Provider):
    closed_ones: list[object]

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        if self.closed_ones:
            raise ProviderServerError("closed")
        return await super().complete(request)

    async def close(self) -> None:
        self.closed_ones.append(self)


class IgnoresCancellation(Provider):
    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        try:
            return await super().complete(request)
        except asyncio.CancelledError:
            return ProviderResponse.text("went on", model=request.model)

    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        try:
            async for chunk in super().stream(request):
                yield chunk
        except asyncio.CancelledError:
            return


class ResistsClosing(Provider):
    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        try:
            async for chunk in super().stream(request):
                yield chunk
        except GeneratorExit:
            raise ProviderServerError("closed too early") from None


class ClosesOnce(Provider):
    async def close(self) -> None:
        assert not self.is_closed
        await super().close()


class ClosesHere(Provider):
    _loop: asyncio.AbstractEventLoop | None = None

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        self._loop = asyncio.get_running_loop()
        return await super().complete(request)

    async def close(self) -> None:
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")


class RaisesForeign(Provider):
    def _begin(self, request: ProviderRequest) -> Any:
        raise KeyError("choices")


class TellsKeyInError(Provider):
    def _begin(self, request: ProviderRequest) -> Any:
        raise ProviderError("no") from ValueError(f"header {KEY}")


class ForgetsWait(Provider):
    def classify_error(self, error: Exception) -> ErrorClassificationResult:
        return ErrorClassificationResult(False, "unknown")


class ShowsKey(Provider):
    def __repr__(self) -> str:
        return f"ShowsKey({KEY})"


class SupportsAll(Provider):
    def supports(self, capability: str) -> bool:
        return True


class ListsTwice(Provider):
    async def list_models(self) -> Sequence[ModelInfo]:
        return [*await super().list_models(), *await super().list_models()]


class KnowsEveryModel(Provider):
    async def get_model_info(self, model_id: str) -> ModelInfo:
        return ModelInfo(model_id, model_id, self.capabilities)


class NegativePrice(Provider):
    async def get_pricing(self, model_id: str) -> ModelPricing:
        return ModelPricing(-1.0, 0.0)


class NegativeLimits(Provider):
    async def get_rate_limits(self) -> RateLimitStatus:
        return RateLimitStatus(requests_remaining=-1)


BROKEN_PROVIDERS: Mapping[str, type[Any]] = {
    "test_a_cancelled_call_ends_and_the_next_one_is_answered": IgnoresCancellation,
    "test_a_cancelled_stream_ends_at_once": IgnoresCancellation,
    "test_a_failed_call_raises_a_provider_error": RaisesForeign,
    "test_a_stream_ends_with_a_terminal_signal": NoEnd,
    "test_a_stream_may_be_closed_early": ResistsClosing,
    "test_a_whole_answer_has_openais_shape": NoChoices,
    "test_chunks_say_what_their_data_say": SaysOtherwise,
    "test_close_may_be_repeated": ClosesOnce,
    "test_close_works_on_another_loop": ClosesHere,
    "test_errors_are_classified": ForgetsWait,
    "test_errors_hold_no_secret": TellsKeyInError,
    "test_it_answers_many_at_once": SharesAnswers,
    "test_it_does_what_it_says_it_does": SupportsAll,
    "test_it_is_a_provider": LacksMethod,
    "test_models_are_described": ListsTwice,
    "test_nothing_it_says_holds_a_secret": ShowsKey,
    "test_prices_are_prices": NegativePrice,
    "test_quota_and_limits_are_known_or_none": NegativeLimits,
    "test_the_request_is_left_as_it_was": WritesToRequest,
    "test_two_connectors_do_not_share_their_life": SharesLife,
    "test_unknown_models_are_key_errors": KnowsEveryModel,
}


class ProviderUnderTest(ProviderContract):
    """The contract, over a given class."""

    secrets = (KEY,)

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls
        if issubclass(cls, SharesLife):
            cls.closed_ones = []

    def make(self, context: Any) -> Any:
        return self.cls()

    def make_failing(self, context: Any) -> Any:
        return self.cls(default=ProviderServerError("down"))

    def make_hanging(self, context: Any) -> Any:
        return self.cls(default=hang())


@pytest.mark.parametrize("test", own_tests(ProviderContract))
def test_the_provider_contract_catches(test: str) -> None:
    """Every test passes for a good provider and fails for the broken one; a new test needs a broken one here."""
    run(ProviderUnderTest(Provider), test)

    with pytest.raises(CAUGHT):
        run(ProviderUnderTest(BROKEN_PROVIDERS[test]), test)


# --- OpenAI's language ----------------------------------------------------------------


class OpenAI(OpenAICompatibleProvider[OpenAICompatibleConfig]):
    """A provider that keeps the contract; each class below breaks one promise."""


class DropsUnknown(OpenAI):
    def _build_request_payload(self, request: ProviderRequest) -> dict[str, Any]:
        payload = super()._build_request_payload(request)
        payload.pop("x_unknown", None)
        return payload


class NeverAsksForStreams(OpenAI):
    def _build_request_payload(self, request: ProviderRequest) -> dict[str, Any]:
        return super()._build_request_payload(request) | {"stream": False}


class ConnectsAnew(OpenAI):
    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        other = OpenAI(self.config)
        try:
            return await other.complete(request)
        finally:
            await other.close()


class Retries(OpenAI):
    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        try:
            return await super().complete(request)
        except ProviderServerError:
            return await super().complete(request)


class Follows(OpenAI):
    def _parse_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        if status == 307:
            import httpx

            httpx.post(headers["location"], json={}, trust_env=False)
        return super()._parse_error(status, headers, body)


class OneErrorForAll(OpenAI):
    def _parse_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return InvalidRequestError("failed", status_code=status)


class BlamesTheAnswer(OpenAI):
    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        try:
            return await super().complete(request)
        except ProviderError:
            raise MalformedResponseError("something was wrong") from None


class TakesAnyAnswer(OpenAI):
    def _parse_response(self, data: dict[str, Any]) -> ProviderResponse:
        return ProviderResponse(data)


class IgnoresErrorsInside(OpenAI):
    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        return ProviderResponse.text("fine", model=request.model)


class QuotesTheServer(OpenAI):
    def _parse_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return AuthenticationError(body.decode())


class EndsPolitely(OpenAI):
    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        try:
            async for chunk in super().stream(request):
                yield chunk
        except ProviderError:
            return


class CountsBytesAsLines(OpenAI):
    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        async for chunk in super().stream(request):
            chunk.text = "".join(chunk.text.splitlines())
            yield chunk


class NoUsage(OpenAI):
    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        async for chunk in super().stream(request):
            chunk.usage = None
            yield chunk


class KeepsConnections(OpenAI):
    kept: list[Any]

    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        inner = super().stream(request)
        self.kept.append(inner)
        async for chunk in inner:
            yield chunk

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        call = asyncio.ensure_future(super().complete(request))
        self.kept.append(call)
        return await asyncio.shield(call)

    async def close(self) -> None:
        for each in self.kept:
            if isinstance(each, asyncio.Future):
                each.cancel()
                await asyncio.wait([each])
            else:
                await each.aclose()
        await super().close()


class NoLimits(OpenAI):
    def _parse_rate_limits(self, headers: Mapping[str, str]) -> RateLimitStatus | None:
        return None


class KnowsModelsByHeart(OpenAI):
    async def list_models(self) -> Sequence[ModelInfo]:
        return [ModelInfo("fault-model", "known", self.capabilities)]


BROKEN_OPENAI: Mapping[str, type[OpenAI]] = {
    "test_a_key_that_the_server_repeats_is_not_passed_on": QuotesTheServer,
    "test_a_stream_is_asked_for": NeverAsksForStreams,
    "test_an_error_inside_an_answer_is_an_error": IgnoresErrorsInside,
    "test_answers_that_are_none_are_malformed": TakesAnyAnswer,
    "test_broken_connections_are_connection_errors": BlamesTheAnswer,
    "test_cancelling_a_call_closes_its_connection": KeepsConnections,
    "test_connections_are_reused": ConnectsAnew,
    "test_cut_streams_are_errors": EndsPolitely,
    "test_failures_inside_a_stream_are_errors": EndsPolitely,
    "test_health_is_told_by_listing_models": KnowsModelsByHeart,
    "test_leaving_a_stream_closes_its_connection": KeepsConnections,
    "test_nothing_is_retried_inside": Retries,
    "test_rate_limits_are_read": NoLimits,
    "test_redirects_are_not_followed": Follows,
    "test_statuses_become_the_errors_they_mean": OneErrorForAll,
    "test_streams_are_the_same_however_they_are_cut": CountsBytesAsLines,
    "test_the_request_arrives_whole": DropsUnknown,
    "test_usage_of_a_stream_is_read": NoUsage,
    "test_waits_are_read_in_every_spelling": OneErrorForAll,
}


class OpenAIUnderTest(OpenAIProviderContract):
    """The contract, over a given class."""

    disconnect_timeout = 0.05

    def __init__(self, cls: type[OpenAI]) -> None:
        self.cls = cls
        if issubclass(cls, KeepsConnections):
            cls.kept = []

    def make_at(self, context: Any, url: str, api_key: str) -> Any:
        return self.cls(OpenAICompatibleConfig(base_url=url, api_key=SecretStr(api_key)))


@pytest.mark.parametrize("test", own_tests(OpenAIProviderContract))
def test_the_openai_contract_catches(test: str) -> None:
    """Every test fails for the provider that breaks its promise (the bundled ones pass them all)."""
    with pytest.raises(CAUGHT):
        run(OpenAIUnderTest(BROKEN_OPENAI[test]), test)


# --- strategies -------------------------------------------------------------------------


class Strategy(SequentialStrategy[NoConfig]):
    """Goes through the pool in turn and keeps the contract; each class below breaks one promise."""

    last: str | None = None

    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        if self.last is None:
            return candidates[0], "turn"
        return self.in_order(candidates).following(self.last), "turn"

    def commit(self, chosen: Candidate, request: SelectionRequest) -> None:
        self.last = chosen.model_id


class AlwaysFirstMember(Strategy):
    def select(self, candidates: Sequence[Candidate], request: SelectionRequest) -> SelectionResult:
        return SelectionResult(self.pool_order[0], "provider-0", 1.0)


class NeedsTwo(Strategy):
    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        return candidates[1], "second"


class Unseeded(Strategy):
    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        return random.SystemRandom().choice(list(candidates)), "luck"


class OtherwiseFromLists(Strategy):
    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        return candidates[-1 if isinstance(candidates, list) else 0], "shape"


class SharesMemory(Strategy):
    def commit(self, chosen: Candidate, request: SelectionRequest) -> None:
        type(self).last = chosen.model_id


class RemembersTheGone(Strategy):
    first: Candidate | None = None

    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        self.first = self.first or candidates[0]
        return self.first, "for ever"


class PeekMoves(Strategy):
    def peek(self, candidates: Sequence[Candidate], request: SelectionRequest) -> SelectionResult:
        return self.select(candidates, request)


class PeekLies(Strategy):
    def peek(self, candidates: Sequence[Candidate], request: SelectionRequest) -> SelectionResult:
        return SelectionResult("another", "provider", 1.0)


class Marks(Strategy):
    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        chosen, reason = super().choose(candidates, request)
        cast("Any", chosen).in_flight += 1
        return chosen, reason


class RanksTheFailed(Strategy):
    def rank(self, candidates: Any, request: SelectionRequest, selected: SelectionResult) -> Sequence[Candidate]:
        return list(candidates)


class RanksNobody(Strategy):
    def rank(self, candidates: Any, request: SelectionRequest, selected: SelectionResult) -> Sequence[Candidate]:
        return []


class NoNumber(Strategy):
    def score(self, candidate: Candidate, request: SelectionRequest) -> float:
        return float("nan")


BROKEN_STRATEGIES: Mapping[str, type[Any]] = {
    "test_candidates_are_left_as_they_were": Marks,
    "test_it_chooses_alike_from_lists_and_from_the_pools_own_sequence": OtherwiseFromLists,
    "test_it_chooses_among_the_candidates": AlwaysFirstMember,
    "test_it_is_a_strategy": LacksMethod,
    "test_looking_moves_nothing": PeekMoves,
    "test_members_may_leave_and_join": RemembersTheGone,
    "test_peek_tells_what_select_does": PeekLies,
    "test_scores_are_finite_numbers": NoNumber,
    "test_the_only_candidate_is_chosen": NeedsTwo,
    "test_the_ranking_holds_other_candidates_once_each": RanksTheFailed,
    "test_the_ranking_leaves_nobody_out": RanksNobody,
    "test_the_same_story_has_the_same_choices": Unseeded,
    "test_two_strategies_do_not_share_their_memory": SharesMemory,
}


class StrategyUnderTest(StrategyContract):
    """The contract, over a given class."""

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls

    def make(self, context: Any) -> Any:
        return self.cls()


@pytest.mark.parametrize("test", own_tests(StrategyContract))
def test_the_strategy_contract_catches(test: str) -> None:
    """Every test passes for a good strategy and fails for the broken one."""
    run(StrategyUnderTest(Strategy), test)

    with pytest.raises(CAUGHT):
        run(StrategyUnderTest(BROKEN_STRATEGIES[test]), test)


# --- state stores -------------------------------------------------------------------------


class Store:
    """Keeps the contract's part about records; each class below breaks one promise."""

    guarantees = StoreGuarantees(survives_restart=False, shared_between_processes=False)

    def __init__(self) -> None:
        self.records: dict[str, StateRecord] = {}

    def bind(self, context: Any) -> None:
        self.clock = context.clock

    async def load(self, key: str) -> StateRecord | None:
        return self.records.get(key)

    async def save(self, key: str, data: bytes, *, expected_version: int | None = None) -> StateRecord | None:
        if not key:
            raise StateStoreError("no key")
        self.check(key)
        before = self.records.get(key)
        version = before.version if before else 0
        if expected_version not in (None, version):
            return None
        return self.put(StateRecord(key, data, version + 1, self.clock.time()))

    def check(self, key: str) -> None:
        if len(key) > 512 or any(category(letter) in ("Cc", "Cs") for letter in key):
            raise StateStoreError("bad key")

    def put(self, record: StateRecord) -> StateRecord:
        self.records[record.key] = record
        return record

    async def stat(self, key: str) -> StateRecord | None:
        record = self.records.get(key)
        return record and StateRecord(key, b"", record.version, record.modified_at)

    async def delete(self, key: str) -> bool:
        return self.records.pop(key, None) is not None

    async def list(self, prefix: str = "") -> Sequence[str]:
        return sorted(key for key in self.records if key.startswith(prefix))

    async def close(self) -> None:
        """Release nothing."""


class TakesAnyKey(Store):
    def check(self, key: str) -> None:
        """Refuse nothing."""


class StatsWithData(Store):
    async def stat(self, key: str) -> StateRecord | None:
        return self.records.get(key)


class FindsEverything(Store):
    async def load(self, key: str) -> StateRecord | None:
        return self.records.get(key) or StateRecord(key, b"", 0, 0.0)


class ReturnsNothing(Store):
    async def save(self, key: str, data: bytes, *, expected_version: int | None = None) -> StateRecord | None:
        await super().save(key, data, expected_version=expected_version)
        return None


class KeepsText(Store):
    async def save(self, key: str, data: bytes, *, expected_version: int | None = None) -> StateRecord | None:
        return await super().save(key, data.decode().encode(), expected_version=expected_version)


class FoldsCase(Store):
    async def load(self, key: str) -> StateRecord | None:
        return await super().load(key.lower())

    async def save(self, key: str, data: bytes, *, expected_version: int | None = None) -> StateRecord | None:
        return await super().save(key.lower(), data, expected_version=expected_version)


class TakesNoKey(Store):
    async def save(self, key: str, data: bytes, *, expected_version: int | None = None) -> StateRecord | None:
        return await super().save(key or "default", data, expected_version=expected_version)


class MatchesPatterns(Store):
    async def list(self, prefix: str = "") -> Sequence[str]:
        from fnmatch import fnmatch

        return sorted(key for key in self.records if fnmatch(key, f"{prefix.replace('_', '?')}*"))


class RemembersVersions(Store):
    async def delete(self, key: str) -> bool:
        record = self.records.get(key)
        if record is None:
            return False
        self.records[key] = StateRecord(key, b"", record.version, 0.0)
        return True


class NoTime(Store):
    def put(self, record: StateRecord) -> StateRecord:
        return super().put(StateRecord(record.key, record.data, record.version, 0.0))


class OneVersion(Store):
    def put(self, record: StateRecord) -> StateRecord:
        return super().put(StateRecord(record.key, record.data, 1, record.modified_at))


class WritesAnyway(Store):
    async def save(self, key: str, data: bytes, *, expected_version: int | None = None) -> StateRecord | None:
        return await super().save(key, data)


class LooksThenWrites(Store):
    async def save(self, key: str, data: bytes, *, expected_version: int | None = None) -> StateRecord | None:
        before = await self.load(key)
        if expected_version is not None and expected_version != (before.version if before else 0):
            return None
        await asyncio.sleep(0)
        return await super().save(key, data)


class ClosesStoreOnce(Store):
    closed = False

    async def close(self) -> None:
        assert not self.closed
        self.closed = True


class PromisesTooMuch(Store):
    guarantees = StoreGuarantees(survives_restart=True, shared_between_processes=True)


BROKEN_STORES: Mapping[str, type[Any]] = {
    "test_a_deleted_record_is_gone": RemembersVersions,
    "test_a_record_comes_back_as_it_was_saved": ReturnsNothing,
    "test_a_write_needs_the_version_it_expects": WritesAnyway,
    "test_an_empty_key_is_refused": TakesNoKey,
    "test_any_bytes_are_kept": KeepsText,
    "test_close_may_be_repeated": ClosesStoreOnce,
    "test_it_is_a_state_store": LacksMethod,
    "test_a_key_has_up_to_512_characters": TakesAnyKey,
    "test_stat_is_the_record_without_its_data": StatsWithData,
    "test_keys_are_kept_apart": FoldsCase,
    "test_keys_are_listed_sorted_by_prefix": MatchesPatterns,
    "test_no_change_is_lost_among_many_writers": LooksThenWrites,
    "test_nothing_is_expected_of_a_record_that_is_not_there": WritesAnyway,
    "test_one_of_many_creators_wins": LooksThenWrites,
    "test_records_outlive_the_store_if_it_says_so": PromisesTooMuch,
    "test_several_users_see_one_truth_if_it_says_so": PromisesTooMuch,
    "test_the_time_of_a_write_does_not_go_back": NoTime,
    "test_versions_count_writes": OneVersion,
    "test_what_is_not_there_is_none": FindsEverything,
}


class StoreUnderTest(StateStoreContract):
    """The contract, over a given class."""

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls

    def make(self, context: Any) -> Any:
        return self.cls()


@pytest.mark.parametrize("test", own_tests(StateStoreContract))
def test_the_state_store_contract_catches(test: str) -> None:
    """Every test about records passes for a good store, and each fails for the broken one."""
    if test != "test_it_is_a_state_store":
        run(StoreUnderTest(Store), test)

    with pytest.raises(CAUGHT):
        run(StoreUnderTest(BROKEN_STORES[test]), test)


# --- observability ---------------------------------------------------------------------------


class Observer(ConsoleObservability):
    """Keeps the contract; each class below breaks one promise."""


class RefusesEvents(Observer):
    def emit(self, event: RoutingEvent) -> None:
        print(event.metadata["reason"], file=self._output)


class RefusesTraces(Observer):
    def trace(self, entry: TraceEntry) -> None:
        print("error: " + cast("str", entry.error), file=self._output)


class RefusesLogs(Observer):
    def log(self, entry: RequestLogEntry) -> None:
        print(f"{entry.cost:.4f}", file=self._output)


class RefusesStatistics(Observer):
    def flush(self, stats: dict[str, AggregateStats]) -> None:
        next(iter(stats))


class RefusesOddValues(Observer):
    def emit(self, event: RoutingEvent) -> None:
        import json

        json.dumps(event.metadata)


class ChangesRecords(Observer):
    def emit(self, event: RoutingEvent) -> None:
        event.metadata.pop("api_key", None)


class SaysNothing(Observer):
    def _write(self, line: str) -> None:
        """Drop it."""


class TellsSecrets(Observer):
    def __init__(self, *, output: io.StringIO) -> None:
        super().__init__(ConsoleConfig(redact_secrets=False, verbose=True), output=output)


class OneThread(Observer):
    def __init__(self, *, output: io.StringIO) -> None:
        import threading

        super().__init__(output=output)
        self._thread = threading.get_ident()

    def _write(self, line: str) -> None:
        import threading

        assert threading.get_ident() == self._thread


class ClosesObserverOnce(Observer):
    is_closed = False

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


class SharesObserverLife(Observer):
    is_shut: list[object]

    def _write(self, line: str) -> None:
        assert not self.is_shut

    def close(self) -> None:
        self.is_shut.append(self)


BROKEN_OBSERVERS: Mapping[str, type[Any]] = {
    "test_close_may_be_repeated": ClosesObserverOnce,
    "test_every_event_is_taken": RefusesEvents,
    "test_every_record_is_put_out": SaysNothing,
    "test_every_request_record_is_taken": RefusesLogs,
    "test_every_severity_is_taken": RefusesTraces,
    "test_it_is_an_observability_connector": LacksMethod,
    "test_it_works_on_another_thread_than_it_was_made_on": OneThread,
    "test_odd_values_are_taken": RefusesOddValues,
    "test_records_are_left_as_they_were": ChangesRecords,
    "test_secrets_are_not_put_out": TellsSecrets,
    "test_statistics_are_taken": RefusesStatistics,
    "test_two_connectors_do_not_share_their_life": SharesObserverLife,
}


class ObserverUnderTest(ObservabilityContract):
    """The contract, over a given class."""

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls
        if issubclass(cls, SharesObserverLife):
            cls.is_shut = []

    def make(self, context: Any) -> Any:
        self.written = io.StringIO()
        return self.cls(output=self.written) if issubclass(self.cls, Observer) else self.cls()

    def output(self) -> str:
        return self.written.getvalue()


@pytest.mark.parametrize("test", own_tests(ObservabilityContract))
def test_the_observability_contract_catches(test: str) -> None:
    """Every test passes for a good connector and fails for the broken one."""
    run(ObserverUnderTest(Observer), test)

    with pytest.raises(CAUGHT):
        run(ObserverUnderTest(BROKEN_OBSERVERS[test]), test)
