"""``client.audio`` and ``client.images``: speech, transcriptions and pictures, through pools like everything else."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeAlias, TypeVar

from modelmesh.errors import MalformedResponseError
from modelmesh.interfaces.provider import Upload
from modelmesh.replies import Reply, Resource, reply_of, split

if TYPE_CHECKING:
    from modelmesh.interfaces.provider import Receipt
    from modelmesh.router import Answer

FileInput: TypeAlias = "bytes | str | PathLike[str] | BinaryIO | tuple[str, bytes] | tuple[str, bytes, str] | Upload"
"""A recording: its bytes, its path, an open binary file, or ``(name, bytes)`` with or without its MIME type."""


class SpeechAudio(bytes):
    """Spoken text: the bytes of an audio file, with what OpenAI's SDK offers on them.

    Attributes:
        content_type: MIME type, as the provider says.
        receipt: What it took, attempt by attempt.
    """

    content_type: str
    receipt: Receipt

    @classmethod
    def of(cls, answer: Answer) -> SpeechAudio:
        """Read an answer.

        Raises:
            MalformedResponseError: It holds no audio.
        """
        try:
            audio = cls(base64.b64decode(answer.data["audio"], validate=True))
        except (KeyError, TypeError, ValueError):
            raise MalformedResponseError(
                f"provider {answer.provider_id!r} answered without audio", provider_id=answer.provider_id
            ) from None
        audio.content_type = str(answer.data.get("content_type") or "application/octet-stream")
        audio.receipt = answer.receipt
        return audio

    @property
    def content(self) -> bytes:
        """The bytes themselves."""
        return bytes(self)

    def read(self) -> bytes:
        """Return the bytes themselves."""
        return bytes(self)

    def iter_bytes(self, chunk_size: int = 65_536) -> Iterator[bytes]:
        """Yield them in pieces of at most so many."""
        for start in range(0, len(self), chunk_size):
            yield self[start : start + chunk_size]

    def stream_to_file(self, file: str | PathLike[str]) -> None:
        """Write them to a file."""
        Path(file).write_bytes(self)

    write_to_file = stream_to_file


class Speech(Resource):
    """``client.audio.speech``, blocking."""

    def create(self, *, model: str, input: str, voice: str | dict[str, Any], **parameters: Any) -> SpeechAudio:
        """Have a text spoken.

        Args:
            model: Pool, capability or model name.
            input: The text.
            voice: As the provider names it.
            parameters: As for ``chat.completions.create``; ``response_format`` and ``speed`` among them.

        Raises:
            ModelMeshError: See `modelmesh.errors`.
        """
        payload, metadata = split({"input": input, "voice": voice, **parameters})
        return SpeechAudio.of(self._mesh.run(self._router.execute("speech", model, payload, metadata=metadata)))


class AsyncSpeech(Resource):
    """``client.audio.speech``, awaited."""

    async def create(self, *, model: str, input: str, voice: str | dict[str, Any], **parameters: Any) -> SpeechAudio:
        """Have a text spoken; see `Speech.create`."""
        payload, metadata = split({"input": input, "voice": voice, **parameters})
        return SpeechAudio.of(await self._router.execute("speech", model, payload, metadata=metadata))


class Transcriptions(Resource):
    """``client.audio.transcriptions``, blocking."""

    def create(self, *, model: str, file: FileInput, **parameters: Any) -> Reply:
        """Have a recording written down: ``reply.text``, whatever the format.

        Args:
            model: Pool, capability or model name.
            file: The recording.
            parameters: As for ``chat.completions.create``; ``language``, ``prompt``, ``response_format`` and
                ``temperature`` among them. ``verbose_json`` brings ``language``, ``duration`` and ``segments``.

        Raises:
            ModelMeshError: See `modelmesh.errors`.
        """
        payload, metadata = split({"file": upload_of(file), **parameters})
        execution = self._router.execute("transcription", model, payload, metadata=metadata)
        return reply_of(self._mesh.run(execution))


class AsyncTranscriptions(Resource):
    """``client.audio.transcriptions``, awaited."""

    async def create(self, *, model: str, file: FileInput, **parameters: Any) -> Reply:
        """Have a recording written down; see `Transcriptions.create`."""
        payload, metadata = split({"file": upload_of(file), **parameters})
        return reply_of(await self._router.execute("transcription", model, payload, metadata=metadata))


SpeechApi = TypeVar("SpeechApi", Speech, AsyncSpeech)
TranscriptionsApi = TypeVar("TranscriptionsApi", Transcriptions, AsyncTranscriptions)


class Audio(Generic[SpeechApi, TranscriptionsApi]):
    """``client.audio``."""

    def __init__(self, speech: SpeechApi, transcriptions: TranscriptionsApi) -> None:
        self.speech: SpeechApi = speech
        self.transcriptions: TranscriptionsApi = transcriptions


class Images(Resource):
    """``client.images``, blocking."""

    def generate(self, *, model: str, prompt: str, **parameters: Any) -> Reply:
        """Have pictures made: ``reply.data[i].url`` or ``reply.data[i].b64_json``.

        Args:
            model: Pool, capability or model name.
            prompt: What they show.
            parameters: As for ``chat.completions.create``; ``n``, ``size``, ``quality`` and ``response_format`` among
                them.

        Raises:
            ModelMeshError: See `modelmesh.errors`.
        """
        payload, metadata = split({"prompt": prompt, **parameters})
        return reply_of(self._mesh.run(self._router.execute("image", model, payload, metadata=metadata)))


class AsyncImages(Resource):
    """``client.images``, awaited."""

    async def generate(self, *, model: str, prompt: str, **parameters: Any) -> Reply:
        """Have pictures made; see `Images.generate`."""
        payload, metadata = split({"prompt": prompt, **parameters})
        return reply_of(await self._router.execute("image", model, payload, metadata=metadata))


def upload_of(file: FileInput) -> Upload:
    """Return a recording as it goes to providers.

    Raises:
        TypeError: It is none of the things a recording may be given as.
        OSError: It cannot be read.
    """
    if isinstance(file, Upload):
        return file
    if isinstance(file, (bytes, bytearray, memoryview)):
        return Upload(bytes(file))
    if isinstance(file, (str, PathLike)):
        path = Path(fspath(file))
        return Upload(path.read_bytes(), path.name)
    if isinstance(file, tuple):
        name, recording, *kind = file
        return Upload(recording, name, *kind)
    content: object = file.read() if hasattr(file, "read") else None
    if isinstance(content, bytes):
        opened: object = getattr(file, "name", None)  # a number for files that were opened by one
        return Upload(content, Path(opened).name) if isinstance(opened, str) else Upload(content)
    raise TypeError("file takes bytes, a path, a file opened with 'rb', or a tuple of name and bytes")
