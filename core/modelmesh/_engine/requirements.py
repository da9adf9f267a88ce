"""What a request needs of a model, and which models were declared unable to give it.

The stage stands before every strategy and in every pool, so that no strategy has to know about tools or images. What
a model does not declare does not exclude it: a wrong guess here would cost more than a provider's refusal, which the
request survives by going on to the next model. Sizes are estimates for the same reason.

Reading a request costs something, so nothing of it is read that no member of the pool says anything about; and
narrowing a thousand models costs something, so needs are rounded up to what members declare, of which there are few.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelmesh._engine.tokens import CHARACTERS_PER_TOKEN
from modelmesh.errors import ContextLengthError, UnsupportedRequestError

if TYPE_CHECKING:
    from modelmesh._engine.member import Member
    from modelmesh._engine.model import ModelDefinition

TOOLS, VISION, JSON_MODE, STRUCTURED = "tool_calling", "vision", "json_mode", "structured_output"

_SHOWN = {
    TOOLS: "tools",
    VISION: "images",
    JSON_MODE: "JSON mode",
    STRUCTURED: "output by a JSON schema",
}
_IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})
_SIZES = ("context_window", "max_output_tokens", "max_images")


@dataclass(frozen=True, slots=True)
class Fit:
    """What a request needs, as far as members of its pool differ in it. Equal needs are equal values.

    Attributes:
        features: Names a model must not have declared false.
        context_window: Tokens, input and output together; 0 for any.
        max_output_tokens: Tokens of the answer; 0 for any.
        max_images: Images; 0 for any.
    """

    features: frozenset[str] = frozenset()
    context_window: int = 0
    max_output_tokens: int = 0
    max_images: int = 0

    def accepts(self, member: Member) -> bool:
        """Whether nothing the model declares speaks against it."""
        declared = member.model.definition
        if any(declared.features.get(feature) is False for feature in self.features):
            return False
        limits = declared.constraints
        return all(limits.get(size) is None or limits[size] >= getattr(self, size) for size in _SIZES)


class Declared:
    """What the members of a pool were declared unable to do.

    Attributes:
        denied: Features that some member has declared false.
        sizes: For each size that some member limits, the different limits in rising order.
    """

    __slots__ = ("denied", "sizes")

    def __init__(self, definitions: Iterable[ModelDefinition]) -> None:
        denied: set[str] = set()
        sizes: dict[str, set[int]] = {}
        for definition in definitions:
            denied |= {feature for feature, has in definition.features.items() if has is False}
            for size in _SIZES:
                limit = definition.constraints.get(size)
                if limit is not None:
                    sizes.setdefault(size, set()).add(limit)
        self.denied = frozenset(denied)
        self.sizes: Mapping[str, Sequence[int]] = {size: sorted(limits) for size, limits in sizes.items()}

    def fit(self, *payloads: Mapping[str, Any]) -> Fit | None:
        """Return what requests need that not every member is known to have no trouble with; None for nothing.

        Args:
            payloads: In OpenAI's shape; of several, one model has to serve all.
        """
        if not self.denied and not self.sizes:
            return None
        needs = Needs.of(*payloads)
        features = needs.features & self.denied
        sizes = {size: rounded for size in self.sizes if (rounded := self._rounded(size, getattr(needs, size)))}
        return Fit(features, **sizes) if features or sizes else None

    def _rounded(self, size: str, needed: int) -> int:
        """Return the smallest declared limit that suffices, 0 if every one does, and what is needed if none does."""
        limits = self.sizes[size]
        place = bisect_left(limits, needed)
        if place == 0:
            return 0
        # Beyond the largest limit all needs exclude alike, whatever their number.
        return limits[place] if place < len(limits) else limits[-1] + 1


@dataclass(frozen=True, slots=True)
class Needs:
    """What a request, or each of a batch of them, needs; member by member unheard.

    Attributes:
        features: Names as models declare them.
        context_window: Estimated tokens of the input and the most that may come out.
        max_output_tokens: The most tokens it asks for; 0 when it leaves that open.
        max_images: Images it holds.
    """

    features: frozenset[str]
    context_window: int
    max_output_tokens: int
    max_images: int

    @classmethod
    def of(cls, *payloads: Mapping[str, Any]) -> Needs:
        """Read requests, of several the most that any needs; what is no proper request is the provider's to refuse."""
        if len(payloads) == 1:
            return cls._of_one(payloads[0])
        each = [cls._of_one(payload) for payload in payloads]
        return cls(
            frozenset().union(*(one.features for one in each)),
            max((one.context_window for one in each), default=0),
            max((one.max_output_tokens for one in each), default=0),
            max((one.max_images for one in each), default=0),
        )

    @classmethod
    def _of_one(cls, payload: Mapping[str, Any]) -> Needs:
        characters, images = _measured(payload)
        features: list[str] = []
        if payload.get("tools") or payload.get("functions"):
            features.append(TOOLS)
        if images:
            features.append(VISION)
        shape = payload.get("response_format")
        kind = shape.get("type") if isinstance(shape, Mapping) else None
        if kind == "json_object":
            features.append(JSON_MODE)
        elif kind == "json_schema":
            features.append(STRUCTURED)
        output = payload.get("max_completion_tokens") or payload.get("max_tokens")
        tokens_out = output if isinstance(output, int) and output > 0 else 0
        return cls(frozenset(features), -(-characters // CHARACTERS_PER_TOKEN) + tokens_out, tokens_out, images)

    def shown(self) -> str:
        """Say it in words."""
        parts = [_SHOWN[feature] for feature in (TOOLS, VISION, JSON_MODE, STRUCTURED) if feature in self.features]
        if self.context_window:
            parts.append(f"about {self.context_window} tokens of context")
        if self.max_output_tokens:
            parts.append(f"{self.max_output_tokens} tokens of output")
        return ", ".join(parts) or "nothing special"

    def lacking(self, definition: ModelDefinition) -> dict[str, str]:
        """Return what a model was declared to lack: by feature or constraint, in words."""
        lacks = {name: f"no {_SHOWN[name]}" for name in sorted(self.features) if definition.features.get(name) is False}
        words = {"context_window": "tokens of context", "max_output_tokens": "tokens of output", "max_images": "images"}
        for size, what in words.items():
            limit = definition.constraints.get(size)
            if limit is not None and limit < getattr(self, size):
                lacks[size] = f"only {limit} {what}"
        return lacks


def unsupported(pool: str, needs: Needs, members: Sequence[Member]) -> UnsupportedRequestError:
    """Build the error of a request that none of these models can serve: what it needs, and what each lacks."""
    lacks = {member.model_id: needs.lacking(member.model.definition) for member in members}
    shown = "; ".join(f"{name} has {', '.join(each.values())}" for name, each in list(lacks.items())[:5])
    more = f"; and {len(lacks) - 5} more" if len(lacks) > 5 else ""
    # Clients know what to do about a context that is too long; only then is it called so.
    too_long = all(each.keys() == {"context_window"} for each in lacks.values())
    kind = ContextLengthError if too_long else UnsupportedRequestError
    return kind(
        f"no model of pool {pool!r} can serve this request, which needs {needs.shown()}: {shown}{more}",
        code="context_length_exceeded" if too_long else "unsupported_request",
        details={
            "pool": pool,
            "needs": {
                "features": sorted(needs.features),
                "context_window": needs.context_window,
                "max_output_tokens": needs.max_output_tokens,
                "max_images": needs.max_images,
            },
            "lacks": {name: list(each) for name, each in lacks.items()},
        },
    )


def _measured(payload: Mapping[str, Any]) -> tuple[int, int]:
    """Return the characters a model has to read, and the number of images."""
    characters = images = 0
    for message in payload.get("messages") or ():
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, str):
            characters += len(content)
        elif isinstance(content, list):
            for part in content:
                if not isinstance(part, Mapping):
                    continue
                if part.get("type") in _IMAGE_PARTS:
                    images += 1
                else:
                    characters += len(str(part.get("text", "")))
    given = payload.get("input")
    if isinstance(given, str):
        characters += len(given)
    elif isinstance(given, list):
        # Each text is embedded by itself: the longest has to fit, not all of them together.
        characters += max((len(text) for text in given if isinstance(text, str)), default=0)
    return characters, images
