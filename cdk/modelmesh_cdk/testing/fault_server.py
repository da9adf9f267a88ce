"""FaultServer: an HTTP server on a real socket of this machine that fails in every way a provider does."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Self

from modelmesh_cdk.testing import faults
from modelmesh_cdk.testing.faults import Act, Action, Pause, RecordedRequest, Step

MAX_HEADER_BYTES = 1024 * 1024


class FaultServer:
    """Answers each POST with the next step of its script, and with a good answer when the script is over.

    It listens on 127.0.0.1, on a port the system chooses, in a thread of its own, so blocking and asynchronous tests
    may use it alike. ``GET …/models`` never takes a step of the script: health probes do not disturb it.

    Args:
        script: Steps (see `modelmesh_cdk.testing.faults`); a number stands for an error of that status, a string for a
            chat answer.
        default: What follows the script; by default chats and embeddings are answered well.
        models: The answer to ``GET …/models``: names, or a step.

    Example:
        ::

            with FaultServer([429, faults.stream("Hel", end="cut")]) as server:
                provider = MyProvider(MyConfig(base_url=server.url))
    """

    def __init__(
        self,
        script: Iterable[Step | int | str] = (),
        *,
        default: Step | int | str | None = None,
        models: Iterable[str] | Step = ("fault-model",),
    ) -> None:
        self._script = deque(_step(step) for step in script)
        self._default = _step(default) if default is not None else _good
        self._models = models if callable(models) else faults.models(*models)
        self._requests: list[RecordedRequest] = []
        self._connects = 0
        self._disconnects = 0
        self._open = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._tasks: dict[asyncio.Task[None], socket.socket] = {}
        self._port = 0
        self._broken_step: BaseException | None = None

    def __repr__(self) -> str:
        return f"FaultServer({self.url!r})" if self._port else "FaultServer(not started)"

    # --- life -----------------------------------------------------------------------

    def start(self) -> Self:
        """Begin to listen; returns when connections are accepted."""
        if self._thread is not None:
            raise RuntimeError("the server runs already")
        started: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="fault-server", daemon=True)
        self._thread.start()
        self._port = started.result()
        return self

    def stop(self) -> None:
        """Break whatever is open and end the thread; harmless to repeat.

        Raises:
            Exception: What a step of the test's own raised, which its client only saw as a broken connection.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        assert self._loop is not None
        assert self._stopping is not None
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join()
        broken, self._broken_step = self._broken_step, None
        if broken is not None:
            raise broken

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    # --- what tests ask -----------------------------------------------------------------

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return self._port

    @property
    def url(self) -> str:
        """The base URL, ending in ``/v1``, as providers and SDKs take it."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def requests(self) -> list[RecordedRequest]:
        """What arrived so far, in order, ``GET`` included."""
        with self._changed:
            return list(self._requests)

    @property
    def connects(self) -> int:
        """Connections that were accepted."""
        with self._changed:
            return self._connects

    @property
    def open_connections(self) -> int:
        """Connections that stand now."""
        with self._changed:
            return self._open

    @property
    def disconnects(self) -> int:
        """Clients that left before their answer was whole."""
        with self._changed:
            return self._disconnects

    def script(self, *steps: Step | int | str) -> None:
        """Add steps to the end of the script."""
        with self._changed:
            self._script.extend(_step(step) for step in steps)

    def wait_for_disconnect(self, timeout: float = 5.0, *, count: int = 1) -> bool:
        """Block until so many clients have left before their answer was whole; False when they did not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._disconnects >= count, timeout)

    def wait_for_requests(self, count: int = 1, timeout: float = 5.0) -> bool:
        """Block until so many requests have arrived; False when they did not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._requests) >= count, timeout)

    def wait_until_unconnected(self, timeout: float = 5.0) -> bool:
        """Block until no connection stands; False when some still do."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open == 0, timeout)

    # --- the server's own thread ----------------------------------------------------------

    def _run(self, started: Future[int]) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, started: Future[int]) -> None:
        # Not asyncio.start_server: a connection that arrives while such a server closes is never closed itself.
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            self._loop.add_reader(listener, self._accept, listener)
            started.set_result(listener.getsockname()[1])
            await self._stopping.wait()
            self._loop.remove_reader(listener)
        connections = list(self._tasks.values())
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0)  # aborted transports report their loss one turn later
        for connection in connections:
            connection.close()  # a task that was cancelled before it began has not

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # its client has gone already
        connection.setblocking(False)
        with self._changed:
            self._connects += 1
            self._open += 1
            number = self._connects
        task = asyncio.get_running_loop().create_task(self._connection(connection, number))
        self._tasks[task] = connection
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    async def _connection(self, connection: socket.socket, number: int) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=MAX_HEADER_BYTES)
        # Whatever is written goes out before the next action: a reset must not overtake the bytes before it.
        writer.transport.set_write_buffer_limits(0)
        try:
            await self._answer_requests(_Wire(reader, writer), number)
        except _StepError as error:
            self._broken_step = error.__cause__
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass  # the client went away, or did not speak HTTP
        finally:
            writer.transport.abort()

    async def _answer_requests(self, wire: _Wire, number: int) -> None:
        while (request := await wire.read_request(number)) is not None:
            with self._changed:
                self._requests.append(request)
                step = self._next_step(request)
                self._changed.notify_all()
            outcome = await wire.perform(request, step)
            if outcome == "left":
                with self._changed:
                    self._disconnects += 1
                    self._changed.notify_all()
            if outcome != "done":
                return

    def _next_step(self, request: RecordedRequest) -> Step:
        if request.method == "GET":
            return self._models if request.path.partition("?")[0].endswith("/models") else faults.status(404)
        return self._script.popleft() if self._script else self._default


class _StepError(Exception):
    """A step raised; the cause says what."""


class _Wire:
    """One connection: reads requests, carries out actions, notices when the client leaves."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._early = b""

    async def read_request(self, number: int) -> RecordedRequest | None:
        """Return the next request, or None when the client is done."""
        try:
            head = self._early + await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        self._early = b""
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return RecordedRequest(method, path, headers, body, number)

    async def perform(self, request: RecordedRequest, step: Step) -> str:
        """Carry a step out; return ``done``, ``closed``, or ``left`` when the client went first."""
        acting = asyncio.ensure_future(self._act(request, step))
        watching = asyncio.ensure_future(self._reader.read(1))
        try:
            await asyncio.wait({acting, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not acting.done() and not _is_gone(watching):
                await asyncio.wait({acting})  # the client sent its next request early: it is still there
            if not acting.done() or isinstance(acting.exception(), OSError):
                return "left"
            if (error := acting.exception()) is not None:
                raise _StepError from error
            return acting.result()
        finally:
            acting.cancel()
            watching.cancel()
            await asyncio.wait({acting, watching})
            if not watching.cancelled() and watching.exception() is None:
                self._early = watching.result()
            if not acting.cancelled():
                acting.exception()

    async def _act(self, request: RecordedRequest, step: Step) -> str:
        for action in step(request):
            if isinstance(action, bytes):
                self._writer.write(action)
                await self._writer.drain()
            elif isinstance(action, Pause):
                await asyncio.sleep(action.seconds)
            elif action is Act.STAY:
                await asyncio.get_running_loop().create_future()
            else:
                await self._end(reset=action is Act.RESET)
                return "closed"
        return "done"

    async def _end(self, *, reset: bool) -> None:
        if reset:
            # Lingering for 0 seconds makes the close a reset.
            connection = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        else:
            self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


def refused_url() -> str:
    """Return a base URL on this machine where nobody listens: connections to it are refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return f"http://127.0.0.1:{port}/v1"


def _is_gone(watching: asyncio.Future[bytes]) -> bool:
    return watching.done() and (watching.exception() is not None or watching.result() == b"")


def _step(given: Step | int | str) -> Step:
    if isinstance(given, int):
        return faults.status(given)
    return faults.chat(given) if isinstance(given, str) else given


def _good(request: RecordedRequest) -> Iterable[Action]:
    if request.path.partition("?")[0].endswith("/embeddings"):
        return faults.embeddings()(request)
    return faults.chat()(request)
