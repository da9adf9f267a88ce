"""The server in front of providers that fail, on real sockets all the way."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from modelmesh.mesh import ModelMesh
from modelmesh_cdk.testing import FaultServer, faults
from modelmesh_plugins.server.app import create_app
from modelmesh_plugins.server.runner import ProxyServer
from modelmesh_plugins.server.settings import ServerSettings

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
BODY = {"model": "chat", "messages": HELLO}
STREAM = {**BODY, "stream": True}


def config_of(*upstreams: FaultServer, retries: int = 0) -> dict[str, Any]:
    """Return a configuration with a pool over these providers, in this order."""
    names = [f"p{place}" for place in range(len(upstreams))]
    return {
        "providers": {
            name: {"connector": "modelmesh.openai-compatible.v1", "base_url": upstream.url, "api_key": "sk-upstream-k"}
            for name, upstream in zip(names, upstreams, strict=True)
        },
        "models": {
            f"m-{name}": {"provider": name, "model": "fault-model", "capabilities": ["chat-completion"]}
            for name in names
        },
        "pools": {"chat": {"capability": "chat-completion", "retry": {"max_attempts": retries}}},
    }


@dataclass
class Door:
    """A first and a second provider, a server in front of them, and OpenAI's client to it."""

    first: FaultServer
    second: FaultServer
    server: ProxyServer
    client: openai.OpenAI
    http: httpx.Client

    def post(self, body: Mapping[str, Any]) -> httpx.Response:
        """Ask for a chat."""
        return self.http.post("/v1/chat/completions", json=body)


@pytest.fixture
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    """Everything running; parametrise it indirectly to change the server's settings."""
    settings = ServerSettings(**{"port": 0, "drain": 0.2, **getattr(request, "param", {})})
    with ExitStack() as stack:
        enter = stack.enter_context
        first, second, mesh = enter(FaultServer()), enter(FaultServer()), enter(ModelMesh(environ={}))
        mesh.initialize(config_of(first, second))
        server = enter(ProxyServer(mesh, settings))
        client = enter(openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", timeout=5.0))
        http = enter(httpx.Client(base_url=server.url, timeout=5.0, trust_env=False))
        yield Door(first, second, server, client, http)


@dataclass
class Inside:
    """The same without a socket between caller and server, which takes no time to start and stop."""

    first: FaultServer
    second: FaultServer
    mesh: ModelMesh

    def post(self, body: Mapping[str, Any]) -> httpx.Response:
        """Ask for a chat, on the mesh's own loop."""

        async def asking() -> httpx.Response:
            transport = httpx.ASGITransport(create_app(self.mesh))
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
                return await http.post("/v1/chat/completions", json=body)

        return self.mesh.run(asking())


@pytest.fixture
def inside() -> Iterator[Inside]:
    """Two providers and a mesh."""
    with FaultServer() as first, FaultServer() as second, ModelMesh(environ={}) as mesh:
        mesh.initialize(config_of(first, second))
        yield Inside(first, second, mesh)


def data_of(answer: httpx.Response) -> list[Any]:
    """Return the data of each event, parsed but for ``[DONE]``."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


# --- rotation -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [500, 503, 401, faults.status(429, retry_after=20), faults.reset(), faults.body(b"no json")],
    ids=["500", "503", "401", "429", "reset", "malformed"],
)
def test_a_failing_provider_is_rotated_away_unseen(door: Door, fault: faults.Step | int) -> None:
    """The caller gets the second provider's answer, plain and streamed, and learns of it only by a header."""
    door.first.script(fault, fault)
    door.second.script("second", "second")

    raw = door.client.chat.completions.with_raw_response.create(model="chat", messages=HELLO)
    stream = door.client.chat.completions.create(model="chat", messages=HELLO, stream=True)

    assert raw.parse().choices[0].message.content == "second"
    assert (raw.headers["x-modelmesh-model"], raw.headers["x-modelmesh-attempts"]) == ("m-p1", "2")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "second"


def test_a_stream_that_breaks_before_content_is_rotated_away(inside: Inside) -> None:
    """A role alone commits to nothing."""
    inside.first.script(faults.stream(end="cut"))
    inside.second.script("second")

    events = data_of(inside.post(STREAM))

    assert "".join(each["choices"][0]["delta"].get("content", "") for each in events[:-1]) == "second"
    assert events[-1] == "[DONE]"


# --- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "kind", "code"),
    [
        (500, 502, "upstream_error", "all_providers_exhausted"),
        (401, 502, "upstream_error", "all_providers_exhausted"),
        (faults.status(429, retry_after=7), 429, "rate_limit_error", "rate_limit_exceeded"),
        (faults.status(429, error_code="insufficient_quota"), 429, "rate_limit_error", "insufficient_quota"),
        (faults.status(400, error_code="context_length_exceeded"), 400, "invalid_request_error", None),
    ],
    ids=["server error", "provider's key", "rate limit", "quota", "context length"],
)
@pytest.mark.parametrize("body", [BODY, STREAM], ids=["plain", "streamed"])
def test_when_everybody_fails_the_status_says_how(
    inside: Inside, body: Mapping[str, Any], fault: faults.Step | int, status: int, kind: str, code: str | None
) -> None:
    """502 as a rule; what every provider says alike and concerns the caller is passed on."""
    inside.first.script(fault)
    inside.second.script(fault)

    answer = inside.post(body)

    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["type"] == kind
    assert error["code"] == (code or "context_length_exceeded")
    assert answer.headers["x-should-retry"] == "false"
    assert "sk-upstream" not in answer.text


def test_the_providers_wait_is_passed_on(inside: Inside) -> None:
    """``Retry-After`` reaches the caller, in whole seconds."""
    inside.first.script(faults.status(429, retry_after=7))
    inside.second.script(faults.status(429, retry_after=7))

    assert inside.post(BODY).headers["retry-after"] == "7"


def test_a_resting_pool_answers_503_and_when_to_come_back(inside: Inside) -> None:
    """Once all models rest nobody is called, and ``Retry-After`` says for how long."""
    for upstream in (inside.first, inside.second):
        upstream.script(*[faults.status(429, retry_after=30)] * 3)
    inside.post(BODY)

    answer = inside.post(BODY)

    assert answer.status_code in (429, 503)
    assert 0 < int(answer.headers["retry-after"]) <= 30


def test_the_clients_own_retries_are_told_off(door: Door) -> None:
    """OpenAI's client asks once, although it would retry a 502 twice by itself."""
    door.first.script(500, 500, 500)
    door.second.script(500, 500, 500)

    with pytest.raises(openai.InternalServerError):
        door.client.chat.completions.create(model="chat", messages=HELLO)

    assert door.server.get_status().total_requests == 1


def test_a_callers_mistake_is_answered_as_the_provider_answered_it(door: Door) -> None:
    """An invalid request is not tried elsewhere; its status comes back."""
    door.first.script(faults.status(422, error_code="invalid_value", message="temperature is too hot"))

    with pytest.raises(openai.UnprocessableEntityError, match="too hot") as caught:
        door.client.chat.completions.create(model="chat", messages=HELLO)

    assert caught.value.code == "invalid_value"
    assert door.second.requests == []


# --- streams --------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["cut", "reset", "error", "malformed", "silent"])
def test_a_stream_that_breaks_after_content_ends_with_an_error_event(inside: Inside, end: faults.StreamEnd) -> None:
    """What came stays; then an error in OpenAI's shape, and no ``[DONE]``."""
    inside.first.script(faults.stream("Hel", "lo", end=end))

    answer = inside.post(STREAM)

    events = data_of(answer)
    assert answer.status_code == 200
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in events[:-1]).startswith("Hello")
    assert set(events[-1]["error"]) == {"message", "type", "param", "code"}
    assert events[-1]["error"]["type"] == "upstream_error"
    assert "[DONE]" not in events


def test_the_client_raises_a_broken_stream(door: Door) -> None:
    """OpenAI's client turns the error event into its error, after the text that came."""
    door.first.script(faults.stream("Hello", end="cut"))
    seen: list[str] = []
    stream = door.client.chat.completions.create(model="chat", messages=HELLO, stream=True)

    with pytest.raises(openai.APIError, match="stream"):
        seen.extend(chunk.choices[0].delta.content or "" for chunk in stream)

    assert "".join(seen) == "Hello"


def test_providers_bytes_pass_unchanged(inside: Inside) -> None:
    """Fields nobody here knows reach the caller."""
    chunk = {**faults.chunk(text="hi"), "x_vendor": {"zone": "eu"}}
    inside.first.script(faults.events(chunk, faults.chunk(finish_reason="stop"), end="done"))

    events = data_of(inside.post(STREAM))

    assert events[0] == chunk


def test_chunks_are_completed_to_openais_shape(inside: Inside) -> None:
    """Servers that leave out ``id``, ``object`` and the like do not break clients."""
    bare = {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]}
    inside.first.script(faults.events(bare, faults.chunk(finish_reason="stop"), end="done"))

    first = data_of(inside.post(STREAM))[0]

    assert first["object"] == "chat.completion.chunk"
    assert first["id"]
    assert first["model"]


def test_usage_is_counted_where_the_provider_gives_none(inside: Inside) -> None:
    """A caller who asks for usage gets it, estimated if need be."""
    inside.first.script(faults.stream("some", " words", usage=False))

    events = data_of(inside.post({**STREAM, "stream_options": {"include_usage": True}}))

    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("asked", [True, False, None], ids=["asked", "declined", "not said"])
def test_the_mesh_is_told_usage_whatever_the_caller_wants(inside: Inside, asked: bool | None) -> None:
    """Declining usage keeps it from the caller, not from the mesh's own counts."""
    options = {} if asked is None else {"stream_options": {"include_usage": asked}}

    events = data_of(inside.post({**STREAM, **options}))

    assert inside.first.requests[0].json["stream_options"] == {"include_usage": True}
    assert any("usage" in each for each in events[:-1] if each.get("usage")) is bool(asked)


@pytest.mark.parametrize("door", [{"keep_alive": 0.01}], ids=["keep-alive"], indirect=True)
def test_comments_keep_a_waiting_stream_alive(door: Door) -> None:
    """While nothing comes, comments do; the answer follows."""
    door.first.script(faults.delay(faults.stream("late"), 0.05))

    answer = door.post(STREAM)

    assert answer.text.startswith(": keep-alive\n\n")
    assert data_of(answer)[-1] == "[DONE]"


@pytest.mark.parametrize("door", [{"keep_alive": 0.01}], ids=["keep-alive"], indirect=True)
def test_a_stream_that_fails_after_a_comment_ends_with_an_error_event(door: Door) -> None:
    """The status is gone by then; the error follows as an event."""
    for upstream in (door.first, door.second):
        upstream.script(faults.delay(faults.status(500), 0.03))

    events = data_of(door.post(STREAM))

    assert [set(each) for each in events] == [{"error"}]
    assert events[0]["error"]["code"] == "all_providers_exhausted"


# --- callers who hang up, servers that stop -----------------------------------------------


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["plain", "streamed"])
def test_hanging_up_before_the_answer_ends_the_providers_call(door: Door, body: Mapping[str, Any]) -> None:
    """Nobody waits for an answer that nobody will read."""
    door.first.script(faults.hang())

    async def ask_and_leave() -> None:
        async with httpx.AsyncClient(base_url=door.server.url, trust_env=False) as http:
            asking = asyncio.create_task(http.post("/v1/chat/completions", json=body))
            assert await asyncio.to_thread(door.first.wait_for_requests)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(ask_and_leave())

    assert door.first.wait_for_disconnect()
    assert door.second.requests == []


def test_hanging_up_in_the_middle_of_a_stream_ends_the_providers_call(door: Door) -> None:
    """Leaving the client's stream closes the provider's connection."""
    door.first.script(faults.stream("Hel", end="stall"))

    with door.client.chat.completions.create(model="chat", messages=HELLO, stream=True) as stream:
        texts = [next(stream).choices[0].delta.content for _ in range(2)]

    assert texts[-1] == "Hel"
    assert door.first.wait_for_disconnect()


def test_stopping_lets_running_requests_finish(door: Door) -> None:
    """A stream that is under way when the server stops is answered whole."""
    door.first.script(faults.stream("a", "b", "c", pause=0.02))

    with door.client.chat.completions.create(model="chat", messages=HELLO, stream=True) as stream:
        next(stream)
        door.server.request_stop()
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    assert text == "abc"


@pytest.mark.parametrize("hang", [faults.hang(), faults.stream("Hel", end="stall")], ids=["before", "after content"])
def test_stopping_does_not_wait_for_ever(door: Door, hang: faults.Step) -> None:
    """After its time to drain, a request that hangs is ended, its caller told, and the provider hung up on."""
    door.first.script(hang)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(door.post, STREAM)
        assert door.first.wait_for_requests()
        started = time.monotonic()
        door.server.stop()
        took = time.monotonic() - started
        answer = asking.result()

    assert took < 2.0
    assert "the server was stopped" in answer.text
    assert "[DONE]" not in answer.text
    assert door.first.wait_for_disconnect()


def test_an_answer_to_a_long_wait_is_503_when_the_server_stops(door: Door) -> None:
    """A plain request that hangs is told by status and body."""
    door.first.script(faults.hang())

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(door.post, BODY)
        assert door.first.wait_for_requests()
        door.server.stop()
        answer = asking.result()

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopped")
