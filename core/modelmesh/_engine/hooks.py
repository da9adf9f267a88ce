"""Runs middleware around the attempts of a request."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from modelmesh.errors import ProviderError
from modelmesh.interfaces.provider import (
    AttemptRecord,
    ProviderChunk,
    ProviderRequest,
    ProviderResponse,
    TokenUsage,
)
from modelmesh.middleware import MiddlewareContext, MiddlewareStack, ShortCircuit

if TYPE_CHECKING:
    from modelmesh._engine.call import Call
    from modelmesh._engine.member import Member
    from modelmesh._engine.streaming import StreamProgress


async def before(stack: MiddlewareStack, call: Call, member: Member, request: ProviderRequest) -> ProviderRequest:
    """Return the request to send.

    Raises:
        ShortCircuit: It is answered already.
        ModelMeshError: A member failed.
    """
    earlier = call.context
    call.context = MiddlewareContext(
        member.model_id,
        member.provider_id,
        call.pool.name,
        len(call.attempts) + 1,
        datetime.fromtimestamp(call.clock.time(), UTC),
        dict(call.metadata or {}) if earlier is None else earlier.metadata,
        call.request_id,
    )
    # Of its own: what a hook writes into it must not reach the next attempt.
    return await stack.run_before_request(replace(request, payload=dict(request.payload)), call.context)


async def after(stack: MiddlewareStack, call: Call, response: ProviderResponse, usage: TokenUsage) -> ProviderResponse:
    """Return the answer to go on with.

    Raises:
        ModelMeshError: A member failed.
    """
    assert call.context is not None
    response.usage, response.cost = usage, call.attempts[-1].cost
    return await stack.run_after_response(response, call.context)


async def after_stream(stack: MiddlewareStack, call: Call, member: Member, progress: StreamProgress) -> None:
    """Show a stream that was sent whole.

    Raises:
        ModelMeshError: A member failed.
    """
    sent = ProviderResponse.text(progress.text, model=member.model.wire_name, response_id=call.request_id)
    await after(stack, call, sent, progress.usage_so_far())


async def after_failure(
    stack: MiddlewareStack, call: Call, error: ProviderError, *, committed: bool = False
) -> ProviderError:
    """Return the error to go on with.

    Args:
        stack: The middleware.
        call: The request.
        error: What its last attempt ended with.
        committed: Whether content was sent: then an answer comes too late.

    Raises:
        ShortCircuit: A member has an answer.
        ModelMeshError: A member failed, or does not want the request to go on.
    """
    if call.context is None:  # it was added while the attempt ran
        return error
    try:
        response = await stack.run_on_error(error, call.context)
    except ProviderError as raised:
        return raised
    if committed:
        return error
    raise ShortCircuit(response)


def answer_of(answered: ShortCircuit, call: Call) -> ProviderResponse:
    """Return the answer of middleware, and enter it into the receipt."""
    member = call.last_member or call.route.selected
    call.attempts.append(AttemptRecord(member.model_id, member.provider_id, "success", "answered by middleware"))
    return answered.response


def as_chunks(response: ProviderResponse) -> list[ProviderChunk]:
    """Return an answer as the chunks of a stream: its content, then its end."""
    data = response.data
    base = {
        "id": data.get("id", ""),
        "object": "chat.completion.chunk",
        "created": data.get("created", 0),
        "model": data.get("model", ""),
    }
    choices: list[dict[str, Any]] = list(data.get("choices") or ())
    content: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    for place, choice in enumerate(choices):
        content.append({"index": place, "delta": choice.get("message") or {}, "finish_reason": None})
        ends.append({"index": place, "delta": {}, "finish_reason": choice.get("finish_reason") or "stop"})
    text = content[0]["delta"].get("content") if content else None
    end: dict[str, Any] = {**base, "choices": ends}
    if data.get("usage"):
        end["usage"] = data["usage"]
    finish = str(ends[0]["finish_reason"]) if ends else "stop"
    return [
        ProviderChunk({**base, "choices": content}, text=text if isinstance(text, str) else "", commits=True),
        ProviderChunk(end, finish_reason=finish, usage=response.usage),
    ]
