"""Run the reliability goals over sockets at the scale of a release, and write ``docs/results/sockets.md``.

python tests/benchmarks/reliability.py            the long run, ten to twenty minutes on two cores
python tests/benchmarks/reliability.py --ci       what continuous integration runs, without writing anything
python tests/benchmarks/reliability.py r04 r05    these goals alone, without writing anything
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests" / "reliability"
RESULT = ROOT / "docs" / "results" / "sockets.md"

GOALS = {
    "R4": "While one provider can answer, every request is answered",
    "R5": "An outage of everybody is not amplified, and deadlines hold",
    "R6": "A stream is an exact beginning of one provider's, and a cut is never taken for an end",
    "R7": "Who goes away is hung up for, and leaves nothing behind",
    "R8": "Every stall ends with its clock",
    "R9": "Whoever watches harms nobody",
    "R12": "Requests leave no memory behind",
    "R14": "Who fails rests, one request tries who returns, and somebody always takes traffic",
    "R15": "What providers answer is understood",
    "R16": "Nothing holds the event loop",
    "R17": "Clocks that jump, zones that change, machines that sleep",
    "R20": "A key that a provider says back is shown nowhere",
}


def run(goals: list[str], *, is_long: bool) -> tuple[list[list[str]], float]:
    """Run the tests; return what they measured, and the seconds they took."""
    files = sorted(file for goal in goals for file in TESTS.glob(f"test_{goal}_*.py"))
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
        command += ["--reliability", "long" if is_long else "ci", "--reliability-figures", str(figures)]
        started = time.monotonic()
        subprocess.run([*command, *map(str, files or [TESTS])], cwd=ROOT, check=True)
        return json.loads(figures.read_text(encoding="utf-8")), time.monotonic() - started


def collected(rows: list[list[str]]) -> dict[str, list[tuple[str, str]]]:
    """Sort what was measured by goal; of a measure that many tests took, keep how many and the worst."""
    tables: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for goal, what, figure in rows:
        tables[goal][what].append(figure)
    return {
        goal: [(what, _joined(figures)) for what, figures in tables[goal].items()]
        for goal in sorted(tables, key=lambda goal: int(goal[1:]))
    }


def _joined(figures: list[str]) -> str:
    if len(figures) == 1:
        return figures[0]
    return f"{max(figures, key=lambda figure: float(figure.split()[0]))} ({len(figures)} cases)"


def page(tables: dict[str, list[tuple[str, str]]], seconds: float) -> str:
    """Write the page."""
    lines = [
        "# Reliability over sockets",
        "",
        f"Measured on {datetime.now(UTC):%d %B %Y} with Python {platform.python_version()} on {os.cpu_count()} cores",
        f"shared with other work, in {seconds:.0f} s, by",
        "",
        "```bash",
        "python tests/benchmarks/reliability.py",
        "```",
        "",
        "Providers are servers on sockets of this machine that fail as they are told (`FaultServer`), asked through",
        "a mesh from a YAML file and `modelmesh.openai-compatible.v1`. R6 is in process but for its samples over",
        "sockets; R9 and R12 are in process, over the simulator; R14 is against a model of a breaker and over sockets;",
        "R15 is a table, R16 is the proxy's own loop, R17 runs on a clock that is set by hand. Every figure is one",
        "that a test asserts; a run with a single violation writes nothing.",
        "",
        "How to read R4: streams are held back to their end there (`on_stream_failure: hold`). By default a stream",
        "that breaks after its first content is an error with the partial text, as R6 has it.",
        "",
        "How to read R5: attempts are counted where they arrive, at the providers, while all of them fail. Walking",
        "over candidates that still take traffic costs nothing of the retry budget, so the first requests of an outage",
        "may be seen by every provider; once models rest, a request calls who is left and retries within the budget.",
        "",
        "How to read R8 and the deadlines of R5: the machine is shared, so what the event loop itself was late is",
        "measured beside each case and granted on top of the 50 ms; the figures here are before that grace.",
        "",
    ]
    for goal, rows in tables.items():
        lines += [f"## {goal}: {GOALS.get(goal, goal)}", "", "| measured | figure |", "| --- | --- |"]
        lines += [f"| {what} | {figure} |".replace("\n", " ") for what, figure in rows]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("goals", nargs="*", help="Such as r04; all by default.")
    parser.add_argument("--ci", action="store_true", help="At the scale of continuous integration.")
    given = parser.parse_args()
    rows, seconds = run(given.goals, is_long=not given.ci)
    text = page(collected(rows), seconds)
    print(text)
    if not given.ci and not given.goals:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
