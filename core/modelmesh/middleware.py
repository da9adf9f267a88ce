"""Middleware: an application's own code around each attempt, after a model was chosen.

Requests pass the members of a stack in order, answers in reverse. Where an attempt fails, the first member that returns
an answer has the last word. Nothing of it runs, or costs anything, where no middleware is set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from inspect import isawaitable
from typing import Any, TypeVar

from modelmesh.errors import ModelMeshError, ProviderError
from modelmesh.interfaces.provider import ProviderRequest, ProviderResponse

Kind = TypeVar("Kind")


@dataclass(slots=True)
class MiddlewareContext:
    """The attempt that hooks are called for.

    Attributes:
        model_id: As configured.
        provider_id: As configured.
        pool_name: The pool that serves the request.
        attempt: 1 for the first attempt of a request.
        timestamp: When it began, timezone-aware UTC.
        metadata: The caller's metadata, and whatever hooks keep there; one dict for all attempts of a request.
        request_id: The same for all attempts of a request.
    """

    model_id: str
    provider_id: str
    pool_name: str
    attempt: int
    timestamp: datetime
    metadata: dict[str, Any] = field(default_factory=dict)
    request_id: str = ""


class ShortCircuit(Exception):  # noqa: N818  (a way to answer, and no error)
    """Raised by `Middleware.before_request` to answer without calling the provider, from a cache say.

    Nothing is counted then, neither for the model nor against its limits.

    Attributes:
        response: The answer.
    """

    def __init__(self, response: ProviderResponse) -> None:
        super().__init__("answered by middleware")
        self.response = response


class Middleware:
    """Inherit this and write the hooks you need; each may be ``async`` or not, and runs on the request's event loop.

    What a hook raises ends the request and says nothing against the model: a `ModelMeshError` as it is, anything else
    as the cause of one. `on_error` is the exception: raising there is how it passes an error on.
    """

    async def before_request(self, request: ProviderRequest, context: MiddlewareContext) -> ProviderRequest:
        """Return the request to send: this one, or another made of it with `dataclasses.replace`.

        Raises:
            ShortCircuit: To answer at once.
        """
        return request

    async def after_response(self, response: ProviderResponse, context: MiddlewareContext) -> ProviderResponse:
        """Return the answer to go on with; ``usage`` and ``cost`` are filled in.

        Of a stream it is called with the whole answer once that has been sent, and what it returns goes nowhere.
        """
        return response

    async def on_error(self, error: ProviderError, context: MiddlewareContext) -> ProviderResponse:
        """Return an answer in place of a failed attempt, or raise to let the mesh retry and rotate.

        The failure counts against the model either way. A stream of which content was sent takes no answer any more.

        Raises:
            ProviderError: By default the same one.
        """
        raise error


class MiddlewareStack:
    """Middleware in order.

    Attributes:
        members: The first is outermost: it sees requests first and answers last.
    """

    __slots__ = ("members",)

    def __init__(self, members: Iterable[Middleware] = ()) -> None:
        self.members: tuple[Middleware, ...] = tuple(members)

    def add(self, middleware: Middleware) -> None:
        """Append one, from the next attempt on."""
        self.members = (*self.members, middleware)

    async def run_before_request(self, request: ProviderRequest, context: MiddlewareContext) -> ProviderRequest:
        """Pass a request through all members in order.

        Raises:
            ShortCircuit: A member answers.
            ModelMeshError: A member failed.
        """
        for member in self.members:
            request = await _called(member, "before_request", ProviderRequest, request, context)
        return request

    async def run_after_response(self, response: ProviderResponse, context: MiddlewareContext) -> ProviderResponse:
        """Pass an answer through all members in reverse.

        Raises:
            ModelMeshError: A member failed.
        """
        for member in reversed(self.members):
            response = await _called(member, "after_response", ProviderResponse, response, context)
        return response

    async def run_on_error(self, error: ProviderError, context: MiddlewareContext) -> ProviderResponse:
        """Return the first answer a member has for an error; one that raises passes its own error to the next.

        Raises:
            ProviderError: No member has an answer; the last error.
            ModelMeshError: A member failed, or does not want the request to go on.
        """
        for member in self.members:
            try:
                return await _called(member, "on_error", ProviderResponse, error, context)
            except ProviderError as raised:
                error = raised
        raise error


async def _called(member: Middleware, hook: str, kind: type[Kind], *arguments: Any) -> Kind:
    who = f"middleware {type(member).__name__}.{hook}"
    try:
        result = getattr(member, hook)(*arguments)
        if isawaitable(result):
            result = await result
    except (ModelMeshError, ShortCircuit):
        raise
    except Exception as error:
        # Its text stays in the cause: it may hold a prompt.
        raise ModelMeshError(f"{who} raised {type(error).__name__}") from error
    if not isinstance(result, kind):
        raise ModelMeshError(f"{who} returned {type(result).__name__}; it has to return a {kind.__name__}")
    return result
