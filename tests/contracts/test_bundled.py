"""The bundled connectors pass the contracts of their kinds."""

from __future__ import annotations

import io

import pytest
from pydantic import SecretStr

from modelmesh.errors import ProviderServerError
from modelmesh.interfaces.observability import ObservabilityConnector
from modelmesh.interfaces.provider import ProviderConnector
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.state_store import StateStore
from modelmesh.interfaces.strategy import SelectionStrategy
from modelmesh_cdk.console import ConsoleConfig
from modelmesh_cdk.openai_compatible import OpenAICompatibleConfig
from modelmesh_cdk.testing import (
    ObservabilityContract,
    OpenAIProviderContract,
    ProviderContract,
    ScriptedProvider,
    StateStoreContract,
    StrategyContract,
    hang,
)
from modelmesh_plugins.observability.console import ConsoleConnector
from modelmesh_plugins.observability.null import NullObservability
from modelmesh_plugins.providers.openai import OpenAIConfig, OpenAIProvider
from modelmesh_plugins.providers.openai_compatible import GenericOpenAIProvider
from modelmesh_plugins.providers.simulator import Failure, SimulatorConfig, SimulatorProvider
from modelmesh_plugins.state_stores.memory import MemoryStateStore
from modelmesh_plugins.strategies.priority_selection import PriorityConfig, PrioritySelection
from modelmesh_plugins.strategies.round_robin import RoundRobin
from modelmesh_plugins.strategies.stick_until_failure import StickUntilFailure


class TestOpenAI(OpenAIProviderContract):
    """``openai.llm.v1``."""

    def make_at(self, context: ConnectorContext, url: str, api_key: str) -> ProviderConnector:
        return OpenAIProvider(OpenAIConfig(base_url=url, api_key=SecretStr(api_key)))


class TestOpenAICompatible(OpenAIProviderContract):
    """``modelmesh.openai-compatible.v1``."""

    def make_at(self, context: ConnectorContext, url: str, api_key: str) -> ProviderConnector:
        return GenericOpenAIProvider(OpenAICompatibleConfig(base_url=url, api_key=SecretStr(api_key)))


class TestSimulator(ProviderContract):
    """``modelmesh.simulator.v1``."""

    def make(self, context: ConnectorContext) -> ProviderConnector:
        return SimulatorProvider()

    def make_failing(self, context: ConnectorContext) -> ProviderConnector:
        return SimulatorProvider(SimulatorConfig(failures=[Failure(every=1)]))

    def make_hanging(self, context: ConnectorContext) -> ProviderConnector:
        # It sleeps on the context's clock, which nobody moves.
        return SimulatorProvider(SimulatorConfig(latency=60.0))


class TestScripted(ProviderContract):
    """The testing kit's own provider."""

    def make(self, context: ConnectorContext) -> ProviderConnector:
        return ScriptedProvider()

    def make_failing(self, context: ConnectorContext) -> ProviderConnector:
        return ScriptedProvider(default=ProviderServerError("scripted"))

    def make_hanging(self, context: ConnectorContext) -> ProviderConnector:
        return ScriptedProvider(default=hang())


class TestStickUntilFailure(StrategyContract):
    """``modelmesh.stick-until-failure.v1``."""

    def make(self, context: ConnectorContext) -> SelectionStrategy:
        return StickUntilFailure()


class TestRoundRobin(StrategyContract):
    """``modelmesh.round-robin.v1``."""

    def make(self, context: ConnectorContext) -> SelectionStrategy:
        return RoundRobin()


class TestPrioritySelection(StrategyContract):
    """``modelmesh.priority-selection.v1`` with its default fallback."""

    def make(self, context: ConnectorContext) -> SelectionStrategy:
        strategy = PrioritySelection(PriorityConfig(model_priority=["model-3"], provider_priority=["provider-1"]))
        strategy.set_fallback(RoundRobin())
        return strategy


class TestMemory(StateStoreContract):
    """``modelmesh.memory.v1``."""

    def make(self, context: ConnectorContext) -> StateStore:
        return MemoryStateStore()


class TestNull(ObservabilityContract):
    """``modelmesh.null.v1``."""

    def make(self, context: ConnectorContext) -> ObservabilityConnector:
        return NullObservability()

    def test_every_record_is_put_out(self) -> None:
        """It puts nothing out, by design."""
        pytest.skip("it has no output")

    def test_secrets_are_not_put_out(self) -> None:
        """It puts nothing out, by design."""
        pytest.skip("it has no output")


class TestConsole(ObservabilityContract):
    """``modelmesh.console.v1``, telling all it knows."""

    def make(self, context: ConnectorContext) -> ObservabilityConnector:
        self.written = io.StringIO()
        return ConsoleConnector(ConsoleConfig(verbose=True), output=self.written)

    def output(self) -> str:
        return self.written.getvalue()
