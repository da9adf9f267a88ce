"""A model at a provider: what it was declared to be, and how it fares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelmesh.interfaces.provider import ModelPricing
from modelmesh.interfaces.strategy import ModelStatus
from modelmesh.state import ModelState

if TYPE_CHECKING:
    from modelmesh._engine.member import Member
    from modelmesh._engine.provider_service import ProviderService

SYNC, STREAMING, BATCH = "sync", "streaming", "batch"


@dataclass(frozen=True, slots=True)
class RequestResult:
    """What came of one attempt, as a model's state needs it.

    Attributes:
        success: Whether the answer was whole.
        latency: Seconds.
        tokens_in: Input tokens.
        tokens_out: Output tokens.
        cost: USD, or None when the price is not known.
        status_code: HTTP status, or None.
        error: The failure, or None.
    """

    success: bool
    latency: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    status_code: int | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class ModelDefinition:
    """A model as declared.

    Attributes:
        provider: The configured provider's name.
        capabilities: Paths of leaves in the capability tree.
        delivery: Modes it offers: ``sync``, ``streaming``, ``batch``.
        batch: Batch limits (``max_items`` and its siblings); empty when it has none.
        features: Such as ``tool_calling``.
        constraints: Such as ``context_window``, in tokens.
        name: Unique within the mesh.
        pricing: None if not known.
        provider_model: The provider's own name for it, when that differs from ``name``.
    """

    provider: str
    capabilities: tuple[str, ...]
    delivery: frozenset[str] = frozenset({SYNC})
    batch: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, bool] = field(default_factory=dict)
    constraints: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    pricing: ModelPricing | None = None
    provider_model: str = ""


class Model:
    """One model at one provider, with its own state; a member of any number of pools.

    Attributes:
        name: As configured; the model ID everywhere else.
        definition: As declared.
        provider: The provider that answers for it.
        state: Its health and usage.
        members: Its places in pools.
        in_flight: Attempts running.
        asking: Attempts that wait for their limits.
    """

    __slots__ = ("asking", "definition", "in_flight", "members", "name", "provider", "state", "wire_name")

    def __init__(self, definition: ModelDefinition, provider: ProviderService, state: ModelState) -> None:
        self.name = definition.name
        self.wire_name = definition.provider_model or definition.name
        self.definition = definition
        self.provider = provider
        self.state = state
        self.in_flight = 0
        self.asking = 0
        self.members: list[Member] = []

    def __repr__(self) -> str:
        return f"Model({self.name!r}, provider={self.provider.name!r}, status={self.state.status!r})"

    @property
    def pools(self) -> list[str]:
        """Names of the pools it belongs to."""
        return [member.pool.name for member in self.members]

    def get_capabilities(self) -> list[str]:
        """Capability paths it is registered at."""
        return list(self.definition.capabilities)

    def get_delivery_modes(self) -> list[str]:
        """Which of ``sync``, ``streaming`` and ``batch`` it offers."""
        return [mode for mode in (SYNC, STREAMING, BATCH) if mode in self.definition.delivery]

    def get_features(self) -> Mapping[str, bool]:
        """What it supports, as declared."""
        return self.definition.features

    def get_constraints(self) -> Mapping[str, Any]:
        """Its limits, as declared."""
        return self.definition.constraints

    def get_state(self) -> ModelState:
        """Its live state."""
        return self.state

    def update_state(self, result: RequestResult) -> None:
        """Take one attempt into the state."""
        if result.success:
            self.state.record_success(result.latency, result.tokens_in + result.tokens_out, result.cost or 0.0)
        else:
            self.state.record_failure(result.error or RuntimeError("failed"))
        self.figures_moved()

    def figures_moved(self) -> None:
        """Note that latency, errors, cost or price are not what they were: strategies look again."""
        self.provider.changes.note_model(self.name)

    def settle_status(self) -> None:
        """Bring what the state says in line with the model's places in pools, which are what holds."""
        if self.members and not any(member.active for member in self.members):
            self.state.status = ModelStatus.STANDBY.value
        elif self.state.status != ModelStatus.ACTIVE.value:
            self.state.status = ModelStatus.ACTIVE.value
            self.reset_state()
        self.figures_moved()

    def reset_state(self) -> None:
        """Forget failures and cooldown, as after a recovery."""
        self.state.failure_count = 0
        self.state.cooldown_remaining = 0.0
        self.state.deactivation_reason = None


def delivery_of(declared: str | Mapping[str, bool] | None, *, batch: bool, default: Sequence[str]) -> frozenset[str]:
    """Read the ways of declaring delivery modes.

    Args:
        declared: ``"sync"``, ``"streaming"`` (which implies sync), a map of ``synchronous``, ``streaming`` and
            ``batch``, or None for the default.
        batch: Whether a ``batch`` section was declared besides.
        default: What the capabilities of the model can be delivered as.
    """
    if declared is None:
        modes = set(default)
    elif isinstance(declared, str):
        modes = {SYNC} if declared in (SYNC, "synchronous") else {SYNC, declared}
    else:
        named = {"synchronous": SYNC, "streaming": STREAMING, "batch": BATCH}
        given = {"synchronous": True, **declared}
        modes = {mode for key, mode in named.items() if given.get(key)}
    if batch:
        modes.add(BATCH)
    return frozenset(modes)
