"""Requests over httpx's own transport, cancelled at every moment there is."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from modelmesh_cdk.sheltered import ShelteredTransport
from modelmesh_cdk.testing import until
from modelmesh_cdk.testing.fault_server import FaultServer

TIMEOUT = {"timeout": {"connect": 5.0, "pool": 5.0, "read": 5.0, "write": 5.0}}


@pytest.mark.parametrize("turns", range(24))
def test_a_request_that_is_cancelled_leaves_its_place_to_others(turns: int) -> None:
    """After so many turns of the loop: before a connection was chosen for it, while one is opened, when it is open."""

    async def scenario(server: FaultServer) -> int:
        transport = ShelteredTransport(limits=httpx.Limits(max_connections=2))

        async def ask() -> int:
            request = httpx.Request("GET", f"{server.url}/models", extensions=TIMEOUT)
            response = await transport.handle_async_request(request)
            try:
                await response.aread()
            finally:
                await response.aclose()
            return response.status_code

        for _ in range(3):  # more than there are places
            asking = asyncio.ensure_future(ask())
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
        await until(lambda: len(asyncio.all_tasks()) == 1)
        status = await ask()
        await transport.aclose()
        return status

    with FaultServer() as server:
        assert asyncio.run(scenario(server)) == 200
        assert server.wait_until_unconnected()
