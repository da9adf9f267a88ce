"""Plugins of others, published for one test and found by a host of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh.plugins import PluginHost

Publish = Callable[..., None]

WORKING = '''
from modelmesh.hookspecs import hookimpl


class Provider:
    """Answers for Acme."""

    async def complete(self, request): ...
    def stream(self, request): ...
    async def close(self): ...

    @classmethod
    @hookimpl
    def modelmesh_providers(cls):
        return {"": cls}


class Reporter:
    def emit(self, event): ...
    def log(self, entry): ...
    def flush(self, stats): ...
    def trace(self, entry): ...
'''


@pytest.fixture
def host() -> PluginHost:
    """The plugins of this environment, found when they are first asked for."""
    return PluginHost()


@pytest.fixture
def working() -> str:
    """A module that offers a provider which works, and holds a reporter beside it."""
    return WORKING


@pytest.fixture
def good(site: Any) -> Publish:
    """Publish a provider plugin that works: of this ID, in this distribution."""

    def publish(name: str = "acme.good.v1", distribution: str = "acme-good", **more: Any) -> None:
        module = distribution.replace("-", "_")
        site.publish(distribution, {"providers": {name: f"{module}:Provider"}}, **{module: WORKING}, **more)

    return publish
