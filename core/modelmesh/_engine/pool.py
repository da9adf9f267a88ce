"""A capability pool: its members, which of them take traffic, and every move between the two."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelmesh._engine.candidates import Candidates
from modelmesh._engine.changes import Changes
from modelmesh._engine.chooser import Chooser
from modelmesh._engine.maintenance import MaintenanceWindow
from modelmesh._engine.member import CALENDAR, IN_DOUBT, NEVER, Member
from modelmesh._engine.model import Model
from modelmesh._engine.policies import RATE_LIMITED, PoolPolicy
from modelmesh._engine.pool_telemetry import PoolTelemetry
from modelmesh._engine.requirements import Declared, Fit
from modelmesh._engine.retry_budget import RetryBudget
from modelmesh._engine.rotation import RotationPolicyService
from modelmesh._engine.windows import CalendarWindow
from modelmesh.errors import NoActiveModelError
from modelmesh.interfaces.runtime import Clock
from modelmesh.interfaces.strategy import (
    DeactivationReason,
    ModelStatus,
    RecoveryTrigger,
    SelectionRequest,
)
from modelmesh.lasting import lasting

if TYPE_CHECKING:
    from modelmesh._engine.call import Call
    from modelmesh._engine.telemetry import Telemetry
    from modelmesh.statistics import StatisticsCollector

_VIEWS = 1_000
"""Filtered views that are kept; more than ever serve at once, and callers name some of what is filtered by."""


@dataclass(frozen=True, slots=True)
class PoolState:
    """Counts of a pool at one moment; ``rotation_events`` are deactivations and recoveries."""

    name: str
    hierarchy_node: str
    active_count: int
    standby_count: int
    total_requests: int
    rotation_events: int


class CapabilityPool:
    """The models that fulfil one capability.

    Active and standby are this pool's own; ``ModelState.status`` follows them. Reading candidates costs a dictionary
    look-up: the filtered views are kept until something moves.

    Attributes:
        name: The virtual model name callers use.
        hierarchy_node: Path of the capability it serves; empty for an explicit pool.
        policy: Its rules.
        chooser: Asks its strategy.
        total_requests: Requests it served, not attempts.
        rotation_events: Deactivations and recoveries.
    """

    def __init__(
        self,
        name: str,
        hierarchy_node: str,
        rotation_policy: RotationPolicyService,
        telemetry: Telemetry,
        *,
        policy: PoolPolicy,
        clock: Clock,
        statistics: StatisticsCollector,
        lock: threading.RLock,
        priority: int = 0,
        strategy_id: str = "",
        changes: Changes | None = None,
        process_retries: RetryBudget | None = None,
    ) -> None:
        self.name = name
        self.hierarchy_node = hierarchy_node
        self.rotation = rotation_policy
        self.policy = policy
        self.clock = clock
        self.priority = priority
        self.strategy_id = strategy_id
        self.total_requests = 0
        self.rotation_events = 0
        self.retries = RetryBudget(policy.retry_percent, policy.retry_minimum, process_retries)
        self.on_move: Callable[[Member, RecoveryTrigger | None], None] | None = None
        self._telemetry = PoolTelemetry(name, telemetry, statistics)
        self._members: dict[str, Member] = {}
        self._views: dict[tuple[object, ...], Candidates[Member]] = {}
        self._declared: Declared | None = None
        self._changes = changes or Changes()
        self._active_count = 0
        self._next_due = NEVER
        self._next_until = NEVER
        rules = policy.deactivation
        self.quota_reset = None if policy.recovery.quota_reset is None else CalendarWindow(policy.recovery.quota_reset)
        self._maintenance = (
            None
            if rules.maintenance_window is None
            else MaintenanceWindow(rules.maintenance_window, rules.maintenance_duration)
        )
        # One lock for the whole mesh, since a provider's trouble moves members of many pools. It is held for
        # microseconds and never across an await, so an event loop does not wait for anything but another thread's move.
        self._lock = lock
        self.chooser = Chooser(name, strategy_id, rotation_policy, lock, self._telemetry.redact)

    def __repr__(self) -> str:
        return f"CapabilityPool({self.name!r}, active={self._active_count}, members={len(self._members)})"

    # --- members ----------------------------------------------------------

    @property
    def members(self) -> Mapping[str, Member]:
        """All members by model ID, in pool order."""
        return self._members

    @property
    def active_count(self) -> int:
        """How many of them take traffic."""
        return self._active_count

    @property
    def _active_models(self) -> list[Model]:
        return [member.model for member in self._members.values() if member.active]

    @property
    def _standby_models(self) -> list[Model]:
        return [member.model for member in self._members.values() if not member.active]

    @property
    def active_requests(self) -> int:
        """Requests that run now."""
        return self.retries.requests

    @property
    def active_retries(self) -> int:
        """Of these, those that hold a place in the retry budget."""
        return self.retries.retries

    def get_active_models(self) -> list[Model]:
        """Models that take traffic, in pool order."""
        return self._active_models

    def get_standby_models(self) -> list[Model]:
        """Models that rest, in pool order."""
        return self._standby_models

    def get_state(self) -> PoolState:
        """Counts at this moment."""
        return PoolState(
            self.name,
            self.hierarchy_node,
            self._active_count,
            len(self._members) - self._active_count,
            self.total_requests,
            self.rotation_events,
        )

    def fill(self, models: Sequence[Model]) -> None:
        """Set the members, in this order; those that stay keep their place between active and standby."""
        with self._lock:
            before = self._members
            self._members = {}
            for model in models:
                member = before.get(model.name)
                if member is None or member.model is not model:
                    replaced, member = member, Member(model, self)
                    if replaced is not None:
                        member.take_place_of(replaced)
                    model.members.append(member)
                self._members[model.name] = member
            gone = [member for name, member in before.items() if self._members.get(name) is not member]
            for member in gone:
                member.model.members.remove(member)
            self._membership_changed()
            # Those that left first: where one was replaced, its successor has the last word on the name they share.
            for model in (*(member.model for member in gone), *models):
                self._note_reach(model)
        self._telemetry.membership_changed(before, self._members)

    def take_over(self, before: CapabilityPool, holds: Callable[[Member], bool], *, strategy: bool) -> None:
        """Go on where the pool of an earlier configuration stood: its counts, and the rests that still hold.

        Args:
            before: That pool.
            holds: Says of a resting member of it whether its rest still holds.
            strategy: Whether its strategy, with what it remembers, takes the place of this one's.
        """
        with self._lock:
            self.total_requests, self.rotation_events = before.total_requests, before.rotation_events
            if strategy:
                self.rotation.strategy = before.rotation.strategy
            for name, member in self._members.items():
                earlier = before._members.get(name)
                if earlier is None:
                    continue
                if earlier.provider_id == member.provider_id and (earlier.active or holds(earlier)):
                    member.take_place_of(earlier)
                else:  # what other processes know of its rest is as old as that
                    member.decided_at = self.clock.monotonic()
            self._membership_changed()
            self._note_next_due()

    def note_reach(self) -> None:
        """Tell statistics who can be reached as things stand."""
        for member in self._members.values():
            self._note_reach(member.model)

    def add_model(self, model: Model) -> None:
        """Append a model."""
        if model.name not in self._members:
            self.fill([*(member.model for member in self._members.values()), model])

    def remove_model(self, model: Model) -> None:
        """Take a model out; unknown ones are none of its concern."""
        self.fill([member.model for member in self._members.values() if member.model is not model])

    def _membership_changed(self) -> None:
        self._active_count = sum(1 for member in self._members.values() if member.active)
        self._views.clear()
        self._declared = None
        self.chooser.pool_changed(tuple(self._members))

    def _note_reach(self, model: Model) -> None:
        self._telemetry.note_reach(model, active_count=self._active_count)

    # --- choosing ---------------------------------------------------------

    def candidates(
        self,
        *,
        node: frozenset[str] | None = None,
        only: frozenset[str] | None = None,
        mode: str | None = None,
        provider: str | None = None,
        active: bool = False,
        fit: Fit | None = None,
    ) -> Candidates[Member]:
        """Return members in pool order, filtered; the same object until something moves.

        Args:
            node: Capability paths a candidate must have one of; None for any.
            only: Model IDs to restrict to; None for any.
            mode: Delivery mode it must offer; None for any.
            provider: Provider it must belong to; None for any.
            active: Whether standby members are left out.
            fit: What it must not have been declared unable to do; None for nothing.
        """
        key = (node, only, mode, provider, active, fit)
        view = self._views.get(key)
        if view is None:
            if len(self._views) >= _VIEWS:
                self._views.clear()
            view = self._views[key] = Candidates(
                tuple(self._members.values()),
                [
                    member
                    for member in self._members.values()
                    if (not active or member.active)
                    and (only is None or member.model_id in only)
                    and (provider is None or member.provider_id == provider)
                    and (mode is None or mode in member.model.definition.delivery)
                    and (node is None or not node.isdisjoint(member.model.definition.capabilities))
                    and (fit is None or fit.accepts(member))
                ],
                self._changes,
            )
        return view

    @property
    def declared(self) -> Declared:
        """What its members were declared unable to do; read from them once."""
        if self._declared is None:
            self._declared = Declared(member.model.definition for member in self._members.values())
        return self._declared

    def sweep(self, now: float) -> None:
        """Bring back every member whose rest is over. Costs two comparisons when none is due."""
        if self._maintenance is not None:
            self._maintain(self._maintenance, now)
        wall = 0.0 if self._next_until == NEVER else self.clock.time()
        if now < self._next_due and wall < self._next_until:
            return
        with self._lock:
            due = [
                member
                for member in self._members.values()
                if not member.active and (member.due <= now or member.until <= wall)
            ]
            for member in due:
                if member.active:
                    continue  # its provider came back with an earlier one of this list
                if self.policy.recovery.require_probe and member.reason in IN_DOUBT - {RATE_LIMITED}:
                    member.rest_until(NEVER, now)  # a probe brings it back
                    continue
                if member.reason == DeactivationReason.PROVIDER_UNAVAILABLE:
                    member.model.provider.recover(RecoveryTrigger.COOLDOWN_EXPIRED, now)
                else:
                    calendar = member.reason in CALENDAR
                    trigger = RecoveryTrigger.QUOTA_RESET if calendar else RecoveryTrigger.COOLDOWN_EXPIRED
                    self.recover_member(member, trigger, now=now)
            self._note_next_due()

    def _maintain(self, window: MaintenanceWindow, now: float) -> None:
        """Put everybody to rest while a maintenance window is open."""
        wall = self.clock.time()
        until = window.open_until(wall)
        if until is None or not self._active_count:
            return
        for member in list(self._members.values()):
            self.deactivate_member(member, DeactivationReason.MAINTENANCE_WINDOW, rest=until - wall, now=now)

    def select(self, request: SelectionRequest) -> Model:
        """Choose one active model.

        Raises:
            NoActiveModelError: None is active.
        """
        self.sweep(self.clock.monotonic())
        candidates = self.candidates(mode=request.delivery_mode, active=True)
        if not candidates:
            raise self.no_active_model()
        return self.chooser.chosen(self.chooser.choose(candidates, request), self._members).model

    # --- moves ------------------------------------------------------------

    def deactivate(self, model: Model, reason: str = DeactivationReason.MANUAL.value) -> None:
        """Move a model to standby; with reason ``manual`` until `recover` is called. No-op when it rests already."""
        member = self._members[model.name]
        now = self.clock.monotonic()
        rest = None if reason == DeactivationReason.MANUAL else self.rotation.recovery.rest_after(member.ejections + 1)
        self.deactivate_member(member, reason, rest=rest, now=now)

    def recover(self, model: Model) -> None:
        """Make a model active at once. No-op when it is."""
        self.recover_member(self._members[model.name], RecoveryTrigger.MANUAL, now=self.clock.monotonic())

    def deactivate_member(
        self,
        member: Member,
        reason: str,
        *,
        rest: float | None,
        now: float,
        told: bool = True,
        since: float | None = None,
    ) -> bool:
        """Move a member to standby.

        A member that rests already stays as it is, but never comes back before the later of both times.

        Args:
            member: Which.
            reason: Why.
            rest: Seconds from now; None until it is recovered.
            now: Monotonic time.
            told: Whether other processes are told; not of what is from them.
            since: Monotonic time at which it was found out, if that was before now.

        Returns:
            Whether it moved.
        """
        since = now if since is None else since
        due = NEVER if rest is None else now + rest
        with self._lock:
            if not member.active:
                self._rest_longer(member, reason, due, now=now, since=since)
                return False
            self._put_to_rest(member, reason, due, now=now, since=since)
            member.probation = False
            member.ejections += 1
            self.rotation_events += 1
            member.model.state.deactivation_reason = reason
            member.model.state.cooldown_remaining = 0.0 if rest is None else rest
            member.model.provider.count_active()
        self._telemetry.rests(member, reason, rest)
        if told and self.on_move is not None:
            self.on_move(member, None)
        return True

    def restore(
        self, model_id: str, reason: str, *, rest: float | None, ejections: int, known_for: float = 0.0
    ) -> None:
        """Put a member back to the rest it had before a restart, if any of it is left; this is no new rotation.

        Args:
            model_id: Which.
            reason: Why it rests.
            rest: Seconds that are left; None until it is recovered.
            ejections: Rests in a row.
            known_for: Seconds since it was so; what others found out after that is younger.
        """
        member = self._members.get(model_id)
        if member is None or not member.active or (rest is not None and rest <= 0):
            return
        now = self.clock.monotonic()
        with self._lock:
            due = NEVER if rest is None else now + rest
            self._put_to_rest(member, reason, due, now=now, since=now - known_for)
            member.ejections = ejections

    def recover_member(
        self, member: Member, trigger: RecoveryTrigger, *, now: float, told: bool = True, since: float | None = None
    ) -> None:
        """Make a member active; when only its rest is over it is on probation until its first answer.

        Args:
            member: Which.
            trigger: What ended its rest.
            now: Monotonic time.
            told: Whether other processes are told; not of what is from them.
            since: Monotonic time at which it was found out, if that was before now.
        """
        with self._lock:
            if member.active:
                return
            self._bring_back(member, trigger, since=now if since is None else since)
        self._telemetry.is_back(member, trigger, now - member.rested_at)
        if told and self.on_move is not None:
            self.on_move(member, trigger)

    def is_last_active(self, member: Member) -> bool:
        """Whether nobody else of the pool takes traffic."""
        return member.active and self._active_count == 1

    # What follows is called under the lock.

    def _put_to_rest(self, member: Member, reason: str, due: float, *, now: float, since: float) -> None:
        """Take an active member out of traffic until then."""
        member.active = False
        member.reason = reason
        member.rest_until(due, now)
        member.rested_at = member.decided_at = since
        self._active_count -= 1
        self._views.clear()
        self._next_due = min(self._next_due, member.due)
        self._next_until = min(self._next_until, member.until)
        if not any(other.active for other in member.model.members):
            member.model.state.status = ModelStatus.STANDBY.value
        self._note_reach(member.model)

    def _rest_longer(self, member: Member, reason: str, due: float, *, now: float, since: float) -> None:
        """Let a member that rests already do so until the later of both times, for the reason that weighs more."""
        # An order by hand is the reason whatever else holds, and nothing that ends takes its place.
        if due > member.due or reason == DeactivationReason.MANUAL:
            # A rest that only time ends is not made one that an answer ends by errors that come on top of it.
            if reason not in IN_DOUBT or reason == RATE_LIMITED or member.reason in IN_DOUBT:
                member.reason = reason
            member.rest_until(due, now)
            member.decided_at = max(member.decided_at, since)
        self._note_next_due()

    def _bring_back(self, member: Member, trigger: RecoveryTrigger, *, since: float) -> None:
        """Let a member that rests take traffic again."""
        member.active = True
        if trigger is not RecoveryTrigger.COOLDOWN_EXPIRED:  # which says nothing of how it is
            member.decided_at = since
        maintained = member.reason == DeactivationReason.MAINTENANCE_WINDOW
        member.probation = trigger is RecoveryTrigger.COOLDOWN_EXPIRED and not maintained
        if trigger is RecoveryTrigger.MANUAL:
            member.ejections = 0
        if trigger is RecoveryTrigger.QUOTA_RESET:
            member.model.state.start_period()
        member.reason = None
        member.due = 0.0
        member.until = NEVER
        member.model.state.status = ModelStatus.ACTIVE.value
        member.model.reset_state()
        self._active_count += 1
        self.rotation_events += 1
        self._views.clear()
        member.model.provider.count_active()
        self._note_reach(member.model)

    def _note_next_due(self) -> None:
        resting = [member for member in self._members.values() if not member.active]
        self._next_due = min((member.due for member in resting), default=NEVER)
        self._next_until = min((member.until for member in resting), default=NEVER)

    # --- retry budget -----------------------------------------------------

    def take_retry(self, call: Call) -> bool:
        """Whether the call may retry now, by the budget of the pool and that of the process."""
        if not call.retrying:
            call.retrying = self.retries.take()
        return call.retrying

    # --- errors -----------------------------------------------------------

    def no_active_model(self, only: frozenset[str] | None = None) -> NoActiveModelError:
        """Build the error that says who rests, why, and when the first of them may return.

        Args:
            only: The models that were asked for by name; None when the pool was asked for.
        """
        waits = {
            member: member.cooldown_remaining
            for member in self._members.values()
            if not member.active and (only is None or member.model_id in only)
        }
        resting = {
            member.model_id: {"reason": member.reason, "cooldown_remaining": wait} for member, wait in waits.items()
        }
        shown = ", ".join(f"{name} ({facts['reason']})" for name, facts in list(resting.items())[:5])
        more = ", …" if len(resting) > 5 else ""
        if not self._members:
            message = f"pool {self.name!r} has no members"
        elif only is not None and len(waits) == 1:
            message = self._named_rests(*next(iter(waits.items())))
        else:
            message = f"no model of pool {self.name!r} is active: {shown}{more}"
        return NoActiveModelError(
            message,
            pool_name=self.name,
            retry_after=min((wait for wait in waits.values() if wait is not None), default=None),
            details={"standby": resting},
        )

    def _named_rests(self, member: Member, wait: float | None) -> str:
        """Say of the one model that was asked for why and how long it rests, and that others of the pool do not."""
        until = "until it is recovered" if wait is None else f"for {lasting(wait)} more"
        others = f"; ask for the pool to let {self._others_active()} answer" if self._active_count else ""
        return f"model {member.model_id!r} of pool {self.name!r} rests {until}: {member.reason}{others}"

    def _others_active(self) -> str:
        return "its active model" if self._active_count == 1 else f"one of its {self._active_count} active models"
