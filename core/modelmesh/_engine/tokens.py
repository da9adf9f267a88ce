"""Token counts for answers whose provider gave none: an estimate, never zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelmesh.interfaces.provider import TokenUsage

CHARACTERS_PER_TOKEN = 4
"""English text averages about four characters a token with the usual vocabularies; other scripts take more."""


def estimate_tokens(text: str) -> int:
    """Return the tokens of a text, rounded up."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def estimate_prompt(payload: Mapping[str, Any]) -> int:
    """Return the input tokens of a request body, counting the text of its messages or its ``input``."""
    total = 0
    for message in payload.get("messages") or ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            total += len(content)
        elif isinstance(content, list):
            total += sum(len(str(part.get("text", ""))) for part in content if isinstance(part, dict))
    given = payload.get("input")
    if isinstance(given, str):
        total += len(given)
    elif isinstance(given, list):
        total += sum(len(part) for part in given if isinstance(part, str))
    return -(-total // CHARACTERS_PER_TOKEN)


def estimate_usage(payload: Mapping[str, Any], text: str) -> TokenUsage:
    """Return what a request and the text of its answer took, as an estimate: no more than the request allows."""
    tokens_in, tokens_out = estimate_prompt(payload), estimate_tokens(text)
    most = payload.get("max_completion_tokens") or payload.get("max_tokens")
    if isinstance(most, int):
        tokens_out = min(tokens_out, most)  # its words were longer than most, and not more
    return TokenUsage(tokens_in, tokens_out, tokens_in + tokens_out)
