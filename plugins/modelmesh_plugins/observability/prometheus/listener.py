"""The page's own HTTP listener: one path, a thread a caller, on the client library's WSGI application."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from modelmesh.errors import ConfigurationError

_CALLER_SECONDS = 10.0


class PageListener:
    """Serves a registry at one path until it is closed.

    Args:
        registry: What to show.
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        path: Where the page is; any other is not found.

    Attributes:
        port: Where it listens.

    Raises:
        ConfigurationError: The port is taken, or the host is none of this machine's.
    """

    def __init__(self, registry: CollectorRegistry, *, host: str, port: int, path: str) -> None:
        page: Any = make_wsgi_app(registry)

        def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            if environ["PATH_INFO"] != path:
                start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
                return [f"the metrics are at {path}\n".encode()]
            answer: Iterable[bytes] = page(environ, start_response)
            return answer

        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            server_class: type[WSGIServer] = type("_Server", (_Server,), {"address_family": family})
            self._server: WSGIServer = make_server(host, port, application, server_class, _Handler)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigurationError(
                f"the metrics page cannot listen on {host}:{port}: {reason}; set another port (0 for any free one), "
                "or leave port out and let 'modelmesh serve' show the page"
            ) from error
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="modelmesh-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(1.0)


class _Server(ThreadingWSGIServer):
    daemon_threads = True
    block_on_close = False


class _Handler(WSGIRequestHandler):
    timeout = _CALLER_SECONDS
    """A caller who sends nothing does not keep its thread for ever."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: being asked is not news."""
