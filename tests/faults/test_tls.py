"""TLS that cannot be trusted or never gets going: no request is sent, and the next provider answers."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that nobody has signed, with its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    key, public, both = folder / "key.pem", folder / "certificate.pem", folder / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(key), "-out", str(public), "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    both.write_bytes(key.read_bytes() + public.read_bytes())
    return both


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Starts a server that does this with each connection; returns its base URL."""
    with ExitStack() as stack:

        def start(serve: Callable[[socket.socket], None]) -> str:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            stack.callback(listening.shutdown, socket.SHUT_RDWR)

            def accept() -> None:
                with suppress(OSError):
                    while True:
                        connection, _ = listening.accept()
                        with connection, suppress(OSError):
                            connection.settimeout(2.0)
                            serve(connection)

            thread = threading.Thread(target=accept, daemon=True)
            thread.start()
            return f"https://127.0.0.1:{listening.getsockname()[1]}/v1"

        yield start


def test_a_certificate_that_nobody_vouches_for_gets_no_request(world: Any, listen: Any, certificate: Path) -> None:
    """F3: the key is not shown to whoever happens to answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    received: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            received.append(secured.recv(1_000))

    world.elsewhere(listen(serve))
    world.provider("second")

    answer = world.ask()

    first, _ = answer.metadata["receipt"].attempts
    assert answer.content == "second"
    assert first.outcome == "network"
    assert "certificate" in first.reason.lower()
    assert received in ([], [b""])


def test_a_handshake_that_stalls_runs_into_the_clock_of_connecting(world: Any, listen: Any) -> None:
    """F3: a connection that stands is not yet one that can be used."""

    def serve(connection: socket.socket) -> None:
        while connection.recv(1_000):
            pass

    world.elsewhere(listen(serve))
    world.provider("second")
    world.build(timeouts={"connect": 0.1, "total": 2.0})

    answer = world.ask()

    first, _ = answer.metadata["receipt"].attempts
    assert answer.content == "second"
    assert first.outcome == "timeout"
    assert first.latency_ms < 1_500


@pytest.mark.parametrize(
    "says", [b"HTTP/1.1 200 OK\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28", b""], ids=["plain HTTP", "alert", "nothing"]
)
def test_a_peer_that_speaks_no_tls_is_rotated_away(world: Any, listen: Any, says: bytes) -> None:
    """F3: https where there is none is a broken connection."""

    def serve(connection: socket.socket) -> None:
        connection.recv(5_000)
        connection.sendall(says)

    world.elsewhere(listen(serve))
    world.provider("second")

    answer = world.ask()

    assert answer.content == "second"
    assert answer.metadata["receipt"].attempts[0].outcome == "network"
