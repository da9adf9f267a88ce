"""Tables of the command line on narrow and wide terminals, and in pipes."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from modelmesh_plugins.commands.tables import print_whole

CELLS = ("a-model-with-a-long-name", "1,234,567", "some words that may be wrapped")


def printed(console: Console, environ: dict[str, str]) -> str:
    """Print a table; return what was written."""
    table = Table("model", "tokens", "why")
    table.add_row(*CELLS)
    print_whole(console, table, environ)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [20, 60, 80, 160])
def test_no_name_and_no_figure_is_cut_however_narrow_the_terminal(width: int) -> None:
    """Text is wrapped between words, and what cannot be wrapped is wider than the terminal."""
    shown = printed(Console(file=io.StringIO(), width=width, force_terminal=True, no_color=True), {})

    assert all(word in shown for cell in CELLS for word in cell.split())
    assert "…" not in shown


def test_a_pipe_gets_a_line_a_row() -> None:
    """What reads lines is not served by wrapped cells."""
    shown = printed(Console(file=io.StringIO(), width=40), {})

    assert any(all(cell in line for cell in CELLS) for line in shown.splitlines())


def test_a_pipe_with_a_width_is_wrapped() -> None:
    """COLUMNS says how much room there is, wherever the output goes."""
    shown = printed(Console(file=io.StringIO(), width=60), {"COLUMNS": "60"})

    assert max(map(len, shown.splitlines())) <= 60
