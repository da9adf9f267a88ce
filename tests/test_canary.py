"""The canary check of the test suite finds a leak wherever one can be: without that, its silence proves nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HEADER = "import base64, logging, os, pathlib, sqlite3, subprocess, sys\nimport pytest\n\n"
SHOWN = {
    "print": "print('the key is', canary)",
    "error output": "print(canary, file=sys.stderr)",
    "eight characters": "print('...' + canary[-9:-1] + '...')",
    "base64": "print(base64.b64encode(b'Bearer ' + canary.encode()).decode())",
    "base64 of a part": "print(base64.urlsafe_b64encode(canary[-12:].encode()).decode())",
    "hexadecimal": "print(canary.encode().hex())",
    "percent signs": "print(''.join(f'%{byte:02X}' for byte in canary.encode()))",
    "a log line": "logging.getLogger('modelmesh.anything').warning('sent %s', canary)",
    "a traceback in the log": "log_traceback(canary)",
    "a child process": "subprocess.run([sys.executable, '-c', 'import os; print(os.environ[\\'OPENAI_API_KEY\\'])'])",
    "captured and read": "print(canary); request.getfixturevalue('capfd').readouterr()",
    "the environment": "print(os.environ)",
}
LEFT = {
    "log": "(tmp_path / 'mesh.log').write_text('key ' + canary)",
    "JSON lines": "(tmp_path / 'mesh.jsonl').write_text('{\"a\": \"' + canary[-10:] + '\"}')",
    "state": "store(tmp_path / 'state.db', canary)",
    "no suffix": "(tmp_path / 'core').write_bytes(b'\\0' * 5000 + canary.encode() + b'\\0')",
}
CLEAN = {
    "an input": "(tmp_path / '.env').write_text('KEY=' + canary)",
    "a look-alike": "print('sk-canary-0123456789abcdef')",
    "few characters": "print(canary[-7:])",
    "its length": "print(len(canary))",
}
PARTS = """

def log_traceback(canary):
    try:
        raise ValueError(canary)
    except ValueError:
        logging.getLogger("modelmesh.server").exception("failed")


def store(path, canary):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE t (v TEXT)")
        database.execute("INSERT INTO t VALUES (?)", (canary,))
    database.close()

"""

Result = tuple[int, str]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder outside of those that this session is searched in."""
    with tempfile.TemporaryDirectory(prefix="modelmesh-canary-") as name:
        yield Path(name)


@pytest.fixture
def suite(folder: Path) -> Callable[[dict[str, str]], Result]:
    """Run tests of their own under the suite's conftest; return the status and what was reported."""

    def run(bodies: dict[str, str]) -> Result:
        shutil.copy(Path(__file__).with_name("conftest.py"), folder / "conftest.py")
        tests = "\n\n".join(
            f"def test_{number}(canary, tmp_path, request):\n    {body}" for number, body in enumerate(bodies.values())
        )
        (folder / "test_planted.py").write_text(f"{HEADER}{PARTS}\n{tests}\n", encoding="utf-8")
        result = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-rA", "--show-capture=no", "-p", "no:cacheprovider"),
                *("-p", "no:randomly", f"--basetemp={folder / 'temp'}", str(folder)),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=folder,
        )
        return result.returncode, result.stdout + result.stderr

    return run


def test_whatever_shows_or_keeps_the_key_fails(suite: Callable[[dict[str, str]], Result], canary: str) -> None:
    """Each way to show it, in each of its forms, by itself; the report says where, and does not repeat it."""
    status, said = suite(SHOWN | LEFT)

    failed = {int(number) for number in re.findall(r"FAILED \S*::test_(\d+)", said)}
    assert [name for number, name in enumerate(SHOWN) if number not in failed] == []
    assert len(failed) == len(SHOWN)
    assert status == 1
    assert canary[-8:] not in said


def test_a_session_that_leaves_the_key_in_a_file_fails(suite: Callable[[dict[str, str]], Result]) -> None:
    """Although each test passed; every file is searched, whatever it is called."""
    status, said = suite(LEFT)

    assert status == 1, said
    assert f"{len(LEFT)} passed" in said
    assert said.count("CANARY LEAKED: a key stands in /") == len(LEFT)


def test_what_is_no_leak_passes(suite: Callable[[dict[str, str]], Result]) -> None:
    """Files that are there to be read, and text that only looks alike."""
    status, said = suite(CLEAN)

    assert status == 0, said
    assert f"{len(CLEAN)} passed" in said
