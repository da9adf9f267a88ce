"""``modelmesh serve``: the OpenAI-compatible HTTP server in front of a mesh."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from pydantic import SecretStr

from modelmesh.config import MeshConfig, load_config
from modelmesh.detection import Detection, detected_config
from modelmesh.errors import ConfigurationError, ModelMeshError, NoProvidersError
from modelmesh.mesh import ModelMesh
from modelmesh.plugins import PluginHost
from modelmesh_plugins.commands.configuration import VARIABLE
from modelmesh_plugins.commands.refusals import refusal_lines
from modelmesh_plugins.server.settings import DRAIN_SECONDS, KEEP_ALIVE_SECONDS, MAX_BODY_BYTES, settings_of

if TYPE_CHECKING:
    from modelmesh.config.proxy import ProxyConfig
    from modelmesh_plugins.server.runner import ProxyServer

SIMULATOR: Mapping[str, Any] = {
    "providers": {"simulator": {"connector": "modelmesh.simulator.v1"}},
    "models": {
        "simulator-fast": {"provider": "simulator", "capabilities": ["chat-completion"]},
        "simulator-large": {"provider": "simulator", "capabilities": ["chat-completion"]},
        "simulator-embedding": {"provider": "simulator", "capabilities": ["text-embeddings"]},
        "simulator-voice": {"provider": "simulator", "capabilities": ["text-to-speech"]},
        "simulator-ear": {"provider": "simulator", "capabilities": ["speech-to-text"]},
        "simulator-picture": {"provider": "simulator", "capabilities": ["text-to-image"]},
    },
    "pools": {
        "chat-completion": {"strategy": "stick-until-failure"},
        "text-embeddings": {"strategy": "stick-until-failure"},
        "text-to-speech": {"strategy": "stick-until-failure"},
        "speech-to-text": {"strategy": "stick-until-failure"},
        "text-to-image": {"strategy": "stick-until-failure"},
    },
}
"""What is served when there is nothing else: no key, no network."""


class CannotServeError(click.ClickException):
    """The server cannot start as it was asked to; one line says why."""

    exit_code = 2


@click.command("serve")
@click.argument("file", type=click.Path(), required=False, envvar=VARIABLE)
@click.option("--host", help="Address to listen on; the configuration's, or 127.0.0.1, by default.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 for any free one. [default: 8080]")
@click.option(
    "--api-key-env",
    "key_variables",
    multiple=True,
    metavar="NAME",
    help="Environment variable that holds a key callers must send, or several with commas between; repeatable.",
)
@click.option(
    "--keep-alive",
    type=click.FloatRange(min=0),
    default=KEEP_ALIVE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Silence in a stream after which a comment is sent; 0 for never.",
)
@click.option(
    "--max-body",
    type=click.IntRange(min=1),
    default=MAX_BODY_BYTES,
    show_default=True,
    metavar="BYTES",
    help="Size a request's body may have.",
)
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=DRAIN_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Time that running requests get when the server is stopped.",
)
def command(
    file: str | None,
    host: str | None,
    port: int | None,
    key_variables: tuple[str, ...],
    keep_alive: float,
    max_body: int,
    drain: float,
) -> int:
    """Serve an OpenAI-compatible API from a configuration FILE.

    Without FILE (or MODELMESH_CONFIG) it serves the providers whose keys are in the environment, and without any of
    those a simulator, so that a client can be tried against it at once. End it with Ctrl-C. SIGHUP has it read FILE
    again, without a request failing for it; a FILE that is wrong is refused, and the old configuration stays.
    """
    mesh = ModelMesh()
    try:
        config, notice = _configuration(file, mesh.plugins, os.environ)
        loaded = load_config(config, connectors=mesh.plugins, environ=os.environ)
        settings = settings_of(
            loaded,
            host=host,
            port=port,
            keys=_keys(key_variables, os.environ),
            keep_alive=keep_alive,
            max_body=max_body,
            drain=drain,
        )
        from modelmesh_plugins.server.runner import ProxyServer

        mesh.initialize(config)
        server = ProxyServer(mesh, settings, secrets=loaded.known_secrets())
        server.bind()
    except ModelMeshError as error:
        mesh.shutdown()
        raise CannotServeError("\n".join(refusal_lines(error))) from None
    except OSError as error:
        mesh.shutdown()
        raise CannotServeError(_why_not_bound(error, settings.host, settings.port)) from None
    except ModuleNotFoundError as error:
        mesh.shutdown()
        raise CannotServeError(f"the server needs {error.name}; try: pip install 'modelmesh-router[server]'") from None
    # What was loaded on the way here stays until the end. Left to the collector, a full round looks through all of it
    # and holds every request for some 20 ms.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        greeting = _greeting(server, mesh, notice, keys=len(settings.keys))
        runner.run(_serve(server, mesh, greeting, Reloading(mesh, server, file, loaded.proxy), drain=drain))
    return 0


async def _serve(
    server: ProxyServer, mesh: ModelMesh, greeting: Sequence[str], reloading: Reloading, *, drain: float
) -> None:
    loop = asyncio.get_running_loop()
    asked = 0

    def stop() -> None:
        nonlocal asked
        asked += 1
        running = server.get_status().active_connections
        click.echo(_parting(running, drain) if asked == 1 else "stopping at once", err=True)
        server.request_stop(at_once=asked > 1)

    def ready() -> None:
        for line in greeting:
            click.echo(line)

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
    if hasattr(signal, "SIGHUP"):  # Windows has none
        loop.add_signal_handler(signal.SIGHUP, reloading.request)
    try:
        await server.serve(ready=ready)
    finally:
        await reloading.finish()
        # Here, because connections to providers belong to this loop.
        await mesh.ashutdown()


class Reloading:
    """Reads the configuration again when it is asked to, one time after the other.

    Args:
        mesh: What goes on with it.
        server: Keeps its secrets out of answers.
        file: The configuration, or None where there is none to read again.
        proxy: The server's own section as it was at the start.
    """

    def __init__(self, mesh: ModelMesh, server: ProxyServer, file: str | None, proxy: ProxyConfig) -> None:
        self._mesh = mesh
        self._server = server
        self._file = file
        self._proxy = proxy
        self._running: asyncio.Task[None] | None = None
        self._wanted = False

    def request(self) -> None:
        """Begin to read it, off the loop that serves; asked while it is being read, it is read once more afterwards."""
        self._wanted = True
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._reload())

    async def finish(self) -> None:
        """Wait for what was begun."""
        self._wanted = False
        if self._running is not None:
            await self._running

    async def _reload(self) -> None:
        while self._wanted:
            self._wanted = False
            for line in await asyncio.to_thread(self._read):
                click.echo(line, err=True)

    def _read(self) -> list[str]:
        """Go on with the file as it is now; return what to tell about it."""
        if self._file is None:
            return ["nothing to reload: there is no configuration file"]
        try:
            source = MeshConfig.from_file(self._file)
            loaded = load_config(source, connectors=self._mesh.plugins, environ=os.environ)
            self._server.hide(loaded.known_secrets())
            self._mesh.reload_config(source)
        except ModelMeshError as error:
            return [f"{self._file} was not taken over; what runs stays as it is", "\n".join(refusal_lines(error))]
        lines = [f"reloaded {self._file}: {', '.join(self._mesh.list_pools())}"]
        if loaded.proxy != self._proxy:
            lines.append("  the section proxy has changed; that takes a restart")
        return lines


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what builds the fastest event loop there is; None for the standard one."""
    try:
        import uvloop
    except ImportError:  # it is not made for Windows
        return None
    return uvloop.new_event_loop


def _configuration(file: str | None, plugins: PluginHost, environ: Mapping[str, str]) -> tuple[MeshConfig, str | None]:
    """Return what to serve, and what to tell about it if nobody wrote it down."""
    if file is not None:
        return MeshConfig.from_file(file), None
    try:
        found, _ = detected_config(Detection(capabilities=("chat-completion",)), plugins, environ)
    except NoProvidersError:
        return (
            MeshConfig.from_dict(SIMULATOR),
            "no configuration and no provider key in the environment: answers come from the simulator",
        )
    return MeshConfig.from_dict(found), f"no configuration: providers by their keys: {', '.join(found['providers'])}"


def _keys(variables: Sequence[str], environ: Mapping[str, str]) -> list[SecretStr]:
    """Return the keys in environment variables.

    Raises:
        ConfigurationError: One holds none: whoever asks for keys must not get a server without.
    """
    keys: list[SecretStr] = []
    for name in variables:
        found = [key.strip() for key in environ.get(name, "").split(",") if key.strip()]
        if not found:
            raise ConfigurationError(f"--api-key-env {name}: the environment holds no key under this name")
        keys += [SecretStr(key) for key in found]
    return keys


def _greeting(server: ProxyServer, mesh: ModelMesh, notice: str | None, *, keys: int) -> list[str]:
    lines = [notice] if notice is not None else []
    lines.append(f"serving on {server.url}/v1 (Ctrl-C ends it)")
    lines.append(f"  models: {', '.join(mesh.list_pools())}")
    lines.append(f"  keys:   {keys or 'none; only this machine can call'}")
    return lines


def _parting(running: int, drain: float) -> str:
    """Say what the end of the server waits for, and how long."""
    if not running:
        return "stopping"
    end = "1 request still running ends" if running == 1 else f"{running} requests still running end"
    return f"stopping when {end}, in {drain:g} s at most; once more to stop at once"


def _why_not_bound(error: OSError, host: str, port: int) -> str:
    if isinstance(error, socket.gaierror):
        return f"cannot listen on {host}: no such host; use an address of this machine, such as 127.0.0.1"
    # In the system's own words: Python's repeat the address.
    reason = (os.strerror(error.errno) if error.errno else str(error)).lower()
    return f"cannot listen on {host}:{port}: {reason}; choose another with --port, or --port 0 for any free one"
