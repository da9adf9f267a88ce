"""Acme without a network: a transport that answers as Acme would."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from modelmesh_acme.provider import AcmeConfig, AcmeProvider

from modelmesh.interfaces.provider import ProviderRequest

Answer = Callable[[httpx.Request], httpx.Response]
KEY = "acme-canary-0815-do-not-show"


class FakeAcme:
    """What Acme answers, and what it was asked; put another function in ``answer`` to change the first."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.answer: Answer = _converse

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Be the handler of an ``httpx.MockTransport``."""
        self.requests.append(request)
        return self.answer(request)

    def last_body(self) -> dict[str, Any]:
        """What Acme was last asked."""
        body: dict[str, Any] = json.loads(self.requests[-1].read())
        return body

    def fault(self, status: int, kind: str, **facts: Any) -> None:
        """Answer with trouble from now on."""
        self.answer = lambda _: httpx.Response(status, json={"fault": {"kind": kind, "says": "no", **facts}})

    def lines(self, *records: Any) -> None:
        """Answer with a stream of these lines from now on."""
        text = "".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records)
        self.answer = lambda _: httpx.Response(200, content=text.encode())


def _converse(request: httpx.Request) -> httpx.Response:
    if request.url.path.endswith("/engines"):
        return httpx.Response(200, json={"engines": ["acme-swift", "acme-next"]})
    asked = json.loads(request.read())
    said, metered = asked["turns"][-1]["says"], {"heard": 3, "spoken": 2}
    if not asked.get("stream"):
        return httpx.Response(200, json={"ref": "r-1", "says": said, "ended": "done", "metered": metered})
    lines = [{"says": said[:3]}, {"says": said[3:]}, {"ended": "done", "metered": metered}]
    return httpx.Response(200, content="".join(f"{json.dumps(line)}\n" for line in lines).encode())


@pytest.fixture
def api() -> FakeAcme:
    """Acme itself."""
    return FakeAcme()


@pytest.fixture
def acme(api: FakeAcme) -> AcmeProvider:
    """A provider that talks to it."""
    config = AcmeConfig.model_validate({"api_key": KEY, "base_url": "http://acme.test/v2/"})
    return AcmeProvider(config, transport=httpx.MockTransport(api))


@pytest.fixture
def hello() -> ProviderRequest:
    """A request."""
    return ProviderRequest("acme-swift", {"messages": [{"role": "user", "content": "hello"}]})
