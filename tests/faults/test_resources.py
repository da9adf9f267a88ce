"""A process that may open nothing more: requests fail as errors of its own, and work again when there is room."""

from __future__ import annotations

import subprocess
import sys

import pytest

from modelmesh_cdk.testing import FaultServer, refused_url

SCRIPT = """
import os, resource, sys
from modelmesh.errors import ModelMeshError
from modelmesh.mesh import ModelMesh
from modelmesh.router import CompletionRequest

mesh = ModelMesh()
mesh.initialize({
    "providers": {
        name: {"connector": "modelmesh.openai-compatible.v1", "base_url": url}
        for name, url in (("nobody", sys.argv[1]), ("server", sys.argv[2]))
    },
    "models": {name: {"provider": name, "capabilities": ["chat-completion"]} for name in ("nobody", "server")},
    "pools": {"chat": {"capability": "chat-completion", "retry": {"max_attempts": 0}}},
})
router, request = mesh.get_router(), CompletionRequest([{"role": "user", "content": "hi"}])

def ask(model="server"):
    try:
        print(router.complete(model, request).content)
    except ModelMeshError as error:
        print(type(getattr(error, "last_error", None) or error).__name__)

ask("nobody")  # loads what is loaded late
most = resource.getrlimit(resource.RLIMIT_NOFILE)
spare = os.dup(0)
os.close(spare)
resource.setrlimit(resource.RLIMIT_NOFILE, (spare, most[1]))
ask()
resource.setrlimit(resource.RLIMIT_NOFILE, most)
ask()
resource.setrlimit(resource.RLIMIT_NOFILE, (spare, most[1]))
ask()
mesh.shutdown()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_without_a_file_descriptor_left_a_request_fails_and_the_next_works() -> None:
    """F25: it cannot connect, which is an error like any other; connections that are kept need nothing new."""
    with FaultServer(default="fine") as server:
        ended = subprocess.run(
            [sys.executable, "-c", SCRIPT, refused_url(), server.url],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert ended.stdout.splitlines() == ["ProviderConnectionError"] * 2 + ["fine"] * 2, ended.stderr
    assert server.connects == 1
    assert ended.returncode == 0
