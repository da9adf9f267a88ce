"""From a path to its endpoint.

Starlette's application would do, but for its outermost layer, which answers whatever fails in its own words; here
failures have to reach the layers of `modelmesh_plugins.server.guard`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from modelmesh.errors import unknown_name
from modelmesh_plugins.server.errors import ApiError

Endpoint: TypeAlias = Callable[[Request], Awaitable[ASGIApp]]


@dataclass(frozen=True, slots=True)
class Route:
    """One path.

    Attributes:
        method: The one it takes; GET implies HEAD.
        path: As it is written.
        endpoint: Answers it.
        has_name: Whether a name follows the path, as ``request.path_params["name"]``; it may have slashes.
    """

    method: str
    path: str
    endpoint: Endpoint
    has_name: bool = False

    def match(self, path: str) -> dict[str, str] | None:
        """Return the parameters in a path, or None when it is another one."""
        if not self.has_name:
            return {} if path == self.path else None
        name = path.removeprefix(f"{self.path}/")
        return {"name": name} if name and name != path else None

    def takes(self, method: str) -> bool:
        """Whether it can be asked in this way."""
        return method == self.method or (method == "HEAD" and self.method == "GET")


class Dispatch:
    """Calls the endpoint of a path.

    Raises:
        ApiError: When called: 404, there is no such path; 405, it takes another method.
    """

    def __init__(self, *routes: Route) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path, method = path_of(scope), scope["method"]
        for route in self._routes:
            parameters = route.match(path)
            if parameters is None:
                continue
            if not route.takes(method):
                raise ApiError(
                    405,
                    f"{path} does not take {method}; use {route.method}",
                    code="method_not_allowed",
                    headers={"allow": route.method},
                )
            scope["path_params"] = parameters
            reply = await route.endpoint(Request(scope, receive, send))
            await reply(scope, receive, send)
            return
        raise ApiError(
            404, unknown_name("path", path, [*dict.fromkeys(route.path for route in self._routes)]), code="unknown_url"
        )


def path_of(scope: Scope) -> str:
    """Return a request's path below the one the application is mounted at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
