"""What clients answer with and what they take: objects that read by attribute and by key, and parted parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelmesh.errors import InvalidRequestError

if TYPE_CHECKING:
    from modelmesh.mesh import ModelMesh
    from modelmesh.router import Answer, Router


class Reply(dict[str, Any]):
    """A JSON object whose keys are attributes as well, at any depth."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__({key: _readable(value) for key, value in data.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            if name.startswith("__"):
                raise AttributeError(name) from None
            # OpenAI's SDK answers None for the optional fields a provider left out.
            if name in _OPTIONAL:
                return None
            raise AttributeError(f"the reply has no field {name!r}; it has {', '.join(self)}") from None

    def model_dump(self) -> dict[str, Any]:
        """Return plain dicts and lists."""
        plain: dict[str, Any] = _plain(self)
        return plain

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, by the SDK's other name for it."""
        return self.model_dump()

    def model_dump_json(self, *, indent: int | None = None) -> str:
        """Return the reply as JSON text."""
        return json.dumps(self, indent=indent, ensure_ascii=False)

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the reply as JSON text, by the SDK's other name for it."""
        return self.model_dump_json(indent=indent)


_OPTIONAL = frozenset(
    {
        "b64_json",
        "content",
        "duration",
        "finish_reason",
        "language",
        "logprobs",
        "name",
        "refusal",
        "revised_prompt",
        "role",
        "segments",
        "system_fingerprint",
        "tool_calls",
        "url",
        "usage",
        "words",
    }
)


def _readable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Reply(value)
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def reply_of(answer: Answer) -> Reply:
    """Return an answer as clients read it; its ``receipt`` says what it took."""
    reply = Reply(answer.data)
    # Set past the dict, so that the receipt neither prints nor dumps with the provider's fields.
    object.__setattr__(reply, "receipt", answer.receipt)
    return reply


NO_MESSAGES = "messages must be a list of at least one message; it is empty"

_CONTROL = ("session_id", "preferred_provider", "deadline")


def split(parameters: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part what goes to the provider from what steers the router; unset (None) parameters go nowhere.

    Raises:
        InvalidRequestError: ``timeout`` is no number, ``messages`` no list of mappings, or an empty one, or
            ``input`` no text or list.
    """
    messages = parameters.get("messages", ())
    if not isinstance(messages, (list, tuple)) or not all(isinstance(message, Mapping) for message in messages):
        raise InvalidRequestError('messages must be a list of mappings such as {"role": "user", "content": "Hello"}')
    if "messages" in parameters and not messages:
        raise InvalidRequestError(NO_MESSAGES)
    if not isinstance(parameters.get("input", ""), (str, list, tuple)):
        given = type(parameters["input"]).__name__
        raise InvalidRequestError(f"input must be a text or a list; it is of type {given}")
    extra = parameters.pop("extra_body", None) or {}
    headers = parameters.pop("extra_headers", None)
    deadline = parameters.pop("timeout", None)
    metadata = {name: parameters.pop(name) for name in _CONTROL if parameters.get(name) is not None}
    if deadline is not None:
        if isinstance(deadline, bool) or not isinstance(deadline, (int, float)):
            raise InvalidRequestError(f"timeout must be a number of seconds; it is a {type(deadline).__name__}")
        metadata.setdefault("deadline", deadline)
    if headers:
        metadata["headers"] = headers
    payload = {key: value for key, value in parameters.items() if value is not None}
    return {**payload, **extra}, metadata


class Resource:
    """A part of a client, such as ``client.embeddings``."""

    def __init__(self, mesh: ModelMesh) -> None:
        self._mesh = mesh

    @property
    def _router(self) -> Router:
        return self._mesh.get_router()
