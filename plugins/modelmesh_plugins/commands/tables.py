"""Tables that lose nothing where there is little room: text is wrapped between words, and nothing is left out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table

_NO_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class Whole:
    """One table or a group of them, no column narrower than its longest word.

    A table by itself shrinks every column alike, down to nothing, names and figures included. These become wider than
    a narrow terminal instead.
    """

    content: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the tables as wide as they have to be."""
        endless = options.update(max_width=_NO_LIMIT)
        for table in _tables(self.content):
            for column in table.columns:
                cells = [Measurement.get(console, endless, cell) for cell in (column.header, *column.cells)]
                column.min_width = max(cell.minimum for cell in cells)
                # Room is taken from columns that can give some, before any other.
                column.no_wrap = column.min_width == max(cell.maximum for cell in cells)
        needed = Measurement.get(console, endless, self.content).minimum
        yield from console.render(self.content, options.update(max_width=max(options.max_width, needed)))


def print_whole(console: Console, content: RenderableType, environ: Mapping[str, str] | None = None) -> None:
    """Print tables; into a pipe or a file one line a row, unless COLUMNS says how much room there is."""
    environ = os.environ if environ is None else environ
    if not console.is_terminal and not environ.get("COLUMNS"):
        console.width = Measurement.get(console, console.options.update(max_width=_NO_LIMIT), content).maximum
    console.print(Whole(content), crop=False)


def _tables(content: RenderableType) -> Iterator[Table]:
    if isinstance(content, Table):
        yield content
    elif isinstance(content, Group):
        for part in content.renderables:
            yield from _tables(part)
