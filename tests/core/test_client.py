"""Clients in the shape of OpenAI's SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import modelmesh
from modelmesh import ModelMesh
from modelmesh.client import AsyncOpenAIClient, OpenAIClient, Reply, create, create_async
from modelmesh.errors import (
    CapabilityNotFoundError,
    ConfigurationError,
    CreateArgumentError,
    DeadlineExceededError,
    InvalidRequestError,
    NoProvidersError,
    ProviderServerError,
    StreamInterruptedError,
    UsageError,
)
from modelmesh.interfaces.provider import ProviderRequest, ProviderResponse
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, fail, pieces

MESSAGES = [{"role": "user", "content": "hi"}]
SIMULATOR = {
    "providers": {"sim": {"connector": "modelmesh.simulator.v1"}},
    "models": {"small": {"provider": "sim", "model": "simulator-fast", "capabilities": ["chat-completion"]}},
    "pools": {"chat": {"capability": "chat-completion"}},
}

Build = Callable[..., OpenAIClient]


@pytest.fixture
def build() -> Iterator[Build]:
    """Build clients over scripted providers ``p1``, ``p2`` … with models ``m1``, ``m2`` … in pool ``chat``."""
    clients: list[OpenAIClient] = []

    def make(*providers: Any) -> OpenAIClient:
        numbered = {
            number: each if isinstance(each, ScriptedProvider) else ScriptedProvider(each)
            for number, each in enumerate(providers, 1)
        }
        mesh = ModelMesh(clock=FakeClock(auto_advance=True), environ={})
        mesh.initialize(
            {
                "providers": {f"p{number}": {"instance": each} for number, each in numbered.items()},
                "models": {
                    f"m{number}": {"provider": f"p{number}", "capabilities": ["chat-completion", "text-embeddings"]}
                    for number in numbered
                },
                "pools": {"chat": {"capability": "chat-completion"}},
            }
        )
        clients.append(mesh.get_client())
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def down() -> ProviderServerError:
    """A provider's failure."""
    return ProviderServerError("down", status_code=500)


# --- replies ------------------------------------------------------------------------------


def test_a_reply_reads_by_attribute_and_by_key(build: Build) -> None:
    """As every guide for OpenAI's SDK does."""
    reply = build(["Hello."]).chat.completions.create(model="chat", messages=MESSAGES)

    assert reply.choices[0].message.content == reply["choices"][0]["message"]["content"] == "Hello."
    assert (reply.object, reply.model, reply.choices[0].finish_reason) == ("chat.completion", "m1", "stop")
    assert reply.usage.total_tokens == 2


def test_optional_fields_a_provider_left_out_are_none() -> None:
    """Others are an AttributeError that lists what there is."""
    reply = Reply({"id": "x", "choices": [{"message": {"content": None}}]})

    assert (reply.usage, reply.choices[0].message.tool_calls, reply.choices[0].finish_reason) == (None, None, None)
    with pytest.raises(AttributeError, match="it has id, choices"):
        _ = reply.nothing


def test_a_reply_becomes_plain_data_again() -> None:
    """At any depth, ready for JSON."""
    data = {"a": [{"b": {"c": 1}}, "text", None]}
    plain = Reply(data).model_dump()

    assert (plain, type(plain), type(plain["a"][0]["b"])) == (data, dict, dict)
    assert json.loads(json.dumps(Reply(data))) == data
    assert Reply(data).to_dict() == plain


def test_a_reply_becomes_json() -> None:
    """As a reply of OpenAI's SDK does."""
    assert json.loads(Reply({"choices": [{"index": 0}]}).model_dump_json(indent=2)) == {"choices": [{"index": 0}]}
    assert json.loads(Reply({"choices": [{"index": 0}]}).to_json()) == {"choices": [{"index": 0}]}


def test_a_reply_copies_and_pickles() -> None:
    """Attribute access does not get in the way of Python's own protocols."""
    import copy
    import pickle

    reply = Reply({"a": [{"b": 1}]})

    assert copy.copy(reply) == copy.deepcopy(reply) == reply
    assert copy.deepcopy(reply).a[0].b == 1
    assert not hasattr(reply, "__wrapped__")
    assert pickle.loads(pickle.dumps(reply.model_dump())) == {"a": [{"b": 1}]}


def test_the_receipt_comes_with_the_reply_but_not_in_it(build: Build) -> None:
    """It says what the answer took, and is no field of the provider's."""
    reply = build([down()], ["second"]).chat.completions.create(model="chat", messages=MESSAGES)

    assert [attempt.model_id for attempt in reply.receipt.attempts] == ["m1", "m2"]
    assert "receipt" not in reply.model_dump()


# --- parameters ------------------------------------------------------------------------------


def test_parameters_are_passed_on_known_or_not(build: Build) -> None:
    """Unset ones go nowhere; ``extra_body`` is merged in."""
    provider = ScriptedProvider()

    build(provider).chat.completions.create(
        model="chat",
        messages=MESSAGES,
        temperature=0.0,
        max_tokens=None,
        seed=7,
        unheard_of=[1],
        extra_body={"top_k": 5},
    )

    assert provider.requests[0].payload == {
        "messages": MESSAGES,
        "temperature": 0.0,
        "seed": 7,
        "unheard_of": [1],
        "top_k": 5,
    }


def test_what_steers_the_router_is_not_sent(build: Build) -> None:
    """Session, preference and headers are the mesh's."""
    first, second = ScriptedProvider(), ScriptedProvider()

    build(first, second).chat.completions.create(
        model="chat",
        messages=MESSAGES,
        session_id="s-1",
        preferred_provider="p2",
        extra_headers={"x-tenant": "blue"},
    )

    request = second.requests[0]
    assert (request.payload, request.headers) == ({"messages": MESSAGES}, {"x-tenant": "blue"})
    assert request.metadata["session_id"] == "s-1"


def test_timeout_is_the_deadline_of_the_whole_request(build: Build) -> None:
    """Over all attempts, in seconds."""
    client = build([fail(down(), delay=3)], [])

    with pytest.raises(DeadlineExceededError, match="2 s"):
        client.chat.completions.create(model="chat", messages=MESSAGES, timeout=2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"messages": "hello"}, "messages must be a list"),
        ({"messages": ["hello"]}, "messages must be a list"),
        ({"messages": None}, "messages must be a list"),
        ({"messages": []}, "messages must be a list of at least one message; it is empty"),
        ({"messages": MESSAGES, "model": None}, "model must be the name of a pool, .* of type NoneType"),
        ({"messages": MESSAGES, "model": ["chat"]}, "model must be the name of a pool, .* of type list"),
        ({"messages": MESSAGES, "timeout": "5"}, "timeout must be a number of seconds; it is a str"),
    ],
    ids=["text", "texts", "none", "empty", "no-model", "models", "timeout"],
)
def test_what_no_provider_could_answer_is_the_callers_error(build: Build, wrong: dict[str, Any], words: str) -> None:
    """No model is blamed for it, and none put to rest."""
    client = build(["never asked"])

    with pytest.raises(InvalidRequestError, match=words):
        client.chat.completions.create(**{"model": "chat", **wrong})

    assert client.pool_status()["chat"].active == 1


@pytest.mark.parametrize("wrong", [None, 5, {"text": "hi"}], ids=["none", "number", "mapping"])
def test_an_input_that_is_no_text_is_the_callers_error(build: Build, wrong: Any) -> None:
    """For texts to embed and to speak alike."""
    client = build(["never asked"])

    with pytest.raises(InvalidRequestError, match="input must be a text or a list; it is of type"):
        client.embeddings.create(model="chat", input=wrong)
    with pytest.raises(InvalidRequestError, match="input must be a text or a list; it is of type"):
        client.audio.speech.create(model="chat", input=wrong, voice="alloy")


def test_a_client_says_whose_it_is(build: Build) -> None:
    """In a debugger and in a log."""
    assert repr(build(["never asked"])) == "OpenAIClient(ModelMesh(1 pool))"


def test_an_unknown_model_is_an_error_with_the_near_ones(build: Build) -> None:
    """Whether streamed or not."""
    client = build([])

    for stream in (False, True):
        with pytest.raises(CapabilityNotFoundError, match="'chat'"):
            client.chat.completions.create(model="chatt", messages=MESSAGES, stream=stream)


# --- streams ------------------------------------------------------------------------------------


def test_a_stream_is_iterated(build: Build) -> None:
    """Chunks read by attribute; the receipt is complete at the end."""
    stream = build([pieces("One ", "two.")]).chat.completions.create(model="chat", messages=MESSAGES, stream=True)

    chunks = list(stream)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "One two."
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert (chunks[-1].choices[0].finish_reason, stream.receipt.attempts[0].outcome) == ("stop", "success")


@pytest.mark.parametrize("way", ["with", "close"])
def test_leaving_a_stream_hangs_up(build: Build, way: str) -> None:
    """By ``with`` or by hand, before the next statement."""
    provider = ScriptedProvider([pieces("One ", "two ", end="stall")])
    stream = build(provider).chat.completions.create(model="chat", messages=MESSAGES, stream=True)

    if way == "with":
        with stream:
            next(stream)
    else:
        next(stream)
        stream.close()

    assert (provider.closed, provider.active) == (1, 0)


def test_a_stream_that_breaks_raises_with_the_partial_text(build: Build) -> None:
    """After its chunks."""
    stream = build([pieces("One ", end="cut")]).chat.completions.create(model="chat", messages=MESSAGES, stream=True)

    with pytest.raises(StreamInterruptedError) as caught:
        list(stream)

    assert caught.value.partial == "One "


# --- the rest of the API --------------------------------------------------------------------------


class Embedding(ScriptedProvider):
    """Embeds."""

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        self.requests.append(request)
        return ProviderResponse({"object": "list", "data": [{"embedding": [0.5]}], "model": request.model})


def test_texts_are_embedded(build: Build) -> None:
    """The same way as chats go."""
    provider = Embedding()

    reply = build(provider).embeddings.create(model="chat", input=["a", "b"], dimensions=8)

    assert reply.data[0].embedding == [0.5]
    assert (provider.requests[0].operation, provider.requests[0].payload) == (
        "embeddings",
        {"input": ["a", "b"], "dimensions": 8},
    )


def test_models_are_the_pools(build: Build) -> None:
    """What may be given as ``model``."""
    models = build([]).models.list()

    assert (models.object, [model.id for model in models.data]) == ("list", ["chat"])


def test_a_client_shows_its_mesh(build: Build) -> None:
    """Status by attribute, providers, a description, and rotation."""
    client = build([], [])

    assert (client.pool_status()["chat"].active, client.pool_status()["chat"]["current_model"]) == (2, "m1")
    assert client.active_providers() == ["p1", "p2"]
    assert "m1 [p1] (active)" in client.describe()
    assert client.rotate("chat") == "m2"


def test_closing_a_client_shuts_its_mesh_down(build: Build) -> None:
    """Also at the end of ``with``."""
    provider = ScriptedProvider()

    with build(provider) as client:
        client.chat.completions.create(model="chat", messages=MESSAGES)

    assert provider.is_closed
    with pytest.raises(UsageError, match="shut down"):
        client.chat.completions.create(model="chat", messages=MESSAGES)


# --- asynchronous -------------------------------------------------------------------------------------


def test_the_asynchronous_client_does_the_same(build: Build) -> None:
    """Awaited, on the caller's loop."""
    mesh = build(["Hello."], [pieces("One ", "two.")]).mesh

    async def main() -> tuple[str, str, list[str]]:
        async with mesh.get_async_client() as client:
            reply = await client.chat.completions.create(model="chat", messages=MESSAGES)
            stream = await client.chat.completions.create(model="m2", messages=MESSAGES, stream=True)
            text = [chunk.choices[0].delta.content or "" async for chunk in stream]
            models = await client.models.list()
        return reply.choices[0].message.content, "".join(text), [model.id for model in models.data]

    assert asyncio.run(main()) == ("Hello.", "One two.", ["chat"])


def test_an_asynchronous_stream_can_be_left(build: Build) -> None:
    """``async with`` hangs up."""
    provider = ScriptedProvider([pieces("One ", "two ", end="stall")])
    mesh = build(provider).mesh

    async def main() -> None:
        client = mesh.get_async_client()
        stream = await client.chat.completions.create(model="chat", messages=MESSAGES, stream=True)
        async with stream:
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    break

    asyncio.run(main())

    assert (provider.closed, provider.active) == (1, 0)


def test_the_asynchronous_client_embeds(build: Build) -> None:
    """The same call, awaited."""
    client = build(Embedding()).mesh.get_async_client()

    reply = asyncio.run(client.embeddings.create(model="chat", input="a"))

    assert reply.data[0].embedding == [0.5]


# --- create ----------------------------------------------------------------------------------------


def test_create_takes_a_configuration() -> None:
    """Then nothing is detected."""
    with create(config=SIMULATOR, environ={}) as client:
        reply = client.chat.completions.create(model="chat", messages=MESSAGES)

    assert (reply.choices[0].message.content, reply.model) == ("hi", "simulator-fast")


def test_create_takes_a_file(tmp_path: Path) -> None:
    """JSON is YAML."""
    file = tmp_path / "mesh.json"
    file.write_text(json.dumps(SIMULATOR))

    with modelmesh.create(config=file) as client:
        assert client.mesh.list_pools() == ["chat"]


def test_create_finds_providers_by_their_keys() -> None:
    """Each capability becomes a pool; the key is the environment's."""
    with create("chat-completion", environ={"OPENAI_API_KEY": "canary-0123456789"}) as client:
        assert client.active_providers() == ["openai.llm.v1"]
        assert client.mesh.list_pools() == ["chat-completion"]
        assert "canary" not in repr(client.mesh) + client.describe()


def test_keys_passed_in_are_the_only_ones() -> None:
    """Then the environment is not looked at."""
    environ = {"OPENAI_API_KEY": "from-the-environment"}

    with create("chat-completion", api_keys={"openai": "canary-0123456789"}, environ=environ) as client:
        connector: Any = client.mesh.get_router().get_pool("chat-completion").get_active_models()[0].provider.connector

    assert connector.config.api_key.get_secret_value() == "canary-0123456789"


@pytest.mark.parametrize(
    ("arguments", "error", "builtin"),
    [
        ({}, CreateArgumentError, ValueError),
        ({"capabilities": (["chat-completion"],)}, CreateArgumentError, ValueError),
        ({"capabilities": ("chat-completion",)}, NoProvidersError, RuntimeError),
        ({"config": {"pools": {"chat": {"strategy": "no-such"}}}}, ConfigurationError, ConfigurationError),
    ],
    ids=["nothing-asked", "a-list", "no-keys", "bad-config"],
)
def test_create_refuses_what_it_cannot_build(
    arguments: dict[str, Any], error: type[Exception], builtin: type[Exception]
) -> None:
    """Each as its own class, and as Python's own where the guides promise one."""
    capabilities = arguments.pop("capabilities", ())

    with pytest.raises(error) as caught:
        create(*capabilities, environ={}, **arguments)

    assert isinstance(caught.value, builtin)


@pytest.mark.parametrize("argument", ["providers", "models"])
def test_one_name_needs_no_list(argument: str) -> None:
    """It is not taken for as many names as it has letters, which type checkers let pass."""
    with pytest.raises(ConfigurationError, match=r"unknown (provider|model) 'no-such'"):
        create("chat-completion", environ={"OPENAI_API_KEY": "canary-0123456789"}, **{argument: "no-such"})


def test_create_async_makes_an_asynchronous_client() -> None:
    """With the same arguments."""

    async def main() -> tuple[bool, str]:
        async with create_async(config=SIMULATOR, environ={}) as client:
            reply = await client.chat.completions.create(model="chat", messages=MESSAGES)
            return isinstance(client, AsyncOpenAIClient), reply.choices[0].message.content

    assert asyncio.run(main()) == (True, "hi")
