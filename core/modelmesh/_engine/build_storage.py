"""From the ``storage`` section to the store, the limits it keeps, and the state it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelmesh._engine.block_ledger import BlockLedger
from modelmesh._engine.build_context import context_of
from modelmesh._engine.guarded_ledger import GuardedLedger
from modelmesh._engine.limits import Fallback, Limits
from modelmesh._engine.telemetry import Telemetry
from modelmesh.interfaces.ledger import Ledger
from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.runtime import Clock, Random
from modelmesh.interfaces.state_store import StateStore
from modelmesh.state_encoding import StateEncoding
from modelmesh.state_manager import StateManager

if TYPE_CHECKING:
    from modelmesh._engine.build import Graph
    from modelmesh.config.configuration import Configuration
    from modelmesh.config.storage import StorageConfig
    from modelmesh.plugins import PluginHost


def build_state_manager(
    section: StorageConfig | None, graph: Graph, telemetry: Telemetry, clock: Clock
) -> StateManager | None:
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
        clock,
        telemetry,
        policy=policy,
        interval=section.sync_interval,
        lock_timeout=section.locking.timeout if section.locking.enabled else None,
        lock_retry=section.locking.retry_interval,
        encoding=StateEncoding(section.format, section.compression),
    )


def build_guard(
    section: StorageConfig | None, store: StateStore, telemetry: Telemetry, clock: Clock
) -> GuardedLedger | None:
    """Return what keeps requests from waiting long for a shared store; None for a store of this process's own."""
    if section is None or not store.guarantees.shared_between_processes:
        return None
    return GuardedLedger(
        store,
        clock,
        timeout=section.call_timeout,
        told=lambda line: telemetry.trace(Severity.ERROR, "storage", line),
    )


def build_limits(
    section: StorageConfig | None,
    store: StateStore,
    guarded: GuardedLedger | None,
    plugins: PluginHost,
    telemetry: Telemetry,
    clock: Clock,
    random: Random,
) -> Limits:
    """Return what claims and settles, with what happens while a shared store is down."""
    if section is None or guarded is None:
        return Limits(store, clock, telemetry)
    fallback = Fallback(
        policy=section.on_store_error.model_dump(),
        ledger=build_state_store(None, plugins, telemetry, clock, random),
        processes=section.processes,
    )
    ledger: Ledger = guarded
    if section.lease_share:
        ledger = BlockLedger(guarded, clock, random, share=section.lease_share)
    return Limits(ledger, clock, telemetry, shared=True, fallback=fallback)


def is_same_store(before: Configuration, after: Configuration) -> bool:
    """Whether two configurations name the same store, with the same settings."""
    from modelmesh.config.storage import StorageConfig

    one, other = before.storage or StorageConfig(), after.storage or StorageConfig()
    return one.connector == other.connector and bool(one.settings == other.settings)


def build_state_store(
    section: StorageConfig | None, plugins: PluginHost, telemetry: Telemetry, clock: Clock, random: Random
) -> StateStore:
    """Build the store that the section names; the one in memory without it."""
    from modelmesh.config.storage import StorageConfig

    if section is None:
        section = StorageConfig()
    store: StateStore = plugins.build("state_stores", section.connector, section.settings)
    bind = getattr(store, "bind", None)
    if bind is not None:
        bind(context_of("storage", section.connector, telemetry, clock, random))
    return store
