"""How a mesh fares while its store is down (reliability goal R10): until it decides by itself, and until it is back.

    python tests/benchmarks/store_down.py

The scenarios are those of the tests (``tests/stores/servers/test_sharing_down.py``), which hold them to the goals:
money refused, half of a rate granted here. The server is cut off in silence, cut off with resets, or stopped.
"""

from __future__ import annotations

import asyncio
import importlib.util
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import stores_network  # beside this script


def scenarios() -> Any:
    """The tests' scenarios: a module that is in no package, loaded by its place."""
    place = Path(__file__).parents[1] / "stores" / "servers" / "test_sharing_down.py"
    spec = importlib.util.spec_from_file_location("sharing_down", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def down(home: Any, tests: Any, shared: Any, how: str) -> str:
    """Take the store away and give it back; return a row."""
    async with home._cut(shared.server.port) as way, tests.mesh_over(shared, way.port) as mesh:
        await tests.back(mesh)  # on a busy machine the first connection may take longer than a request waits
        if how == "stopped":
            await asyncio.to_thread(shared.server.stop)
        else:
            way.freeze()
            if how == "reset":
                way.break_all()
        switch, wait, granted = await tests.switched(mesh)
        if how == "stopped":
            await asyncio.to_thread(shared.server.start)
        way.thaw()
        back = await tests.back(mesh)
    return f"{switch * 1e3:.0f} ms | {wait * 1e3:.0f} ms | {granted} of {tests.LOCAL} | {back:.2f} s"


def main() -> None:
    """Print a table."""
    home, tests = stores_network.servers(), scenarios()
    print("| store | how | decided after | longest wait of a request | rate granted here | back after |")
    print("| --- | --- | --- | --- | --- | --- |")
    with ExitStack() as stack:
        folder = stack.enter_context(home.servers_folder())
        for kind, running in (("redis", home.running_redis), ("postgres", home.running_postgres)):
            server = stack.enter_context(running(folder))
            for how in ("silent", "reset", "stopped"):

                def settings(*, port: int, server: Any = server) -> dict[str, Any]:
                    return {"url": server.url.replace(f":{server.port}/", f":{port}/")}

                shared = SimpleNamespace(kind=kind, server=server, settings=settings)
                print(f"| {kind} | {how} | {asyncio.run(down(home, tests, shared, how))} |", flush=True)


if __name__ == "__main__":
    main()
