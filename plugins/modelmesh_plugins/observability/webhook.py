"""Records posted to a URL: batched, retried, and signed so that the receiver knows who sent them."""

from __future__ import annotations

import hashlib
import hmac
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated
from uuid import uuid4

import httpx
from pydantic import AfterValidator, AliasChoices, ConfigDict, Field, SecretStr

from modelmesh.config.durations import Duration, PositiveDuration
from modelmesh.errors import ModelMeshError
from modelmesh_cdk.observability import BaseObservability, BaseObservabilityConfig

TIMESTAMP_HEADER = "X-ModelMesh-Timestamp"
SIGNATURE_HEADER = "X-ModelMesh-Signature"
DELIVERY_HEADER = "X-ModelMesh-Delivery"
NDJSON = "application/x-ndjson"

_RETRIED = frozenset({408, 425, 429})
"""Refusals that pass; the other 4xx say that the same body will be refused again."""


_READ_BYTES = 64 * 1024


class WebhookError(ModelMeshError):
    """A receiver did not take a delivery."""


def _is_web_address(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("is no web address; write http:// or https:// and a host")
    return url


class WebhookConfig(BaseObservabilityConfig):
    """Settings of the webhook connector."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)

    url: Annotated[str, AfterValidator(_is_web_address)] = Field(repr=False, description="Where records are posted.")
    headers: dict[str, SecretStr] = Field(
        default={}, repr=False, description="Sent along; values may be ${secrets:NAME}."
    )
    secret: SecretStr | None = Field(
        default=None, description="Signs each delivery (HMAC-SHA256); the receiver has the same one."
    )
    timeout: PositiveDuration = Field(default=10.0, description="Longest wait for an answer (duration).")
    retry_count: int = Field(default=3, ge=0, le=20, description="How often a delivery is tried again.")
    retry_delay: Duration = Field(
        default=0.5, description="Wait before the first retry (duration); each further one takes twice as long."
    )
    max_retry_delay: Duration = Field(
        default=30.0, description="Longest wait before a retry (duration), whatever Retry-After says."
    )
    batch_size: int = Field(default=1, ge=1, le=10_000, description="Most records in one delivery.")
    batch_wait: Duration = Field(
        default=1.0,
        validation_alias=AliasChoices("batch_wait", "max_wait"),
        description="How long a batch may take to fill (duration).",
    )
    content_type: str = Field(
        default="application/json",
        description="application/json: an object, or an array when batch_size is above 1; application/x-ndjson: lines.",
    )


class WebhookConnector(BaseObservability[WebhookConfig]):
    """Posts records to a URL, in batches, with retries and a signature."""

    config_model = WebhookConfig

    def __init__(
        self,
        config: WebhookConfig | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        super().__init__(config)
        settings = self.config
        self.batch_size = settings.batch_size
        self.batch_wait = settings.batch_wait if settings.batch_size > 1 else 0.0
        self._host = httpx.URL(settings.url).host
        self._ending = threading.Event()
        # Returns early, and true, when shutdown has begun.
        self._wait = wait or self._ending.wait
        self._lines: list[str] = []
        self._in_batch = False
        self._headers = httpx.Headers({"User-Agent": "modelmesh-webhook"})
        self._headers.update({name: value.get_secret_value() for name, value in settings.headers.items()})
        self._headers["Content-Type"] = settings.content_type
        # The transport alone, without a client: that would log the URL, which is often a secret, and follow redirects
        # to where nobody wanted records to go.
        self._transport = transport or httpx.HTTPTransport(limits=httpx.Limits(max_connections=1))

    # --- batches --------------------------------------------------------------------

    def begin_batch(self) -> None:
        """Collect lines from now on."""
        self._in_batch = True

    def end_batch(self) -> None:
        """Deliver what was collected.

        Raises:
            WebhookError: The receiver did not take it.
        """
        self._in_batch = False
        lines, self._lines = self._lines, []
        # Statistics are one record and many lines.
        for start in range(0, len(lines), self.config.batch_size):
            self._deliver(self._body(lines[start : start + self.config.batch_size]))

    def _write(self, line: str) -> None:
        self._lines.append(line)
        if not self._in_batch:
            self.end_batch()

    def _body(self, lines: list[str]) -> bytes:
        if self.config.content_type.partition(";")[0].strip().lower() == NDJSON:
            return "".join(f"{line}\n" for line in lines).encode()
        text = f"[{','.join(lines)}]" if self.config.batch_size > 1 else lines[0]
        return text.encode()

    # --- delivering -----------------------------------------------------------------

    def _deliver(self, body: bytes) -> None:
        delivery = {DELIVERY_HEADER: str(uuid4())}  # the same for each try, so that a receiver can tell repetitions
        for delay in (*self._delays(), None):
            pause = delay
            try:
                reply = self._post(body, delivery)
            except httpx.HTTPError as error:
                problem = WebhookError(f"{self._host} could not be reached: {type(error).__name__}")
            else:
                if reply.is_success:
                    return
                problem = WebhookError(f"{self._host} answered {reply.status_code}")
                if not (reply.status_code >= 500 or reply.status_code in _RETRIED):
                    raise problem
                if pause is not None:
                    pause = min(max(pause, self._asked_wait(reply)), self.config.max_retry_delay)
            if pause is None or self._wait(pause):
                raise problem

    def _delays(self) -> Iterator[float]:
        """Yield the wait before each retry: doubling, and spread so that many senders do not come back at once."""
        for number in range(self.config.retry_count):
            delay = min(self.config.retry_delay * 2**number, self.config.max_retry_delay)
            yield delay * (0.5 + self._random() / 2)

    def _post(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        if self.config.secret is not None:
            headers = headers | signature_headers(self.config.secret.get_secret_value(), body, int(self._now()))
        request = httpx.Request(
            "POST",
            self.config.url,
            headers={**self._headers, **headers},
            content=body,
            extensions={"timeout": httpx.Timeout(self.config.timeout).as_dict()},
        )
        reply = self._transport.handle_request(request)
        try:
            # Its status is all that matters; a short answer is read so that the connection can be used again.
            length = 0
            for chunk in reply.iter_raw():
                length += len(chunk)
                if length > _READ_BYTES:
                    break
        finally:
            reply.close()
        return reply

    def _asked_wait(self, reply: httpx.Response) -> float:
        """Return the seconds that ``Retry-After`` asks for, given as such or as a date."""
        text = reply.headers.get("Retry-After", "").strip()
        if text.isascii() and text.isdigit():
            return float(text[:9])
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return 0.0
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - datetime.fromtimestamp(self._now(), UTC)).total_seconds())

    def _now(self) -> float:
        return time.time() if self.context is None else self.context.clock.time()

    def _random(self) -> float:
        return random.random() if self.context is None else self.context.random.random()  # noqa: S311 (jitter)

    # --- the end --------------------------------------------------------------------

    def stop_waiting(self) -> None:
        """Try each delivery once more at most, and wait no longer in between."""
        self._ending.set()

    def close(self) -> None:
        """Let go of the connection."""
        self._transport.close()


def signature_headers(secret: str, body: bytes, timestamp: int) -> dict[str, str]:
    """Return the headers that sign a body.

    The signature is ``sha256=`` and the hexadecimal HMAC-SHA256 of the timestamp, a full stop and the body.

    Args:
        secret: Shared with the receiver.
        body: As it is sent.
        timestamp: Unix time in seconds; a receiver refuses old ones, so that nobody sends a delivery again.
    """
    signed = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return {TIMESTAMP_HEADER: str(timestamp), SIGNATURE_HEADER: f"sha256={signed.hexdigest()}"}
