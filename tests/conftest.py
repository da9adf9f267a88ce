"""What holds for every test: properties are tried without a clock, a failure can be repeated, and no key leaks.

The canary is a key that every test may use and none may show. It stands in the environment under the names providers
look for, so whatever a mesh resolves, signs or sends in a test is likely to be it. Everything a test prints, logs or
captures is searched for it when the test ends, and every file left in the temporary folders when the session ends: for
the key, for any 8 characters of it, and for the same in base64 and hexadecimal. `test_canary.py` shows that a leak is
found in each of these places.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import httpx
import pytest
from hypothesis import HealthCheck, settings

from modelmesh.errors import ProviderError
from modelmesh.interfaces.provider import Timeouts
from modelmesh.plugins import PluginHost
from modelmesh_cdk.http import Http
from modelmesh_cdk.testing import refused_url

# A machine that is busy is no reason to fail: how long an example took says nothing about what it found.
# The same examples each time, so that what passed once passes again; MODELMESH_EXPLORE=1 looks for new ones.
settings.register_profile(
    "modelmesh",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize=not os.environ.get("MODELMESH_EXPLORE"),
)
settings.load_profile("modelmesh")

# What a terminal, or a service that runs tests, says of itself is not what a test asked for.
for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(_name, None)

CANARY = "sk-canary-Zq7vR3nT9xW1mK5pL8dF"
_SECRET_PART = "Zq7vR3nT9xW1mK5pL8dF"
"""What no other text has by chance; the beginning looks like a key and is nobody's secret."""
_SLICE = 8

VARIABLES = ("FAULT_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GROQ_API_KEY", "MODELMESH_API_KEY", "CANARY_KEY")
"""Where it stands in the environment."""

INPUTS = ("*.env", ".env*", "*.yaml", "*.yml", "*.py", "*.pyc", "direct_url.json")
"""Files a test writes for something to read; a key may stand in them."""


def _needles() -> list[str]:
    """Return what a leak looks like."""
    found: list[str] = []
    for start in range(len(_SECRET_PART) - _SLICE + 1):
        part = _SECRET_PART[start : start + _SLICE]
        raw = part.encode()
        found += [part, raw.hex(), raw.hex().upper(), "".join(f"%{byte:02X}" for byte in raw)]
        for offset in range(3):
            encoded = base64.b64encode(b"\0" * offset + raw).decode().rstrip("=")
            # Without the characters at both ends that depend on what stands around it.
            found.append(encoded[-(-offset * 8 // 6) : len(encoded) - (1 if (len(raw) + offset) % 3 else 0)])
    return found


_LEAK = re.compile("|".join(re.escape(needle) for needle in _needles()).encode())


def leaks(data: str | bytes) -> bool:
    """Whether any form of the canary stands in a text or a file."""
    return _LEAK.search(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data) is not None


class _LogWatch(logging.Handler):
    """Looks at each log record, its traceback included, whoever else takes it."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.setFormatter(logging.Formatter("%(message)s"))
        self.leaked: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if leaks(self.format(record)):
            self.leaked.append(record.name)


_WATCH = _LogWatch()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the simulation's options here, where pytest sees them whatever it is asked to run."""
    group = parser.getgroup("simulation")
    group.addoption(
        "--sim-seed", type=int, action="append", metavar="N", help="Run the world of this seed and no test."
    )
    group.addoption("--sim-seeds", type=int, default=3_000, metavar="COUNT", help="How many worlds to run.")


def pytest_configure(config: pytest.Config) -> None:
    """Set the canary, and look at what tests capture themselves."""
    for name in VARIABLES:
        os.environ[name] = CANARY
    logging.getLogger().addHandler(_WATCH)
    _watch_readouterr(pytest.CaptureFixture)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop listening."""
    logging.getLogger().removeHandler(_WATCH)


def _watch_readouterr(fixture: Any) -> None:
    read = fixture.readouterr
    if getattr(read, "watches", False):
        return

    def readouterr(self: Any) -> Any:
        captured = read(self)
        for stream in captured:
            if leaks(stream):
                _WATCH.leaked.append("captured output")
        return captured

    readouterr.watches = True  # type: ignore[attr-defined]  # so that it is put on once
    fixture.readouterr = readouterr


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test whose output or log shows the canary."""
    report = yield
    shown = [name for name, text in report.sections if leaks(text)] + _WATCH.leaked
    _WATCH.leaked = []
    if shown and report.passed:
        report.outcome = "failed"
        report.longrepr = f"CANARY LEAKED: a key stands in {', '.join(dict.fromkeys(shown))}; find out who wrote it"
    return report


def leaking_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that hold the canary, other than those tests write for something to read."""
    # Walked, not globbed: a folder that vanishes meanwhile, since its test ended late, holds nothing any more.
    paths = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
    for path in paths:
        if path.is_symlink() or not path.is_file() or any(path.match(pattern) for pattern in INPUTS):
            continue
        try:
            data = path.read_bytes()
        except OSError:  # a test made it unreadable; nobody can leak into it
            continue
        if leaks(data):
            yield path


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session when a file that was left behind holds the canary."""
    factory = getattr(session.config, "_tmp_path_factory", None)
    if factory is None or factory._basetemp is None:  # nobody asked for a temporary folder
        return
    found = list(leaking_files(factory.getbasetemp()))
    if found:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        for path in found:
            line = f"CANARY LEAKED: a key stands in {path}; find out who wrote it"
            if reporter is not None:
                reporter.write_line(line, red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def canary() -> str:
    """The key that must be seen nowhere."""
    return CANARY


@pytest.fixture(scope="session")
def find_leaks() -> Callable[[str | bytes], bool]:
    """Whether any form of the canary stands in something that neither output, log nor a file shows."""
    return leaks


@pytest.fixture(scope="session")
def plugins() -> PluginHost:
    """The installed plugins, found once: reading their metadata takes longer than most tests."""
    return PluginHost()


@pytest.fixture(params=["aiohttp", "httpx"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The carrier of the bytes: aiohttp as with the ``fast`` extra, or httpx's own as without it."""
    name = str(request.param)
    if name == "httpx":
        monkeypatch.setitem(sys.modules, "aiohttp", cast("ModuleType", None))
    else:
        pytest.importorskip("aiohttp")
    return name


@pytest.fixture(scope="session")
def warm_http() -> None:
    """Load aiohttp and the certificates once, so that nothing with short clocks pays for it."""

    async def fail_once() -> None:
        http = Http()
        with suppress(ProviderError):
            await http.send("GET", httpx.URL(refused_url()), dict, timeouts=Timeouts())
        await http.close()

    asyncio.run(fail_once())
