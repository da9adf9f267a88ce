"""Which operations a model surely has no answer to, by the capabilities that it was declared with.

Most capabilities say little of how they are asked for: pictures and speech come out of chats as well. Text and vectors
are different: no model makes one of what the other is asked for by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelmesh.errors import UnsupportedRequestError

if TYPE_CHECKING:
    from modelmesh._engine.member import Member
    from modelmesh._engine.pipeline import PipelineResult
    from modelmesh.interfaces.provider import Operation

_TEXT = "generation.text-generation."
_VECTORS = "representation.embeddings."
_ASKED_BY: dict[str, Operation] = {
    **dict.fromkeys((_TEXT + leaf for leaf in ("chat-completion", "text-completion", "code-generation")), "chat"),
    **dict.fromkeys(
        (_VECTORS + leaf for leaf in ("text-embeddings", "image-embeddings", "multimodal-embeddings")), "embeddings"
    ),
}
_REMEDY: dict[Operation, str] = {"chat": "chat-completion", "embeddings": "text-embeddings"}


def refuse_unanswerable(operation: Operation, route: PipelineResult) -> None:
    """Refuse a request before it is sent if all models of its pool were declared for something else for sure.

    Raises:
        UnsupportedRequestError: Says what they were declared for, and where to ask instead.
    """
    if operation not in _REMEDY or _may_answer(operation, route.selected):
        return
    members = list(route.pool.members.values())
    if any(_may_answer(operation, member) for member in members):
        return  # it rests, or is tried later
    declared = sorted({path.rsplit(".", 1)[-1] for each in members for path in each.model.definition.capabilities})
    raise UnsupportedRequestError(
        f"no model of pool {route.pool.name!r} takes {operation} requests; what they were declared for is"
        f" {', '.join(declared)}; ask a pool of {_REMEDY[operation]}, or add that to the capabilities of a model that"
        " has it",
        code="unsupported_request",
    )


def _may_answer(operation: Operation, member: Member) -> bool:
    return any(_ASKED_BY.get(path, operation) == operation for path in member.model.definition.capabilities)
