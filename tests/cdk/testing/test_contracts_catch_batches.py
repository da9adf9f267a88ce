"""Each test of the batch contract fails for a connector that breaks just that promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from modelmesh.errors import ProviderError
from modelmesh_cdk.testing import BatchContract, ScriptedBatchProvider, ScriptedProvider

CAUGHT = (Exception, pytest.fail.Exception)


class TestScriptedBatches(BatchContract):
    """The scripted provider keeps it."""

    def make(self, context: Any) -> Any:
        return ScriptedBatchProvider()

    async def carry_out(self, connector: Any, job_id: str) -> None:
        await connector.work(job_id)


class WordOfItsOwn(ScriptedBatchProvider):
    async def get_batch(self, job_id: str) -> Mapping[str, Any]:
        return {**await super().get_batch(job_id), "status": "validating"}


class OneForAll(ScriptedBatchProvider):
    async def submit_batch(self, model: str, payloads: Sequence[Mapping[str, Any]]) -> str:
        await super().submit_batch(model, payloads)
        return "scripted-batch-1"


class LosesUsage(ScriptedBatchProvider):
    async def get_batch_results(self, job_id: str) -> Sequence[Mapping[str, Any] | None]:
        return [{"response": {"choices": [{}]}} for _ in await super().get_batch_results(job_id)]


class WritesToRequests(ScriptedBatchProvider):
    async def submit_batch(self, model: str, payloads: Sequence[Any]) -> str:
        for payload in payloads:
            payload["model"] = model
        return await super().submit_batch(model, payloads)


class GoesOn(ScriptedBatchProvider):
    async def cancel_batch(self, job_id: str) -> None:
        self._found(job_id).status = "in_progress"


class KnowsEveryJob(ScriptedBatchProvider):
    async def get_batch_results(self, job_id: str) -> Sequence[Mapping[str, Any] | None]:
        return await super().get_batch_results(job_id) if job_id in self.batches else []


BROKEN: Mapping[str, type[Any]] = {
    "test_a_batch_has_an_id_and_a_status": WordOfItsOwn,
    "test_a_cancelled_batch_ends": GoesOn,
    "test_an_unknown_batch_is_a_provider_error": KnowsEveryJob,
    "test_it_takes_batches": ScriptedProvider,
    "test_results_stand_where_their_requests_stood": LosesUsage,
    "test_the_requests_are_left_as_they_were": WritesToRequests,
    "test_two_batches_are_two": OneForAll,
}


class BatchesUnderTest(TestScriptedBatches):
    """The contract, over a given class."""

    __test__ = False

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls

    def make(self, context: Any) -> Any:
        return self.cls()


@pytest.mark.parametrize("test", sorted(name for name in vars(BatchContract) if name.startswith("test_")))
def test_the_batch_contract_catches(test: str) -> None:
    """Every test fails for the broken one; a new test needs a broken one here."""
    with pytest.raises(CAUGHT):
        getattr(BatchesUnderTest(BROKEN[test]), test)()


def test_scripted_batches_fail_as_they_are_told() -> None:
    """Each request meets the next step; a failure is its result, and the others are answered."""

    async def scenario(provider: Any) -> Any:
        job_id = await provider.submit_batch("m", [{"messages": []}] * 3)
        await provider.work(job_id, requests=2)
        return await provider.get_batch(job_id), await provider.get_batch_results(job_id)

    provider = BatchesUnderTest(lambda: ScriptedBatchProvider(["one", ProviderError("no")]))  # type: ignore[arg-type]  # it makes one
    said, results = provider.drive_batches(scenario)

    assert said == {"status": "in_progress", "completed": 1, "failed": 1}
    assert results[1:] == [{"error": {"type": "ProviderError", "message": "no"}}, None]
