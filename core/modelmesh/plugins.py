"""Plugins: found by metadata, loaded when named, used through their hook; a broken one never stops the others.

Three steps, three types. `Plugin` is what an entry point says; finding one reads metadata only. `LoadedPlugin` has
been imported and asked for its connectors. What fails on the way becomes a `PluginProblem` with its remedy and is an
error only if the configuration needs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from modelmesh import hookspecs
from modelmesh.distributions import extra_with, identity, installed_entry_points, own_version, unmet_requirement
from modelmesh.errors import (
    ConfigurationError,
    ModelMeshError,
    PluginError,
    UnknownConnectorError,
    near_names,
    unknown_name,
)

if TYPE_CHECKING:
    from modelmesh.interfaces.provider import AttemptRecord, ProviderRequest
    from modelmesh.mesh import ModelMesh

Kind = Literal["providers", "strategies", "state_stores", "observability"]


@dataclass(frozen=True, slots=True)
class KindSpec:
    """What makes a connector kind a kind.

    Attributes:
        name: As in ``modelmesh.<name>``, its entry-point group.
        singular: For messages.
        hook: The hook a plugin answers.
        methods: What a connector class must have.
        prefixes: Type segments that older documents put before an ID.
        aliases: IDs of this kind that stand for another one, without their versions.
    """

    name: str
    singular: str
    hook: str
    methods: tuple[str, ...]
    prefixes: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)


KINDS: Mapping[str, KindSpec] = {
    spec.name: spec
    for spec in (
        KindSpec("providers", "provider", "modelmesh_providers", ("complete", "stream", "close"), ("provider",)),
        KindSpec(
            "strategies",
            "strategy",
            "modelmesh_strategies",
            ("select", "peek", "rank", "score"),
            ("rotation", "strategy"),
        ),
        KindSpec(
            "state_stores", "state store", "modelmesh_state_stores", ("load", "save", "delete", "list"), ("storage",)
        ),
        KindSpec(
            "observability",
            "observability connector",
            "modelmesh_observability",
            ("emit", "log", "flush", "trace"),
            ("observability",),
            {"modelmesh.local-file": "modelmesh.file"},
        ),
    )
}

ALIASES: Mapping[str, str] = {
    "openai-compatible": "modelmesh.openai-compatible.v1",
    "simulator": "modelmesh.simulator.v1",
}
"""Names that documents use for a connector besides its ID."""

COMMANDS_GROUP = "modelmesh.commands"

OWN_DISTRIBUTION = "modelmesh-router"
"""What brings the core and the bundled connectors."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """An entry point that was found; nothing of it has been imported.

    Attributes:
        kind: ``providers``, ``strategies``, ``state_stores`` or ``observability``.
        id: The entry point's name, which is the connector ID.
        value: What it points to, ``module:object``.
        distribution: Who declares it.
        version: Of the distribution.
    """

    kind: str
    id: str
    value: str
    distribution: str
    version: str
    entry_point: Any = field(repr=False, compare=False, default=None)


@dataclass(frozen=True, slots=True)
class LoadedPlugin:
    """A plugin that was imported; ``connectors`` are its classes by ID."""

    plugin: Plugin
    connectors: Mapping[str, type[Any]]


@dataclass(frozen=True, slots=True)
class PluginProblem:
    """A plugin that cannot be used, why, and what to do.

    Attributes:
        plugin: Which one.
        reason: One line.
        remedy: What to do, a command where there is one.
        needs: What is not installed and would make it work: an extra of its distribution (``[redis]``) or a module.
            Empty when something is wrong with the plugin.
    """

    plugin: Plugin
    reason: str
    remedy: str
    needs: str = ""

    def __str__(self) -> str:
        plugin = self.plugin
        who = f"{plugin.kind} plugin {plugin.id!r}, declared by {plugin.distribution} {plugin.version}"
        return f"{who}: {self.reason}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class PluginRow:
    """A line of ``modelmesh plugins``.

    Those of ``status`` ``needs`` are in order, and lack only the optional library that ``needs`` names.
    """

    kind: str
    id: str
    distribution: str
    version: str
    status: Literal["found", "loaded", "needs", "broken"]
    summary: str = ""
    reason: str = ""
    remedy: str = ""
    needs: str = ""


class PluginHost:
    """The plugins of one mesh.

    Args:
        entry_points: Called with a group name, returns its entry points; by default those of the installed packages.
        core_version: What plugins are held against; by default this package's version.

    Attributes:
        has_attempt_hooks: Whether any loaded plugin wants to see attempts.
        report: Told each line that calling a hook of the mesh's life returns; the mesh traces them as warnings.
    """

    def __init__(
        self,
        entry_points: Callable[[str], Iterable[Any]] | None = None,
        *,
        core_version: str | None = None,
    ) -> None:
        self._entry_points = entry_points or self._installed
        self._core_version = core_version
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._found: dict[str, dict[str, list[Plugin]]] = {}
        self._identities: dict[str, tuple[str, str]] = {}
        self._loaded: dict[tuple[str, str], LoadedPlugin] = {}
        self._problems: dict[tuple[str, str, str], PluginProblem] = {}
        self._registered: dict[tuple[str, str], type[Any]] = {}
        self._greeted: dict[int, set[str]] = {}
        self.has_attempt_hooks = False
        self.report: Callable[[str], None] | None = None

    # --- finding ----------------------------------------------------------------

    def found(self, kind: str) -> Mapping[str, list[Plugin]]:
        """Return the plugins of a kind by ID; more than one under an ID is a conflict."""
        if kind not in self._found:
            plugins: dict[str, list[Plugin]] = {}
            for entry_point in self._entry_points(f"modelmesh.{kind}"):
                plugin = self._plugin(kind, entry_point)
                same = plugins.setdefault(plugin.id, [])
                # A distribution that is on the path twice (an editable install beside a built one) counts once.
                if all(other.distribution != plugin.distribution or other.value != plugin.value for other in same):
                    same.append(plugin)
            self._found[kind] = plugins
        return self._found[kind]

    def _plugin(self, kind: str, entry_point: Any) -> Plugin:
        distribution = getattr(entry_point, "dist", None)
        if distribution is None:
            return Plugin(kind, entry_point.name, entry_point.value, "an unknown distribution", "?", entry_point)
        # Its metadata is parsed anew each time it is asked for, and each of its entry points would ask.
        place = str(getattr(distribution, "_path", id(distribution)))
        known = self._identities.get(place)
        if known is None:
            known = self._identities[place] = identity(distribution)
        return Plugin(kind, entry_point.name, entry_point.value, *known, entry_point)

    def _installed(self, group: str) -> list[Any]:
        """Return a group's entry points; a distribution whose list cannot be read is quarantined."""

        def quarantine(name: str, version: str, error: Exception) -> None:
            self._quarantine(
                PluginProblem(
                    Plugin(group.removeprefix("modelmesh."), "(unreadable)", "", name, version),
                    f"its entry_points.txt cannot be read: {type(error).__name__}: {_first_line(error)}",
                    f"pip install --force-reinstall {name}",
                )
            )

        return installed_entry_points(group, on_damaged=quarantine)

    def known_ids(self, kind: str) -> list[str]:
        """IDs that can be named in a configuration, sorted."""
        registered = [name for its_kind, name in self._registered if its_kind == kind]
        return sorted({*self.found(kind), *registered})

    def resolve_id(self, kind: str, connector_id: str) -> str:
        """Return the full ID of a connector that may be named in short.

        ``round-robin`` stands for ``modelmesh.round-robin.v1``, ``openai.llm`` for its newest version, and a leading
        type segment (``provider.openai.llm.v1``) is dropped.

        Raises:
            UnknownConnectorError: No plugin offers it; names the near matches and what is installed.
        """
        known = self.known_ids(kind)
        spec = KINDS[kind]
        for candidate in _spellings(connector_id, spec):
            if candidate in known:
                return candidate
            versions = [name for name in known if re.fullmatch(re.escape(candidate) + r"\.v\d+", name)]
            if versions:
                return max(versions, key=lambda name: int(name.rsplit(".v", 1)[1]))
        raise UnknownConnectorError(self._unknown(spec, connector_id, known))

    def _unknown(self, spec: KindSpec, connector_id: str, known: list[str]) -> str:
        short = sorted({name.split(".")[-2] for name in known if name.count(".") >= 2})
        close = near_names(connector_id, [*known, *short])
        hint = (
            "" if close else f"; is the package that brings it installed (pip install modelmesh-{_slug(connector_id)})?"
        )
        return unknown_name(spec.singular, connector_id, [*known, *short] if close else known) + hint

    # --- loading ------------------------------------------------------------------

    def find(self, kind: str, connector_id: str) -> type[Any]:
        """Return a connector class, importing its plugin if need be.

        Raises:
            UnknownConnectorError: No plugin offers it.
            PluginError: One does, and cannot be used; says why and what to do.
        """
        full = self.resolve_id(kind, connector_id)
        if (kind, full) in self._registered:
            return self._registered[kind, full]
        claims = self.found(kind)[full]
        if len(claims) > 1:
            problem = self._conflict(claims)
        else:
            loaded = self._load(claims[0])
            if isinstance(loaded, LoadedPlugin):
                return loaded.connectors[full]
            problem = loaded
        raise PluginError(
            f"cannot load {KINDS[kind].singular} {full!r}, declared by {problem.plugin.distribution} "
            f"{problem.plugin.version}\n  reason: {problem.reason}\n  try: {problem.remedy}"
        )

    def build(self, kind: str, connector_id: str, settings: Any) -> Any:
        """Return a new connector with its settings.

        Raises:
            UnknownConnectorError: No plugin offers it.
            PluginError: It cannot be loaded, or its constructor raised; a `ModelMeshError` of its own goes through.
        """
        cls = self.find(kind, connector_id)
        try:
            return cls(settings)
        except ModelMeshError:
            raise
        except (Exception, SystemExit) as error:
            from modelmesh._engine.origin import class_name, type_and_place

            # The text stays in the cause alone: a constructor is handed keys and may say them.
            raise PluginError(
                f"cannot build {KINDS[kind].singular} {connector_id!r}\n"
                f"  reason: {class_name(cls)} raised {type_and_place(error, cls)}\n"
                "  try: check its settings, or report it to the author of the plugin"
            ) from error

    def load_all(self, kind: str) -> dict[str, type[Any]]:
        """Load every plugin of a kind; return the usable classes by ID. The others are in `problems`."""
        usable: dict[str, type[Any]] = {}
        for connector_id in self.known_ids(kind):
            try:
                usable[connector_id] = self.find(kind, connector_id)
            except (PluginError, UnknownConnectorError):
                continue
        return usable

    def register(self, kind: str, connector_id: str, connector: type[Any], *, replace: bool = False) -> None:
        """Offer a connector class without a package, to this mesh only.

        Raises:
            ConfigurationError: The ID is taken (and ``replace`` is false), or this is no class of the kind.
        """
        if not replace and connector_id in self.known_ids(kind):
            raise ConfigurationError(f"{KINDS[kind].singular} {connector_id!r} exists already; pass replace=True")
        if not isinstance(connector, type):
            raise ConfigurationError(
                f"{connector_id!r} has to be a class; an object of type {type(connector).__name__} goes into the"
                " configuration, as its instance"
            )
        missing = _missing_methods(KINDS[kind], connector)
        if missing:
            raise ConfigurationError(f"{connector.__name__} cannot be a {KINDS[kind].singular}: it lacks {missing}")
        self._registered[kind, connector_id] = connector

    def problems(self) -> list[PluginProblem]:
        """Plugins that could not be used so far."""
        return list(self._problems.values())

    def list_plugins(self, kinds: Iterable[str] = tuple(KINDS), *, load: bool = True) -> list[PluginRow]:
        """Return a row for each plugin, loaded or not, and why not."""
        rows: list[PluginRow] = []
        for kind in kinds:
            for connector_id, claims in sorted(self.found(kind).items()):
                cls: type[Any] | None = None
                if load:
                    try:
                        cls = self.find(kind, connector_id)
                    except PluginError:
                        cls = None
                rows.extend(
                    _row(each, cls, self._problems.get((kind, connector_id, each.distribution))) for each in claims
                )
            rows.extend(
                _row(problem.plugin, None, problem)
                for problem in self._problems.values()
                if problem.plugin.kind == kind and problem.plugin.id not in self.found(kind)
            )
        return rows

    def _load(self, plugin: Plugin) -> LoadedPlugin | PluginProblem:
        key = (plugin.kind, plugin.id)
        if key in self._loaded:
            return self._loaded[key]
        quarantined = self._problems.get((*key, plugin.distribution))
        if quarantined is not None:
            return quarantined
        outcome = self._import(plugin)
        if isinstance(outcome, PluginProblem):
            return self._quarantine(outcome)
        self._loaded[key] = outcome
        self._note_attempt_hooks()
        return outcome

    def _import(self, plugin: Plugin) -> LoadedPlugin | PluginProblem:
        """Import a plugin and ask it for its connectors; every way this can fail has a name and a remedy."""
        spec = KINDS[plugin.kind]
        version = self._core_version or own_version()
        built_for = unmet_requirement(_distribution(plugin), version)
        if built_for is not None:
            return PluginProblem(
                plugin,
                f"it is built for modelmesh-router{built_for}, and this is {version}",
                f"pip install --upgrade {plugin.distribution}",
            )
        try:
            target = plugin.entry_point.load()
        except ModuleNotFoundError as error:
            return _missing_module(plugin, error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module may do anything when it is imported, exit included
            return PluginProblem(
                plugin,
                f"importing {plugin.value} raised {type(error).__name__}: {_first_line(error)}",
                f"report it to the author of {plugin.distribution}, or uninstall it",
            )
        # A module or class that several entry points name is registered once, under the first of their names.
        shared = self._manager.get_name(target)
        name = shared or f"{plugin.kind}.{plugin.id}"
        try:
            if shared is None:
                self._manager.register(target, name=name)
                self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            self._forget(name)
            return PluginProblem(
                plugin,
                f"its hooks do not fit: {_first_line(error)}",
                f"compare them with modelmesh.hookspecs.{spec.hook}",
            )
        outcome = self._ask(plugin, spec, name)
        if isinstance(outcome, PluginProblem) and shared is None:
            self._forget(name)
        return outcome

    def _ask(self, plugin: Plugin, spec: KindSpec, name: str) -> LoadedPlugin | PluginProblem:
        """Call the hook of a registered plugin's kind, and judge what it offers."""
        implementations = [
            each for each in getattr(self._manager.hook, spec.hook).get_hookimpls() if each.plugin_name == name
        ]
        if not implementations:
            return PluginProblem(
                plugin,
                f"{plugin.value} has no hook {spec.hook}",
                f"inherit the kind's base class from modelmesh_cdk, or implement {spec.hook} with @hookimpl",
            )
        try:
            offered = implementations[0].function()
        except (Exception, SystemExit) as error:
            return PluginProblem(
                plugin,
                f"its hook {spec.hook} raised {type(error).__name__}: {_first_line(error)}",
                f"report it to the author of {plugin.distribution}",
            )
        problem = _bad_offer(plugin, spec, offered)
        if problem is not None:
            return problem
        connectors = {key or plugin.id: cls for key, cls in offered.items()}
        if plugin.id not in connectors:
            return PluginProblem(
                plugin,
                f"its hook offers {', '.join(connectors) or 'nothing'} and not {plugin.id!r}",
                "make the hook's key the entry point's name, or leave the key empty",
            )
        return LoadedPlugin(plugin, connectors)

    def _forget(self, name: str) -> None:
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)

    def _quarantine(self, problem: PluginProblem) -> PluginProblem:
        plugin = problem.plugin
        self._problems[plugin.kind, plugin.id, plugin.distribution] = problem
        return problem

    def _conflict(self, claims: list[Plugin]) -> PluginProblem:
        owners = " and ".join(f"{plugin.distribution} {plugin.version}" for plugin in claims)
        reason = f"{owners} {'both' if len(claims) == 2 else 'all'} offer {claims[0].id!r}"
        remedy = _without_rivals(sorted({plugin.distribution for plugin in claims}))
        problems = [self._quarantine(PluginProblem(plugin, reason, remedy)) for plugin in claims]
        return problems[0]

    # --- hooks of the mesh's life -----------------------------------------------------

    def startup(self, mesh: ModelMesh) -> list[str]:
        """Call every loaded plugin's startup hook, once for each mesh; return what went wrong, a line each."""
        return self._each("modelmesh_startup", but=self._greeted.setdefault(id(mesh), set()), mesh=mesh)

    def shutdown(self, mesh: ModelMesh) -> list[str]:
        """Call every loaded plugin's shutdown hook; return what went wrong, a line each."""
        self._greeted.pop(id(mesh), None)
        return self._each("modelmesh_shutdown", mesh=mesh)

    def before_attempt(self, request: ProviderRequest, context: Mapping[str, Any]) -> list[str]:
        """Show loaded plugins an attempt that begins."""
        return self._each("modelmesh_before_attempt", request=request, context=context)

    def after_attempt(self, request: ProviderRequest, record: AttemptRecord) -> list[str]:
        """Show loaded plugins an attempt that ended."""
        return self._each("modelmesh_after_attempt", request=request, record=record)

    def _each(self, hook: str, *, but: set[str] | None = None, **arguments: Any) -> list[str]:
        """Call the hook of each plugin, but of those named, to which each is added."""
        # Called one by one: pluggy's own call stops at the first exception.
        failures: list[str] = []
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if but is not None:
                if implementation.plugin_name in but:
                    continue
                but.add(implementation.plugin_name)
            try:
                implementation.function(*(arguments[name] for name in implementation.argnames))
            except (Exception, SystemExit) as error:
                failures.append(f"{implementation.plugin_name}: {hook} raised {type(error).__name__}")
                if self.report is not None:
                    self.report(failures[-1])
        return failures

    def _note_attempt_hooks(self) -> None:
        hook = self._manager.hook
        self.has_attempt_hooks = bool(
            hook.modelmesh_before_attempt.get_hookimpls() or hook.modelmesh_after_attempt.get_hookimpls()
        )


def _distribution(plugin: Plugin) -> Any:
    return getattr(plugin.entry_point, "dist", None)


def _row(plugin: Plugin, cls: type[Any] | None, problem: PluginProblem | None) -> PluginRow:
    who = (plugin.kind, plugin.id, plugin.distribution, plugin.version)
    if problem is not None:
        status: Literal["needs", "broken"] = "needs" if problem.needs else "broken"
        return PluginRow(*who, status, reason=problem.reason, remedy=problem.remedy, needs=problem.needs)
    if cls is None:
        return PluginRow(*who, "found")
    return PluginRow(*who, "loaded", (cls.__doc__ or "").strip().split("\n")[0])


def _without_rivals(distributions: list[str]) -> str:
    """Say what to uninstall where several distributions offer one ID; never this one, which brings the rest as well."""
    strangers = [name for name in distributions if name != OWN_DISTRIBUTION]
    if len(strangers) < len(distributions):
        return f"pip uninstall {' '.join(strangers) or OWN_DISTRIBUTION}"
    return f"keep one of them: {', or '.join(f'pip uninstall {name}' for name in strangers)}"


def _spellings(connector_id: str, spec: KindSpec) -> list[str]:
    spellings = [connector_id]
    first, _, rest = connector_id.partition(".")
    if first in spec.prefixes and rest:
        spellings.append(rest)
    if connector_id in ALIASES:
        spellings.append(ALIASES[connector_id])
    if "." not in connector_id:
        spellings.append(f"modelmesh.{connector_id}")
    for alias, meant in spec.aliases.items():
        # An alias comes last: a package that offers a connector under that very name wins.
        spellings += [
            meant + spelling.removeprefix(alias)
            for spelling in spellings
            if re.fullmatch(re.escape(alias) + r"(\.v\d+)?", spelling)
        ]
    return spellings


def _slug(connector_id: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", connector_id.split(".", maxsplit=1)[0].lower()).strip("-") or "name"


def _missing_methods(spec: KindSpec, cls: type[Any]) -> str:
    left: frozenset[str] = getattr(cls, "__abstractmethods__", frozenset())
    names = [name for name in spec.methods if name in left or not callable(getattr(cls, name, None))]
    return ", ".join([*names, *sorted(left - set(names))])


def _bad_offer(plugin: Plugin, spec: KindSpec, offered: object) -> PluginProblem | None:
    """Say what is wrong with what a hook returned; None when it is a mapping of fit classes."""
    remedy = f"return {{connector ID: class}} from {spec.hook}"
    if not isinstance(offered, Mapping):
        return PluginProblem(plugin, f"its hook {spec.hook} returned {type(offered).__name__}, not a mapping", remedy)
    for key, cls in offered.items():
        if not isinstance(key, str) or not isinstance(cls, type):
            return PluginProblem(plugin, f"its hook {spec.hook} offers {key!r}, which is no class", remedy)
        missing = _missing_methods(spec, cls)
        if missing:
            return PluginProblem(
                plugin,
                f"{cls.__name__} lacks {missing}",
                f"inherit the {spec.singular}'s base class from modelmesh_cdk",
            )
    return None


def _missing_module(plugin: Plugin, error: ModuleNotFoundError) -> PluginProblem:
    """Tell a plugin whose own module is gone from one whose optional library is not installed."""
    name = error.name or ""
    missing = name.split(".")[0]
    own = plugin.value.split(":")[0]
    reason = f"{type(error).__name__}: {_first_line(error)}"
    extra = extra_with(_distribution(plugin), missing) if missing else None
    if not extra and missing in ("", own.split(".")[0]):
        gone = own == name or own.startswith(f"{name}.")
        return PluginProblem(
            plugin,
            f"its module {own} is missing" if gone else reason,
            f"pip install --force-reinstall {plugin.distribution}",
        )
    remedy = f"pip install '{plugin.distribution}[{extra}]'" if extra else f"pip install {missing}"
    return PluginProblem(plugin, reason, remedy, needs=f"[{extra}]" if extra else missing)


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's text, without anything that looks like a credential."""
    from modelmesh.redaction import Redactor

    text = str(error).strip().split("\n")[0]
    return Redactor().text(text)[:300] or "(no message)"
