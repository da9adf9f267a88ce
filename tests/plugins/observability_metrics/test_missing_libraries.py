"""Without the optional libraries: one line that says which extra brings them, and everybody else works."""

from __future__ import annotations

import subprocess
import sys

import pytest

from modelmesh.distributions import extra_with

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r} or name.startswith({module!r} + "."):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from modelmesh.plugins import PluginHost
host = PluginHost()
usable = host.load_all("observability")
assert "modelmesh.console.v1" in usable
print(*host.problems(), sep="\\n")
"""


@pytest.mark.parametrize(
    ("module", "connector", "remedy"),
    [
        ("prometheus_client", "modelmesh.prometheus.v1", "pip install 'modelmesh-router[prometheus]'"),
        ("opentelemetry", "modelmesh.opentelemetry.v1", "pip install 'modelmesh-router[otel]'"),
        ("opentelemetry.sdk", "modelmesh.opentelemetry.v1", "pip install 'modelmesh-router[otel]'"),
        ("opentelemetry.exporter", "modelmesh.opentelemetry.v1", "pip install 'modelmesh-router[otel]'"),
    ],
    ids=["prometheus", "all of opentelemetry", "its SDK", "its exporter"],
)
def test_a_missing_library_is_one_line_with_its_extra(module: str, connector: str, remedy: str) -> None:
    """The connector is quarantined, with the command that brings what it lacks; the others load."""
    shown = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(module=module)], capture_output=True, text=True, timeout=60, check=True
    ).stdout

    (line,) = shown.splitlines()
    assert line.startswith(f"observability plugin {connector!r}, declared by modelmesh-router ")
    assert "ModuleNotFoundError" in line
    assert line.endswith(remedy)


@pytest.mark.parametrize(
    ("requires", "extra"),
    [
        (["shared-sdk>=1; extra == 'more'"], "more"),
        (["shared-sdk; extra == 'near'", "shared>=1; extra == 'exact'"], "exact"),
        (["sharedness; extra == 'no'"], None),
        (["shared; extra == 'all'", "other; extra == 'all'", "shared; extra == 'own'"], "own"),
    ],
    ids=["of the namespace", "the name itself wins", "another word", "the smallest one"],
)
def test_the_extra_of_a_shared_namespace_is_found(requires: list[str], extra: str | None) -> None:
    """Packages that share a namespace are called after it."""

    class Distribution:
        pass

    distribution = Distribution()
    distribution.requires = requires  # type: ignore[attr-defined]  # a stand-in for metadata

    assert extra_with(distribution, "shared") == extra
