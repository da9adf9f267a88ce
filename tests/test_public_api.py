"""The public names, and how little ``import modelmesh`` costs."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import modelmesh
from modelmesh import errors

HEAVY = (
    "aiohttp",
    "asyncio",
    "click",
    "httpx",
    "importlib_metadata",
    "modelmesh_cdk",
    "modelmesh_plugins",
    "openai",
    "orjson",
    "pluggy",
    "pydantic",
    "rich",
    "starlette",
    "uvicorn",
    "yaml",
)


def python(code: str) -> str:
    """Run code in a fresh interpreter; return what it printed."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return result.stdout.strip()


def loaded_by(code: str) -> set[str]:
    """Names of the modules a fresh interpreter holds after some code that it did not hold before."""
    return set(python(f"import sys; before = set(sys.modules); {code}; print(*set(sys.modules) - before)").split())


def test_names_are_sorted_and_said_once() -> None:
    """``__all__`` is what readers look through."""
    assert modelmesh.__all__ == sorted(set(modelmesh.__all__))


@pytest.mark.parametrize("name", modelmesh.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    """Each stands where ``__all__`` says, and is documented."""
    value = getattr(modelmesh, name)

    assert value.__doc__ or name == "hookimpl"


def test_every_error_is_public() -> None:
    """Whoever must catch an error can import it from the top."""
    own = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}

    assert own - {"NoAvailableModelError"} <= set(modelmesh.__all__)


def test_type_checkers_see_the_names_that_are_there() -> None:
    """The imports under ``TYPE_CHECKING``, which editors read, and ``__all__``, which runs, are the same list."""
    tree = ast.parse(Path(modelmesh.__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]

    imported = {
        alias.name: node.module
        for block in blocks
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert sorted(imported) == modelmesh.__all__
    for name, module in imported.items():
        assert getattr(modelmesh, name) is getattr(importlib.import_module(module or ""), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """Lazy as it is, the package answers ``hasattr`` and ``from modelmesh import x`` as others do."""
    assert not hasattr(modelmesh, "Nonsense")
    with pytest.raises(ImportError, match="Nonsense"):
        exec("from modelmesh import Nonsense")


def test_the_listing_of_the_package_is_its_public_names() -> None:
    """``dir()``, and so completion in a shell, shows no insides."""
    assert dir(modelmesh) == sorted([*modelmesh.__all__, "__version__"])


def test_the_version_is_that_of_the_distribution() -> None:
    """It is read when it is asked for."""
    from importlib.metadata import version

    assert modelmesh.__version__ == version("modelmesh-router")


def test_importing_the_package_loads_none_of_its_modules_and_no_library() -> None:
    """No HTTP client, no server, no connector, not even pydantic."""
    loaded = loaded_by("import modelmesh")

    assert {name for name in loaded if name.startswith("modelmesh.")} == set()
    assert loaded.isdisjoint(HEAVY)


def test_all_public_names_together_load_no_http_client_server_or_connector() -> None:
    """Connectors come with the configuration that names them."""
    loaded = loaded_by("from modelmesh import *")

    assert {"modelmesh.mesh", "modelmesh.client", "modelmesh.plugins"} <= loaded
    assert loaded.isdisjoint(set(HEAVY) - {"asyncio", "importlib_metadata", "pluggy", "pydantic", "yaml"})


def test_an_error_is_had_without_the_rest() -> None:
    """A connector's module that imports an error class loads neither pydantic nor pluggy by it."""
    loaded = loaded_by("from modelmesh import ProviderError")

    assert {name for name in loaded if name.startswith("modelmesh.")} == {"modelmesh.errors"}
    assert loaded.isdisjoint(HEAVY)


def test_every_module_of_the_core_can_be_imported_first() -> None:
    """No module leans on another having been imported before it."""
    names = [
        each.name for each in pkgutil.walk_packages(modelmesh.__path__, "modelmesh.") if "__main__" not in each.name
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    for each in [each for each in sys.modules if each.split('.')[0] == 'modelmesh']:\n"
        "        del sys.modules[each]\n"
        "    importlib.import_module(name)\n"
        "print(len(sys.modules))"
    )

    assert int(python(code)) > len(names)
