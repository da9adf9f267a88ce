"""Both connectors keep ModelMesh's contracts, like every other of their kinds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from modelmesh_acme.observability import AcmeJsonLines, AcmeJsonLinesConfig
from modelmesh_acme.provider import AcmeConfig, AcmeProvider

from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh_cdk.testing import ObservabilityContract, ProviderContract

KEY = "acme-canary-0815-do-not-show"


def provider(handler: Callable[[httpx.Request], Any]) -> AcmeProvider:
    """Return a provider whose requests a function answers."""
    config = AcmeConfig.model_validate({"api_key": KEY, "base_url": "http://acme.test/v2"})
    return AcmeProvider(config, transport=httpx.MockTransport(handler))


class TestAcmeProvider(ProviderContract):
    """The provider, with an Acme that answers, one that refuses, and one that never answers."""

    model = "acme-swift"
    secrets = (KEY,)

    @pytest.fixture(autouse=True)
    def _acme(self, api: Callable[[httpx.Request], httpx.Response]) -> None:
        self.api = api

    def make(self, context: ConnectorContext) -> AcmeProvider:
        """Build one that is answered."""
        return provider(self.api)

    def make_failing(self, context: ConnectorContext) -> AcmeProvider:
        """Build one that is told its own key is wrong."""
        fault = {"fault": {"kind": "bad_key", "says": f"who is Bearer {KEY}?"}}
        return provider(lambda _: httpx.Response(401, json=fault))

    def make_hanging(self, context: ConnectorContext) -> AcmeProvider:
        """Build one that waits for ever."""

        async def never(_: httpx.Request) -> httpx.Response:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets the event")

        return provider(never)


class TestAcmeJsonLines(ObservabilityContract):
    """The observability connector, read back from its file."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = tmp_path / "events.jsonl"

    def make(self, context: ConnectorContext) -> AcmeJsonLines:
        """Build one with a fresh file."""
        self.file = self.file.with_name(f"{self.file.stem}-next.jsonl")
        return AcmeJsonLines(AcmeJsonLinesConfig(path=self.file))

    def output(self) -> str:
        """Return what the newest file holds."""
        return self.file.read_text() if self.file.exists() else ""
