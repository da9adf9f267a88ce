"""Each import contract of ``pyproject.toml`` breaks when it is violated; one that cannot break guards nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = {
    contract["id"]: contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
}
VIOLATIONS = [
    ("layers", "modelmesh/redaction.py", "import modelmesh_cdk.sse"),
    ("layers", "modelmesh/redaction.py", "import modelmesh_plugins.commands"),
    ("layers", "modelmesh_cdk/sse.py", "import modelmesh_plugins.commands"),
    ("engine-is-private", "modelmesh_cdk/sse.py", "import modelmesh._engine.retry"),
    ("engine-is-private", "modelmesh_plugins/providers/simulator.py", "from modelmesh._engine import pool"),
    *(
        ("core-is-light", "modelmesh/redaction.py", f"import {library}")
        for library in ("httpx", "aiohttp", "starlette", "uvicorn", "rich", "orjson")
    ),
    ("core-is-light", "modelmesh/_engine/retry.py", "def late():\n    import httpx"),
    (
        "connectors-are-independent",
        "modelmesh_plugins/providers/simulator.py",
        "import modelmesh_plugins.providers.openai_compatible",
    ),
    (
        "connectors-are-independent",
        "modelmesh_plugins/strategies/round_robin.py",
        "import modelmesh_plugins.providers.simulator",
    ),
    (
        "connectors-are-independent",
        "modelmesh_plugins/state_stores/memory.py",
        "from modelmesh_plugins.observability import null",
    ),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the three packages and of the contracts."""
    for package in ("core/modelmesh", "cdk/modelmesh_cdk", "plugins/modelmesh_plugins"):
        source = ROOT / package
        shutil.copytree(source, tmp_path / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> tuple[int, list[str]]:
    """Check the contracts of a copy; return the exit status and the names of the broken ones."""
    program = shutil.which("lint-imports", path=sysconfig.get_path("scripts"))
    assert program, "import-linter is not installed; try: pip install -e '.[dev]'"
    result = subprocess.run(
        [program, "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = result.stdout.splitlines()
    judged = [line for line in lines if line.endswith((" KEPT", " BROKEN"))]
    assert len(judged) == len(CONTRACTS), result.stdout + result.stderr
    return result.returncode, [line.removesuffix(" BROKEN") for line in judged if line.endswith(" BROKEN")]


def test_the_code_keeps_every_contract(tree: Path) -> None:
    """The copy that the other tests spoil is good to begin with."""
    assert lint(tree) == (0, [])


@pytest.mark.parametrize(
    ("contract", "file", "violation"),
    VIOLATIONS,
    ids=[f"{contract}: {file} {violation.split()[-1]}" for contract, file, violation in VIOLATIONS],
)
def test_a_violation_breaks_its_contract(tree: Path, contract: str, file: str, violation: str) -> None:
    """One forbidden import breaks the one contract that forbids it, and no other."""
    with (tree / file).open("a", encoding="utf-8") as source:
        source.write(f"\n\n{violation}\n")

    status, broken = lint(tree)

    assert status == 1
    assert broken == [CONTRACTS[contract]]


def test_every_contract_is_violated_here() -> None:
    """A new contract comes with the import it forbids."""
    assert {contract for contract, _, _ in VIOLATIONS} == set(CONTRACTS)
