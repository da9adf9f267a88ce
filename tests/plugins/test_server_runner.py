"""ProxyServer starts, says how it is, and stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import httpx
import pytest

from modelmesh.errors import ConfigurationError, UsageError
from modelmesh.mesh import ModelMesh
from modelmesh_plugins.server.runner import ProxyServer
from modelmesh_plugins.server.settings import ServerSettings

BODY = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def mesh() -> Iterator[ModelMesh]:
    """A mesh on the simulator."""
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(
            {
                "providers": {"sim": {"connector": "modelmesh.simulator.v1"}},
                "models": {"m": {"provider": "sim", "capabilities": ["chat-completion"]}},
                "pools": {"chat": {"capability": "chat-completion"}},
            }
        )
        yield mesh


def is_listening(server: ProxyServer) -> bool:
    """Whether anybody accepts connections on the server's port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.get_status().port)) == 0


def test_it_listens_on_the_port_it_names_until_it_is_stopped(mesh: ModelMesh) -> None:
    """Port 0 becomes a real one, and is free again at the end."""
    server = ProxyServer(mesh, ServerSettings(port=0))

    server.start()
    assert server.url == f"http://127.0.0.1:{server.get_status().port}"
    assert is_listening(server)
    server.stop()

    assert not is_listening(server)


def test_the_status_tells_what_it_does(mesh: ModelMesh) -> None:
    """Running or not, and how many requests there were."""
    server = ProxyServer(mesh, ServerSettings(port=0))
    before = server.get_status()

    with server:
        httpx.post(f"{server.url}/v1/chat/completions", json=BODY, trust_env=False)
        during = server.get_status()

    assert (before.running, before.uptime_seconds, before.total_requests) == (False, 0.0, 0)
    assert (during.running, during.total_requests) == (True, 1)
    assert during.uptime_seconds > 0
    assert (server.get_status().running, server.get_status().active_connections) == (False, 0)


def test_blocking_clients_of_the_mesh_work_beside_it(mesh: ModelMesh) -> None:
    """Both share the mesh's loop and state."""
    with ProxyServer(mesh, ServerSettings(port=0)) as server:
        own = mesh.get_client().chat.completions.create(**BODY)
        theirs = httpx.post(f"{server.url}/v1/chat/completions", json=BODY, trust_env=False).json()

    assert own.choices[0].message.content == theirs["choices"][0]["message"]["content"]


def test_it_serves_inside_somebodys_loop(mesh: ModelMesh) -> None:
    """`serve` returns once a stop was asked for."""

    async def serving() -> int:
        server, ready = ProxyServer(mesh, ServerSettings(port=0)), asyncio.Event()
        running = asyncio.create_task(server.serve(ready=ready.set))
        await ready.wait()
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(f"{server.url}/v1/chat/completions", json=BODY)
        server.request_stop()
        await running
        return answer.status_code

    assert asyncio.run(serving()) == 200


def test_a_taken_port_is_known_at_once(mesh: ModelMesh) -> None:
    """Starting raises; nothing runs afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = ProxyServer(mesh, ServerSettings(port=taken.getsockname()[1]))
        with pytest.raises(OSError, match="in use"):
            server.start()

    assert not server.get_status().running


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_foreign_address_is_refused_before_the_port_is_taken(mesh: ModelMesh, host: str) -> None:
    """Without a key nobody but this machine may call."""
    with pytest.raises(ConfigurationError, match="without a key"):
        ProxyServer(mesh, ServerSettings(host=host, port=0)).start()


def test_it_is_started_once(mesh: ModelMesh) -> None:
    """A second start is a mistake, not a second server."""
    with ProxyServer(mesh, ServerSettings(port=0)) as server, pytest.raises(UsageError, match="started already"):
        server.start()


def test_a_mesh_that_is_shut_down_first_takes_the_server_along(mesh: ModelMesh) -> None:
    """The wrong order ends as well, and frees the port."""
    server = ProxyServer(mesh, ServerSettings(port=0))
    server.start()

    mesh.shutdown()
    server.stop()

    assert not server.get_status().running
    assert not is_listening(server)


def test_stopping_twice_is_harmless(mesh: ModelMesh) -> None:
    """And so is stopping what was never started."""
    server = ProxyServer(mesh, ServerSettings(port=0))
    server.stop()
    server.start()

    server.stop()
    server.stop()
