"""Installed distributions: read as far as their metadata allows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import pytest

from modelmesh.distributions import (
    extra_with,
    identity,
    installed_entry_points,
    own_version,
    requirements,
    unmet_requirement,
)

GROUP = "modelmesh.providers"


class Site(Protocol):
    """What the ``site`` fixture gives."""

    def publish(self, distribution: str, entry_points: Any, **more: Any) -> None:
        """Write a distribution."""

    def publish_raw(self, distribution: str, version: str = "1.0", **files: str) -> None:
        """Write metadata files."""


class Damaged:
    """A distribution whose metadata raises whenever it is read."""

    _path = Path("acme_chat-1.5.dist-info")

    def __getattr__(self, name: str) -> object:
        raise OSError(f"no {name}")


def test_entry_points_are_those_of_every_readable_distribution(site: Site) -> None:
    """One damaged list costs its own distribution and is told; without damage nothing is told."""
    told: list[tuple[str, str, str]] = []
    site.publish("acme-good", {"providers": {"acme.good.v1": "acme_good:Provider"}})
    before = {each.name for each in installed_entry_points(GROUP, lambda *_: told.append(("", "", "")))}
    site.publish_raw("acme-bad", "2.0", **{"entry_points.txt": f"[{GROUP}]\nno equals sign\n"})

    after = {
        each.name
        for each in installed_entry_points(GROUP, lambda name, version, error: told.append((name, version, str(error))))
    }

    assert "acme.good.v1" in before
    assert after == before
    assert [each[:2] for each in told] == [("acme_bad", "2.0")]


def test_a_damaged_list_of_another_group_is_nobodys_business(site: Site) -> None:
    """Only those that declare the group are told."""
    told: list[str] = []
    site.publish_raw("acme-bad", **{"entry_points.txt": "[console_scripts]\nno equals sign\n"})

    found = installed_entry_points(GROUP, lambda name, version, error: told.append(name))

    assert "modelmesh.simulator.v1" in {each.name for each in found}
    assert told == []


@pytest.mark.parametrize(
    ("distribution", "found"),
    [
        (SimpleNamespace(name="acme-chat", version="1.5"), ("acme-chat", "1.5")),
        (Damaged(), ("acme_chat", "1.5")),
        (SimpleNamespace(name=None, version=None), ("an unknown distribution", "?")),
    ],
    ids=["whole", "damaged", "nameless"],
)
def test_a_distribution_is_named_as_well_as_can_be(distribution: object, found: tuple[str, str]) -> None:
    """From its metadata, else from its folder."""
    assert identity(distribution) == found


@pytest.mark.parametrize(
    "distribution", [None, Damaged(), SimpleNamespace(requires=None)], ids=["none", "damaged", "without a list"]
)
def test_what_cannot_be_read_requires_nothing(distribution: object) -> None:
    """Neither a library nor a core."""
    assert requirements(distribution) == []
    assert unmet_requirement(distribution, "1.0") is None


@pytest.mark.parametrize(("module", "extra"), [("acme_wire", "wire"), ("ACME_Wire", "wire"), ("other", None)])
def test_the_extra_that_brings_a_module_is_found_by_its_name(module: str, extra: str | None) -> None:
    """Case, hyphens and underscores are alike; what is required anyway belongs to no extra."""
    distribution = SimpleNamespace(requires=["other", 'acme-wire>=2; extra == "wire"'])

    assert extra_with(distribution, module) == extra


def test_a_core_without_a_version_meets_everything() -> None:
    """It runs from a source tree, where nothing can be held against it."""
    distribution = SimpleNamespace(requires=["modelmesh-router>=99"])

    assert unmet_requirement(distribution, None) is None
    assert unmet_requirement(distribution, "1.0") == ">=99"
    assert own_version() is not None
