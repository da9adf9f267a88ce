"""``GET /modelmesh/stats``: what a running mesh has done, and how its parts stand."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from modelmesh.mesh import ModelMesh
from modelmesh.statistics import StatsScope
from modelmesh_plugins.server.guard import Activity
from modelmesh_plugins.server.replies import json_reply


class StatisticsEndpoint:
    """Answers with the statistics of a mesh.

    Args:
        mesh: An initialised mesh.
        activity: For the server's own age.
    """

    def __init__(self, mesh: ModelMesh, activity: Activity) -> None:
        self._mesh = mesh
        self._activity = activity

    async def __call__(self, request: Request) -> Response:
        """Return the report."""
        # On a thread: adding up a week of thousands of models takes longer than other requests should wait.
        return json_reply(await asyncio.to_thread(report, self._mesh, self._activity.uptime))


def report(mesh: ModelMesh, uptime: float) -> dict[str, Any]:
    """Return statistics and present state, by scope and name, as JSON takes them.

    What was never called has ``figures`` null.

    Args:
        mesh: An initialised mesh.
        uptime: Seconds since the server was started.
    """
    pools = {
        name: {
            "active": state["active"],
            "standby": state["standby"],
            "current_model": state["current_model"],
            "figures": _figures(mesh, StatsScope.POOL, name),
        }
        for name, state in mesh.pool_status().items()
    }
    providers = {
        name: {
            "available": state["available"],
            "reason": state["reason"],
            "figures": _figures(mesh, StatsScope.PROVIDER, name),
        }
        for name, state in mesh.provider_status().items()
    }
    models = {
        model.name: {
            "provider": model.provider.name,
            "status": model.state.status,
            "reason": model.state.deactivation_reason,
            "figures": _figures(mesh, StatsScope.MODEL, model.name),
        }
        for model in mesh.get_registry().list_models()
    }
    return {
        "time": time.time(),
        "uptime_seconds": round(uptime, 3),
        "pools": pools,
        "providers": providers,
        "models": models,
        "observability": {name: asdict(counts) for name, counts in mesh.delivery_counts().items()},
    }


def _figures(mesh: ModelMesh, scope: StatsScope, name: str) -> dict[str, Any] | None:
    try:
        stats = mesh.get_statistics().query(scope, name)
    except KeyError:  # it was never called, or not within the retention window, or the scope is not kept
        return None
    return {**asdict(stats), "last_updated": stats.last_updated.isoformat()}
