"""Clients in the shape of OpenAI's SDK: ``model`` is a pool, a capability or a model name.

`OpenAIClient` blocks, `AsyncOpenAIClient` is awaited; both answer with `Reply` objects that read by attribute
(``reply.choices[0].message.content``) and by key. `create` builds a client from capabilities and the environment.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, overload

from modelmesh._engine.model import STREAMING, SYNC
from modelmesh.errors import CreateArgumentError
from modelmesh.explanation import Explanation
from modelmesh.media import AsyncImages, AsyncSpeech, AsyncTranscriptions, Audio, Images, Speech, Transcriptions
from modelmesh.replies import Reply, Resource, reply_of, split
from modelmesh.router import RoutedStream, RoutingOptions

if TYPE_CHECKING:
    from modelmesh.config import MeshConfig
    from modelmesh.mesh import ModelMesh
    from modelmesh.middleware import Middleware
    from modelmesh.usage import Usage


class ChatStream:
    """A streamed answer; iterate it, and close it (or use ``with``) to hang up early."""

    def __init__(self, mesh: ModelMesh, routed: RoutedStream) -> None:
        self._routed = routed
        self._chunks = mesh.run_stream(routed.generator)

    def __iter__(self) -> Iterator[Reply]:
        return self

    def __next__(self) -> Reply:
        return Reply(next(self._chunks).data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def receipt(self) -> Any:
        """What it took so far; complete at the end."""
        return self._routed.receipt

    def close(self) -> None:
        """End the stream and the provider's connection."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()


class AsyncChatStream:
    """A streamed answer for ``async for``; close it (or use ``async with``) to hang up early."""

    def __init__(self, routed: RoutedStream) -> None:
        self._routed = routed

    async def __aiter__(self) -> AsyncIterator[Reply]:
        async for chunk in self._routed.generator:
            yield Reply(chunk.data)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def receipt(self) -> Any:
        """What it took so far; complete at the end."""
        return self._routed.receipt

    async def close(self) -> None:
        """End the stream and the provider's connection."""
        await self._routed.aclose()


class Completions(Resource):
    """``client.chat.completions``, blocking."""

    @overload
    def create(
        self, *, model: str, messages: list[dict[str, Any]], stream: Literal[False] = False, **parameters: Any
    ) -> Reply: ...
    @overload
    def create(
        self, *, model: str, messages: list[dict[str, Any]], stream: Literal[True], **parameters: Any
    ) -> ChatStream: ...
    @overload
    def create(
        self, *, model: str, messages: list[dict[str, Any]], stream: bool, **parameters: Any
    ) -> Reply | ChatStream: ...
    def create(
        self, *, model: str, messages: list[dict[str, Any]], stream: bool = False, **parameters: Any
    ) -> Reply | ChatStream:
        """Answer a chat.

        Args:
            model: Pool, capability or model name.
            messages: The conversation, oldest first.
            stream: Whether to answer in chunks.
            parameters: Passed to the provider as they are, known or not, but for ``timeout`` (seconds for the whole
                request), ``session_id``, ``preferred_provider``, ``extra_headers`` and ``extra_body``.

        Raises:
            ModelMeshError: See `modelmesh.errors`.
        """
        payload, metadata = split({"messages": messages, **parameters})
        if stream:
            return ChatStream(self._mesh, self._router.execute_stream(model, payload, metadata=metadata))
        return reply_of(self._mesh.run(self._router.execute("chat", model, payload, metadata=metadata)))


class AsyncCompletions(Resource):
    """``client.chat.completions``, awaited."""

    @overload
    async def create(
        self, *, model: str, messages: list[dict[str, Any]], stream: Literal[False] = False, **parameters: Any
    ) -> Reply: ...
    @overload
    async def create(
        self, *, model: str, messages: list[dict[str, Any]], stream: Literal[True], **parameters: Any
    ) -> AsyncChatStream: ...
    @overload
    async def create(
        self, *, model: str, messages: list[dict[str, Any]], stream: bool, **parameters: Any
    ) -> Reply | AsyncChatStream: ...
    async def create(
        self, *, model: str, messages: list[dict[str, Any]], stream: bool = False, **parameters: Any
    ) -> Reply | AsyncChatStream:
        """Answer a chat; see `Completions.create`."""
        payload, metadata = split({"messages": messages, **parameters})
        if stream:
            return AsyncChatStream(self._router.execute_stream(model, payload, metadata=metadata))
        return reply_of(await self._router.execute("chat", model, payload, metadata=metadata))


class Embeddings(Resource):
    """``client.embeddings``, blocking."""

    def create(self, *, model: str, input: str | list[str], **parameters: Any) -> Reply:
        """Embed one text or several; ``reply.data[i].embedding``."""
        payload, metadata = split({"input": input, **parameters})
        return reply_of(self._mesh.run(self._router.execute("embeddings", model, payload, metadata=metadata)))


class AsyncEmbeddings(Resource):
    """``client.embeddings``, awaited."""

    async def create(self, *, model: str, input: str | list[str], **parameters: Any) -> Reply:
        """Embed one text or several; ``reply.data[i].embedding``."""
        payload, metadata = split({"input": input, **parameters})
        return reply_of(await self._router.execute("embeddings", model, payload, metadata=metadata))


class Models(Resource):
    """``client.models``."""

    def list(self) -> Reply:
        """Pools and models that may be asked for, in the shape of OpenAI's model list."""
        return Reply({"object": "list", "data": self._mesh.virtual_models()})


class AsyncModels(Models):
    """``client.models`` of the asynchronous client."""

    async def list(self) -> Reply:  # type: ignore[override]  # the async twin of a blocking method
        """Pools and models that may be asked for."""
        return super().list()


ChatApi = TypeVar("ChatApi", Completions, AsyncCompletions)


class Chat(Generic[ChatApi]):
    """``client.chat``."""

    def __init__(self, completions: ChatApi) -> None:
        self.completions: ChatApi = completions


class PoolStatus(Reply):
    """``active``, ``standby``, ``total`` and ``current_model`` of a pool."""


class _Client:
    """What both clients share."""

    def __init__(self, mesh: ModelMesh) -> None:
        self._mesh = mesh

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._mesh!r})"

    @property
    def mesh(self) -> ModelMesh:
        """The mesh behind the client."""
        return self._mesh

    @property
    def usage(self) -> Usage:
        """What was used: cost, tokens and calls, by model, and how budgets stand."""
        return self._mesh.get_usage()

    def pool_status(self) -> dict[str, PoolStatus]:
        """Say of each pool who is active and who rests."""
        return {name: PoolStatus(status) for name, status in self._mesh.pool_status().items()}

    def active_providers(self) -> list[str]:
        """Providers that may be called now."""
        return self._mesh.active_providers()

    def describe(self) -> str:
        """Show pools and models as text, the current model of each pool marked by an arrow."""
        return self._mesh.describe()

    def explain(
        self, *, model: str, messages: Sequence[Mapping[str, Any]] = (), stream: bool = False, **parameters: Any
    ) -> Explanation:
        """Say where a request would go and why, without sending it: takes what ``chat.completions.create`` takes.

        Raises:
            CapabilityNotFoundError: Nothing has this name.
        """
        payload = {**parameters, "messages": list(messages)} if messages else None
        options = RoutingOptions(STREAMING if stream else SYNC)
        return self._mesh.get_router().explain(model, payload, options)

    def rotate(self, pool: str) -> str:
        """Move the pool's current model to standby until it is recovered by hand; return the next model's ID."""
        return self._mesh.rotate(pool)


class OpenAIClient(_Client):
    """The blocking client; usable from any thread. Close it, or use ``with``."""

    def __init__(self, mesh: ModelMesh) -> None:
        super().__init__(mesh)
        self.chat: Chat[Completions] = Chat(Completions(mesh))
        self.embeddings = Embeddings(mesh)
        self.audio: Audio[Speech, Transcriptions] = Audio(Speech(mesh), Transcriptions(mesh))
        self.images = Images(mesh)
        self.models = Models(mesh)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Shut the mesh down."""
        self._mesh.shutdown()


class AsyncOpenAIClient(_Client):
    """The asynchronous client; requests run on the caller's event loop. Close it, or use ``async with``."""

    def __init__(self, mesh: ModelMesh) -> None:
        super().__init__(mesh)
        self.chat: Chat[AsyncCompletions] = Chat(AsyncCompletions(mesh))
        self.embeddings = AsyncEmbeddings(mesh)
        self.audio: Audio[AsyncSpeech, AsyncTranscriptions] = Audio(AsyncSpeech(mesh), AsyncTranscriptions(mesh))
        self.images = AsyncImages(mesh)
        self.models = AsyncModels(mesh)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Shut the mesh down."""
        await self._mesh.ashutdown()


def create(
    *capabilities: str,
    pool: str | None = None,
    providers: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    models: Sequence[str] | None = None,
    strategy: str = "stick-until-failure",
    api_keys: Mapping[str, str] | None = None,
    config: str | Path | Mapping[str, Any] | MeshConfig | None = None,
    environ: Mapping[str, str] | None = None,
    middleware: Sequence[Middleware] = (),
) -> OpenAIClient:
    """Build a client: from a configuration, or from capabilities and the provider keys in the environment.

    Args:
        capabilities: What is needed, such as ``"chat-completion"``; each becomes a pool of that name.
        pool: A predefined pool instead, such as ``"text-generation"``.
        providers: Use only these, by connector ID or its first part (``"openai"``); or a mapping of them to settings
            that go before what is detected.
        models: Use only these models, in this order.
        strategy: Selection strategy of the pools.
        api_keys: Keys by provider (``"openai"``) or variable name; then the environment is not looked at.
        config: A YAML or JSON file, a mapping, or a `MeshConfig`; then nothing is detected.
        environ: Instead of the process environment.
        middleware: Code of the application's own around each attempt; see `modelmesh.middleware`.

    Raises:
        CreateArgumentError: Neither capabilities, nor ``pool``, nor ``config`` was given.
        NoProvidersError: No provider was found.
        ConfigurationError: Anything else that is wrong with what was asked.
    """
    return OpenAIClient(_mesh(capabilities, pool, providers, models, strategy, api_keys, config, environ, middleware))


def create_async(
    *capabilities: str,
    pool: str | None = None,
    providers: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    models: Sequence[str] | None = None,
    strategy: str = "stick-until-failure",
    api_keys: Mapping[str, str] | None = None,
    config: str | Path | Mapping[str, Any] | MeshConfig | None = None,
    environ: Mapping[str, str] | None = None,
    middleware: Sequence[Middleware] = (),
) -> AsyncOpenAIClient:
    """Build an asynchronous client; the arguments are those of `create`."""
    return AsyncOpenAIClient(
        _mesh(capabilities, pool, providers, models, strategy, api_keys, config, environ, middleware)
    )


def _mesh(
    capabilities: Sequence[str],
    pool: str | None,
    providers: Sequence[str] | Mapping[str, Mapping[str, Any]] | None,
    models: Sequence[str] | None,
    strategy: str,
    api_keys: Mapping[str, str] | None,
    config: str | Path | Mapping[str, Any] | MeshConfig | None,
    environ: Mapping[str, str] | None,
    middleware: Sequence[Middleware],
) -> ModelMesh:
    from modelmesh.detection import Detection, detected_config
    from modelmesh.mesh import ModelMesh

    for each in capabilities:
        if not isinstance(each, str):
            raise CreateArgumentError(
                'capabilities are texts, an argument each: create("chat-completion", "text-embeddings");'
                f" one is of type {type(each).__name__}"
            )
    environment = os.environ if environ is None else environ
    mesh = ModelMesh(environ=environment, middleware=middleware)
    try:
        if config is not None:
            mesh.initialize(config)
        else:
            wanted = Detection(
                capabilities=tuple(capabilities),
                pool=pool,
                providers=_names(providers),
                models=_names(models),
                strategy=strategy,
                api_keys=api_keys,
                settings=providers if isinstance(providers, Mapping) else {},
            )
            raw, keys = detected_config(wanted, mesh.plugins, environment)
            mesh.initialize(raw, secrets=keys)
    except BaseException:
        mesh.shutdown()
        raise
    return mesh


def _names(given: Iterable[str] | None) -> tuple[str, ...] | None:
    """Return names as a tuple; one that comes without a list is one name, and not as many as it has letters."""
    if given is None:
        return None
    return (given,) if isinstance(given, str) else tuple(given)
