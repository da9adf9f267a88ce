"""ProxyServer: listens, serves and stops, on the caller's event loop or on the mesh's own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import uvicorn

from modelmesh.errors import UsageError
from modelmesh.mesh import ModelMesh
from modelmesh.redaction import Redactor
from modelmesh_plugins.server.app import create_app
from modelmesh_plugins.server.guard import Activity
from modelmesh_plugins.server.settings import ServerSettings

_BACKLOG = 2048
_IDLE_CONNECTION = 75
"""Seconds an idle connection stays open: longer than clients keep theirs, so that it is they who close."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What a server is doing.

    Attributes:
        running: Whether it takes requests.
        host: Where it listens.
        port: Where it listens; the real one if any free one was asked for.
        uptime_seconds: Since it was started; 0 before.
        active_connections: Requests running now.
        total_requests: Requests so far.
    """

    running: bool
    host: str
    port: int
    uptime_seconds: float
    active_connections: int
    total_requests: int


class ProxyServer:
    """Serves a mesh over HTTP; whoever built the mesh shuts it down.

    Use `serve` inside an event loop, or `start` and `stop` (or ``with``) without one.

    Args:
        mesh: An initialised mesh.
        settings: Where to listen, who may call, and limits.
        secrets: Values that must appear in no answer.
    """

    def __init__(self, mesh: ModelMesh, settings: ServerSettings | None = None, *, secrets: Iterable[str] = ()) -> None:
        self._settings = settings or ServerSettings()
        self._mesh = mesh
        self._activity = Activity()
        self._redactor = Redactor()
        self._app = create_app(mesh, self._settings, activity=self._activity, secrets=secrets, redactor=self._redactor)
        self._socket: socket.socket | None = None
        self._server: _Listener | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._port = self._settings.port

    def __repr__(self) -> str:
        return f"ProxyServer({self.url}, {'running' if self.get_status().running else 'not running'})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """What clients take as ``base_url``, without the ``/v1``."""
        host = self._settings.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    def get_status(self) -> ServerStatus:
        """Say what the server is doing."""
        running = self._server is not None and self._server.started and not self._server.should_exit
        return ServerStatus(
            running,
            self._settings.host,
            self._port,
            self._activity.uptime if running else 0.0,
            self._activity.active,
            self._activity.total,
        )

    def hide(self, secrets: Iterable[str]) -> None:
        """Let further values appear in no answer: those of a configuration that was loaded meanwhile."""
        for secret in secrets:
            self._redactor.add(secret)

    def bind(self) -> None:
        """Take the port, so that whatever is wrong with it is known before anything else happens.

        Raises:
            ConfigurationError: The host is not loopback, and there is no key.
            OSError: The port is taken, or the host is none of this machine's.
        """
        if self._socket is not None:
            raise UsageError("the server was started already; build a new one")
        found = socket.getaddrinfo(
            self._settings.host, self._settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        self._settings.require_key_for([str(address[4][0]) for address in found])
        family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        listening = socket.create_server(address, family=family, backlog=_BACKLOG)
        self._port = listening.getsockname()[1]
        self._socket = listening

    async def serve(self, *, ready: Callable[[], None] | None = None) -> None:
        """Serve until `request_stop` is called, then give running requests time to finish.

        Args:
            ready: Called once requests are taken.

        Raises:
            ConfigurationError: As for `bind`.
            OSError: As for `bind`.
        """
        if self._socket is None:
            self.bind()
        assert self._socket is not None
        server = self._server = _Listener(_uvicorn_config(self._app, self._settings), ready)
        try:
            with _no_word_of_cancelled_tasks():
                await server.serve(sockets=[self._socket])
            await self._last_answers()
        finally:
            self._socket.close()

    def request_stop(self, *, at_once: bool = False) -> None:
        """Take no more requests, and let `serve` end; may be called from any thread and from a signal handler.

        Args:
            at_once: Whether to leave running requests no time.
        """
        if self._server is not None:
            self._server.should_exit = True
            self._server.force_exit = self._server.force_exit or at_once

    def start(self) -> None:
        """Serve on the mesh's own event loop, where blocking callers' requests run as well; returns when ready.

        Raises:
            ConfigurationError: As for `bind`.
            OSError: As for `bind`.
        """
        self.bind()
        self._thread = threading.Thread(target=self._run, name="modelmesh-server", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Let running requests finish within the time they get, flush statistics, free the port."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self.request_stop()
        thread.join()
        self._mesh.get_statistics().flush()

    def _run(self) -> None:
        try:
            self._mesh.run(self.serve(ready=self._ready.set))
        except CancelledError:
            pass  # the mesh was shut down first
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _last_answers(self) -> None:
        """Let requests that were cancelled because time was up say so to their callers."""
        for _ in range(100):
            if self._activity.active == 0:
                return
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def _no_word_of_cancelled_tasks() -> Generator[None, None, None]:
    """Keep back that uvicorn cancels tasks: their callers are told, and nothing is wrong with the server."""

    def is_shown(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Cancel %s running task")

    log = logging.getLogger("uvicorn.error")
    log.addFilter(is_shown)
    try:
        yield
    finally:
        log.removeFilter(is_shown)


class _Listener(uvicorn.Server):
    """uvicorn's server without its own idea of signals: they belong to the command, not to a library."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say when requests are taken."""
        await super().startup(sockets)
        if self._ready is not None:
            self._ready()


def _uvicorn_config(app: object, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn and Starlette spell the same ASGI types differently
        host=settings.host,
        port=settings.port,
        lifespan="off",
        ws="none",
        loop="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_IDLE_CONNECTION,
        timeout_graceful_shutdown=settings.drain,  # type: ignore[arg-type]  # annotated int, used as a float
    )
