"""How far a stream has come: what is held back, whether it is committed, which clock runs, how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from modelmesh._engine.tokens import estimate_usage
from modelmesh.errors import ProviderError, ProviderTimeoutError, StreamInterruptedError
from modelmesh.interfaces.provider import ProviderChunk, TokenUsage

if TYPE_CHECKING:
    from modelmesh._engine.call import Call
    from modelmesh._engine.member import Member

Clocks = Literal["first_token", "idle", "total", "deadline"]


class StreamProgress:
    """One attempt of a streamed request.

    Attributes:
        committed: Whether content has been shown to the caller: from then on nothing is replayed.
        finished: Whether the terminal signal came.
        error: Why the attempt failed, or None.
        text: The text that arrived.
        started: Monotonic time of the call.
        consumer_seconds: Time the caller took over the chunks it was shown.
    """

    __slots__ = (
        "_call",
        "_first_content_at",
        "_held",
        "_last_content_at",
        "_member",
        "_parts",
        "_usage",
        "committed",
        "consumer_seconds",
        "error",
        "finished",
        "started",
    )

    def __init__(self, call: Call, member: Member) -> None:
        self._call = call
        self._member = member
        self._held: list[ProviderChunk] = []
        self._parts: list[str] = []
        self._usage: TokenUsage | None = None
        self._first_content_at: float | None = None
        self._last_content_at = 0.0
        self.committed = False
        self.finished = False
        self.error: ProviderError | None = None
        self.started = 0.0
        self.consumer_seconds = 0.0

    @property
    def text(self) -> str:
        """The text that arrived so far."""
        return "".join(self._parts)

    @property
    def first_token_seconds(self) -> float | None:
        """Seconds from the call to the first content, or None when none came."""
        return None if self._first_content_at is None else self._first_content_at - self.started

    def limit(self, now: float) -> tuple[float | None, Clocks]:
        """Return how long the next chunk may take, in seconds, and which clock says so."""
        timeouts = self._call.timeouts
        limits: list[tuple[float, Clocks]] = []
        # The time the caller takes over its chunks is not the provider's.
        used = now - self.started - self.consumer_seconds
        if timeouts.total is not None:
            limits.append((timeouts.total - used, "total"))
        if self._call.deadline_at is not None:
            limits.append((self._call.deadline_at - now, "deadline"))
        if self._first_content_at is None:
            if timeouts.first_token is not None:
                limits.append((timeouts.first_token - used, "first_token"))
        elif timeouts.idle is not None:
            limits.append((self._last_content_at + timeouts.idle - now, "idle"))
        if not limits:
            return None, "total"
        seconds, which = min(limits)
        return max(0.0, seconds), which

    def timed_out(self, which: Clocks) -> ProviderTimeoutError:
        """Build the error of the clock that ran out."""
        call, timeouts = self._call, self._call.timeouts
        seconds = {
            "first_token": timeouts.first_token,
            "idle": timeouts.idle,
            "total": timeouts.total,
            "deadline": None if call.deadline_at is None else call.deadline_at - call.started,
        }[which]
        said = {"first_token": "no first token", "idle": "no further token"}.get(which, "no end of the stream")
        return ProviderTimeoutError(
            f"{said} from {self._member.model_id} in time", timeout_seconds=seconds, clock=which
        )

    def take(self, chunk: ProviderChunk, now: float) -> Iterator[ProviderChunk]:
        """Take a chunk in; yield those the caller may see now."""
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chunk.text:
            self._parts.append(chunk.text)
        if chunk.finish_reason is not None:
            self.finished = True
        if chunk.commits:
            if self._first_content_at is None:
                self._first_content_at = now
            self._last_content_at = now
        if self.committed:
            # The idle clock starts over once the caller has come back for more, not while it thinks.
            yield chunk
            if chunk.commits:
                self._last_content_at = self._call.clock.monotonic()
            return
        self._held.append(chunk)
        if self._may_commit(now):
            yield from self.release()
            self._last_content_at = self._call.clock.monotonic()

    def _may_commit(self, now: float) -> bool:
        if self._first_content_at is None:
            return False
        policy = self._call.policy
        return policy.on_stream_failure != "hold" or now - self._first_content_at >= policy.hold_time

    def release(self) -> Iterator[ProviderChunk]:
        """Yield what was held back; from here on the stream is committed."""
        held, self._held = self._held, []
        self.committed = True
        if self._call.partial and held:
            self._mark_seam(held[0])
        yield from held

    def _mark_seam(self, chunk: ProviderChunk) -> None:
        """Tell the caller that from this chunk on another model goes on with the text."""
        seam = {"continued": True, "model_id": self._member.model_id, "after_characters": len(self._call.partial)}
        chunk.data = {**chunk.data, "modelmesh": seam}
        chunk.raw = None

    def end(self) -> None:
        """Judge a stream that came to its end: without a terminal signal it was cut."""
        if not self.finished:
            self.error = StreamInterruptedError(
                f"the stream of {self._member.model_id} ended without its terminal signal", partial=self.text
            )

    def attach_partial(self) -> None:
        """Make the error of a committed stream carry what the caller has seen."""
        assert self.error is not None
        if isinstance(self.error, StreamInterruptedError):
            self.error.partial = self._call.partial + (self.error.partial or self.text)
            return
        if not self.committed:
            return
        broken = StreamInterruptedError(
            f"the stream of {self._member.model_id} broke after {len(self.text)} characters: {self.error}",
            partial=self._call.partial + self.text,
            provider_id=self._member.provider_id,
            model_id=self._member.model_id,
            status_code=self.error.status_code,
        )
        broken.__cause__ = self.error
        broken.category = self.error.category
        self.error = broken

    def usage_so_far(self) -> TokenUsage:
        """Return what the provider reported, or an estimate from what was sent and seen."""
        return self._usage or estimate_usage(self._call.payload, self.text)
