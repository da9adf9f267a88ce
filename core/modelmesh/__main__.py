"""``modelmesh`` and ``python -m modelmesh``: hands over to the command-line plugin, or says what installs it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import cast


def main() -> int:
    """Run the command line; return its exit status."""
    from modelmesh.distributions import installed_entry_points

    for entry_point in installed_entry_points("modelmesh.cli"):
        try:
            run = cast("Callable[[], int]", entry_point.load())
        except ModuleNotFoundError as error:
            print(
                f"the command line needs {error.name}, which is not installed\n"
                "  try: pip install 'modelmesh-router[cli]'",
                file=sys.stderr,
            )
            return 2
        return run()
    print("the command line is not installed\n  try: pip install 'modelmesh-router[cli]'", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
