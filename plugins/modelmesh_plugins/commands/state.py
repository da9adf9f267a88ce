"""``modelmesh state``: what a mesh keeps in its state store: look at it, copy it, put it back, begin anew."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from modelmesh.config import load_config
from modelmesh.config.configuration import Configuration
from modelmesh.config.storage import StorageConfig
from modelmesh.errors import ModelMeshError, StateStoreError
from modelmesh.interfaces.state_store import StateStore
from modelmesh.lasting import lasting
from modelmesh.passed_over import PassedOver
from modelmesh.state_encoding import StateEncoding, decode
from modelmesh.state_manager import CORRUPT_KEY, KEY, ROUTING_KEY, SystemState, refuse_newer, store_raised
from modelmesh_plugins.commands.configuration import VARIABLE, ConfigurationPath
from modelmesh_plugins.commands.files import PIPED, read_piped, write_whole
from modelmesh_plugins.commands.store_warnings import WarningPlugins
from modelmesh_plugins.commands.tables import print_whole

Result = TypeVar("Result")

_LATELY = 60.0
"""Seconds for which a mesh that writes each change at once is taken for running after the last one."""

_WRITING = 10.0
"""Seconds by which a write in intervals may come late."""


@click.group("state")
def command() -> None:
    """Look at, export, import or reset the state that a mesh keeps.

    CONFIG is the mesh's configuration; its storage section says where the state is. Without it, show and reset take the
    file that MODELMESH_CONFIG names.
    """


@command.command("show")
@click.argument("config", type=ConfigurationPath(), envvar=VARIABLE)
def show(config: str) -> int:
    """Show models, what they used, and who rests for how long."""
    state = _with_store(config, _read)
    if state is None:
        click.echo("no state is saved")
        return 0
    console = Console(highlight=False)
    taken = datetime.fromtimestamp(state.timestamp, UTC).isoformat(timespec="seconds")
    console.print(f"state of {taken}, format {state.version}")
    resting = {
        model: (name, standby) for name, pool in state.pools.items() for model, standby in pool.standby_models.items()
    }
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for name, right in (("model", False), ("status", False), ("requests", True), ("tokens", True), ("cost $", True)):
        table.add_column(name, justify="right" if right else "left")
    table.add_column("rests")
    for name, model in state.models.items():
        pool, standby = resting.get(name, ("", None))
        rest = ""
        if standby is not None:
            left = "until it is recovered" if standby.remaining is None else lasting(standby.remaining)
            rest = f"{standby.reason}, {left} (pool {pool})"
        table.add_row(
            name, model.status, str(model.quota_used), f"{model.tokens_used:,}", f"{model.cost_accumulated:.4f}", rest
        )
    print_whole(console, table)
    return 0


@command.command("export")
@click.argument("config", type=click.Path())
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
def export(config: str, file: str) -> int:
    """Write the state to FILE as JSON; to the standard output if FILE is -."""

    def check(_: Configuration, section: StorageConfig) -> None:
        own = {config: "the configuration", getattr(section.settings, "path", None): "the state store's own file"}
        for path, what in own.items():
            if file != "-" and isinstance(path, str) and os.path.realpath(path) == os.path.realpath(file):
                raise click.ClickException(f"{file}: is {what}, and would be overwritten; name another file")

    state = _with_store(config, _read, check)
    if state is None:
        raise click.ClickException("no state is saved, so there is nothing to export")
    text = json.dumps(state.to_dict(), indent=2) + "\n"
    if file == "-":
        click.echo(text, nl=False)
        return 0
    try:
        write_whole(Path(file), text)
    except OSError as error:
        raise click.ClickException(f"{file}: cannot be written: {error.strerror}") from None
    click.echo(f"{_counted(state)} are in {file}")
    return 0


@command.command("import")
@click.argument("config", type=click.Path())
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
def import_(config: str, file: str) -> int:
    """Replace the state by what FILE holds. End the mesh first: it would write its own over it.

    FILE is - for what comes through the standard input. Models, providers and pools that CONFIG does not have are
    named, and passed over.
    """
    is_piped, file = file == "-", PIPED if file == "-" else file
    try:
        content = read_piped() if is_piped else Path(file).read_bytes()
        data = json.loads(content.decode("utf-8"))
        state = SystemState.from_dict(data if isinstance(data, dict) else {})
    except OSError as error:
        raise click.ClickException(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise click.ClickException(
            f"{file}: is no exported state: {error}; name a file that `modelmesh state export` wrote"
        ) from None
    except StateStoreError:
        raise click.ClickException(
            f"{file}: was exported by a newer version; upgrade modelmesh-router to import it"
        ) from None

    passed = PassedOver()

    def check(configuration: Configuration, section: StorageConfig) -> None:
        nonlocal passed
        if section.sync_policy == "in-memory":
            raise click.ClickException(
                f"{config}: under storage.sync_policy in-memory the mesh restores no state; choose another policy"
            )
        passed = _passed_over(state, configuration)
        if passed and passed.is_all:
            raise click.ClickException(f"{file}: is of another mesh, and not imported: {config} has no {passed}")

    async def write(store: StateStore) -> None:
        await refuse_newer(store)
        # The mesh reads every format, and writes its own the next time.
        await store.save(KEY, StateEncoding().encode(state.to_dict()))
        # What processes told one another since would put to rest again whom the file brings back.
        await store.delete(ROUTING_KEY)

    _with_store(config, write, check, changes=True)
    if passed:
        click.echo(f"Warning: {config} has no {passed}: passed over", err=True)
    click.echo(f"{_counted(state, passed)} are restored at the next start")
    return 0


@command.command("reset")
@click.argument("config", type=ConfigurationPath(), envvar=VARIABLE)
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(config: str, yes: bool) -> int:
    """Forget health, usage and rests; books of budgets and quotas stay. End the mesh first."""
    if not yes and not _is_wanted("Forget the health, usage and rests of every model?"):
        click.echo("nothing is changed")
        return 1

    async def forget(store: StateStore) -> bool:
        await store.delete(CORRUPT_KEY)
        await store.delete(ROUTING_KEY)
        return await store.delete(KEY)

    click.echo("the state is forgotten" if _with_store(config, forget, changes=True) else "no state was saved")
    return 0


def _is_wanted(question: str) -> bool:
    """Ask; where nobody can answer, say what does without the question."""
    nobody = click.ClickException("nobody is there to be asked; use --yes")
    if sys.stdin is None:  # closed by whoever started this
        raise nobody
    try:
        return click.confirm(question)
    except click.Abort as abort:
        if isinstance(abort.__context__, EOFError):
            raise nobody from None
        raise


def _passed_over(state: SystemState, configuration: Configuration) -> PassedOver:
    providers = {name for name, entry in configuration.providers.items() if entry.enabled}
    models = {name for name, entry in configuration.models.items() if entry.provider in providers}
    return PassedOver.of(state, models, providers, configuration.pools)


def _counted(state: SystemState, passed: PassedOver | None = None) -> str:
    models, pools = (0, 0) if passed is None else (len(passed.models), len(passed.pools))
    counts = ((len(state.models) - models, "model"), (len(state.pools) - pools, "pool"))
    return " and ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)


async def _read(store: StateStore) -> SystemState | None:
    record = await store.load(KEY)
    if record is None:
        return None
    try:
        return SystemState.from_dict(decode(record.data))
    except ValueError as error:
        raise StateStoreError(f"the saved state cannot be read: {error}; `modelmesh state reset` begins anew") from None


async def _warn_of_running(store: StateStore, section: StorageConfig) -> None:
    """Warn of a mesh that wrote so recently that it may be running; only some policies write before the end."""
    recent = {"periodic": section.sync_interval + _WRITING, "immediate": _LATELY}.get(section.sync_policy or "")
    state = None
    with suppress(StateStoreError):  # what cannot be read says nothing, and a reset is for that as well
        state = await _read(store)
    if recent is None or state is None:
        return
    age = abs(time.time() - state.timestamp)  # clocks differ
    if age <= recent:
        click.echo(
            f"Warning: a mesh wrote its state {lasting(age)} ago; if it still runs it writes over this: end it, and do"
            " this again",
            err=True,
        )


def _with_store(
    config: str,
    use: Callable[[StateStore], Awaitable[Result]],
    check: Callable[[Configuration, StorageConfig], None] | None = None,
    *,
    changes: bool = False,
) -> Result:
    """Use the store that a configuration names.

    Args:
        config: The configuration's file.
        use: Awaited with the store.
        check: Called with the configuration and its storage section before the store is opened; raises what it refuses.
        changes: Whether what a mesh keeps is changed, so that one that still runs is to be warned of.
    """
    plugins = WarningPlugins()
    configuration = load_config(config, connectors=plugins, environ=os.environ)
    section = configuration.storage
    if section is None:
        raise click.ClickException(f"{config}: has no storage section, so no state is kept")
    if check is not None:
        check(configuration, section)

    async def run() -> Result:
        store: Any = plugins.build_alone(section.connector, section.settings)
        try:
            if not store.guarantees.survives_restart:
                raise click.ClickException(
                    f"{config}: state store {section.connector!r} keeps nothing beyond its process, so there is nothing"
                    " to look at or to change; name another under storage.connector"
                )
            if changes and store.guarantees.shared_between_processes:
                await _warn_of_running(store, section)
            return await use(store)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except (ModelMeshError, click.ClickException):
        raise
    except (
        Exception
    ) as error:  # what the author of a store did not foresee; its text may hold what is nobody's business
        raised = store_raised(error, plugins.find("state_stores", section.connector)).message
        raise click.ClickException(
            f"{config}: storage.connector {section.connector!r}: {raised}; report it to its author"
        ) from error
