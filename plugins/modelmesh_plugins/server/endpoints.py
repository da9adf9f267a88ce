"""The endpoints: what each path does with the mesh."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from modelmesh.errors import unknown_name
from modelmesh.interfaces.provider import Operation
from modelmesh.mesh import ModelMesh
from modelmesh_plugins.server.body import check_chat, check_embeddings, read_object
from modelmesh_plugins.server.disconnect import unless_disconnected
from modelmesh_plugins.server.errors import ApiError
from modelmesh_plugins.server.guard import REQUEST_ID, Activity
from modelmesh_plugins.server.replies import RenderError, headers_of, json_reply
from modelmesh_plugins.server.settings import ServerSettings
from modelmesh_plugins.server.sse import EventStream

_PASSED_ON = ("traceparent", "tracestate")


class Endpoints:
    """Answers requests from a mesh.

    Args:
        mesh: An initialised mesh.
        settings: Of the server.
        activity: For ``/health``.
        render: Returns an error's body, without secrets.
    """

    def __init__(self, mesh: ModelMesh, settings: ServerSettings, activity: Activity, render: RenderError) -> None:
        self._mesh = mesh
        self._router = mesh.get_router()
        self._settings = settings
        self._activity = activity
        self._render = render
        self._created = int(time.time())

    async def chat(self, request: Request) -> ASGIApp:
        """``POST /v1/chat/completions``, whole or streamed."""
        body = await read_object(request, limit=self._settings.max_body)
        check_chat(body)
        model, streamed = body.pop("model"), body.pop("stream", None)
        metadata = metadata_of(request, body)
        if not streamed:
            return await self._execute("chat", request, model, body, metadata)
        include_usage = _take_include_usage(body)
        return EventStream(
            self._router.execute_stream(model, body, metadata=metadata),
            include_usage=include_usage,
            keep_alive=self._settings.keep_alive,
            render=self._render,
        )

    async def embeddings(self, request: Request) -> Response:
        """``POST /v1/embeddings``."""
        body = await read_object(request, limit=self._settings.max_body)
        check_embeddings(body)
        return await self._execute("embeddings", request, body.pop("model"), body, metadata_of(request, body))

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``."""
        return json_reply({"object": "list", "data": list(self._models().values())})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/{id}``."""
        models = self._models()
        name = request.path_params["name"]
        if name not in models:
            raise ApiError(404, unknown_name("model", name, list(models)), code="model_not_found", param="model")
        return json_reply(models[name])

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``: the page of the first observability connector that has one."""
        for connector in self._mesh.observers():
            page: Callable[[], tuple[str, bytes]] | None = getattr(connector, "metrics_page", None)
            if page is not None:
                # On a thread: thousands of series take longer to write than other requests should wait.
                content_type, body = await asyncio.to_thread(page)
                return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})
        raise ApiError(
            404,
            "no observability connector has metrics to show; name modelmesh.prometheus.v1 under observability",
            code="unknown_url",
        )

    async def health(self, request: Request) -> Response:
        """``GET /health``: the server runs."""
        host, port = request.scope.get("server") or (self._settings.host, self._settings.port)
        return json_reply(
            {
                "status": "ok",
                "running": True,
                "host": host,
                "port": port,
                "uptime_seconds": round(self._activity.uptime, 3),
                "active_connections": self._activity.active,
                "total_requests": self._activity.total,
            }
        )

    async def _execute(
        self, operation: Operation, request: Request, model: str, payload: dict[str, Any], metadata: dict[str, Any]
    ) -> Response:
        answer = await unless_disconnected(
            request.receive, self._router.execute(operation, model, payload, metadata=metadata)
        )
        return json_reply(answer.data, headers=headers_of(answer))

    def _models(self) -> dict[str, dict[str, Any]]:
        """Return what may be asked for as ``model``: pools, then the models in them; a pool's name wins."""
        models = {each["id"]: each for each in self._mesh.virtual_models()}
        if self._settings.list_models:
            for pool in self._router.list_pools():
                for name, member in pool.members.items():
                    entry = {"id": name, "object": "model", "created": self._created, "owned_by": member.provider_id}
                    models.setdefault(name, entry)
        return models


def metadata_of(request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what steers the router: the request's ID, the session for sticky routing, and trace context to pass on."""
    metadata: dict[str, Any] = {}
    if REQUEST_ID in request.scope:
        metadata["request_id"] = request.scope[REQUEST_ID]
    session = request.headers.get("x-session-id")
    if session is None:
        own = body.get("metadata")
        session = (own.get("session_id") if isinstance(own, dict) else None) or body.get("user")
    if isinstance(session, str) and session:
        metadata["session_id"] = session
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    if headers:
        metadata["headers"] = headers
    return metadata


def _take_include_usage(body: dict[str, Any]) -> bool:
    """Return whether usage is asked for, and leave it to the mesh whether providers are.

    The mesh counts tokens for everybody: a caller who does not want to see them must not keep it from being told.
    """
    options = body.pop("stream_options", None) or {}
    wanted = bool(options.pop("include_usage", False))
    if wanted:
        options["include_usage"] = True
    if options:
        body["stream_options"] = options
    return wanted
