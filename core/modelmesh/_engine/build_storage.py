"""From the ``storage`` section to the store, the limits it keeps, and the state it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelmesh._engine.block_ledger import BlockLedger
from modelmesh._engine.build_basis import Basis
from modelmesh._engine.guarded_ledger import GuardedLedger
from modelmesh._engine.limits import Fallback, Limits
from modelmesh._engine.origin import class_name, type_and_place
from modelmesh.errors import ModelMeshError, PluginError
from modelmesh.interfaces.ledger import Ledger
from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.state_store import StateStore, StoreGuarantees
from modelmesh.state_encoding import StateEncoding
from modelmesh.state_manager import StateManager

if TYPE_CHECKING:
    from modelmesh._engine.build import Graph
    from modelmesh.config.configuration import Configuration
    from modelmesh.config.storage import StorageConfig


@dataclass(frozen=True, slots=True)
class Storage:
    """What a mesh keeps things in, and claims limits from.

    Attributes:
        store: Keeps state, batches and limits.
        guard: Keeps requests from waiting long for a shared store; None for a store of this process's own.
        limits: Claims and settles.
        is_taken_over: Whether the store is the one of the graph before.
    """

    store: StateStore
    guard: GuardedLedger | None
    limits: Limits
    is_taken_over: bool


def build_storage(configuration: Configuration, basis: Basis, before: Graph | None) -> Storage:
    """Build the store and what goes through it; the store itself only if it is not that of the graph before."""
    section = configuration.storage
    kept = None if before is None or not _is_same_store(before.configuration, configuration) else before.state_store
    store = _state_store(section, basis) if kept is None else kept
    guard = _guard(section, store, basis)
    # What was granted here while the store was down is granted, whatever the configuration has become since.
    local = None if before is None or kept is None else before.engine.driver.limits.local
    limits = _limits(section, store, guard, basis, local)
    if before is not None:
        limits.alerts.go_on_from(before.engine.driver.limits.alerts)
    return Storage(store, guard, limits, kept is not None)


def build_state_manager(section: StorageConfig | None, graph: Graph, basis: Basis) -> StateManager | None:
    """Return what keeps the mesh's state; None where nothing is kept."""
    store = graph.state_store
    if section is None or store is None:
        return None
    policy = section.sync_policy or ("sync-on-boundary" if store.guarantees.survives_restart else "in-memory")
    if policy == "in-memory":
        return None
    return StateManager(
        store,
        graph.registry,
        graph.providers,
        graph.pools,
        basis.clock,
        basis.telemetry,
        policy=policy,
        interval=section.sync_interval,
        lock_timeout=section.locking.timeout if section.locking.enabled else None,
        lock_retry=section.locking.retry_interval,
        encoding=StateEncoding(section.format, section.compression),
    )


def _guard(section: StorageConfig | None, store: StateStore, basis: Basis) -> GuardedLedger | None:
    if section is None or not store.guarantees.shared_between_processes:
        return None
    return GuardedLedger(
        store,
        basis.clock,
        timeout=section.call_timeout,
        told=lambda line, error: basis.telemetry.trace(Severity.ERROR, "storage", line, error=error),
    )


def _limits(
    section: StorageConfig | None,
    store: StateStore,
    guarded: GuardedLedger | None,
    basis: Basis,
    local: Ledger | None,
) -> Limits:
    """Return what claims and settles, with what happens while a shared store is down."""
    if section is None:
        return Limits(store, basis.clock, basis.telemetry)
    fallback = Fallback(
        policy=section.on_store_error.model_dump(),
        ledger=_state_store(None, basis) if local is None else local,
        processes=section.processes,
    )
    if guarded is None:
        return Limits(store, basis.clock, basis.telemetry, fallback=fallback)
    ledger: Ledger = guarded
    if section.lease_share:
        ledger = BlockLedger(guarded, basis.clock, basis.random, share=section.lease_share)
    return Limits(ledger, basis.clock, basis.telemetry, shared=True, fallback=fallback, store=type(store))


def _is_same_store(before: Configuration, after: Configuration) -> bool:
    """Whether two configurations name the same store, with the same settings."""
    from modelmesh.config.storage import StorageConfig

    one, other = before.storage or StorageConfig(), after.storage or StorageConfig()
    return one.connector == other.connector and bool(one.settings == other.settings)


def _state_store(section: StorageConfig | None, basis: Basis) -> StateStore:
    """Build the store that the section names; the one in memory without it."""
    from modelmesh.config.storage import StorageConfig

    if section is None:
        section = StorageConfig()
    store: StateStore = basis.plugins.build("state_stores", section.connector, section.settings)
    bind = getattr(store, "bind", None)
    if bind is not None:
        try:
            bind(basis.context("storage", section.connector))
        except ModelMeshError:
            raise
        except Exception as error:  # its text may hold what is nobody's business
            cls = type(store)
            raise PluginError(
                f"cannot use state store {section.connector!r}\n"
                f"  reason: {class_name(cls)}.bind raised {type_and_place(error, cls)}\n"
                "  try: report it to the author of the plugin"
            ) from error
    if not isinstance(getattr(store, "guarantees", None), StoreGuarantees):
        raise PluginError(
            f"cannot use state store {section.connector!r}\n"
            f"  reason: {class_name(type(store))} does not say what it promises: its attribute guarantees has to"
            " be a StoreGuarantees\n"
            "  try: set guarantees = StoreGuarantees(survives_restart=…, shared_between_processes=…) in the class;"
            " modelmesh_cdk.BaseStateStore describes it, modelmesh.interfaces.state_store has it"
        )
    return store
