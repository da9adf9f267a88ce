"""ModelMesh: builds everything from a configuration and owns its lifetime."""

from __future__ import annotations

import os
import threading
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from modelmesh._engine.build import Graph, build_graph
from modelmesh._engine.loop_thread import LoopThread
from modelmesh._engine.origin import store_erred
from modelmesh._engine.pipeline import PipelineRequest
from modelmesh._engine.reload import prepare
from modelmesh._engine.retirement import Retirement
from modelmesh._engine.system import SystemClock, system_random
from modelmesh.errors import ConfigurationError, ModelMeshError, UsageError
from modelmesh.interfaces.observability import LogLevel, Severity
from modelmesh.interfaces.runtime import Clock, Random
from modelmesh.interfaces.strategy import DeactivationReason
from modelmesh.middleware import Middleware, MiddlewareStack
from modelmesh.plugins import PluginHost
from modelmesh.state_manager import StateManager, SystemState

if TYPE_CHECKING:
    from modelmesh._engine.lane import DeliveryCounts
    from modelmesh._engine.registry import ModelRegistry
    from modelmesh.client import AsyncOpenAIClient, OpenAIClient
    from modelmesh.config import MeshConfig
    from modelmesh.config.configuration import Configuration
    from modelmesh.interfaces.observability import ObservabilityConnector
    from modelmesh.quota import HeadroomRow, QuotaRow
    from modelmesh.router import Router
    from modelmesh.statistics import StatisticsCollector
    from modelmesh.usage import Usage

CONFIG_KEY = "config/mesh"
"""Key of the record of a state store that holds a configuration, unless another one is named."""

Result = TypeVar("Result")
Item = TypeVar("Item")


class ModelMesh:
    """A router over providers, built from a configuration.

    Two of them never see each other. Use it as a context manager, or call `shutdown`; until `initialize` it holds
    nothing but its plugins.

    Args:
        clock: Time; the real one by default.
        random: Randomness; the system's by default.
        plugins: Where connectors come from; the installed entry points by default.
        environ: Where the environment secret store looks; the process environment by default.
        loop: An event loop of the caller's for the mesh's background work; by default one on a thread of its own.
        middleware: Code of the application's own around each attempt; see `modelmesh.middleware`.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        random: Random | None = None,
        plugins: PluginHost | None = None,
        environ: Mapping[str, str] | None = None,
        loop: AbstractEventLoop | None = None,
        middleware: Iterable[Middleware] = (),
    ) -> None:
        self._clock = clock or SystemClock()
        self._random = random or system_random()
        self._plugins = plugins or PluginHost()
        self._environ = os.environ if environ is None else environ
        self._loop = LoopThread(borrowed=loop)
        self._middleware = MiddlewareStack(middleware)
        self._graph: Graph | None = None
        self._source: MeshConfig | None = None
        self._secrets: Mapping[str, str] | None = None
        self._retired = Retirement(lambda: self._graph)
        self._closed = False
        # One change at a time; a hook that is called during one may end the mesh.
        self._changing = threading.RLock()

    def __repr__(self) -> str:
        count = 0 if self._graph is None else len(self.list_pools())
        pools = "1 pool" if count == 1 else f"{count} pools"
        return f"ModelMesh({'shut down' if self._closed else 'empty' if self._graph is None else pools})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a ModelMesh holds threads and connections and cannot be copied or pickled; build one in each process, such"
            " as ModelMesh.from_yaml(path) at its start"
        )

    # --- life -----------------------------------------------------------------

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Build and initialise a mesh from a YAML file."""
        mesh = cls()
        mesh.initialize(path)
        return mesh

    @classmethod
    def from_storage(cls, connector: str, *, key: str = CONFIG_KEY, **settings: Any) -> Self:
        """Build and initialise a mesh from a configuration that `save_config` wrote to a state store.

        Args:
            connector: State store: ID or short name.
            key: Of the record.
            settings: Of the store, as under ``storage``; ``path`` for a file say.

        Raises:
            ConfigurationError: The store holds none under this key, or a wrong one, or is none.
            StateStoreError: The store does not answer.
        """
        from modelmesh.config.stored import open_store, read_stored

        mesh = cls()
        try:
            store = open_store(connector, settings, plugins=mesh._plugins, environ=mesh._environ)
            mesh.initialize(mesh.run(read_stored(store, key)))
        except BaseException:
            mesh.shutdown()
            raise
        return mesh

    def initialize(
        self,
        config: str | Path | Mapping[str, Any] | MeshConfig,
        *,
        secrets: Mapping[str, str] | None = None,
        only_look: bool = False,
    ) -> None:
        """Load a configuration and build everything it names.

        Args:
            config: A YAML or JSON file, a mapping of the same shape, or a `MeshConfig`.
            secrets: Values for ``${secrets:NAME}`` that win over the secret store.
            only_look: Read the saved state and begin nothing beside requests: no provider is probed, no batch
                resumed, and the state stays as it is saved. For tools that look at a mesh that runs elsewhere.

        Raises:
            ConfigurationError: Lists every problem found, with file and line; nothing was built then. Or an
                observability connector cannot start, for a port that is taken say; the mesh is shut down then.
            UsageError: The mesh is initialised already, or shut down.
        """
        self._refuse_ended()
        if self._graph is not None:
            raise UsageError("the mesh is initialised already; use reload_config(...) for another configuration")
        configuration, self._source = self._loaded(config, secrets)
        self._secrets = secrets
        with self._source.located():
            graph = self._graph = build_graph(
                configuration,
                plugins=self._plugins,
                clock=self._clock,
                random=self._random,
                loop=self._loop,
                middleware=self._middleware,
            )
        # Until what is saved was read: a start that is cut short writes nothing over it.
        keeper, graph.state_manager = graph.state_manager, None
        telemetry = graph.engine.telemetry
        if telemetry.wants_debug:
            self._trace_setup(graph)
        self._plugins.report = lambda line: telemetry.trace(Severity.WARNING, "plugins", line)
        self._plugins.startup(self)
        self._restore(keeper)
        graph.state_manager = keeper
        if only_look:
            graph.state_manager = None
            return
        if graph.prober is not None and graph.prober.is_wanted_at_start:
            self._loop.run(graph.prober.probe_at_start())
        graph.start_background()
        if graph.state_store is not None and graph.state_store.guarantees.survives_restart:
            self._loop.start(graph.engine.batches.resume())
        self._tell_ready(graph, "ready")
        for connector in self.observers():
            try:
                self._attach(connector)
            except ModelMeshError:
                self.shutdown()
                raise

    def reload_config(
        self, config: str | Path | Mapping[str, Any] | MeshConfig, *, secrets: Mapping[str, str] | None = None
    ) -> None:
        """Go on with another configuration, without a request failing for it.

        Everything is built beside what runs and takes its place at once. Requests on their way finish on the
        connectors they began with, which are closed then. What survives keeps its figures and its rests, unless its
        settings changed; the state store is kept as long as ``storage`` names the same one, and with it budgets and
        quotas. May be called from any thread; returns when the new configuration is in force.

        Args:
            config: As for `initialize`.
            secrets: As for `initialize`; by default those given there.

        Raises:
            ConfigurationError: Lists every problem found, with file and line; the old configuration stays in force.
            StateStoreError: It names another state store, which does not answer; the old configuration stays in force.
            UsageError: There is no configuration yet, or the mesh is shut down.
        """
        with self._changing:
            self._refuse_ended()
            before = self._built()
            secrets = self._secrets if secrets is None else secrets
            try:
                configuration, source = self._loaded(config, secrets)
                with source.located():
                    succession = prepare(
                        configuration,
                        before,
                        plugins=self._plugins,
                        random=self._random,
                        attach=self._attach,
                        retiring=self._retired.graphs,
                    )
            except ModelMeshError as error:
                before.engine.telemetry.trace(
                    Severity.ERROR, "mesh", "a new configuration was refused; the old one stays", error=error.message
                )
                raise
            before.stop_background()
            succession.carry_out()
            graph = self._graph = succession.after
            self._source, self._secrets = source, secrets
            self._retired.add(before)
            telemetry = graph.engine.telemetry
            self._plugins.report = lambda line: telemetry.trace(Severity.WARNING, "plugins", line)
            self._plugins.startup(self)
            graph.start_background()
            self._tell_ready(graph, "goes on with a new configuration")

    def add_provider(
        self, name: str, settings: Mapping[str, Any], *, models: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        """Go on with one more provider, as `reload_config` would; pools take its models in by their capabilities.

        Args:
            name: Its name, not taken yet.
            settings: What would stand under ``providers``.
            models: What would stand under ``models``; ``provider`` is this one where it is left out.

        Raises:
            ConfigurationError: The name is taken, or anything else is wrong; nothing has changed then.
        """
        with self._changing:
            self._built()
            assert self._source is not None
            added = {model: {"provider": name, **entry} for model, entry in (models or {}).items()}
            taken = [f"provider {name!r}"] if name in self._source.providers else []
            taken += [f"model {model!r}" for model in added if model in self._source.models]
            if taken:
                raise ConfigurationError(f"{', '.join(taken)} exists already; use reload_config to change it")
            self.reload_config(self._source.merge({"providers": {name: dict(settings)}, "models": added}))

    def save_config(
        self, file: str | Path | None = None, /, *, connector: str | None = None, key: str = CONFIG_KEY, **settings: Any
    ) -> None:
        """Write the configuration in force, as it was given: to a file, or to a state store for `from_storage`.

        Args:
            file: YAML, or JSON by its suffix; replaced as a whole.
            connector: State store instead: ID or short name.
            key: Of the record there.
            settings: Of the store, as under ``storage``.

        Raises:
            ConfigurationError: It holds objects that cannot be written, or the file or store cannot be.
            StateStoreError: The store does not answer.
            UsageError: Both or neither of file and store were named.
        """
        from modelmesh.config.stored import open_store, write_file, write_stored

        self._built()
        assert self._source is not None
        if (file is None) == (connector is None):
            raise UsageError("save_config takes a file, or connector= for a state store")
        if file is not None:
            write_file(self._source, file)
        elif connector is not None:
            store = open_store(connector, settings, plugins=self._plugins, environ=self._environ)
            self.run(write_stored(store, key, self._source))

    def export_state(self) -> SystemState:
        """Return health, usage and rests as they are; ``to_dict()`` makes plain data of it."""
        # A copy: what the keeper hands out goes on changing.
        return SystemState.from_dict(self._state_keeper().snapshot().to_dict())

    def import_state(self, state: SystemState | Mapping[str, Any]) -> None:
        """Take over the state that another mesh, or this one earlier, exported.

        Rests are shortened by the time that has passed. Models, providers and pools that do not exist here are passed
        over, with a warning in the trace, and who rests here goes on resting.

        Raises:
            ValueError: It is no such state.
            StateStoreError: A newer version wrote it.
        """
        given = state if isinstance(state, SystemState) else SystemState.from_dict(state)
        engine = self._built().engine
        with engine.lock:
            passed = self._state_keeper().apply(given)
        if passed:
            engine.telemetry.trace(
                Severity.WARNING,
                "storage",
                "the state that was imported names who is not in this mesh",
                {"passed_over": str(passed)},
            )

    def _state_keeper(self) -> StateManager:
        """Return what keeps the state; where nothing is kept, what could."""
        graph = self._built()
        assert graph.state_store is not None
        return graph.state_manager or StateManager(
            graph.state_store,
            graph.registry,
            graph.providers,
            graph.pools,
            self._clock,
            graph.engine.telemetry,
            policy="in-memory",
        )

    def _refuse_ended(self) -> None:
        if self._closed:
            raise UsageError("the mesh is shut down; build a new one")

    def _loaded(
        self, config: str | Path | Mapping[str, Any] | MeshConfig, secrets: Mapping[str, str] | None
    ) -> tuple[Configuration, MeshConfig]:
        """Return a configuration checked, and as it was written."""
        from modelmesh.config import MeshConfig, load_config

        if isinstance(config, (str, Path)):
            source = MeshConfig.from_file(config)
        else:
            source = config if isinstance(config, MeshConfig) else MeshConfig.from_dict(config)
        configuration = load_config(
            source, connectors=self._plugins, environ=self._environ, secrets=secrets, clock=self._clock
        )
        return configuration, source

    def _restore(self, keeper: StateManager | None) -> None:
        """Read the saved state.

        Raises:
            StateStoreError: The store does not answer, or a newer version wrote the state; the mesh is shut down then.
        """
        if keeper is not None:
            try:
                self._loop.run(keeper.load())
            except ModelMeshError:
                self.shutdown()
                raise

    def _tell_ready(self, graph: Graph, message: str) -> None:
        telemetry = graph.engine.telemetry
        for name in graph.configuration.missing_secrets():
            missing = f"secret {name!r} has no value; empty text stands in its place"
            telemetry.trace(Severity.WARNING, "secrets", missing)
        facts = {"providers": list(graph.providers), "pools": list(graph.pools)}
        telemetry.trace(Severity.INFO, "mesh", message, facts)

    def _trace_setup(self, graph: Graph) -> None:
        telemetry = graph.engine.telemetry
        for name, provider in graph.providers.items():
            facts = {"connector": provider.connector_id, "models": [model.name for model in provider.models]}
            telemetry.trace(Severity.DEBUG, "mesh", f"provider {name} is set up", facts)
        for name, pool in graph.pools.items():
            chosen_by = pool.strategy_id or type(pool.rotation.strategy).__name__
            made_of = {"capability": pool.hierarchy_node, "strategy": chosen_by, "models": list(pool.members)}
            telemetry.trace(Severity.DEBUG, "mesh", f"pool {name} is set up", made_of)

    def _attach(self, connector: ObservabilityConnector) -> None:
        """Show the mesh to an observability connector that asks for it.

        Raises:
            ModelMeshError: It cannot start, and says what to do.
        """
        attach = getattr(connector, "attach", None)
        if attach is None:
            return
        try:
            attach(self)
        except ModelMeshError:
            raise
        except Exception as error:  # a fault of the connector's own takes nobody down with it
            name = type(connector).__name__
            self._built().engine.telemetry.trace(
                Severity.ERROR,
                "mesh",
                f"{name} cannot watch the mesh; what it shows of it is missing",
                {"error_type": type(error).__name__},
            )

    def shutdown(self) -> None:
        """Flush statistics, close connectors, end threads. Never raises for a failing connector; harmless to repeat.

        Raises:
            UsageError: Called on the mesh's own event loop.
        """
        self._loop.refuse_own_thread()
        if not self._begin_end() or self._loop.is_left_behind:
            return  # what a forked process inherited is its parent's to end
        if self._graph is not None:
            self._end_requests()
            if self._graph.state_manager is not None:
                self._loop.run(self._graph.state_manager.save())
            self._loop.run(self._retired.finish())
            self._loop.run(self._graph.aclose())
            self._graph.close_observability()
        self._loop.close()

    async def ashutdown(self) -> None:
        """Do what `shutdown` does, from a running event loop, closing this loop's connections on it."""
        if not self._begin_end():
            return
        if self._graph is not None:
            self._end_requests()
            if self._graph.state_manager is not None:
                await self._graph.state_manager.save()
            await self._retired.finish()
            await self._graph.aclose()
            self._graph.close_observability()
        self._loop.close()

    def _begin_end(self) -> bool:
        """Whether it is this caller who ends the mesh: of several threads, one."""
        with self._changing:
            first, self._closed = not self._closed, True
        return first

    def _end_requests(self) -> None:
        assert self._graph is not None
        self._plugins.shutdown(self)
        self._graph.engine.telemetry.trace(Severity.INFO, "mesh", "shutting down")
        if self._graph.flushing is not None:
            self._graph.flushing.stop()
        try:
            self._graph.engine.statistics.flush()
        except ModelMeshError as error:
            self._graph.engine.telemetry.trace(
                Severity.ERROR, "mesh", "the last statistics could not be flushed", error=str(error)
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.ashutdown()

    # --- parts ------------------------------------------------------------------

    @property
    def plugins(self) -> PluginHost:
        """Where connectors come from."""
        return self._plugins

    @property
    def middleware(self) -> MiddlewareStack:
        """The application's own code around attempts; add to it at any time."""
        return self._middleware

    def get_router(self) -> Router:
        """Return the router."""
        return self._built().router

    def get_client(self) -> OpenAIClient:
        """Return a blocking client on this mesh."""
        from modelmesh.client import OpenAIClient

        self._built()
        return OpenAIClient(self)

    def get_async_client(self) -> AsyncOpenAIClient:
        """Return an asynchronous client on this mesh."""
        from modelmesh.client import AsyncOpenAIClient

        self._built()
        return AsyncOpenAIClient(self)

    def get_registry(self) -> ModelRegistry:
        """Return the registry of models."""
        return self._built().registry

    def get_statistics(self) -> StatisticsCollector:
        """Return the statistics."""
        return self._built().engine.statistics

    stats = get_statistics

    def get_quota(self) -> list[QuotaRow]:
        """Say of each budget, quota and limit what is used and left, and when it begins anew.

        Raises:
            StateStoreError: The state store does not answer.
            UsageError: Called on the mesh's own event loop.
        """
        from modelmesh.quota import quota_rows

        graph = self._built()
        limits = {
            limit.account: limit
            for pool in graph.pools.values()
            for member in pool.members.values()
            for limit in member.limits
        }
        assert graph.state_store is not None
        return self._read(graph, quota_rows(limits.values(), graph.state_store, self._clock.time()))

    def get_usage(self) -> Usage:
        """Say what was used: cost, tokens and calls, by model, and how budgets stand."""
        from modelmesh.usage import usage_of

        return usage_of(self.get_statistics(), self.get_quota)

    def get_headroom(self) -> list[HeadroomRow]:
        """Say what each provider last said about its own rate limits, to this process or to those that share its store.

        Raises:
            StateStoreError: The state store does not answer.
            UsageError: Called on the mesh's own event loop.
        """
        from modelmesh.quota import headroom_rows

        graph = self._built()
        seen = {} if graph.headroom is None else self._read(graph, graph.headroom.read())
        return headroom_rows(graph.providers, seen, self._clock.time())

    def _read(self, graph: Graph, limits: Coroutine[Any, Any, Result]) -> Result:
        """Read limits from the store; what its author did not foresee becomes an error that names it."""
        try:
            return self._loop.run(limits)
        except ModelMeshError:
            raise
        except Exception as error:
            redact = graph.dispatcher.redactor.text
            raise store_erred(error, type(graph.state_store), during="reading limits from", redact=redact) from error

    # --- looking ------------------------------------------------------------------

    def list_pools(self) -> list[str]:
        """Names of the pools."""
        return list(self._built().pools)

    def list_models(self) -> list[str]:
        """IDs of the models."""
        return [model.name for model in self._built().registry.list_models()]

    def active_providers(self) -> list[str]:
        """Names of the providers that may be called now."""
        return [name for name, provider in self._built().providers.items() if provider.is_available()]

    def pool_status(self) -> dict[str, dict[str, Any]]:
        """Say of each pool how many models are active and standby, and which one a request would get now."""
        status: dict[str, dict[str, Any]] = {}
        for name, pool in self._built().pools.items():
            state = pool.get_state()
            status[name] = {
                "active": state.active_count,
                "standby": state.standby_count,
                "total": state.active_count + state.standby_count,
                "current_model": self._current(name),
                "total_requests": state.total_requests,
                "rotation_events": state.rotation_events,
            }
        return status

    def provider_status(self) -> dict[str, dict[str, Any]]:
        """Say of each provider whether it may be called, why not, and how available its probes found it (0.0-1.0)."""
        return {
            name: {
                "available": provider.is_available(),
                "reason": provider.deactivated,
                "availability_score": provider.state.availability_score,
            }
            for name, provider in self._built().providers.items()
        }

    def observers(self) -> list[ObservabilityConnector]:
        """Return the observability connectors that are sent something."""
        return self._built().dispatcher.connectors

    def set_log_level(self, level: LogLevel | str) -> None:
        """Change how much of requests and answers goes into logs, from the next record on, until the mesh ends.

        Args:
            level: ``metadata``, ``summary`` or ``full``.

        Raises:
            ValueError: There is no such level.
        """
        self._built().dispatcher.set_level(level)

    def delivery_counts(self) -> Mapping[str, DeliveryCounts]:
        """Say of each observability connector how many records it was handed, took, failed to take and lost."""
        return self._built().dispatcher.counts()

    def describe(self) -> str:
        """Show pools and their models as text; an arrow marks the one a request would get now."""
        lines: list[str] = []
        for name, pool in self._built().pools.items():
            strategy = _short(pool.strategy_id) or type(pool.rotation.strategy).__name__
            lines.append(f'Pool "{name}" (strategy: {strategy})')
            if pool.hierarchy_node:
                lines.append(f"  capability: {pool.hierarchy_node}")
            current = self._current(name)
            for member in pool.members.values():
                arrow = "→" if member.model_id == current else " "
                why = f": {member.reason}" if member.reason else ""
                lines.append(f"  {arrow} {member.model_id} [{member.provider_id}] ({member.status}{why})")
        return "\n".join(lines)

    def virtual_models(self) -> list[dict[str, Any]]:
        """List what may be asked for as ``model``, in the shape of OpenAI's ``/v1/models`` data."""
        return [
            {"id": name, "object": "model", "created": self._built().created, "owned_by": "modelmesh"}
            for name in self.list_pools()
        ]

    def rotate(self, pool: str) -> str:
        """Move the pool's current model to standby until it is recovered by hand; return the next model's ID.

        Raises:
            KeyError: There is no such pool.
            NoActiveModelError: The pool has no other active model.
        """
        target = self.get_router().get_pool(pool)
        current = self._current(pool)
        if current is None or len(target.get_active_models()) < 2:
            raise (
                target.no_active_model()
                if current is None
                else UsageError(f"pool {pool!r} has no other active model to rotate to")
            )
        target.deactivate(target.members[current].model, DeactivationReason.MANUAL.value)
        following = self._current(pool)
        assert following is not None
        return following

    def _current(self, pool: str) -> str | None:
        try:
            result = self._built().router.pipeline.execute(PipelineRequest(pool, dry_run=True))
        except ModelMeshError:
            return None
        return result.selected.model_id

    # --- the blocking door ----------------------------------------------------------

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine on the mesh's own loop thread and wait for it.

        Raises:
            UsageError: Called on that thread.
        """
        return self._loop.run(coroutine)

    def run_stream(self, stream: AsyncGenerator[Item, None]) -> Iterator[Item]:
        """Yield a stream's items to a blocking caller; closing the iterator closes the stream."""
        return self._loop.iterate(stream)

    def _built(self) -> Graph:
        if self._graph is None:
            raise UsageError("the mesh has no configuration yet; call initialize(...) first")
        return self._graph


def _short(strategy_id: str) -> str:
    """Return a bundled strategy's name without vendor and version; others are shown whole."""
    vendor, _, rest = strategy_id.partition(".")
    return rest.rpartition(".")[0] or strategy_id if vendor == "modelmesh" else strategy_id
