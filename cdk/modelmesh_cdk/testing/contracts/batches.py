"""The contract of provider connectors that hand whole batches over."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, TypeVar

import pytest

from modelmesh.errors import ProviderError
from modelmesh.interfaces.provider import BatchConnector
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh_cdk.testing.clock import context

Result = TypeVar("Result")
Scenario = Callable[[Any], Awaitable[Result]]

ENDED = frozenset({"completed", "failed", "cancelled", "expired"})
STATES = ENDED | {"queued", "in_progress"}


class BatchContract:
    """Inherit it beside `ProviderContract`, and write `make` and `carry_out`.

    Attributes:
        model: A model the connector made by `make` takes batches for.
        patience: Real seconds any one test may take before it counts as hanging.
    """

    model: ClassVar[str] = "test-model"
    patience: ClassVar[float] = 10.0

    # --- what subclasses write --------------------------------------------------------

    def make(self, context: ConnectorContext) -> Any:
        """Build a connector whose provider takes batches; the contract binds it."""
        raise NotImplementedError(f"{type(self).__name__} must say in make() how its connector is built")

    async def carry_out(self, connector: Any, job_id: str) -> None:
        """See to it that the provider carries a batch out, to its end."""
        raise NotImplementedError(f"{type(self).__name__} must say in carry_out() how a batch comes to its end")

    def payload(self, text: str) -> dict[str, Any]:
        """Build the body of a request that the provider can answer."""
        return {"messages": [{"role": "user", "content": text}]}

    # --- the contract -------------------------------------------------------------------

    def test_it_takes_batches(self) -> None:
        """It has the four methods the engine calls."""
        assert isinstance(self.make(context()), BatchConnector)

    def test_a_batch_has_an_id_and_a_status(self) -> None:
        """The ID is text; the status is one of those the mesh knows; counts, where given, are within the batch."""

        async def scenario(connector: Any) -> Mapping[str, Any]:
            job_id = await connector.submit_batch(self.model, [self.payload("one"), self.payload("two")])
            assert isinstance(job_id, str)
            assert job_id
            said: Mapping[str, Any] = await connector.get_batch(job_id)
            return said

        said = self.drive_batches(scenario)

        assert said["status"] in STATES
        assert all(0 <= said.get(count, 0) <= 2 for count in ("completed", "failed"))

    def test_two_batches_are_two(self) -> None:
        """The same requests handed over twice are two jobs."""

        async def scenario(connector: Any) -> list[str]:
            return [await connector.submit_batch(self.model, [self.payload("one")]) for _ in range(2)]

        assert len(set(self.drive_batches(scenario))) == 2

    def test_results_stand_where_their_requests_stood(self) -> None:
        """A batch that was carried out has ended and has one result a request, in OpenAI's shape with its usage."""

        async def scenario(connector: Any) -> tuple[Mapping[str, Any], list[Any]]:
            payloads = [self.payload(f"number {number}") for number in range(3)]
            job_id = await connector.submit_batch(self.model, payloads)
            await self.carry_out(connector, job_id)
            return await connector.get_batch(job_id), list(await connector.get_batch_results(job_id))

        said, results = self.drive_batches(scenario)

        assert said["status"] in ENDED
        assert len(results) == 3
        for result in results:
            assert result["response"]["choices"], "an answer needs at least one choice"
            assert result["response"]["usage"]["prompt_tokens"] >= 0, "an answer without usage counts as estimated"
        assert said.get("completed", 3) == 3

    def test_the_requests_are_left_as_they_were(self) -> None:
        """They are shared with other providers that may be asked next."""
        payloads = [self.payload("one")]
        before = copy.deepcopy(payloads)

        self.drive_batches(lambda connector: connector.submit_batch(self.model, payloads))

        assert payloads == before

    def test_a_cancelled_batch_ends(self) -> None:
        """Whatever was answered before, nothing is afterwards; cancelling what has ended changes nothing."""

        async def scenario(connector: Any) -> tuple[Mapping[str, Any], list[Any]]:
            job_id = await connector.submit_batch(self.model, [self.payload("one")])
            await connector.cancel_batch(job_id)
            await self.carry_out(connector, job_id)
            said = await connector.get_batch(job_id)
            await connector.cancel_batch(job_id)
            assert (await connector.get_batch(job_id))["status"] == said["status"]
            return said, list(await connector.get_batch_results(job_id))

        said, results = self.drive_batches(scenario)

        assert said["status"] in ENDED
        assert said.get("completed", 0) == sum(result is not None and "response" in result for result in results)

    def test_an_unknown_batch_is_a_provider_error(self) -> None:
        """Nobody takes an empty answer for a batch that is gone."""

        async def scenario(connector: Any) -> None:
            for ask in (connector.get_batch, connector.get_batch_results, connector.cancel_batch):
                with pytest.raises(ProviderError):
                    await ask("no-such-batch-anywhere")

        self.drive_batches(scenario)

    # --- inside -------------------------------------------------------------------------

    def drive_batches(self, scenario: Scenario[Result]) -> Result:
        """Run a scenario with a bound connector, on a loop of its own, and close the connector after it."""

        async def run() -> Result:
            about = context("contract")
            connector = self.make(about)
            connector.bind(about)
            try:
                return await scenario(connector)
            finally:
                await connector.close()

        async def in_time() -> Result:
            async with asyncio.timeout(self.patience):
                return await run()

        return asyncio.run(in_time())
