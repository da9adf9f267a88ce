"""OpenAI's own client talks to the server as it does to OpenAI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import SecretStr

from modelmesh.mesh import ModelMesh
from modelmesh_plugins.server.app import create_app
from modelmesh_plugins.server.runner import ProxyServer
from modelmesh_plugins.server.settings import ServerSettings

KEY = "door-key-canary-4711"
HELLO: list[Any] = [{"role": "user", "content": "hello big world"}]
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
SIMULATED = {
    "providers": {"sim": {"connector": "modelmesh.simulator.v1"}},
    "models": {
        "sim/fast": {"provider": "sim", "model": "simulator-fast", "capabilities": ["chat-completion"]},
        "vectors": {"provider": "sim", "capabilities": ["text-embeddings"]},
    },
    "pools": {"chat": {"capability": "chat-completion"}, "embed": {"capability": "text-embeddings"}},
}


@pytest.fixture(scope="module")
def mesh() -> Iterator[ModelMesh]:
    """A mesh on the simulator."""
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(SIMULATED)
        yield mesh


@pytest.fixture(scope="module")
def server(mesh: ModelMesh) -> Iterator[ProxyServer]:
    """A running server that asks for a key and takes small bodies."""
    with ProxyServer(mesh, ServerSettings(port=0, keys=(SecretStr(KEY),), max_body=4096)) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ProxyServer) -> Iterator[openai.OpenAI]:
    """OpenAI's client with its default settings, retries included."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, timeout=5.0) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: ProxyServer) -> Iterator[httpx.Client]:
    """A plain client that sends the key."""
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=5.0, trust_env=False) as http:
        yield http


# --- answers ------------------------------------------------------------------------


def test_a_chat_is_answered_whole(client: openai.OpenAI) -> None:
    """A pool's name is the model, and the answer parses as OpenAI's."""
    answer = client.chat.completions.create(model="chat", messages=HELLO)

    assert answer.choices[0].message.content == "hello big world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0


def test_an_answer_names_its_request_and_who_gave_it(client: openai.OpenAI) -> None:
    """The request's ID reaches the client's own attribute; headers name model, provider and attempts."""
    raw = client.chat.completions.with_raw_response.create(model="chat", messages=HELLO)

    assert raw.headers["x-modelmesh-model"] == "sim/fast"
    assert raw.headers["x-modelmesh-provider"] == "sim"
    assert raw.headers["x-modelmesh-attempts"] == "1"
    assert raw.parse()._request_id == raw.headers["x-request-id"]


def test_a_chat_is_streamed(client: openai.OpenAI) -> None:
    """Chunks come in OpenAI's shape, share one ID, and end with a finish reason."""
    with client.chat.completions.create(model="chat", messages=HELLO, stream=True) as stream:
        chunks = list(stream)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hello big world"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert not any(chunk.usage for chunk in chunks)


def test_usage_comes_in_a_last_chunk_when_asked_for(client: openai.OpenAI) -> None:
    """With ``include_usage`` one chunk without choices holds the tokens, and no other does."""
    with client.chat.completions.create(
        model="chat", messages=HELLO, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)

    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > 0


def test_the_clients_own_stream_helper_follows(client: openai.OpenAI) -> None:
    """OpenAI's accumulating helper puts our chunks together."""
    with client.chat.completions.stream(model="chat", messages=HELLO) as stream:
        final = stream.until_done().get_final_completion()

    assert final.choices[0].message.content == "hello big world"


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_tool_calls_come_through(client: openai.OpenAI, streamed: bool) -> None:
    """A demanded tool is called by name, whole or in chunks."""
    choice: Any = {"type": "function", "function": {"name": "weather"}}
    wanted: dict[str, Any] = {"model": "chat", "messages": HELLO, "tools": [WEATHER], "tool_choice": choice}

    if streamed:
        with client.chat.completions.create(**wanted, stream=True) as stream:
            chunks = list(stream)
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
        finish = chunks[-1].choices[0].finish_reason
        assert [call.index for call in calls] == [0]
    else:
        answer = client.chat.completions.create(**wanted)
        calls, finish = answer.choices[0].message.tool_calls, answer.choices[0].finish_reason

    assert [call.function.name for call in calls] == ["weather"]
    assert finish == "tool_calls"


def test_the_asynchronous_client_is_served_as_well(server: ProxyServer) -> None:
    """Plain and streamed, many at a time."""

    async def ask() -> tuple[list[str | None], str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, timeout=5.0) as client:
            create = client.chat.completions.create
            answers = await asyncio.gather(*(create(model="chat", messages=HELLO) for _ in range(5)))
            stream = await create(model="sim/fast", messages=HELLO, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        return [answer.choices[0].message.content for answer in answers], text

    assert asyncio.run(ask()) == (["hello big world"] * 5, "hello big world")


def test_texts_are_embedded(client: openai.OpenAI) -> None:
    """One vector for each text, in their order."""
    answer = client.embeddings.create(model="embed", input=["one", "two"])

    assert [each.index for each in answer.data] == [0, 1]
    assert answer.data[0].embedding != answer.data[1].embedding


# --- what there is --------------------------------------------------------------------


def test_pools_and_models_are_listed(client: openai.OpenAI) -> None:
    """Pools first, owned by the mesh, then models, owned by their provider."""
    owners = {model.id: model.owned_by for model in client.models.list()}

    assert owners == {"chat": "modelmesh", "embed": "modelmesh", "sim/fast": "sim", "vectors": "sim"}


@pytest.mark.parametrize("name", ["chat", "sim/fast"], ids=["pool", "model with a slash"])
def test_one_model_is_described(client: openai.OpenAI, name: str) -> None:
    """Each name of the list can be asked for."""
    assert client.models.retrieve(name).id == name


def test_health_needs_no_key(server: ProxyServer) -> None:
    """A load balancer sees that the server runs, without a credential."""
    answer = httpx.get(f"{server.url}/health", trust_env=False).json()

    assert answer["status"] == "ok"
    assert answer["running"] is True
    assert answer["port"] == server.get_status().port


# --- refusals -------------------------------------------------------------------------


def test_a_wrong_key_is_the_clients_authentication_error(server: ProxyServer) -> None:
    """401 in OpenAI's shape, without either key in it."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-wrong-key-canary")

    with client, pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()

    assert caught.value.code == "invalid_api_key"
    assert caught.value.response.headers["www-authenticate"] == "Bearer"
    assert KEY not in caught.value.response.text
    assert "canary" not in caught.value.response.text


def test_an_unknown_model_is_the_clients_not_found_error(client: openai.OpenAI) -> None:
    """404, with the near match."""
    with pytest.raises(openai.NotFoundError, match="did you mean 'chat'") as caught:
        client.chat.completions.create(model="chatt", messages=HELLO)

    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_an_unknown_model_is_not_found_when_streaming_either(client: openai.OpenAI) -> None:
    """Nothing was sent yet, so it is an ordinary answer with its status."""
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=HELLO, stream=True)


def test_a_model_that_is_not_listed_is_not_described(client: openai.OpenAI) -> None:
    """404 here as well."""
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_wrong_types_are_the_clients_bad_request_error(client: openai.OpenAI) -> None:
    """400 names the field."""
    wrong: Any = "hello"

    with pytest.raises(openai.BadRequestError, match="'messages' must be a list") as caught:
        client.chat.completions.create(model="chat", messages=wrong)

    assert caught.value.param == "messages"


def test_a_caller_may_not_redirect_the_request(client: openai.OpenAI) -> None:
    """Where requests go, and with which key, is the configuration's matter alone."""
    with pytest.raises(openai.BadRequestError, match="'api_base' is not taken from callers") as caught:
        client.chat.completions.create(model="chat", messages=HELLO, extra_body={"api_base": "http://evil.test"})

    assert caught.value.code == "field_not_allowed"


BAD_REQUESTS = {
    "no JSON": ("POST", "/v1/chat/completions", b"{model:", 400, "invalid_json"),
    "no body": ("POST", "/v1/chat/completions", b"", 400, "invalid_json"),
    "no object": ("POST", "/v1/chat/completions", b"[1]", 400, "invalid_json"),
    "no UTF-8": ("POST", "/v1/chat/completions", b'{"model": "\xff"}', 400, "invalid_json"),
    "nested too deep": ("POST", "/v1/chat/completions", b"[" * 4000, 400, "invalid_json"),
    "too large": ("POST", "/v1/chat/completions", b" " * 5000, 413, "request_too_large"),
    "no such path": ("GET", "/v1/nothing", b"", 404, "unknown_url"),
    "no such path below": ("POST", "/v1/chat/completions/", b"", 404, "unknown_url"),
    "wrong method": ("GET", "/v1/chat/completions", b"", 405, "method_not_allowed"),
}


@pytest.mark.parametrize(("method", "path", "body", "status", "code"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_bad_requests_are_answered_in_openais_shape(
    http: httpx.Client, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    """Status, all four fields, a request ID, no retry, and nothing of the inside."""
    answer = http.request(method, path, content=body)

    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-request-id"].startswith("req_")
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/chat/completions", "/v1/chat/completions/"])
def test_a_base_url_that_is_a_little_wrong_is_told_the_path_that_is_meant(http: httpx.Client, path: str) -> None:
    """What everybody forgets first is the /v1 at its end."""
    said = http.post(path, json={}).json()["error"]["message"]

    assert "did you mean '/v1/chat/completions'" in said


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(http: httpx.Client) -> None:
    """Without a Content-Length the bytes are counted as they come."""
    answer = http.post("/v1/chat/completions", content=(b" " * 1000 for _ in range(6)))

    assert answer.status_code == 413


def test_the_allowed_methods_are_named(http: httpx.Client) -> None:
    """A 405 says what to use instead."""
    assert http.get("/v1/embeddings").headers["allow"] == "POST"


# --- without a socket --------------------------------------------------------------------


def answer_of(mesh: ModelMesh, settings: ServerSettings, method: str, path: str, **parts: Any) -> httpx.Response:
    """Ask an application in this process."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(mesh, settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
            return await http.request(method, path, **parts)

    return asyncio.run(ask())


def test_only_the_endpoints_that_are_switched_on_are_served(mesh: ModelMesh) -> None:
    """``proxy.endpoints`` leaves the others out; health always stays."""
    settings = ServerSettings(endpoints=("/v1/models",))

    statuses = {
        path: answer_of(mesh, settings, "GET", path).status_code
        for path in ("/v1/models", "/v1/models/chat", "/v1/chat/completions", "/health")
    }

    assert statuses == {"/v1/models": 200, "/v1/models/chat": 200, "/v1/chat/completions": 404, "/health": 200}


def test_models_are_not_listed_where_they_may_not_be_asked_for(mesh: ModelMesh) -> None:
    """Without ``routing.allow_model_names`` only pools can be named."""
    answer = answer_of(mesh, ServerSettings(list_models=False), "GET", "/v1/models")

    assert [each["id"] for each in answer.json()["data"]] == ["chat", "embed"]


def test_a_failure_nobody_foresaw_tells_nothing_of_itself(
    mesh: ModelMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets a plain 500; the log has a line with the request's ID and no text of the failure."""
    monkeypatch.setattr(mesh, "virtual_models", lambda: json.loads("sk-inside-canary-0123456789"))

    answer = answer_of(mesh, ServerSettings(), "GET", "/v1/models")

    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "canary" not in answer.text + caplog.text
    assert answer.headers["x-request-id"] in caplog.text
