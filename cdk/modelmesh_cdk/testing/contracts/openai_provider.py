"""The contract of providers that speak OpenAI's language: everything a real server does to them, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, cast

import pytest

from modelmesh.errors import (
    AuthenticationError,
    ContextLengthError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderConnectionError,
    ProviderError,
    ProviderServerError,
    ProviderTimeoutError,
    QuotaExhaustedError,
    RateLimitError,
    StreamInterruptedError,
)
from modelmesh.interfaces.provider import ProviderConnector, ProviderRequest
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh_cdk.testing import faults
from modelmesh_cdk.testing.contracts.provider import ProviderContract
from modelmesh_cdk.testing.fault_server import FaultServer, refused_url

STATUSES: tuple[tuple[int, str | None, type[ProviderError]], ...] = (
    (400, None, InvalidRequestError),
    (400, "context_length_exceeded", ContextLengthError),
    (401, "invalid_api_key", AuthenticationError),
    (402, None, QuotaExhaustedError),
    (403, None, AuthenticationError),
    (404, None, InvalidRequestError),
    (408, None, ProviderTimeoutError),
    (409, None, ProviderServerError),
    (413, None, InvalidRequestError),
    (422, None, InvalidRequestError),
    (429, "rate_limit_exceeded", RateLimitError),
    (429, "insufficient_quota", QuotaExhaustedError),
    (500, None, ProviderServerError),
    (502, None, ProviderServerError),
    (503, None, ProviderServerError),
    (504, None, ProviderTimeoutError),
    (529, None, ProviderServerError),
)
"""Status and code of an error, and what it must become."""

BROKEN: dict[str, Callable[[], faults.Step]] = {
    "reset before headers": lambda: faults.reset("before_headers"),
    "reset after headers": lambda: faults.reset("after_headers"),
    "reset in the body": lambda: faults.reset("mid_body"),
    "closed before headers": lambda: faults.close("before_headers"),
    "closed in the body": lambda: faults.close("mid_body"),
    "shorter than announced": faults.too_short,
    "no HTTP": lambda: lambda _: [b"rubbish rubbish\r\n\r\n", faults.CLOSE],
    "a header of a megabyte": faults.huge_header,
}

NO_ANSWERS: dict[str, bytes] = {
    "empty": b"",
    "html": b"<html>Bad gateway</html>",
    "cut": b'{"choices": [{"mess',
    "list": b"[]",
    "nothing in it": b"{}",
    "no choices": b'{"choices": []}',
    "wrong types": b'{"choices": [{"message": "hi"}]}',
    "deep": b"[" * 100_000,
}


class OpenAIProviderContract(ProviderContract):
    """Inherit it and write `make_at`; the contract brings the servers.

    Attributes:
        server: A `FaultServer` that answers well until a test scripts it.
        disconnect_timeout: Real seconds a connection may take to be closed.
    """

    secrets: ClassVar[tuple[str, ...]] = ("sk-canary-5f0c2b7e91d34a6f",)
    model: ClassVar[str] = "fault-model"
    disconnect_timeout: ClassVar[float] = 5.0

    def make_at(self, context: ConnectorContext, url: str, api_key: str) -> ProviderConnector:
        """Build a connector for the server at this base URL (it ends in ``/v1``)."""
        raise NotImplementedError(f"{type(self).__name__} must say in make_at() how its connector is built")

    def setup_method(self) -> None:
        """Start the servers."""
        self.server = FaultServer().start()
        self.silent = FaultServer(default=faults.hang(), models=faults.hang()).start()

    def teardown_method(self) -> None:
        """Stop the servers."""
        self.silent.stop()
        self.server.stop()

    def make(self, context: ConnectorContext) -> ProviderConnector:
        """Build one for the server that answers."""
        return self.make_at(context, self.server.url, self.secrets[0])

    def make_failing(self, context: ConnectorContext) -> ProviderConnector | None:
        """Build one for an address where nobody listens."""
        return self.make_at(context, refused_url(), self.secrets[0])

    def make_hanging(self, context: ConnectorContext) -> ProviderConnector | None:
        """Build one for a server that never answers."""
        return self.make_at(context, self.silent.url, self.secrets[0])

    # --- what is sent -------------------------------------------------------------------

    def test_the_request_arrives_whole(self) -> None:
        """Model, messages and unknown parameters are sent as they are, with the key as a bearer token."""
        payload = {"messages": [{"role": "user", "content": "Grüße"}], "temperature": 0.5, "x_unknown": {"a": [1]}}
        self.drive(lambda connector: connector.complete(ProviderRequest(self.model, payload)))

        (sent,) = self.server.requests
        assert sent.path.startswith("/v1/chat/completions")
        assert sent.headers["authorization"] == f"Bearer {self.secrets[0]}"
        assert {name: sent.json.get(name) for name in payload} == payload
        assert sent.model == self.model
        assert not sent.wants_stream

    def test_a_stream_is_asked_for(self) -> None:
        """A streamed request says so in its body."""
        self.drive(self._read)

        assert self.server.requests[0].wants_stream

    def test_connections_are_reused(self) -> None:
        """Requests one after the other share a connection."""

        async def scenario(connector: ProviderConnector) -> None:
            for _ in range(3):
                await connector.complete(self.request())

        self.drive(scenario)

        assert self.server.connects == 1

    def test_nothing_is_retried_inside(self) -> None:
        """A failure is one request: whether to try again is the engine's decision."""
        self.server.script(503, 503)
        self._error()

        assert len(self.server.requests) == 1

    def test_redirects_are_not_followed(self) -> None:
        """Credentials go to the configured host and nowhere else."""
        with FaultServer() as elsewhere:
            self.server.script(faults.redirect(f"{elsewhere.url}/chat/completions"))
            self._error()

            assert elsewhere.requests == []

    # --- what fails -----------------------------------------------------------------------

    def test_statuses_become_the_errors_they_mean(self) -> None:
        """The status and the provider's code decide, for whole answers and for streams alike."""
        for status, code, expected in STATUSES:
            for stream in (False, True):
                self.server.script(faults.status(status, error_code=code))
                error = self._error(stream=stream)

                assert type(error) is expected, f"{status} {code} became {type(error).__name__}"
                assert error.status_code == status

    def test_waits_are_read_in_every_spelling(self) -> None:
        """Seconds, milliseconds and HTTP dates are understood; nonsense is no wait."""
        now = datetime(2026, 11, 21, 12, tzinfo=UTC)
        at = {"date": "Sat, 21 Nov 2026 12:00:00 GMT"}
        for step, expected in (
            (faults.status(429, retry_after=7), 7.0),
            (faults.status(503, retry_after_ms=1_500), 1.5),
            (faults.status(429, retry_after=now + timedelta(seconds=30), headers=at), 30.0),
            (faults.status(429, retry_after="soon"), None),
            (faults.status(429, retry_after=-5), None),
            (faults.status(429, retry_after="nan"), None),
        ):
            self.server.script(step)
            assert self._error().retry_after == expected

    def test_broken_connections_are_connection_errors(self) -> None:
        """Wherever in the answer the connection breaks, the fault is the network's, and the call may be repeated."""
        for name, step in BROKEN.items():
            self.server.script(step())
            error = self._error()

            assert isinstance(error, ProviderConnectionError), f"{name}: {type(error).__name__}"
            assert error.retryable
            self._assert_clean(f"{error!r} {error} {error.__context__!r} {error.__cause__!r}", name)

    def test_answers_that_are_none_are_malformed(self) -> None:
        """Status 200 is no success without an answer in the body."""
        for name, data in NO_ANSWERS.items():
            self.server.script(faults.body(data))
            error = self._error()

            assert isinstance(error, MalformedResponseError), f"{name}: {type(error).__name__}"

    def test_an_error_inside_an_answer_is_an_error(self) -> None:
        """An ``error`` object with status 200 is understood like one with its own status."""
        for stream in (False, True):
            self.server.script(faults.body(b'{"error": {"message": "slow down", "code": 429}}'))

            assert isinstance(self._error(stream=stream), RateLimitError)

    def test_a_key_that_the_server_repeats_is_not_passed_on(self) -> None:
        """Servers quote the refused key in their message; the error does not."""
        self.server.script(faults.status(401, message=f"Incorrect API key provided: {self.secrets[0]}"))
        error = self._error()

        self._assert_clean(f"{error} {error!r} {error.details}", "the error")

    # --- streams --------------------------------------------------------------------------

    def test_cut_streams_are_errors(self) -> None:
        """Without its terminal signal a stream is never a success, however politely it ends."""
        ends: tuple[faults.StreamEnd, ...] = ("silent", "cut", "reset")
        for end in ends:
            self.server.script(faults.stream("Hel", "lo", end=end))
            error = self._error(stream=True)

            assert isinstance(error, StreamInterruptedError | ProviderConnectionError), f"{end}: {type(error).__name__}"

    def test_failures_inside_a_stream_are_errors(self) -> None:
        """Error events and broken JSON end the stream with the error they mean."""
        self.server.script(faults.stream("a", end="error"), faults.stream("a", end="malformed"))

        assert isinstance(self._error(stream=True), ProviderServerError)
        assert isinstance(self._error(stream=True), MalformedResponseError)

    def test_streams_are_the_same_however_they_are_cut(self) -> None:
        """One byte at a time, other line ends, keep-alive comments and a missing ``[DONE]`` change nothing."""
        text = "Grüße, 🎉\u2028ok"
        for options in (
            {},
            {"split": 1},
            {"line_end": "\r\n", "split": 3},
            {"line_end": "\r"},
            {"comments": 2},
            {"end": "no_done"},
            {"usage": False},
        ):
            self.server.script(faults.stream(*text, **cast("dict[str, Any]", options)))
            chunks = self.drive(self._read)

            assert "".join(chunk.text for chunk in chunks) == text, f"with {options}"
            assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]

    def test_usage_of_a_stream_is_read(self) -> None:
        """Tokens come in a last chunk without choices."""
        self.server.script(faults.stream("a", "b"))

        reported = [chunk.usage for chunk in self.drive(self._read) if chunk.usage is not None]

        assert [usage.completion_tokens for usage in reported] == [2]

    def test_leaving_a_stream_closes_its_connection(self) -> None:
        """The provider stops (and stops billing) when the reader has gone."""
        self.server.script(faults.stream("Hel", end="stall"))

        async def scenario(connector: ProviderConnector) -> None:
            stream = cast("Any", connector.stream(self.request(stream=True)))
            await anext(stream)
            await stream.aclose()
            await self._sees_leaving(self.server)

        self.drive(scenario)

    def test_cancelling_a_call_closes_its_connection(self) -> None:
        """A cancelled call leaves nothing running at the provider."""

        async def scenario(connector: ProviderConnector) -> None:
            task = asyncio.ensure_future(connector.complete(self.request()))
            assert await asyncio.to_thread(self.silent.wait_for_requests)
            task.cancel()
            await asyncio.wait([task])
            await self._sees_leaving(self.silent)

        self.drive(scenario, self.make_hanging)

    def test_rate_limits_are_read(self) -> None:
        """Headers about limits reach the answer and `get_rate_limits`; placeholders are unknown."""
        headers = {"x-ratelimit-remaining-requests": "41", "x-ratelimit-remaining-tokens": "-1"}
        self.server.script(faults.chat(headers=headers))

        async def scenario(connector: ProviderConnector) -> None:
            response = await connector.complete(self.request())
            limits = await connector.get_rate_limits()
            assert response.rate_limits == limits
            assert (limits.requests_remaining, limits.tokens_remaining) == (41, None)

        self.drive(scenario)

    def test_health_is_told_by_listing_models(self) -> None:
        """The list comes from the server, and a refused key shows as such."""
        connector_models = self.drive(lambda connector: connector.list_models())
        assert [model.id for model in connector_models] == ["fault-model"]

        with FaultServer(models=faults.status(401)) as refusing, pytest.raises(AuthenticationError):
            self.drive(
                lambda connector: connector.list_models(),
                lambda context: self.make_at(context, refusing.url, self.secrets[0]),
            )

    # --- inside ---------------------------------------------------------------------------

    async def _sees_leaving(self, server: FaultServer) -> None:
        left = await asyncio.to_thread(server.wait_for_disconnect, self.disconnect_timeout)
        assert left, "the connection stayed open"

    def _error(self, *, stream: bool = False) -> ProviderError:
        """Return what a request raises."""

        async def scenario(connector: ProviderConnector) -> ProviderError:
            try:
                await self._answered(connector, self.request(stream=stream))
            except ProviderError as error:
                return error
            except Exception as error:
                # Not chained: foreign exceptions may hold what must not be shown.
                raise AssertionError(f"{type(error).__name__} is no ProviderError") from None
            raise AssertionError("the request was answered")

        return self.drive(scenario)
