"""The npm ``openai`` client talks to the server: TypeScript users are served over HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from modelmesh.mesh import ModelMesh
from modelmesh_plugins.server.runner import ProxyServer
from modelmesh_plugins.server.settings import ServerSettings

pytestmark = pytest.mark.installs

SIMULATED = {
    "providers": {"sim": {"connector": "modelmesh.simulator.v1"}},
    "models": {"m": {"provider": "sim", "capabilities": ["chat-completion"]}},
    "pools": {"chat": {"capability": "chat-completion"}},
}
SCRIPT = """\
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", timeout: 10000 });
const hello = { model: "chat", messages: [{ role: "user", content: "hello from node" }] };
const plain = await client.chat.completions.create(hello);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...hello, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
let refused = null;
try {
  await client.chat.completions.create({ ...hello, model: "nobody" });
} catch (error) {
  refused = { name: error.constructor.name, code: error.code };
}
console.log(JSON.stringify({ plain: plain.choices[0].message.content, streamed, refused }));
"""


def test_the_npm_client_gets_plain_and_streamed_answers(tmp_path: Path) -> None:
    """Both answers are whole, and an unknown model is its NotFoundError."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    install = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(tmp_path), "openai"]
    installed = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install openai: {installed.stderr.strip().splitlines()[-1:]}")
    script = tmp_path / "ask.mjs"
    script.write_text(SCRIPT)

    with ModelMesh(environ={}) as mesh:
        mesh.initialize(SIMULATED)
        with ProxyServer(mesh, ServerSettings(port=0)) as server:
            asking = [node, str(script), f"{server.url}/v1"]
            done = subprocess.run(asking, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert answers["plain"] == answers["streamed"] == "hello from node"
    assert answers["refused"] == {"name": "NotFoundError", "code": "model_not_found"}
