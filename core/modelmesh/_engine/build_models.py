"""From the ``providers`` and ``models`` sections to providers, models, and the tree they stand in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modelmesh._engine.build_basis import Basis
from modelmesh._engine.build_pools import membership
from modelmesh._engine.limit_rules import provider_limits
from modelmesh._engine.model import ModelDefinition, delivery_of
from modelmesh._engine.pool import CapabilityPool
from modelmesh._engine.provider_service import ProviderService
from modelmesh._engine.registry import ModelRegistry
from modelmesh._engine.resolver import CapabilityResolver
from modelmesh.capabilities import CapabilityTree
from modelmesh.errors import ConfigurationError, Problem
from modelmesh.interfaces.provider import ModelPricing
from modelmesh.interfaces.runtime import Clock
from modelmesh.state import ModelState, ProviderState

if TYPE_CHECKING:
    from modelmesh.config.configuration import Configuration
    from modelmesh.config.models import ModelConfig
    from modelmesh.config.providers import ProviderConfig


def build_providers(configuration: Configuration, basis: Basis) -> dict[str, ProviderService]:
    """Build every provider that is enabled."""
    return {name: _provider(name, entry, basis) for name, entry in configuration.providers.items() if entry.enabled}


def _provider(name: str, entry: ProviderConfig, basis: Basis) -> ProviderService:
    """Build a provider with its connector and its limits."""
    if entry.instance is not None:
        connector = entry.instance
    else:
        connector = basis.plugins.build("providers", entry.connector, entry.settings)
    connector.bind(basis.context("provider", name))
    state = ProviderState()
    state.configure(clock=basis.clock)
    service = ProviderService(
        name,
        connector,
        state,
        entry.connector,
        telemetry=basis.telemetry,
        changes=basis.changes,
        statistics=basis.statistics,
    )
    service.limits = provider_limits(name, entry.budget, entry.quota, entry.rate_limit)
    service.takes_batches, service.batch_items = entry.batch.supported is not False, entry.batch.max_items
    service.concurrency = None if entry.rate_limit is None else entry.rate_limit.concurrency
    return service


def build_registry(
    configuration: Configuration,
    tree: CapabilityTree,
    providers: Mapping[str, ProviderService],
    pools: Mapping[str, CapabilityPool],
    resolver: CapabilityResolver,
    clock: Clock,
) -> ModelRegistry:
    """Register the models of the providers that there are, and fill the pools with them."""
    registry = ModelRegistry(
        tree,
        providers,
        pools,
        {name: membership(name, entry, tree) for name, entry in configuration.pools.items()},
        resolver,
        new_state=lambda: new_model_state(clock),
    )
    for name, entry in configuration.models.items():
        if entry.provider in providers:
            registry.register(_definition(name, entry, tree, providers[entry.provider]), refresh=False)
    registry.refresh()
    return registry


def size_error_windows(pools: Mapping[str, CapabilityPool]) -> None:
    """Give each model the longest error window that one of its pools asks for."""
    for pool in pools.values():
        for member in pool.members.values():
            windows = [place.pool.policy.deactivation.error_window for place in member.model.members]
            member.model.state.set_error_window(max(windows))


def refuse_unpriced(pools: Mapping[str, CapabilityPool]) -> None:
    """Refuse a budget over a model whose price nobody knows: counting it as nothing would make the budget a lie."""
    for pool in pools.values():
        if pool.policy.deactivation.budget_limit is None:
            continue
        unpriced = [name for name, member in pool.members.items() if member.model.definition.pricing is None]
        if unpriced:
            raise ConfigurationError.from_problems(
                [
                    Problem(
                        f"no price is known of {', '.join(unpriced)}; add pricing to the model",
                        f"pools.{pool.name}.deactivation.budget_limit",
                    )
                ]
            )


def new_model_state(clock: Clock) -> ModelState:
    """Return the state of a model that nobody has called yet."""
    state = ModelState()
    state.configure(clock=clock)
    return state


def _definition(name: str, entry: ModelConfig, tree: CapabilityTree, provider: ProviderService) -> ModelDefinition:
    """Return a model as its section declares it."""
    capabilities = tuple(tree.resolve(capability) or capability for capability in entry.capabilities)
    default = [mode for path in capabilities for mode in tree.delivery_modes(path)]
    batch = entry.batch if isinstance(entry.batch, dict) else {}
    return ModelDefinition(
        provider=entry.provider,
        capabilities=capabilities,
        delivery=delivery_of(entry.delivery, batch=bool(entry.batch), default=default),
        batch=batch,
        features=dict(entry.features),
        constraints=dict(entry.constraints),
        name=name,
        pricing=_pricing(entry) or _known_pricing(provider, entry.model or name),
        provider_model=entry.model or "",
    )


def _pricing(entry: ModelConfig) -> ModelPricing | None:
    prices = entry.pricing
    if prices is None:
        return None
    return ModelPricing(prices.input_per_1k_tokens, prices.output_per_1k_tokens, prices.per_request)


def _known_pricing(provider: ProviderService, model: str) -> ModelPricing | None:
    """Return the price the connector's own catalogue states, if it has one that needs no network."""
    catalogue = getattr(provider.connector, "known_models", None)
    info = catalogue.get(model) if catalogue is not None else None
    return None if info is None else info.pricing


def build_tree(configuration: Configuration) -> CapabilityTree:
    """Build the tree: the default one, what ``capabilities`` adds, and what models imply by dotted paths."""
    tree = CapabilityTree.default()
    for parent, children in configuration.capabilities.items():
        for child in children:
            tree.add_node(parent if parent == "" else tree.resolve(parent) or parent, child)
    for model in configuration.models.values():
        for capability in model.capabilities:
            if "." in capability and tree.resolve(capability) is None:
                _add_path(tree, capability)
    return tree


def _add_path(tree: CapabilityTree, path: str) -> None:
    parent = ""
    for part in path.split("."):
        here = f"{parent}.{part}" if parent else part
        if tree.get_node(here) is None:
            tree.add_node(parent, part)
        parent = here
