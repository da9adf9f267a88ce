"""Every error ModelMesh raises, in one tree.

::

    ModelMeshError
    ├─ ConfigurationError               the configuration must change (lists every problem found)
    │  ├─ CreateArgumentError           create() was called without anything to build; also ValueError
    │  ├─ NoProvidersError              no provider is configured or detected; also RuntimeError
    │  ├─ PluginError                   a plugin that the configuration needs cannot be used
    │  └─ UnknownConnectorError         a connector ID that no installed plugin offers; also KeyError
    ├─ RoutingError                     no way from the request to a model
    │  ├─ CapabilityNotFoundError       no such capability, pool or model; also KeyError
    │  ├─ NoActiveModelError            every model of the pool is standby (retryable)
    │  ├─ AllProvidersExhaustedError    every attempt failed; ``last_error`` says how
    │  ├─ SessionModelUnavailableError  a strict session's model is standby
    │  └─ DeadlineExceededError         the request's own deadline passed; also TimeoutError
    ├─ ProviderError                    one call to one provider failed
    │  ├─ InvalidRequestError           the caller's own mistake; nobody else would answer it either
    │  ├─ UnsupportedRequestError       this model cannot serve it, another one may
    │  │  └─ ContextLengthError         too long for this model
    │  ├─ ContentFilterError            the provider refused the content
    │  ├─ AuthenticationError           the key is missing, wrong or not allowed (401, 403)
    │  ├─ QuotaExhaustedError           quota or credit used up; waiting a moment does not help
    │  ├─ RateLimitError                too many requests or tokens just now (retryable)
    │  ├─ ProviderTimeoutError          no answer in time (retryable); also TimeoutError
    │  ├─ ProviderConnectionError       no connection, or it broke before the answer (retryable)
    │  ├─ ProviderServerError           the provider failed (5xx) (retryable)
    │  ├─ MalformedResponseError        an answer that is not what the protocol says (retryable)
    │  └─ StreamInterruptedError        a stream broke; ``partial`` holds what had arrived (retryable)
    ├─ BudgetExceededError              a money limit would be passed
    ├─ SecretNotFoundError              a secret reference with no value; also KeyError
    ├─ StateStoreError                  a state store failed or refused
    └─ UsageError                       the API was called in a way that cannot work; also RuntimeError
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal


class ModelMeshError(Exception):
    """Root of the tree.

    Attributes:
        message: One sentence for a person; never holds a key, a header or a prompt.
        details: Facts for a program, JSON-serialisable.
        retryable: Whether the same call may succeed later without any change.
    """

    default_retryable = False

    def __init__(
        self, message: str, *, details: Mapping[str, Any] | None = None, retryable: bool | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        self.retryable = self.default_retryable if retryable is None else retryable

    def __str__(self) -> str:
        # KeyError, which some subclasses are as well, would print the repr of its argument.
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled as a call with their args; subclasses take other arguments than the message.
        return _restored, (type(self), self.args), self.__dict__


def _restored(cls: type[ModelMeshError], arguments: tuple[Any, ...]) -> ModelMeshError:
    """Make an error without its constructor; its attributes follow."""
    return cls.__new__(cls, *arguments)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration.

    Attributes:
        message: What was wrong, and the remedy.
        path: Dotted key path, such as ``pools.chat.strategy``; empty when it concerns the whole document.
        file: Where it was written, as the user named it, or None for a mapping.
        line: 1-based line, or None when unknown.
    """

    message: str
    path: str = ""
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = self.file or ""
        if self.line is not None:
            place = f"{place}:{self.line}" if place else f"line {self.line}"
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ConfigurationError(ModelMeshError):
    """The configuration cannot be used; ``problems`` lists everything found, in document order."""

    def __init__(
        self,
        message: str,
        *,
        problems: Sequence[Problem] = (),
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, details=details)
        self.problems = tuple(problems)

    @classmethod
    def from_problems(cls, problems: Sequence[Problem]) -> ConfigurationError:
        """Build the one error that shows them all, a line each."""
        count = len(problems)
        head = "the configuration has 1 problem" if count == 1 else f"the configuration has {count} problems"
        return cls("\n".join([head + ":", *(f"  {problem}" for problem in problems)]), problems=problems)


class CreateArgumentError(ConfigurationError, ValueError):
    """``create()`` got neither a capability, nor a pool, nor a configuration."""


class NoProvidersError(ConfigurationError, RuntimeError):
    """No provider is configured, and none was detected in the environment."""


class PluginError(ConfigurationError):
    """A plugin that the configuration needs failed to load or does not keep its contract."""


class UnknownConnectorError(ConfigurationError, KeyError):
    """No installed plugin offers this connector ID."""


class RoutingError(ModelMeshError):
    """No model can be chosen for the request."""

    def __init__(
        self,
        message: str,
        *,
        pool_name: str | None = None,
        details: Mapping[str, Any] | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, details=details, retryable=retryable)
        self.pool_name = pool_name


class CapabilityNotFoundError(RoutingError, KeyError):
    """No pool, capability, alias or model has this name."""

    def __init__(self, capability: str, *, known: Sequence[str] = ()) -> None:
        super().__init__(
            unknown_name("capability, pool or model", capability, known), details={"capability": capability}
        )
        self.capability = capability


class NoActiveModelError(RoutingError):
    """Every model of the pool is standby.

    Attributes:
        retry_after: Seconds until the first of them may be active again, or None if that is not known.
    """

    default_retryable = True

    def __init__(
        self,
        message: str,
        *,
        pool_name: str | None = None,
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, pool_name=pool_name, details=details)
        self.retry_after = retry_after


class AllProvidersExhaustedError(RoutingError):
    """Every attempt of a request failed, or limits allowed none.

    Attributes:
        attempts: Calls made to providers.
        last_error: The error of the last attempt, or why none was made (also ``__cause__``).
        receipt: What was tried, attempt by attempt (`modelmesh.interfaces.provider.Receipt`).
    """

    def __init__(self, pool_name: str, *, attempts: int, last_error: Exception | None, receipt: object = None) -> None:
        if attempts:
            head, link = f"every attempt in pool {pool_name!r} failed ({attempts} made)", "; the last one: "
        else:
            head, link = f"no attempt was made in pool {pool_name!r}", ": "
        super().__init__(
            head if last_error is None else f"{head}{link}{last_error}",
            pool_name=pool_name,
            details={"attempts": attempts},
        )
        self.attempts = attempts
        self.last_error = last_error
        self.receipt = receipt


class SessionModelUnavailableError(RoutingError):
    """The model that a strict session is bound to is standby."""

    def __init__(self, session_id: str, model_id: str, *, pool_name: str | None = None) -> None:
        super().__init__(
            f"the session's model {model_id!r} is standby and affinity_mode is strict",
            pool_name=pool_name,
            details={"session_id": session_id, "model_id": model_id},
        )
        self.session_id = session_id
        self.model_id = model_id


class DeadlineExceededError(RoutingError, TimeoutError):
    """The whole request, with all its attempts, took longer than its deadline (seconds)."""

    def __init__(self, deadline: float, *, pool_name: str | None = None, attempts: int = 0) -> None:
        super().__init__(
            f"no answer within the request's deadline of {deadline:g} s ({attempts} attempts made)",
            pool_name=pool_name,
            details={"deadline": deadline, "attempts": attempts},
        )
        self.deadline = deadline
        self.attempts = attempts
        self.receipt: object = None


Category = Literal[
    "rate_limit",
    "server_error",
    "client_error",
    "unsupported",
    "auth",
    "network",
    "timeout",
    "quota",
    "content_filter",
    "malformed",
    "unknown",
]
"""What kind of failure an attempt had; it decides who is blamed and what is tried next."""


class ProviderError(ModelMeshError):
    """One call to one provider failed.

    Attributes:
        provider_id: The provider, or None while it is not known.
        model_id: The model, or None.
        status_code: HTTP status, or None when there was none.
        category: See `Category`.
        retry_after: Seconds the provider asked to wait, or None.
        code: The provider's own error code (OpenAI's ``error.code``), or None.
        sent: Whether the request may have reached the provider, who may then bill it.
        retryable_by_settings: What the provider's own settings say of its status, or None; it goes before the lists a
            pool has by default, and behind those that are written there.
    """

    category: Category = "unknown"
    retryable_by_settings: bool | None = None

    def __init__(
        self,
        message: str,
        *,
        provider_id: str | None = None,
        model_id: str | None = None,
        status_code: int | None = None,
        retry_after: float | None = None,
        code: str | None = None,
        retryable: bool | None = None,
        details: Mapping[str, Any] | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(message, details=details, retryable=retryable)
        self.sent = sent
        self.provider_id = provider_id
        self.model_id = model_id
        self.status_code = status_code
        self.retry_after = retry_after
        self.code = code


class InvalidRequestError(ProviderError):
    """The request itself is wrong (400, 404, 413, 422); it is returned to the caller and hurts nobody's health."""

    category: Category = "client_error"


class UnsupportedRequestError(ProviderError):
    """This model lacks what the request needs; a model that has it may answer."""

    category: Category = "unsupported"


class ContextLengthError(UnsupportedRequestError):
    """The request does not fit this model's context window."""


class ContentFilterError(ProviderError):
    """The provider's content policy refused the request."""

    category: Category = "content_filter"


class AuthenticationError(ProviderError):
    """The provider did not accept the credential (401, 403). Concerns all models of the provider."""

    category: Category = "auth"


class QuotaExhaustedError(ProviderError):
    """Quota or credit is used up (402, or 429 with a quota code).

    Attributes:
        scope: ``model`` or ``provider``: what must rest until the quota returns.
    """

    category: Category = "quota"

    def __init__(self, message: str, *, scope: Literal["model", "provider"] = "model", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.scope = scope


class RateLimitError(ProviderError):
    """Too many requests or tokens for now; ``retry_after`` is in seconds, or None if the provider did not say."""

    category: Category = "rate_limit"
    default_retryable = True


class ProviderTimeoutError(ProviderError, TimeoutError):
    """One of an attempt's clocks ran out.

    Attributes:
        timeout_seconds: The limit that was passed.
        clock: Which one: connect, first_token, idle, total, or deadline for that of the whole request.
    """

    category: Category = "timeout"
    default_retryable = True

    def __init__(
        self,
        message: str,
        *,
        timeout_seconds: float | None = None,
        clock: Literal["connect", "first_token", "idle", "total", "deadline"] = "total",
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.timeout_seconds = timeout_seconds
        self.clock = clock


class ProviderConnectionError(ProviderError):
    """No connection could be made, or it broke before the answer was there."""

    category: Category = "network"
    default_retryable = True


class ProviderServerError(ProviderError):
    """The provider answered with a failure of its own (5xx)."""

    category: Category = "server_error"
    default_retryable = True


class MalformedResponseError(ProviderError):
    """The answer is not what the provider's protocol says: no JSON, wrong types, nothing in it."""

    category: Category = "malformed"
    default_retryable = True


class StreamInterruptedError(ProviderError):
    """A stream broke or ended without its terminal signal.

    Attributes:
        partial: The text that had arrived; empty if none had.
    """

    category: Category = "network"
    default_retryable = True

    def __init__(self, message: str, *, partial: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.partial = partial


class BudgetExceededError(ModelMeshError):
    """A money limit would be passed; amounts are in USD."""

    def __init__(self, limit_type: str, limit_value: float, actual_value: float) -> None:
        from modelmesh.money import in_dollars  # here: the names of errors are had without the rest

        super().__init__(
            f"the {limit_type} budget of {in_dollars(limit_value)} would be passed"
            f" ({in_dollars(actual_value)} with this request)",
            details={"limit_type": limit_type, "limit_value": limit_value, "actual_value": actual_value},
        )
        self.limit_type = limit_type
        self.limit_value = limit_value
        self.actual_value = actual_value


class SecretNotFoundError(ModelMeshError, KeyError):
    """A ``${secrets:NAME}`` reference has no value in the secret store."""


class StateStoreError(ModelMeshError):
    """A state store failed, or refused what was asked."""


class UsageError(ModelMeshError, RuntimeError):
    """The API was called in a way that cannot work, such as a blocking method on the mesh's own loop."""


NoAvailableModelError = NoActiveModelError
"""The name some documents use for `NoActiveModelError`."""


_SHORTEST_BEGINNING = 3


def unknown_name(kind: str, name: str, known: Sequence[str], *, limit: int = 12) -> str:
    """Say that a name is unknown, with the near matches first and then what there is.

    Returns:
        One line, such as ``unknown strategy 'round-robbin'; did you mean 'round-robin'? known: …``.
    """
    close = near_names(name, known)
    hint = f"; did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
    if not known:
        return f"unknown {kind} {name!r}{hint}; none is known"
    shown = ", ".join(sorted(known)[:limit]) + (", …" if len(known) > limit else "")
    return f"unknown {kind} {name!r}{hint}; known: {shown}"


def near_names(name: str, known: Sequence[str]) -> list[str]:
    """Return the names somebody may have meant, at most two, the likeliest first."""
    return get_close_matches(name, known, n=2, cutoff=0.6) or _longer(name, known)


def _longer(name: str, known: Sequence[str]) -> list[str]:
    """Return the shortest of the names that begin like this one or have a part near it: all somebody may remember."""
    if len(name) < _SHORTEST_BEGINNING:
        return []
    near = {
        each for each in known if get_close_matches(name, each.replace("_", "-").replace(".", "-").split("-"), 1, 0.8)
    }
    return sorted(
        (each for each in known if each.startswith(name) or each in near), key=lambda each: (len(each), each)
    )[:2]
