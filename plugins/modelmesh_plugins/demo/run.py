"""Sends the demo's requests and keeps what came of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from modelmesh.errors import ModelMeshError
from modelmesh.interfaces.provider import AttemptRecord, Receipt
from modelmesh.router import CompletionRequest, Router
from modelmesh_plugins.demo.providers import expected, question

POOL = "chat-completion"


@dataclass(slots=True)
class Outcome:
    """What came of one request.

    Attributes:
        number: 1-based.
        streamed: Whether it was asked for in chunks.
        text: What arrived.
        seconds: As the caller saw it.
        attempts: Every call to a provider that it took.
        error: What the caller was told, or None.
    """

    number: int
    streamed: bool
    text: str = ""
    seconds: float = 0.0
    attempts: list[AttemptRecord] = field(default_factory=list)
    error: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the caller got every word, and nothing twice."""
        return self.error is None and self.text == expected(self.number)


def configuration(free_url: str, flaky_url: str, steady_url: str) -> str:
    """Return the demo's configuration: everything ModelMesh is told."""
    return f"""\
providers:
  free:                                     # costs nothing, and has a quota
    connector: modelmesh.openai-compatible.v1
    base_url: {free_url}
  flaky:                                    # cheap, and fails in every way
    connector: modelmesh.openai-compatible.v1
    base_url: {flaky_url}
  steady:                                   # answers always, and costs most
    connector: modelmesh.openai-compatible.v1
    base_url: {steady_url}

models:
  free-small:
    provider: free
    capabilities: [chat-completion]
    pricing: {{input_per_1k_tokens: 0, output_per_1k_tokens: 0}}
  flaky-medium:
    provider: flaky
    capabilities: [chat-completion]
    pricing: {{input_per_1k_tokens: 0.00015, output_per_1k_tokens: 0.0006}}
  steady-large:
    provider: steady
    capabilities: [chat-completion]
    pricing: {{input_per_1k_tokens: 0.0025, output_per_1k_tokens: 0.01}}

pools:
  {POOL}:
    strategy: modelmesh.priority-selection.v1
    model_priority: [free-small, flaky-medium, steady-large]
    deactivation: {{retry_limit: 2}}
    recovery: {{cooldown: 200ms}}
    timeouts: {{first_token: 400ms, idle: 400ms}}
    on_stream_failure: hold                 # a stream that breaks early is replaced unseen
    hold_time: 1s
"""


async def send_all(router: Router, total: int, concurrency: int, tell: Callable[[Outcome], None]) -> list[Outcome]:
    """Send the requests, plain and streamed in turn, so many at a time.

    Args:
        router: Whom to ask.
        total: Requests.
        concurrency: Requests on their way at once.
        tell: Called with each outcome as it comes.
    """
    numbers = iter(range(1, total + 1))
    outcomes: list[Outcome] = []

    async def worker() -> None:
        for number in numbers:
            outcome = await _send(router, number, streamed=number % 2 == 0)
            outcomes.append(outcome)
            tell(outcome)

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return outcomes


async def _send(router: Router, number: int, *, streamed: bool) -> Outcome:
    outcome = Outcome(number, streamed)
    messages = [{"role": "user", "content": question(number)}]
    started = time.monotonic()
    try:
        if streamed:
            stream = router.execute_stream(POOL, {"messages": messages})
            try:
                async for chunk in stream:
                    outcome.text += chunk.text
            finally:
                outcome.attempts = stream.receipt.attempts
        else:
            response = await router.acomplete(POOL, CompletionRequest(messages))
            outcome.text = response.content
            outcome.attempts = response.metadata["receipt"].attempts
    except ModelMeshError as error:
        outcome.error = str(error)
        receipt = getattr(error, "receipt", None)
        if isinstance(receipt, Receipt):
            outcome.attempts = receipt.attempts
    outcome.seconds = time.monotonic() - started
    return outcome
