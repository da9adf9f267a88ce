"""Speech, transcriptions and pictures through both clients, and their road to a provider over HTTP."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelmesh import ModelMesh
from modelmesh.errors import AllProvidersExhaustedError, MalformedResponseError, ProviderError, UnsupportedRequestError
from modelmesh.interfaces.provider import ProviderRequest, ProviderResponse, Upload
from modelmesh.media import SpeechAudio, upload_of
from modelmesh.replies import Reply
from modelmesh_cdk.openai_compatible import OpenAICompatibleConfig, OpenAICompatibleProvider
from modelmesh_cdk.testing import FakeClock

CAPABILITIES = ("text-to-speech", "speech-to-text", "text-to-image")
WAVE = b"RIFF\x00\x01a recording\r\n--\xff"


def config(**providers: Any) -> dict[str, Any]:
    """A pool for each capability, with a model of each provider in it."""
    return {
        "providers": {name: each if isinstance(each, dict) else {"instance": each} for name, each in providers.items()},
        "models": {
            f"{name}-{capability}": {"provider": name, "capabilities": [capability], "model": "m"}
            for name in providers
            for capability in CAPABILITIES
        },
        "pools": {capability: {} for capability in CAPABILITIES},
    }


@pytest.fixture
def mesh() -> Iterator[ModelMesh]:
    """A mesh on the simulator."""
    with ModelMesh(environ={}, clock=FakeClock(auto_advance=True)) as mesh:
        mesh.initialize(config(sim={"connector": "modelmesh.simulator.v1"}))
        yield mesh


class Wire:
    """A provider's HTTP side: keeps what it was sent, answers what it was told to."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answer

    def provider(self) -> OpenAICompatibleProvider[Any]:
        """A connector that ends here."""
        settings = OpenAICompatibleConfig(base_url="http://vendor.test/v1")
        return OpenAICompatibleProvider(settings, transport=httpx.MockTransport(self))


def asked(wire: Wire, **payload: Any) -> ProviderResponse:
    """Have a transcription made by a provider behind the wire."""
    request = ProviderRequest("m", {"file": Upload(WAVE, "a.wav", "audio/wav"), **payload}, "transcription")
    return asyncio.run(wire.provider().complete(request))


# --- the clients ------------------------------------------------------------------------------


def test_what_is_spoken_can_be_written_down_again(mesh: ModelMesh) -> None:
    """Speech is a file's bytes with its type and its receipt; a transcription reads it."""
    client = mesh.get_client()

    audio = client.audio.speech.create(model="text-to-speech", input="hello world", voice="alloy")
    reply = client.audio.transcriptions.create(model="speech-to-text", file=audio)

    assert audio[:4] == b"RIFF"
    assert audio.content_type == "audio/wav"
    assert audio.receipt.attempts[0].model_id == "sim-text-to-speech"
    assert (reply.text, reply.language) == ("hello world", None)
    assert reply.receipt.attempts[0].tokens_out > 0


def test_pictures_come_as_data_or_as_addresses(mesh: ModelMesh) -> None:
    """As many as were asked for."""
    images = mesh.get_client().images

    two = images.generate(model="text-to-image", prompt="a cat", n=2)
    one = images.generate(model="text-to-image", prompt="a cat", response_format="url")

    assert [bool(each.b64_json) for each in two.data] == [True, True]
    assert two.data[0].url is None
    assert one.data[0].url.startswith("data:image/png;base64,")


def test_the_asynchronous_client_does_the_same() -> None:
    """On the caller's own loop."""

    async def asking() -> tuple[bytes, str, int]:
        async with ModelMesh(environ={}) as mesh:
            mesh.initialize(config(sim={"connector": "modelmesh.simulator.v1"}))
            client = mesh.get_async_client()
            audio = await client.audio.speech.create(model="text-to-speech", input="hi", voice="alloy")
            text = await client.audio.transcriptions.create(model="speech-to-text", file=("a.wav", audio))
            pictures = await client.images.generate(model="text-to-image", prompt="a cat")
            return audio, text.text, len(pictures.data)

    audio, text, pictures = asyncio.run(asking())

    assert (audio[:4], text, pictures) == (b"RIFF", "hi", 1)


def test_spoken_bytes_are_read_as_openais_are(mesh: ModelMesh, tmp_path: Path) -> None:
    """``content``, ``read``, ``iter_bytes`` and ``stream_to_file``, and bytes wherever bytes are wanted."""
    audio = mesh.get_client().audio.speech.create(model="text-to-speech", input="hello", voice="alloy")

    audio.stream_to_file(tmp_path / "a.wav")

    assert (tmp_path / "a.wav").read_bytes() == audio == audio.content == audio.read()
    assert b"".join(audio.iter_bytes(7)) == audio
    assert isinstance(audio, bytes)


def test_verbose_transcriptions_say_more(mesh: ModelMesh) -> None:
    """Language, duration and segments."""
    reply = mesh.get_client().audio.transcriptions.create(
        model="speech-to-text", file=WAVE, response_format="verbose_json", language="en"
    )

    assert (reply.language, reply.segments[0].text) == ("en", reply.text)
    assert reply.duration > 0


@pytest.mark.parametrize("name", ["path", "text", "opened", "buffer", "pair", "triple", "bytes", "upload"])
def test_a_recording_may_be_given_in_many_ways(tmp_path: Path, name: str) -> None:
    """What it is called and what it is go along, as far as they are known."""
    file = tmp_path / "talk.mp3"
    file.write_bytes(WAVE)
    with file.open("rb") as opened:
        ways: dict[str, Any] = {
            "path": file,
            "text": str(file),
            "opened": opened,
            "buffer": io.BytesIO(WAVE),
            "pair": ("talk.mp3", WAVE),
            "triple": ("talk.mp3", WAVE, "audio/mpeg"),
            "bytes": bytearray(WAVE),
            "upload": Upload(WAVE, "talk.mp3"),
        }

        upload = upload_of(ways[name])

    assert upload.content == WAVE
    assert upload.name == ("audio.wav" if name in ("buffer", "bytes") else "talk.mp3")
    assert upload.content_type == ("audio/mpeg" if name == "triple" else "")


@pytest.mark.parametrize("given", [42, io.StringIO("text")], ids=["number", "text file"])
def test_what_is_no_recording_is_refused(given: Any) -> None:
    """The error says what is taken."""
    with pytest.raises(TypeError, match="'rb'"):
        upload_of(given)


def test_a_recording_is_not_written_into_logs() -> None:
    """Its size is."""
    assert repr(Upload(WAVE, "a.wav")) == f"Upload('a.wav', {len(WAVE)} bytes)"


def test_an_answer_without_audio_is_an_error(mesh: ModelMesh) -> None:
    """Rather than an empty file."""
    answer: Any = type("Answer", (), {"data": {"text": "no"}, "provider_id": "acme", "receipt": None})()

    with pytest.raises(MalformedResponseError, match="'acme' answered without audio"):
        SpeechAudio.of(answer)


# --- the road to a provider ---------------------------------------------------------------------


def test_a_recording_goes_out_as_a_form() -> None:
    """With its name and type, the model, and every other field as text; bytes arrive as they are."""
    wire = Wire(httpx.Response(200, json={"text": "hello", "usage": {"input_tokens": 3, "output_tokens": 2}}))

    response = asked(wire, language="en", temperature=0.5, timestamp_granularities=["word", "segment"])

    sent = wire.requests[0]
    body = sent.content
    assert sent.url.path == "/v1/audio/transcriptions"
    assert sent.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert b'name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n' + WAVE + b"\r\n" in body
    assert b'name="model"\r\n\r\nm\r\n' in body
    assert body.count(b'name="timestamp_granularities[]"') == 2
    assert response.data["text"] == "hello"
    assert response.usage is not None
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (3, 2)


@pytest.mark.parametrize("shape", ["text", "srt", "vtt"])
def test_answers_that_are_plain_text_are_read(shape: str) -> None:
    """Some formats are no JSON."""
    wire = Wire(httpx.Response(200, text="1\n00:00 hello\n"))

    assert asked(wire, response_format=shape).data == {"text": "1\n00:00 hello\n"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [('{"nothing": 1}', "has no text"), ('{"error": {"message": "worn out"}}', "worn out")],
    ids=["no text", "error"],
)
def test_answers_without_text_are_errors(body: str, reason: str) -> None:
    """A 200 alone is no answer."""
    wire = Wire(httpx.Response(200, content=body, headers={"content-type": "application/json"}))

    with pytest.raises(ProviderError, match=reason):
        asked(wire)


def test_who_cannot_do_it_is_passed_over() -> None:
    """A provider without the operation is rotated away from, and its health is not hurt by it."""

    class ChatOnly(OpenAICompatibleProvider[Any]):
        async def complete(self, request: ProviderRequest) -> ProviderResponse:
            raise UnsupportedRequestError(f"does not do {request.operation}")

    chat_only = ChatOnly(OpenAICompatibleConfig(base_url="http://vendor.test/v1"))
    with ModelMesh(environ={}, clock=FakeClock(auto_advance=True)) as mesh:
        mesh.initialize(config(first=chat_only, sim={"connector": "modelmesh.simulator.v1"}))
        client = mesh.get_client()

        replies = [client.images.generate(model="text-to-image", prompt="a cat") for _ in range(5)]

        assert {reply.receipt.attempts[-1].provider_id for reply in replies} == {"sim"}
        assert mesh.pool_status()["text-to-image"]["standby"] == 0


def test_when_nobody_can_the_error_says_so() -> None:
    """With what the last one said."""
    wire = Wire(httpx.Response(503, json={"error": {"message": "no voice today"}}))
    with ModelMesh(environ={}, clock=FakeClock(auto_advance=True)) as mesh:
        mesh.initialize(config(only=wire.provider()))

        with pytest.raises(AllProvidersExhaustedError, match="no voice today"):
            mesh.get_client().audio.speech.create(model="text-to-speech", input="hi", voice="alloy")


def test_replies_read_by_attribute() -> None:
    """What a provider left out is None where OpenAI's SDK says None."""
    assert Reply({"text": "a"}).duration is None
