"""The ASGI application: endpoints, and the layers around them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from modelmesh.mesh import ModelMesh
from modelmesh.redaction import Redactor
from modelmesh_plugins.server.auth import BearerKeys
from modelmesh_plugins.server.endpoints import Endpoints
from modelmesh_plugins.server.errors import ApiError
from modelmesh_plugins.server.guard import Activity, Guard, Origins
from modelmesh_plugins.server.replies import RenderError, json_reply
from modelmesh_plugins.server.settings import CHAT, EMBEDDINGS, HEALTH, MODELS, ServerSettings


def create_app(
    mesh: ModelMesh,
    settings: ServerSettings | None = None,
    *,
    activity: Activity | None = None,
    secrets: Iterable[str] = (),
) -> ASGIApp:
    """Return an ASGI application in front of a mesh, for any server to run.

    Args:
        mesh: An initialised mesh; whoever built it shuts it down.
        settings: Keys, endpoints and limits; host and port are the server's own matter.
        activity: Is kept up to date.
        secrets: Values that must appear in no answer.
    """
    settings = settings or ServerSettings()
    activity = activity or Activity()
    redactor = Redactor((*secrets, *(key.get_secret_value() for key in settings.keys)))

    def render(error: ApiError) -> dict[str, Any]:
        body: dict[str, Any] = redactor.value(error.body())
        return body

    endpoints = Endpoints(mesh, settings, activity, render)
    routes = [
        Route(CHAT, endpoints.chat, methods=["POST"]),
        Route(EMBEDDINGS, endpoints.embeddings, methods=["POST"]),
        Route(MODELS, endpoints.models, methods=["GET"]),
        Route(f"{MODELS}/{{model:path}}", endpoints.model, methods=["GET"]),
        Route(HEALTH, endpoints.health, methods=["GET"]),
    ]
    served = [route for route in routes if settings.serves(route.path.removesuffix("/{model:path}"))]
    inner = Starlette(routes=served, exception_handlers={HTTPException: _refusal(render)})
    inner.router.redirect_slashes = False
    guarded = Guard(inner, keys=BearerKeys(settings.keys), activity=activity, render=render)
    return Origins(guarded, origins=settings.origins, keyless=not settings.keys, render=render)


def _refusal(render: RenderError) -> Any:
    """Return the handler of paths that are not there and methods that do not fit."""

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = f"{request.method} {request.url.path}"
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            known = ApiError(
                405, f"{path} is not served; use {allowed}", code="method_not_allowed", headers=error.headers
            )
        else:
            known = ApiError(error.status_code, f"{path} is not served here", code="unknown_url")
        return json_reply(render(known), status=known.status, headers=known.all_headers())

    return refuse
