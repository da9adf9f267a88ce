"""The documentation is true: its Python runs and prints what the page shows, its YAML loads.

Python blocks run as a file of their own in an empty folder. A ``text`` block right behind one is what it prints. YAML
blocks that begin with the line ``# modelmesh.yaml`` are whole configurations; a page may say ``<!-- not run: why -->``
before a block that cannot run here.
"""

from __future__ import annotations

import contextlib
import io
import re
import runpy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelmesh.config import load_config
from modelmesh.plugins import PluginHost

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(
    r"(?P<note><!-- not run: [^>]+-->\n+)?^```(?P<language>python|yaml)\n(?P<code>.*?)^```$"
    r"(?:\n+```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
_SECRETS = dict.fromkeys(("OPENAI_API_KEY", "GROQ_API_KEY", "ACME_API_KEY"), "not-a-real-key")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page; ``output`` is None when the page does not say what it prints."""

    page: str
    line: int
    language: str
    code: str
    output: str | None


def pages() -> list[Path]:
    """Every page a reader may open."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> Iterator[Block]:
    """Yield the blocks of a language that are to run."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for found in _BLOCK.finditer(text):
            if found["language"] == language and not found["note"]:
                line = text.count("\n", 0, found.start("code"))
                yield Block(str(page.relative_to(ROOT)), line, language, found["code"], found["output"])


def named(block: Block) -> str:
    """Return where a block stands."""
    return f"{block.page}:{block.line}"


@pytest.mark.parametrize("block", list(blocks("python")), ids=named)
def test_python_of_the_documentation_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs to its end as it stands, and prints what the page says it prints."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(block.code, encoding="utf-8")
    printed = io.StringIO()

    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(tmp_path / "example.py"), run_name="__main__")

    if block.output is not None:
        assert printed.getvalue().rstrip() == block.output.rstrip()


@pytest.mark.parametrize(
    "block", [block for block in blocks("yaml") if block.code.startswith("# modelmesh.yaml")], ids=named
)
def test_configurations_of_the_documentation_load(block: Block, tmp_path: Path) -> None:
    """Each is a whole configuration without a problem."""
    file = tmp_path / "modelmesh.yaml"
    file.write_text(block.code, encoding="utf-8")

    configuration = load_config(file, connectors=PluginHost(), environ=_SECRETS)

    assert configuration.pools


def test_links_inside_the_documentation_lead_somewhere() -> None:
    """Relative links name files that are there."""
    lost = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages()
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]

    assert not lost


def test_the_tests_a_page_names_are_there() -> None:
    """A promise that names its test is worth no more than the test: files and functions exist under these names."""
    written = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "cdk").rglob("contracts/*.py")]
    known = {name for file in written for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))}

    gone = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in (ROOT / "docs" / "explanation").glob("*.md")
        for name in re.findall(r"`((?:tests|scripts)/[\w./-]+|test_\w+)`", page.read_text(encoding="utf-8"))
        if name not in known and not ("/" in name and (ROOT / name).exists())
    ]

    assert gone == []
