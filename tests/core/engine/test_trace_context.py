"""W3C trace context: what is passed on, and the spans that requests and attempts become."""

from __future__ import annotations

import random
from typing import Any

import pytest

from modelmesh._engine.trace_context import RequestTrace, trace_headers

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SOUND = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    "metadata",
    [
        {"headers": {"traceparent": SOUND, "tracestate": "a=1"}},
        {"headers": {"Traceparent": SOUND, "TraceState": "a=1"}},
        {"traceparent": SOUND, "tracestate": "a=1"},
        {"headers": {"traceparent": f"00-{'1' * 32}-{PARENT}-00"}, "traceparent": SOUND, "tracestate": "a=1"},
    ],
    ids=["headers", "headers in other letters", "metadata", "metadata before headers"],
)
def test_the_context_is_taken_from_wherever_it_stands(metadata: dict[str, Any]) -> None:
    """Headers and the metadata itself serve, whatever the case of the header's name."""
    assert trace_headers(metadata) == {"traceparent": SOUND, "tracestate": "a=1"}


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00-1",
        SOUND.upper(),
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{SOUND}-more",
        f"{SOUND}\r\nx-evil: 1",
        17,
    ],
)
def test_a_broken_context_is_passed_on_to_nobody(traceparent: object) -> None:
    """The standard wants a new trace then, and the state of the broken one left out."""
    metadata = {"headers": {"x-own": "1", "traceparent": traceparent, "tracestate": "a=1"}}

    assert trace_headers(metadata) == {"x-own": "1"}


def test_a_later_version_of_the_standard_is_understood() -> None:
    """Of a version to come the known parts are read and the rest is left alone."""
    later = f"01-{TRACE}-{PARENT}-01-more"

    assert trace_headers({"traceparent": later}) == {"traceparent": later}


@pytest.mark.parametrize(
    "state", ["", "a=1\r\nx-evil: 1", "a=" + "x" * 3_000, 5], ids=["empty", "break", "long", "int"]
)
def test_a_broken_state_leaves_the_parent_alone(state: object) -> None:
    """The trace goes on without it."""
    assert trace_headers({"headers": {"traceparent": SOUND, "tracestate": state}}) == {"traceparent": SOUND}


def test_headers_without_a_context_are_the_ones_given() -> None:
    """Nothing is copied where nothing changes."""
    given = {"x-own": "1"}

    assert trace_headers({"headers": given}) is given


def test_a_callers_trace_goes_on() -> None:
    """Providers see its trace ID and state, with the attempt for a parent; each attempt is another span."""
    trace = RequestTrace(random.Random(1), {"traceparent": SOUND, "tracestate": "a=1"})

    first, second = trace.next_attempt(), trace.next_attempt()

    link = trace.link()
    assert second == {"traceparent": f"00-{TRACE}-{link.attempt_span_id}-01", "tracestate": "a=1"}
    assert (link.trace_id, link.traceparent, link.tracestate) == (TRACE, SOUND, "a=1")
    assert len({first["traceparent"][36:52], link.attempt_span_id, link.request_span_id, PARENT}) == 4


def test_a_trace_that_is_not_sampled_stays_so() -> None:
    """The caller's decision holds for providers too."""
    trace = RequestTrace(random.Random(1), {"traceparent": f"00-{TRACE}-{PARENT}-00"})

    assert trace.next_attempt()["traceparent"].endswith("-00")


def test_without_a_caller_a_trace_begins() -> None:
    """It has IDs of the right length, never all zeros, and is sampled."""

    class Zero(random.Random):
        def random(self) -> float:
            return 0.0

    for source in (random.Random(1), Zero()):
        header = RequestTrace(source, {"x-own": "1"}).next_attempt()

        assert trace_headers({"headers": header}) == header
        assert header["traceparent"].endswith("-01")
        assert header["x-own"] == "1"
