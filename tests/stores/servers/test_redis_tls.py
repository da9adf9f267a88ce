"""Redis over TLS: only a server whose certificate is trusted is talked to."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import GRANTED, WindowClaim

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this host, signed by itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*words.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    return folder / "cert.pem", folder / "key.pem"


def test_a_trusted_server_is_used(redis: Any, certificate: tuple[Path, Path]) -> None:
    """With its authority named, all works over rediss://."""

    async def scenario() -> None:
        async with _tls(redis.server.port, certificate) as port:
            store = redis.make(url=f"rediss://127.0.0.1:{port}/0", tls_ca_file=str(certificate[0]))
            listener = store.subscribe("news")
            try:
                assert await store.reserve("one", [WindowClaim("budget", 1, 10, 60.0)], lease=60.0) == GRANTED
                await store.publish("news", b"heard")
                assert await anext(listener) == b"heard"
            finally:
                await listener.aclose()
                await store.close()

    asyncio.run(scenario())


def test_an_unknown_certificate_is_refused(redis: Any, certificate: tuple[Path, Path]) -> None:
    """Nothing is sent, and the remedy is named."""

    async def scenario() -> None:
        async with _tls(redis.server.port, certificate) as port:
            store = redis.make(url=f"rediss://:hunter22@127.0.0.1:{port}/0")
            try:
                with pytest.raises(StateStoreError, match=r"storage\.tls_ca_file") as caught:
                    await store.load("key")
                assert not caught.value.retryable
                assert "hunter22" not in caught.value.message
            finally:
                await store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("what", ["missing", "folder", "no certificate", "missing, in the URL"])
def test_a_certificate_file_that_cannot_be_read_is_told(
    redis: Any, certificate: tuple[Path, Path], tmp_path: Path, what: str
) -> None:
    """The settings of TLS are named: the server runs, and its place is right."""
    (tmp_path / "no certificate").write_text("words")
    (tmp_path / "folder").mkdir()
    file = str(tmp_path / what)

    async def scenario() -> None:
        async with _tls(redis.server.port, certificate) as port:
            url = f"rediss://127.0.0.1:{port}/0"
            in_url = what.endswith("URL")
            store = redis.make(url=f"{url}?ssl_certfile={file}") if in_url else redis.make(url=url, tls_ca_file=file)
            try:
                with pytest.raises(StateStoreError, match=r"certificate file cannot be read; see storage\.") as caught:
                    await store.load("key")
                assert not caught.value.retryable
            finally:
                await store.close()

    asyncio.run(scenario())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open descriptors")
def test_loops_that_ended_keep_no_connection(redis: Any, certificate: tuple[Path, Path]) -> None:
    """Over TLS too, what ended loops leave open is closed when the next one comes."""

    async def scenario() -> None:
        async with _tls(redis.server.port, certificate) as port:
            store = redis.make(url=f"rediss://127.0.0.1:{port}/0", tls_ca_file=str(certificate[0]))
            await asyncio.to_thread(asyncio.run, store.save("first", b""))
            before = _descriptors()
            for number in range(10):
                await asyncio.to_thread(asyncio.run, store.save(f"{number}", b""))
            assert _descriptors() <= before + 6  # here and in front of the server
            await store.close()
            gc.collect()

    asyncio.run(scenario())


def _descriptors() -> int:
    """How many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def _tls(target: int, certificate: tuple[Path, Path]) -> AsyncIterator[int]:
    """Speak TLS in front of a port."""
    tasks: set[asyncio.Task[None]] = set()
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    settings.load_cert_chain(*certificate)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(carry(reader, here), carry(there, writer))

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=settings)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=2.0)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
