"""The ASGI application: endpoints, and the layers around them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp

from modelmesh.mesh import ModelMesh
from modelmesh.redaction import Redactor
from modelmesh_plugins.server.auth import BearerKeys
from modelmesh_plugins.server.dispatch import Dispatch, Route
from modelmesh_plugins.server.endpoints import Endpoints
from modelmesh_plugins.server.errors import ApiError
from modelmesh_plugins.server.guard import Activity, Guard, Origins
from modelmesh_plugins.server.media import MediaEndpoints
from modelmesh_plugins.server.settings import (
    CHAT,
    EMBEDDINGS,
    HEALTH,
    IMAGES,
    METRICS,
    MODELS,
    SPEECH,
    STATS,
    TRANSCRIPTIONS,
    ServerSettings,
)
from modelmesh_plugins.server.statistics import StatisticsEndpoint


def create_app(
    mesh: ModelMesh,
    settings: ServerSettings | None = None,
    *,
    activity: Activity | None = None,
    secrets: Iterable[str] = (),
    redactor: Redactor | None = None,
) -> ASGIApp:
    """Return an ASGI application in front of a mesh, for any server to run.

    Args:
        mesh: An initialised mesh; whoever built it shuts it down.
        settings: Keys, endpoints and limits; host and port are the server's own matter.
        activity: Is kept up to date.
        secrets: Values that must appear in no answer.
        redactor: Takes them out; its owner may add to it while the application runs.
    """
    settings = settings or ServerSettings()
    activity = activity or Activity()
    redactor = redactor or Redactor()
    for secret in (*secrets, *(key.get_secret_value() for key in settings.keys)):
        redactor.add(secret)

    def render(error: ApiError) -> dict[str, Any]:
        body: dict[str, Any] = redactor.value(error.body())
        return body

    endpoints = Endpoints(mesh, settings, activity, render)
    media = MediaEndpoints(mesh, settings)
    routes = (
        Route("POST", CHAT, endpoints.chat),
        Route("POST", EMBEDDINGS, endpoints.embeddings),
        Route("POST", SPEECH, media.speech),
        Route("POST", TRANSCRIPTIONS, media.transcriptions),
        Route("POST", IMAGES, media.images),
        Route("GET", MODELS, endpoints.models),
        Route("GET", MODELS, endpoints.model, has_name=True),
        Route("GET", METRICS, endpoints.metrics),
        Route("GET", STATS, StatisticsEndpoint(mesh, activity)),
        Route("GET", HEALTH, endpoints.health),
    )
    served = Dispatch(*(route for route in routes if settings.serves(route.path)))
    guarded = Guard(served, keys=BearerKeys(settings.keys), activity=activity, render=render)
    return Origins(guarded, origins=settings.origins, keyless=not settings.keys, render=render)
