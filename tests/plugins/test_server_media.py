"""OpenAI's own client asks the server for speech, transcriptions and pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from modelmesh.mesh import ModelMesh
from modelmesh_cdk.testing import FaultServer, faults
from modelmesh_plugins.server.form import parse_form
from modelmesh_plugins.server.runner import ProxyServer
from modelmesh_plugins.server.settings import ServerSettings

SPEECH, TRANSCRIPTIONS, IMAGES = "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/images/generations"
CAPABILITIES = ("text-to-speech", "speech-to-text", "text-to-image")
WAVE = b"RIFF\r\n\x00\xff--a recording"
FORM = 'multipart/form-data; boundary="b"'


@pytest.fixture(scope="module")
def server() -> Iterator[ProxyServer]:
    """A server in front of a simulator."""
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(
            {
                "providers": {"sim": {"connector": "modelmesh.simulator.v1"}},
                "models": {f"m-{name}": {"provider": "sim", "capabilities": [name]} for name in CAPABILITIES},
                "pools": {name: {} for name in CAPABILITIES},
            }
        )
        with ProxyServer(mesh, ServerSettings(port=0, max_body=100_000)) as server:
            yield server


@pytest.fixture(scope="module")
def client(server: ProxyServer) -> Iterator[openai.OpenAI]:
    """OpenAI's client with its default settings."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", timeout=5.0) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: ProxyServer) -> Iterator[httpx.Client]:
    """A plain client."""
    with httpx.Client(base_url=server.url, timeout=5.0, trust_env=False) as http:
        yield http


def refused(http: httpx.Client, path: str, **sent: Any) -> tuple[int, str, str | None]:
    """Return status, message and field of a refusal."""
    reply = http.post(path, **sent)
    error = reply.json()["error"]
    return reply.status_code, error["message"], error["param"]


# --- answers --------------------------------------------------------------------------------


def test_speech_is_an_audio_file(client: openai.OpenAI, tmp_path: Path) -> None:
    """The body is the file, its type is in the header, and the answer says who gave it."""
    raw = client.audio.speech.with_raw_response.create(model="text-to-speech", input="hello", voice="alloy")

    speech = raw.parse()

    speech.write_to_file(tmp_path / "a.wav")
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RIFF"
    assert raw.headers["content-type"] == "audio/wav"
    assert raw.headers["x-modelmesh-model"] == "m-text-to-speech"
    assert raw.headers["x-modelmesh-attempts"] == "1"


def test_speech_can_be_read_as_it_comes(client: openai.OpenAI) -> None:
    """OpenAI's streamed reading works on it."""
    with client.audio.speech.with_streaming_response.create(
        model="text-to-speech", input="hello", voice="alloy"
    ) as reply:
        pieces = list(reply.iter_bytes(100))

    assert b"".join(pieces)[:4] == b"RIFF"


def test_a_recording_is_written_down(client: openai.OpenAI, tmp_path: Path) -> None:
    """A file of the client's goes out as a form, the same text comes back."""
    file = tmp_path / "talk.wav"
    speech = client.audio.speech.create(model="text-to-speech", input="grüß dich", voice="alloy")
    file.write_bytes(speech.content)

    with file.open("rb") as opened:
        answer = client.audio.transcriptions.create(model="speech-to-text", file=opened, temperature=0.2)

    assert answer.text == "grüß dich"


@pytest.mark.parametrize(("shape", "begins"), [("text", "a recording"), ("srt", "1\n00:"), ("vtt", "WEBVTT")])
def test_other_formats_come_as_text(client: openai.OpenAI, shape: Any, begins: str) -> None:
    """OpenAI's client hands them on as they are."""
    answer: Any = client.audio.transcriptions.create(model="speech-to-text", file=WAVE, response_format=shape)

    assert answer.startswith(begins)


def test_verbose_transcriptions_are_whole(client: openai.OpenAI) -> None:
    """Segments and duration, asked for with a list in the form."""
    answer = client.audio.transcriptions.create(
        model="speech-to-text",
        file=("a.wav", WAVE, "audio/wav"),
        response_format="verbose_json",
        timestamp_granularities=["segment"],
    )

    assert answer.segments is not None
    assert answer.segments[0].text == answer.text
    assert answer.language == "english"


def test_a_recording_may_come_in_json(http: httpx.Client) -> None:
    """In base64, with or without the head of a data URL."""
    text = base64.b64encode(WAVE).decode()

    answers = [
        http.post(TRANSCRIPTIONS, json={"model": "speech-to-text", "file": sent}).json()["text"]
        for sent in (text, f"data:audio/wav;base64,{text}")
    ]

    assert answers == [f"a recording of {len(WAVE)} bytes"] * 2


def test_pictures_are_made(client: openai.OpenAI) -> None:
    """As data and as addresses."""
    answer = client.images.generate(model="text-to-image", prompt="a cat", n=2)
    linked = client.images.generate(model="text-to-image", prompt="a cat", response_format="url")

    assert answer.data is not None
    assert linked.data is not None
    assert [base64.b64decode(each.b64_json or "")[1:4] for each in answer.data] == [b"PNG", b"PNG"]
    assert str(linked.data[0].url).startswith("data:image/png")


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (SPEECH, {"model": "text-to-speech", "voice": "alloy"}, "input"),
        (SPEECH, {"model": "text-to-speech", "input": "hi"}, "voice"),
        (SPEECH, {"model": "text-to-speech", "input": "hi", "voice": "a", "speed": "fast"}, "speed"),
        (SPEECH, {"model": "text-to-speech", "input": "hi", "voice": "a", "stream_format": "sse"}, "stream_format"),
        (SPEECH, {"model": "text-to-speech", "input": "hi", "voice": "a", "api_key": "x"}, "api_key"),
        (IMAGES, {"model": "text-to-image"}, "prompt"),
        (IMAGES, {"model": "text-to-image", "prompt": "a", "n": 0}, "n"),
        (IMAGES, {"model": "text-to-image", "prompt": "a", "stream": True}, "stream"),
        (IMAGES, {"prompt": "a"}, "model"),
        (TRANSCRIPTIONS, {"model": "speech-to-text"}, "file"),
        (TRANSCRIPTIONS, {"model": "speech-to-text", "file": "no base64!"}, "file"),
    ],
)
def test_what_no_provider_could_answer_is_refused(
    http: httpx.Client, path: str, body: dict[str, Any], param: str
) -> None:
    """A 400 that names the field."""
    status, message, named = refused(http, path, json=body)

    assert (status, named) == (400, param)
    assert param in message


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"data": {"model": "speech-to-text"}, "files": {"other": b"x"}}, "file"),
        ({"data": {"model": "speech-to-text"}, "files": {"file": b""}}, "file"),
        ({"data": {"model": "speech-to-text", "temperature": "warm"}, "files": {"file": b"x"}}, "temperature"),
        ({"data": {"model": "speech-to-text", "stream": "true"}, "files": {"file": b"x"}}, "stream"),
        ({"data": {}, "files": {"file": b"x"}}, "model"),
    ],
    ids=["no file", "empty file", "no number", "stream", "no model"],
)
def test_a_form_that_lacks_something_is_refused(http: httpx.Client, form: dict[str, Any], param: str) -> None:
    """As a JSON body would be."""
    status, _, named = refused(http, TRANSCRIPTIONS, **form)

    assert (status, named) == (400, param)


@pytest.mark.parametrize(
    "body", [b"", b"--b\r\n", b'--b\r\nContent-Disposition: form-data; name="file"'], ids=["empty", "begun", "cut"]
)
def test_a_broken_form_is_refused(http: httpx.Client, body: bytes) -> None:
    """It says what is wrong with it."""
    status, message, _ = refused(http, TRANSCRIPTIONS, content=body, headers={"content-type": FORM})

    assert status == 400
    assert "no form that can be read" in message


def test_a_recording_that_is_too_large_is_refused(http: httpx.Client) -> None:
    """Without being read."""
    status, message, _ = refused(http, TRANSCRIPTIONS, files={"file": b"x" * 100_001})

    assert status == 413
    assert "100000 bytes" in message


def test_unknown_models_are_not_found(client: openai.OpenAI) -> None:
    """As for chats."""
    with pytest.raises(openai.NotFoundError):
        client.images.generate(model="nonsense", prompt="a cat")


# --- behind it -----------------------------------------------------------------------------------


def test_a_failing_provider_is_rotated_away() -> None:
    """The recording goes to the next one, whole."""
    with FaultServer(default=faults.status(503)) as broken, ModelMesh(environ={}) as mesh:
        mesh.initialize(
            {
                "providers": {
                    "broken": {"connector": "modelmesh.openai-compatible.v1", "base_url": broken.url},
                    "sim": {"connector": "modelmesh.simulator.v1"},
                },
                "models": {
                    "a": {"provider": "broken", "capabilities": ["speech-to-text"]},
                    "b": {"provider": "sim", "capabilities": ["speech-to-text"]},
                },
                "pools": {"speech-to-text": {}},
            }
        )
        with (
            ProxyServer(mesh, ServerSettings(port=0)) as server,
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", timeout=5.0) as client,
        ):
            raw = client.audio.transcriptions.with_raw_response.create(model="speech-to-text", file=WAVE)

    assert raw.headers["x-modelmesh-model"] == "b"
    assert raw.headers["x-modelmesh-attempts"] == "2"
    assert f"{len(WAVE)} bytes" in raw.text


# --- forms ------------------------------------------------------------------------------------------


def test_a_form_is_read_to_the_byte() -> None:
    """Line ends, dashes and other bytes in a file are the file's own; what stands around the parts is not looked at."""
    body = (
        b'preamble\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a b.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n" + WAVE + b"\r\n--b\r\ncontent-disposition: form-data; name=model\r\n\r\n"
        b"m\r\n--b--\r\nepilogue"
    )

    file, model = parse_form(FORM, body)

    assert (file.name, file.filename, file.content_type, file.content) == ("file", "a b.wav", "audio/wav", WAVE)
    assert (model.name, model.filename, model.text) == ("model", None, "m")


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        ("multipart/form-data", b"--b--", "no boundary"),
        (FORM, b"--b\r\n\r\nx", "not whole"),
        (FORM, b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--", "no name"),
        (FORM, b"--b\r\nno end\r\n--b--", "no end of its headers"),
        (FORM, b"\r\n--b\r\n\r\n" * 80 + b"\r\n--b--", "more than"),
    ],
    ids=["no boundary", "not whole", "no name", "no end", "too many"],
)
def test_what_is_no_form_says_why(content_type: str, body: bytes, reason: str) -> None:
    """A sentence for the caller."""
    with pytest.raises(ValueError, match=reason):
        parse_form(content_type, body)
