"""What the testing kit exports, and what importing it loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

import modelmesh_cdk.testing as kit


@pytest.mark.parametrize("name", kit.__all__)
def test_every_name_is_there(name: str) -> None:
    """Each exported name can be imported."""
    assert getattr(kit, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name is told by the module it is missing from."""
    with pytest.raises(AttributeError, match=r"modelmesh_cdk\.testing.*'FakeClok'"):
        kit.FakeClok  # noqa: B018 (the access is the test)


def test_fakes_do_not_load_pytest() -> None:
    """Applications use the fakes in demonstrations, where no pytest is installed."""
    program = "import sys; from modelmesh_cdk.testing import FakeClock, FaultServer, ScriptedProvider; "
    program += "print('pytest' in sys.modules, 'httpx' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False"]
