"""A configured provider: its connector, its state, and whether it may be called at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from modelmesh._engine.changes import Changes
from modelmesh._engine.origin import origin_of, redacted_text, type_and_place
from modelmesh.errors import (
    AuthenticationError,
    Category,
    ContentFilterError,
    InvalidRequestError,
    MalformedResponseError,
    ModelMeshError,
    ProviderConnectionError,
    ProviderError,
    ProviderServerError,
    ProviderTimeoutError,
    QuotaExhaustedError,
    RateLimitError,
    UnsupportedRequestError,
)
from modelmesh.interfaces.observability import EventType, Severity
from modelmesh.interfaces.provider import ProviderConnector, RateLimitStatus
from modelmesh.interfaces.strategy import DeactivationReason, RecoveryTrigger
from modelmesh.state import ProviderState
from modelmesh.statistics import StatsScope

if TYPE_CHECKING:
    from modelmesh._engine.limit_rules import Limit
    from modelmesh._engine.model import Model
    from modelmesh._engine.telemetry import Telemetry
    from modelmesh.statistics import StatisticsCollector

_BY_CATEGORY: dict[Category, type[ProviderError]] = {
    "rate_limit": RateLimitError,
    "server_error": ProviderServerError,
    "client_error": InvalidRequestError,
    "unsupported": UnsupportedRequestError,
    "auth": AuthenticationError,
    "network": ProviderConnectionError,
    "timeout": ProviderTimeoutError,
    "quota": QuotaExhaustedError,
    "content_filter": ContentFilterError,
    "malformed": MalformedResponseError,
    "unknown": ProviderError,
}

OUTAGE_THRESHOLD = 3
"""Consecutive connection failures and 5xx over all models of a provider that make an outage."""


class ProviderService:
    """One configured provider, shared by its models.

    Attributes:
        name: As configured; the provider ID everywhere else.
        connector: The plugin's object.
        state: Its health.
        models: The models it answers for.
        rate_limits: The last figures it sent, or None.
        deactivated: Why it may not be called, or None.
        changes: Where moves of its models' figures are noted.
        limits: What may be spent there and taken from it.
        concurrency: Calls that may run at once, over all processes with the same books; None for any number.
        takes_batches: Whether batches may be handed to it, if its connector has a way to.
        batch_items: Requests of one such batch at most; None for any number.
        statistics: Where its downtime goes; None for nowhere.
        decided_at: Monotonic time of what last put it to rest, or ended that by more than time.
        is_moving: Whether its models are being moved just now because of it.
        on_move: Told when its models were put to rest for it until so and so (monotonic time), or came back by a
            trigger; not of what other processes told.
        on_rate_limits: Told of what an answer said, if it was news.
    """

    __slots__ = (
        "_telemetry",
        "batch_items",
        "changes",
        "concurrency",
        "connector",
        "connector_id",
        "deactivated",
        "decided_at",
        "is_moving",
        "limits",
        "models",
        "name",
        "on_move",
        "on_rate_limits",
        "rate_limits",
        "state",
        "statistics",
        "takes_batches",
        "troubles",
    )

    def __init__(
        self,
        name: str,
        connector: ProviderConnector,
        state: ProviderState,
        connector_id: str = "",
        *,
        telemetry: Telemetry,
        changes: Changes | None = None,
        statistics: StatisticsCollector | None = None,
    ) -> None:
        self.name = name
        self.connector = connector
        self.connector_id = connector_id
        self.state = state
        self._telemetry = telemetry
        self.changes = changes or Changes()
        self.statistics = statistics
        self.models: list[Model] = []
        self.rate_limits: RateLimitStatus | None = None
        self.deactivated: str | None = None
        self.troubles = 0
        self.limits: tuple[Limit, ...] = ()
        self.concurrency: int | None = None
        self.takes_batches = True
        self.batch_items: int | None = None
        self.decided_at = float("-inf")
        self.is_moving = False
        self.on_move: Callable[[ProviderService, RecoveryTrigger | None, float], None] | None = None
        self.on_rate_limits: Callable[[ProviderService, RateLimitStatus], None] | None = None

    def __repr__(self) -> str:
        return f"ProviderService({self.name!r}, available={self.is_available()})"

    def take_rate_limits(self, status: RateLimitStatus, *, told: bool = True) -> None:
        """Keep what an answer said about rate limits; others are ``told``, unless it is from them."""
        if status != self.rate_limits:
            self.rate_limits = status
            self.changes.note_provider(self.name)
            if told and self.on_rate_limits is not None:
                self.on_rate_limits(self, status)

    def is_available(self) -> bool:
        """Whether it may be called."""
        return self.state.available and self.state.auth_valid and self.deactivated is None

    def get_models(self) -> list[Model]:
        """The models it answers for."""
        return list(self.models)

    def understand(self, error: BaseException, model: Model | None) -> ProviderError:
        """Turn whatever a connector raised into a `ProviderError` that names provider and model.

        A foreign exception is classified by the connector itself; should that fail as well, it is ``unknown``. So is
        what is no `Exception`, such as `SystemExit`: no connector takes the process down with it.
        """
        if isinstance(error, ProviderError):
            known = error
        elif isinstance(error, ModelMeshError):
            known = ProviderError(error.message)
        else:
            known = self._classify(error)
        known.provider_id = known.provider_id or self.name
        known.model_id = known.model_id or (None if model is None else model.name)
        # What a provider said may hold the key in a spelling that only who knows the key can see.
        redact = self._telemetry.dispatcher.redactor.text
        clean = redact(known.message)
        if clean != known.message:
            known.message = clean
            known.args = (clean, *known.args[1:])
        if known.code is not None:
            known.code = redact(known.code)
        return known

    def _classify(self, error: BaseException) -> ProviderError:
        # The text of a foreign exception may hold anything, so a message shows its type, and where it is most likely
        # the connector's own mistake the place; the text goes to the trace, redacted.
        said = f"provider {self.name!r} raised "
        where = type_and_place(error, type(self.connector))
        if not isinstance(error, Exception):
            self._tell_where(error)
            return ProviderError(said + where)
        try:
            verdict = self.connector.classify_error(error)
            what = said + (where if verdict.category == "unknown" else type(error).__name__)
            known = _BY_CATEGORY[verdict.category](
                f"{what}: {verdict.message}" if verdict.message else what,
                status_code=verdict.status_code,
                retry_after=verdict.retry_after,
                retryable=verdict.retryable,
            )
        except (Exception, SystemExit) as raised:  # or no verdict at all
            self._tell_where(error)
            self._tell_where(raised)
            return ProviderError(said + where)
        if known.category == "unknown":
            self._tell_where(error)
        known.__cause__ = error
        return known

    def _tell_where(self, error: BaseException) -> None:
        """Trace what the connector raised and does not know itself, most likely its bug: the place, and the words."""
        if self._telemetry.wants_error:
            place = origin_of(error, self.connector)
            self._telemetry.trace(
                Severity.ERROR,
                f"provider.{self.name}",
                f"its connector raised {type(error).__name__}{' at ' if place else ''}{place}",
                {"connector": self.connector_id},
                error=redacted_text(error, self._telemetry.dispatcher.redactor.text) or None,
            )

    def deactivate(
        self, cause: str, *, auth: bool, rest: float, now: float, told: bool = True, since: float | None = None
    ) -> None:
        """Move every model of this provider to standby, in all pools.

        Args:
            cause: For events and people.
            auth: Whether the credential is at fault rather than the service.
            rest: Seconds until the provider may be tried again.
            now: Monotonic time.
            told: Whether other processes are told; not of what is from them.
            since: Monotonic time at which it was found out, if that was before now.
        """
        self.decided_at = now if since is None else since
        self._telemetry.event(
            EventType.PROVIDER_DEACTIVATED,
            provider_id=self.name,
            metadata={"cause": cause, "cooldown": None if rest == float("inf") else rest},
        )
        self.deactivated = cause
        if auth:
            self.state.auth_valid = False
        else:
            self.state.available = False
        if self.statistics is not None:
            self.statistics.record_down(StatsScope.PROVIDER, self.name)
        reason = DeactivationReason.PROVIDER_UNAVAILABLE
        self.is_moving = True
        try:
            for model in self.models:
                for member in model.members:
                    member.pool.deactivate_member(member, reason, rest=rest, now=now, told=told, since=since)
        finally:
            self.is_moving = False
        if told and self.on_move is not None:
            self.on_move(self, None, now + rest)
        self._telemetry.event(
            EventType.PROVIDER_HEALTH_CHANGED,
            provider_id=self.name,
            metadata={"old": "healthy", "new": "unavailable", "status": "unavailable", "cause": cause},
        )

    def recover(self, trigger: RecoveryTrigger, now: float, *, told: bool = True, since: float | None = None) -> None:
        """Make the provider callable again, and the models that its trouble had put in standby active.

        Args:
            trigger: What ended its rest.
            now: Monotonic time.
            told: Whether other processes are told; not of what is from them.
            since: Monotonic time at which it was found out, if that was before now.
        """
        if trigger is not RecoveryTrigger.COOLDOWN_EXPIRED:
            self.decided_at = now if since is None else since
        self.deactivated = None
        self.troubles = 0
        self.state.available = True
        self.state.auth_valid = True
        if self.statistics is not None:
            self.statistics.record_up(StatsScope.PROVIDER, self.name)
        self._telemetry.event(EventType.PROVIDER_RECOVERED, provider_id=self.name, metadata={"trigger": trigger.value})
        self.is_moving = True
        try:
            for model in self.models:
                for member in model.members:
                    if member.reason == DeactivationReason.PROVIDER_UNAVAILABLE:
                        member.pool.recover_member(member, trigger, now=now, told=told, since=since)
        finally:
            self.is_moving = False
        if told and self.on_move is not None:
            self.on_move(self, trigger, now)
        self._telemetry.event(
            EventType.PROVIDER_HEALTH_CHANGED,
            provider_id=self.name,
            metadata={"old": "unavailable", "new": "healthy", "status": "healthy"},
        )

    def count_active(self) -> None:
        """Bring ``active_model_count`` up to date."""
        self.state.active_model_count = sum(1 for model in self.models if model.state.status == "active")
