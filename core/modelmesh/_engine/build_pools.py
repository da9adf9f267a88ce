"""From the ``pools`` section to pools with their rules, strategies and memberships."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modelmesh._engine.build_basis import Basis
from modelmesh._engine.model import Model
from modelmesh._engine.origin import class_name
from modelmesh._engine.policies import DeactivationRules, PoolPolicy, RecoveryRules
from modelmesh._engine.pool import CapabilityPool
from modelmesh._engine.registry import Membership
from modelmesh._engine.retry import RetryPolicy
from modelmesh._engine.retry_budget import RetryBudget
from modelmesh._engine.rotation import DeactivationEvaluator, RecoveryEvaluator, RotationPolicyService
from modelmesh.capabilities import CapabilityTree
from modelmesh.interfaces.provider import Timeouts
from modelmesh.interfaces.strategy import SelectionStrategy

if TYPE_CHECKING:
    from modelmesh.config.configuration import Configuration
    from modelmesh.config.pools import PoolConfig
    from modelmesh.config.rotation import RecoveryConfig


def build_pools(configuration: Configuration, tree: CapabilityTree, basis: Basis) -> dict[str, CapabilityPool]:
    """Build every pool with its strategy, and without its members; all share the process's budget of retries."""
    retries = RetryBudget.of_process()
    return {name: _pool(name, entry, tree, basis, retries) for name, entry in configuration.pools.items()}


def _pool(name: str, entry: PoolConfig, tree: CapabilityTree, basis: Basis, retries: RetryBudget) -> CapabilityPool:
    policy = pool_policy(entry)
    strategy = entry.strategy_instance or _strategy(name, entry.strategy, entry.strategy_settings, basis)
    set_fallback = getattr(strategy, "set_fallback", None)
    if set_fallback is not None:
        fallback = entry.fallback_strategy
        set_fallback(None if fallback in (None, "error") else _strategy(name, fallback, None, basis))
    rotation = RotationPolicyService(
        DeactivationEvaluator(policy.deactivation), RecoveryEvaluator(policy.recovery, basis.random), strategy
    )
    return CapabilityPool(
        name,
        node_of(name, entry, tree) or "",
        rotation,
        basis.telemetry,
        policy=policy,
        clock=basis.clock,
        statistics=basis.statistics,
        lock=basis.lock,
        priority=entry.priority,
        strategy_id=entry.strategy if entry.strategy_instance is None else class_name(type(strategy)),
        changes=basis.changes,
        process_retries=retries,
    )


def _strategy(pool: str, connector_id: str, settings: Any, basis: Basis) -> SelectionStrategy:
    strategy: SelectionStrategy = basis.plugins.build("strategies", connector_id, settings)
    strategy.bind(basis.context("pool", pool))
    return strategy


def node_of(name: str, entry: PoolConfig, tree: CapabilityTree) -> str | None:
    """Return the path a pool serves: as configured, else its own name; None for an explicit pool."""
    if entry.capability is not None:
        return tree.resolve(entry.capability)
    return tree.resolve(name)


def membership(name: str, entry: PoolConfig, tree: CapabilityTree) -> Membership:
    """Return who belongs to a pool, as its section says."""
    return Membership(
        node=node_of(name, entry, tree),
        models=tuple(entry.models),
        include=tuple(entry.include),
        providers=frozenset(entry.providers),
        excluded_providers=frozenset(entry.excluded_providers),
        selector=None if entry.selector is None else _selector(entry.selector),
    )


def _selector(section: Any) -> Callable[[Model], bool | float]:
    """Return the test a ``selector`` section states."""
    if callable(section):
        return section  # type: ignore[no-any-return]  # a user's own scoring function

    def fits(model: Model) -> bool:
        declared = model.definition
        if any(declared.features.get(feature, False) != wanted for feature, wanted in section.features.items()):
            return False
        if (
            section.min_context_window
            and (declared.constraints.get("context_window") or 0) < section.min_context_window
        ):
            return False
        return not section.providers or model.provider.name in section.providers

    return fits


def _recovery_rules(section: RecoveryConfig) -> RecoveryRules:
    schedule = section.quota_reset_schedule if section.on_quota_reset else None
    return RecoveryRules(
        cooldown=section.cooldown,
        probe_on_start=section.probe_on_start,
        probe_interval=section.probe_interval,
        require_probe=section.require_probe,
        quota_reset=None if schedule is None else "monthly" if schedule == "monthly" else "daily",
    )


def pool_policy(entry: PoolConfig) -> PoolPolicy:
    """Return a pool's rules as plain values."""
    away, retry, clocks = entry.deactivation, entry.retry, entry.timeouts
    return PoolPolicy(
        deactivation=DeactivationRules(
            retry_limit=away.retry_limit,
            error_rate_threshold=away.error_rate_threshold,
            error_rate_min_samples=away.error_rate_min_samples,
            error_codes=frozenset(away.error_codes),
            request_limit=away.request_limit,
            token_limit=away.token_limit,
            budget_limit=away.budget_limit,
            quota_window=away.quota_window,
            timezone=away.timezone,
            error_window=away.error_window,
            maintenance_window=away.maintenance_window,
            maintenance_duration=away.maintenance_duration,
        ),
        recovery=_recovery_rules(entry.recovery),
        retry=RetryPolicy(
            max_attempts=retry.max_attempts,
            backoff=retry.backoff,
            initial_delay=retry.initial_delay,
            max_delay=retry.max_delay,
            scope=retry.scope,
            prefer=retry.prefer,
            retryable_codes=frozenset(retry.retryable_codes),
            non_retryable_codes=frozenset(retry.non_retryable_codes),
            written_codes=frozenset(
                code
                for key in ("retryable_codes", "non_retryable_codes")
                if key in retry.model_fields_set
                for code in getattr(retry, key)
            ),
            honor_retry_after=retry.honor_retry_after,
        ),
        timeouts=Timeouts(clocks.connect, clocks.first_token, clocks.idle, clocks.total),
        deadline=entry.deadline,
        max_attempts=entry.max_attempts,
        max_cost=entry.max_cost,
        retry_percent=entry.retry_budget.percent,
        retry_minimum=entry.retry_budget.minimum,
        provider_deactivation=frozenset(entry.provider_deactivation),
        provider_recovery=entry.provider_recovery,
        on_stream_failure=entry.on_stream_failure,
        hold_time=entry.hold_time,
        on_budget_exceeded=entry.on_budget_exceeded,
    )
