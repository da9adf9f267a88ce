"""W3C trace context of a request: what its caller sent, and the spans it becomes where somebody records them.

Span IDs are drawn when a request arrives, not when its spans are recorded, so that providers can be told them.
https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelmesh.interfaces.observability import TraceLink
from modelmesh.interfaces.runtime import Random

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-[!-~]*)?")
_STATE = re.compile(r"[ -~\t]{1,2048}")
_NO_HEADERS: Mapping[str, str] = {}


class RequestTrace:
    """A request's place in a trace: a span of its own, and one for each attempt.

    Args:
        random: Where IDs come from.
        headers: The caller's, as `trace_headers` leaves them.
    """

    __slots__ = ("_attempt_id", "_flags", "_headers", "_random", "_span_id", "_trace_id")

    def __init__(self, random: Random, headers: Mapping[str, str]) -> None:
        self._random = random
        self._headers = headers
        parent = _PARENT.fullmatch(headers.get(TRACEPARENT, ""))
        # Without a caller who decided, the trace is sampled; whoever records it may still leave it out.
        self._trace_id = parent[2] if parent else _hex(random, 4)
        self._flags = "00" if parent and not int(parent[3], 16) & 1 else "01"
        self._span_id = _hex(random, 2)
        self._attempt_id = ""

    def next_attempt(self) -> Mapping[str, str]:
        """Begin an attempt's span; return the headers its provider is sent."""
        self._attempt_id = _hex(self._random, 2)
        return {**self._headers, TRACEPARENT: f"00-{self._trace_id}-{self._attempt_id}-{self._flags}"}

    def link(self) -> TraceLink:
        """Say where the attempt begun last stands."""
        headers = self._headers
        return TraceLink(
            self._trace_id, self._span_id, self._attempt_id, headers.get(TRACEPARENT), headers.get(TRACESTATE)
        )


def trace_headers(metadata: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the headers a request's metadata asks to pass on, with a sound trace context or none.

    The context may stand among ``headers`` or be ``traceparent`` and ``tracestate`` of the metadata itself. A broken
    one is left out, as the standard wants it: a provider would begin a trace of its own either way.
    """
    given = metadata.get("headers") or _NO_HEADERS
    own = {name: metadata[name] for name in (TRACEPARENT, TRACESTATE) if metadata.get(name)}
    if not own and not any(name.lower() in (TRACEPARENT, TRACESTATE) for name in given):
        return given
    headers: dict[str, str] = {}
    for name, value in given.items():
        low = name.lower()
        headers[low if low in (TRACEPARENT, TRACESTATE) else name] = value
    headers |= own
    if not _is_sound(headers.get(TRACEPARENT)):
        headers.pop(TRACEPARENT, None)
        headers.pop(TRACESTATE, None)
    elif not (isinstance(state := headers.get(TRACESTATE), str) and _STATE.fullmatch(state)):
        headers.pop(TRACESTATE, None)
    return headers


def _is_sound(traceparent: object) -> bool:
    found = _PARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    return found is not None and (found[1] != "00" or not found[4])


def _hex(random: Random, words: int) -> str:
    """Draw an ID of so many groups of 8 hexadecimal digits; all zeros would mean that there is none."""
    return "".join(f"{int(random.random() * 2**32) or 1:08x}" for _ in range(words))
