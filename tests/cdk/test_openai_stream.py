"""From the events of an OpenAI-style stream to chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.errors import (
    ContentFilterError,
    ContextLengthError,
    MalformedResponseError,
    ModelMeshError,
    ProviderError,
    ProviderServerError,
    QuotaExhaustedError,
    RateLimitError,
    StreamInterruptedError,
)
from modelmesh.interfaces.provider import ProviderChunk, TokenUsage
from modelmesh_cdk.openai_stream import OpenAIStreamDecoder
from modelmesh_cdk.sse import ServerSentEvent

DONE = "[DONE]"
END: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "stop"}


def said(text: str, index: int = 0) -> dict[str, Any]:
    """Return a choice that adds text."""
    return {"index": index, "delta": {"content": text}, "finish_reason": None}


def chunk(*choices: Any, **fields: Any) -> dict[str, Any]:
    """Return a chunk on the wire."""
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    return {**head, "choices": list(choices), **fields}


def event(data: Any, name: str = "") -> ServerSentEvent:
    """Return an event that holds a text as it is, or anything else as JSON."""
    return ServerSentEvent((data if isinstance(data, str) else json.dumps(data)).encode(), name)


def decode(*data: Any, decoder: OpenAIStreamDecoder | None = None) -> list[ProviderChunk]:
    """Return the chunks of these events, in one stream."""
    decoder = decoder or OpenAIStreamDecoder("asked-for")
    return [chunk for each in data for chunk in decoder.decode(event(each))]


def test_deltas_become_chunks_with_their_text() -> None:
    """The role commits to nothing, text does, and the finish reason ends."""
    chunks = decode(
        chunk({"index": 0, "delta": {"role": "assistant"}}), chunk(said("He")), chunk(said("y")), chunk(END)
    )

    assert [(each.text, each.commits, each.finish_reason) for each in chunks] == [
        ("", False, None),
        ("He", True, None),
        ("y", True, None),
        ("", False, "stop"),
    ]


def test_a_chunk_passes_on_its_bytes_and_its_fields_unchanged() -> None:
    """Fields nobody here knows reach the caller."""
    sent = chunk(said("x"), citations=["a"], system_fingerprint="f")

    (got,) = decode(sent)

    assert got.data == sent
    assert got.raw == event(sent).data


@pytest.mark.parametrize(
    ("delta", "commits"),
    [
        ({"content": "x"}, True),
        ({"content": ""}, False),
        ({"content": None}, False),
        ({"role": "assistant"}, False),
        ({"tool_calls": [{"index": 0}]}, True),
        ({"refusal": "no"}, True),
        ({"reasoning_content": "hm"}, True),
        ({"content": [{"type": "text"}]}, True),
        ({}, False),
        (None, False),
    ],
    ids=repr,
)
def test_a_chunk_commits_when_the_caller_would_miss_it(delta: Any, commits: bool) -> None:
    """Text, reasoning, refusals and tool calls; not a role."""
    assert decode(chunk({"index": 0, "delta": delta}))[0].commits is commits


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter", "function_call"])
def test_the_finish_reason_is_passed_on(reason: str) -> None:
    """Whatever it is; the stream may then end without [DONE]."""
    decoder = OpenAIStreamDecoder("m")

    (last,) = decode(chunk({"index": 0, "delta": {}, "finish_reason": reason}), decoder=decoder)
    decoder.end()

    assert last.finish_reason == reason


@pytest.mark.parametrize("reason", [None, "", 0, False], ids=repr)
def test_an_empty_finish_reason_is_none(reason: Any) -> None:
    """Servers that write one into every chunk do not end the stream with it."""
    decoder = OpenAIStreamDecoder("m")

    (got,) = decode(chunk({**said("x"), "finish_reason": reason}), decoder=decoder)

    assert got.finish_reason is None
    with pytest.raises(StreamInterruptedError):
        decoder.end()


def test_an_answer_of_several_choices_finishes_with_the_last() -> None:
    """Only the first choice's text is the chunk's text."""
    chunks = decode(chunk(said("a"), said("b", 1)), chunk(END), chunk({"index": 1, "finish_reason": "length"}))

    assert [(each.text, each.finish_reason) for each in chunks] == [("a", None), ("", None), ("", "length")]


@pytest.mark.parametrize("index", [None, "0", [], {}], ids=repr)
def test_a_choice_without_a_number_is_the_first(index: Any) -> None:
    """Some servers leave the index out or null."""
    (got,) = decode(chunk({"index": index, "delta": {"content": "x"}}))

    assert got.text == "x"


USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


@pytest.mark.parametrize(
    "last",
    [
        chunk(usage=USAGE),
        {"usage": USAGE},
        {"choices": None, "usage": USAGE},
        chunk(END, usage=USAGE),
        chunk(END, x_groq={"id": "req_1", "usage": USAGE}),
    ],
    ids=["no choices", "no list", "null", "with the end", "groq"],
)
def test_usage_is_read_wherever_it_comes(last: dict[str, Any]) -> None:
    """OpenAI sends it in a last chunk without choices, others with the end."""
    assert decode(chunk(said("x")), last)[-1].usage == TokenUsage(3, 4, 7)


@pytest.mark.parametrize("usage", [None, "7", 7, [], {}, {"total_tokens": 7}, {"prompt_tokens": "7"}], ids=repr)
def test_unreadable_usage_is_none(usage: Any) -> None:
    """Most servers send null in every chunk but the last; neither that nor a usage without counts means free."""
    assert decode(chunk(said("x"), usage=usage))[0].usage is None


def test_an_empty_usage_without_choices_breaks_no_stream() -> None:
    """It says nothing, as a keep-alive does."""
    assert decode(chunk(said("x")), {"usage": {}})[-1].usage is None


def test_a_usage_with_one_count_is_read() -> None:
    """Embeddings have no output."""
    assert decode(chunk(said("x"), usage={"prompt_tokens": 3}))[0].usage == TokenUsage(3, 0, 3)


@pytest.mark.parametrize(
    ("sent", "error", "status"),
    [
        ({"error": {"message": "busy", "code": 429}}, RateLimitError, 429),
        ({"error": {"message": "busy", "code": "rate_limit_exceeded"}}, RateLimitError, 429),
        ({"error": {"message": "x", "code": "insufficient_quota"}}, QuotaExhaustedError, 429),
        ({"error": {"message": "x", "code": 402}}, QuotaExhaustedError, 402),
        ({"error": {"message": "x", "code": "context_length_exceeded"}}, ContextLengthError, 400),
        ({"error": {"message": "x", "code": "content_filter"}}, ContentFilterError, 400),
        ({"error": {"message": "x", "code": 502}, "choices": [END]}, ProviderServerError, 502),
        ({"error": "it broke"}, ProviderServerError, 500),
        ({"object": "error", "message": "it broke", "code": 503}, ProviderServerError, 503),
        (chunk({"index": 0, "delta": {}, "finish_reason": "error"}), ProviderServerError, 500),
        (chunk({"finish_reason": "error", "error": {"code": 429, "message": "x"}}), RateLimitError, 429),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_an_error_inside_a_stream_is_raised(sent: dict[str, Any], error: type[ProviderError], status: int) -> None:
    """HTTP said 200, the stream says otherwise, first thing or after some text."""
    for before in ([], [chunk(said("x"))]):
        with pytest.raises(error) as caught:
            decode(*before, sent)
        assert type(caught.value) is error
        assert caught.value.status_code == status


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, "Overloaded"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "Overloaded"),
        ("upstream went away", "upstream went away"),
        ('"upstream went away"', "upstream went away"),
    ],
    ids=["fields", "nested", "plain text", "JSON text"],
)
def test_an_event_named_error_is_one(data: Any, message: str) -> None:
    """Whatever it holds."""
    with pytest.raises(ProviderServerError, match=message):
        list(OpenAIStreamDecoder("m").decode(event(data, "error")))


@pytest.mark.parametrize(
    "data",
    [
        "{",
        "null",
        "[]",
        "1",
        '"x"',
        "{}",
        '{"choices": null}',
        '{"choices": {}}',
        '{"choices": [1]}',
        "\ufffd",
        "[" * 10**5,
    ],
    ids=lambda data: data[:16],
)
def test_what_is_no_chunk_is_malformed(data: str) -> None:
    """The error shows nothing of the text, which may be an answer."""
    with pytest.raises(MalformedResponseError, match="chunk") as caught:
        decode(data)

    assert caught.value.retryable
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("data", ["", " ", "\n"], ids=repr)
def test_an_empty_event_is_nothing(data: str) -> None:
    """Some servers keep connections alive with them."""
    assert decode(data) == []


@pytest.mark.parametrize("mark", [DONE, " [DONE]", "[DONE] "], ids=repr)
def test_nothing_is_read_behind_the_terminator(mark: str) -> None:
    """Not a second terminator, no data, no nonsense."""
    decoder = OpenAIStreamDecoder("m")

    chunks = decode(chunk(said("x")), chunk(END), mark, mark, chunk(said("y")), "{", decoder=decoder)
    decoder.end()

    assert len(chunks) == 2
    assert decoder.is_done


def test_the_terminator_finishes_choices_that_the_server_left_open() -> None:
    """Each gets its finish reason, in one chunk that looks like the stream's others."""
    chunks = decode(chunk(said("a"), said("b", 1)), DONE)

    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].data == chunk(END, {"index": 1, "delta": {}, "finish_reason": "stop"})


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [chunk(said("x"))],
        [chunk({"index": 0, "delta": {"role": "assistant"}})],
        [chunk(said("a"), said("b", 1)), chunk(END)],
        [chunk(said("x")), chunk(usage=USAGE)],
        [chunk(usage=USAGE)],
    ],
    ids=["nothing", "text", "role", "one of two", "usage", "only usage"],
)
def test_a_stream_that_just_stops_was_cut(sent: list[dict[str, Any]]) -> None:
    """Without a finish reason for every choice, or [DONE], it is never a success."""
    decoder = OpenAIStreamDecoder("m")
    decode(*sent, decoder=decoder)

    with pytest.raises(StreamInterruptedError, match="terminal signal") as caught:
        decoder.end()

    assert caught.value.retryable


@pytest.mark.parametrize("sent", [[DONE], [chunk(usage=USAGE), DONE]], ids=["nothing", "only usage"])
def test_a_terminator_without_an_answer_is_no_success(sent: list[Any]) -> None:
    """A stream that held no choice at all is not an empty answer."""
    with pytest.raises(StreamInterruptedError, match="before its first chunk"):
        decode(*sent)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "index", "finish_reason", "content", "error", "code", "usage", "x_groq"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON.map(json.dumps) | st.text() | JSON.map(lambda choices: json.dumps({"choices": [choices]}))))
def test_no_stream_raises_anything_but_errors_of_the_tree(events: list[str]) -> None:
    """Whatever a server sends."""
    decoder = OpenAIStreamDecoder("m")
    try:
        decode(*events, decoder=decoder)
        decoder.end()
    except ModelMeshError:
        pass
