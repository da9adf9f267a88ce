"""What the simulator answers to speech, transcriptions and pictures: real files, made of next to nothing.

Speech is a WAV file that carries its text as the comment, so that a transcription of it finds the text again.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

from modelmesh.errors import InvalidRequestError, UnsupportedRequestError
from modelmesh.interfaces.provider import ProviderRequest, ProviderResponse, TokenUsage, Upload

SPEECH = "generation.audio-generation.text-to-speech"
TRANSCRIPTION = "understanding.audio-understanding.speech-to-text"
IMAGE = "generation.image-generation.text-to-image"

_RATE = 8_000
_SECONDS_PER_CHARACTER = 0.05
_MOST_PICTURES = 10


def simulated_media(request: ProviderRequest, *, reply: str, now: int) -> ProviderResponse:
    """Answer a request for speech, a transcription or a picture.

    Args:
        request: In OpenAI's shape.
        reply: What the simulator says; ``echo`` for what was said to it.
        now: Unix time.

    Raises:
        UnsupportedRequestError: It is for something else.
        InvalidRequestError: It lacks what it is about.
    """
    if request.operation == "speech":
        return _speech(request)
    if request.operation == "transcription":
        return _transcription(request, reply)
    if request.operation == "image":
        return _pictures(request, now)
    raise UnsupportedRequestError(f"the simulator does not do {request.operation}")


def _speech(request: ProviderRequest) -> ProviderResponse:
    text = str(request.payload.get("input") or "")
    audio = _wave(text)
    tokens = max(1, len(text) // 4)
    return ProviderResponse(
        {"audio": base64.b64encode(audio).decode("ascii"), "content_type": "audio/wav"},
        usage=TokenUsage(tokens, 0, tokens),
    )


def _transcription(request: ProviderRequest, reply: str) -> ProviderResponse:
    file = request.payload.get("file")
    if not isinstance(file, Upload):
        raise InvalidRequestError("a transcription needs a file", status_code=400)
    text = reply if reply != "echo" else _comment(file.content) or f"a recording of {len(file.content)} bytes"
    seconds = round(len(text) * _SECONDS_PER_CHARACTER, 2)
    shape = request.payload.get("response_format") or "json"
    data: dict[str, Any] = {"text": text}
    if shape == "srt":
        data["text"] = f"1\n{_moment(0.0, ',')} --> {_moment(seconds, ',')}\n{text}\n"
    elif shape == "vtt":
        data["text"] = f"WEBVTT\n\n{_moment(0.0, '.')} --> {_moment(seconds, '.')}\n{text}\n"
    elif shape == "verbose_json":
        segment = {"id": 0, "start": 0.0, "end": seconds, "text": text}
        language = str(request.payload.get("language") or "english")
        data |= {"task": "transcribe", "language": language, "duration": seconds, "segments": [segment]}
    tokens = max(1, len(text) // 4)
    return ProviderResponse(data, usage=TokenUsage(0, tokens, tokens))


def _pictures(request: ProviderRequest, now: int) -> ProviderResponse:
    prompt = str(request.payload.get("prompt") or "")
    asked = request.payload.get("n")
    number = min(asked, _MOST_PICTURES) if isinstance(asked, int) and asked > 0 else 1
    in_url = request.payload.get("response_format") == "url"
    pictures: list[dict[str, Any]] = []
    for place in range(number):
        text = base64.b64encode(_picture(f"{prompt}{place}")).decode("ascii")
        pictures.append({"url": f"data:image/png;base64,{text}"} if in_url else {"b64_json": text})
    tokens = max(1, len(prompt) // 4)
    return ProviderResponse({"created": now, "data": pictures}, usage=TokenUsage(tokens, 0, tokens))


# --- files ----------------------------------------------------------------------------


def _wave(text: str) -> bytes:
    """Return silence as long as the text would take, as 8-bit mono PCM, with the text as comment."""
    silence = b"\x80" * int(_RATE * _SECONDS_PER_CHARACTER * len(text))
    comment = text.encode() + b"\x00"
    parts = b"WAVE" + _chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, _RATE, _RATE, 1, 8))
    parts += _chunk(b"LIST", b"INFO" + _chunk(b"ICMT", comment)) + _chunk(b"data", silence)
    return _chunk(b"RIFF", parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\x00" * (len(content) % 2)


def _comment(audio: bytes) -> str:
    """Return the text that `_wave` put into a file; empty for any other file."""
    start = audio.find(b"ICMT")
    if start < 0 or len(audio) < start + 8:
        return ""
    (length,) = struct.unpack_from("<I", audio, start + 4)
    return audio[start + 8 : start + 8 + length].rstrip(b"\x00").decode("utf-8", "replace")


def _picture(seed: str) -> bytes:
    """Return a PNG of one pixel, in a colour that goes with the seed."""
    colour = zlib.crc32(seed.encode()).to_bytes(4, "big")[:3]
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\x00" + colour)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _moment(seconds: float, point: str) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{round((seconds - whole) * 1000):03}"
