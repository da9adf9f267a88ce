"""``acme.llm.v1``: chat completions from Acme's conversation API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import ClassVar, Literal

import httpx
from pydantic import Field, SecretStr

from modelmesh.errors import MalformedResponseError, UnsupportedRequestError
from modelmesh.interfaces.provider import (
    ModelInfo,
    ModelPricing,
    ProviderChunk,
    ProviderRequest,
    ProviderResponse,
    Timeouts,
)
from modelmesh_acme import wire
from modelmesh_cdk import BaseProvider, BaseProviderConfig, Http
from modelmesh_cdk.json_codec import encode_json
from modelmesh_cdk.provider import CHAT


class AcmeConfig(BaseProviderConfig):
    """Settings of one Acme provider."""

    api_key: SecretStr = Field(description="Sent as X-Acme-Key; write it as ${secrets:ACME_API_KEY}.")
    base_url: str = Field(default="https://api.acme.example/v2", pattern=r"^https?://", description="Where Acme is.")
    tone: Literal["plain", "cheerful"] = Field(default="plain", description="How Acme speaks.")
    timeout: float | None = Field(default=None, gt=0, description="Whole request, in seconds; by default the pool's.")


class AcmeProvider(BaseProvider[AcmeConfig]):
    """Chat completions from Acme."""

    config_model: ClassVar[type[BaseProviderConfig]] = AcmeConfig
    environment_variables = ("ACME_API_KEY",)
    known_models: ClassVar[Mapping[str, ModelInfo]] = {
        "acme-swift": ModelInfo("acme-swift", "Acme Swift", (CHAT,), 32_000, 4_096, ModelPricing(0.0002, 0.0008)),
        "acme-grand": ModelInfo("acme-grand", "Acme Grand", (CHAT,), 200_000, 16_384, ModelPricing(0.003, 0.012)),
    }

    def __init__(self, config: AcmeConfig | None = None, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        super().__init__(config)
        self.http = Http(transport=transport)
        self._converse = httpx.URL(f"{self.config.base_url.rstrip('/')}/converse")
        self._engines = httpx.URL(f"{self.config.base_url.rstrip('/')}/engines")

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        """Answer whole."""
        body = self._body(request)
        reply = await self.http.send("POST", self._converse, self._headers, body, timeouts=self._timeouts(request))
        if reply.status != 200:
            raise wire.error_of(reply.status, reply.body, reply.headers)
        return wire.from_wire(reply.json(), model=request.model, created=self._now())

    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        """Answer piece by piece; closing the generator hangs up on Acme."""
        body = self._body(request)
        async with self.http.stream(
            "POST", self._converse, self._headers, body, timeouts=self._timeouts(request)
        ) as reply:
            if reply.status != 200:
                raise wire.error_of(reply.status, await reply.read(), reply.headers)
            decoder = wire.StreamDecoder(model=request.model, created=self._now())
            async with aclosing(reply.chunks()) as parts:
                async for part in parts:
                    for chunk in decoder.feed(part):
                        yield chunk
                    if decoder.is_done:
                        return
            decoder.end()

    async def list_models(self) -> Sequence[ModelInfo]:
        """Ask Acme for its engines; those it has grown since this release come without figures."""
        reply = await self.http.send("GET", self._engines, self._headers, timeouts=Timeouts(total=10.0))
        if reply.status != 200:
            raise wire.error_of(reply.status, reply.body, reply.headers)
        listed = reply.json()
        engines = listed.get("engines") if isinstance(listed, dict) else None
        if not isinstance(engines, list):
            raise MalformedResponseError("acme's answer lists no engines", status_code=200)
        return [self.known_models.get(str(name)) or ModelInfo(str(name), str(name), (CHAT,)) for name in engines]

    async def close(self) -> None:
        """Close connections."""
        await self.http.close()

    def _body(self, request: ProviderRequest) -> bytes:
        if request.operation != "chat":
            raise UnsupportedRequestError(f"acme talks, it does no {request.operation}")
        return encode_json(wire.to_wire(request, tone=self.config.tone))

    def _headers(self) -> dict[str, str]:
        # Called by the transport when it needs them, so that the key stands in no frame of a traceback.
        return {"content-type": "application/json", "x-acme-key": self.config.api_key.get_secret_value()}

    def _timeouts(self, request: ProviderRequest) -> Timeouts:
        own, given = self.config.timeout, request.timeouts
        if own is None or (given.total is not None and given.total <= own):
            return given
        return Timeouts(given.connect, given.first_token, given.idle, own)

    def _now(self) -> int:
        return int(self.context.clock.time()) if self.context is not None else 0
