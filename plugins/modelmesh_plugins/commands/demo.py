"""``modelmesh demo``: watch failing providers being rotated away while every request is answered."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.syntax import Syntax

from modelmesh.mesh import ModelMesh
from modelmesh_plugins.commands.files import write_whole
from modelmesh_plugins.demo import providers
from modelmesh_plugins.demo.report import print_report
from modelmesh_plugins.demo.run import Outcome, configuration, send_all


@click.command("demo")
@click.option("--requests", "total", type=click.IntRange(1, 5_000), default=240, show_default=True, help="How many.")
@click.option("--concurrency", type=click.IntRange(1, 64), default=6, show_default=True, help="How many at a time.")
@click.option("--plain", is_flag=True, help="No colours, no live progress.")
@click.option("--save", type=click.Path(dir_okay=False), help="Keep the configuration in this file.")
def command(total: int, concurrency: int, plain: bool, save: str | None) -> int:
    """Watch requests being routed around providers that fail.

    Three providers listen on this machine only. One has a free quota that runs out; one fails, drops connections and
    cuts streams; one is steady and dear. The exit status is 0 only if every answer was whole.
    """
    console = Console(no_color=plain or None, force_terminal=False if plain else None, highlight=False)
    with providers.free() as free, providers.flaky() as flaky, providers.steady() as steady:
        text = configuration(free.url, flaky.url, steady.url)
        console.print("Three providers listen on this machine. All that ModelMesh is told:\n")
        if console.is_terminal:
            console.print(Syntax(text, "yaml", background_color="default"))
        else:
            console.print(text, markup=False, soft_wrap=True)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(save) if save else Path(folder) / "modelmesh.yaml"
            try:
                write_whole(file, text)
            except OSError as error:
                raise click.ClickException(f"{file}: cannot be written: {error.strerror}") from None
            outcomes = asyncio.run(_run(file, total, concurrency, console))
    return 0 if len(outcomes) == total and all(outcome.is_whole for outcome in outcomes) else 1


async def _run(file: Path, total: int, concurrency: int, console: Console) -> list[Outcome]:
    mesh = ModelMesh()
    mesh.initialize(file)
    async with mesh:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[last]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as progress:
            task = progress.add_task("Sending plain and streamed requests", total=total, last="")

            def tell(outcome: Outcome) -> None:
                names = " → ".join(attempt.model_id for attempt in outcome.attempts)
                progress.update(task, advance=1, last=names)

            outcomes = await send_all(mesh.get_router(), total, concurrency, tell)
        print_report(console, mesh, outcomes)
    return outcomes
