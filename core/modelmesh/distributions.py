"""Installed distributions: entry points, names and requirements, however damaged some of the metadata may be."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import importlib_metadata


def installed_entry_points(group: str, on_damaged: Callable[[str, str, Exception], None] | None = None) -> list[Any]:
    """Return a group's entry points, whatever state other distributions are in.

    Args:
        group: Such as ``modelmesh.providers``.
        on_damaged: Told name, version and error of each distribution that declares the group and cannot be read.
    """
    try:
        return list(importlib_metadata.entry_points(group=group))
    except Exception:
        # One damaged list makes that look-up raise for everybody, so each distribution is asked by itself below.
        readable: list[Any] = []
    seen: set[str] = set()
    for distribution in importlib_metadata.distributions():
        name, version = identity(distribution)
        if name in seen:
            continue
        seen.add(name)
        try:
            readable.extend(each for each in distribution.entry_points if each.group == group)
        except Exception as error:
            if on_damaged is not None and f"[{group}]" in (distribution.read_text("entry_points.txt") or ""):
                on_damaged(name, version, error)
    return readable


def identity(distribution: Any) -> tuple[str, str]:
    """Return a distribution's name and version; from its folder's name when its metadata is damaged."""
    try:
        name, version = distribution.name, distribution.version
    except Exception:
        name = version = None
    if name and version:
        return name, version
    folder = str(getattr(getattr(distribution, "_path", None), "name", "")).removesuffix(".dist-info")
    stem, _, release = folder.partition("-")
    return stem or "an unknown distribution", release or "?"


def requirements(distribution: Any) -> list[str]:
    """Return what a distribution requires, as its metadata writes it; nothing when that is damaged or absent."""
    try:
        return [str(requirement) for requirement in getattr(distribution, "requires", None) or ()]
    except Exception:  # damaged metadata asks for nothing
        return []


def extra_with(distribution: Any, module: str) -> str | None:
    """Return the extra of a distribution that brings a module, as far as its metadata tells.

    Of several it is the smallest one: an extra that takes others in, for developers say, repeats what they bring.
    """
    wanted = module.replace("-", "_").lower()
    sizes: dict[str, int] = {}
    exact: list[str] = []
    near: list[str] = []
    for requirement in requirements(distribution):
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if not (name and extra):
            continue
        sizes[extra[1]] = sizes.get(extra[1], 0) + 1
        found = re.sub(r"[-.]", "_", name.group()).lower()
        if found == wanted:
            exact.append(extra[1])
        elif found.startswith(f"{wanted}_"):
            # Packages that share one namespace are called after it: opentelemetry-sdk brings opentelemetry.
            near.append(extra[1])
    return min(exact or near, key=lambda each: sizes[each], default=None)


_COMPARED = re.compile(r"(>=|<=|==|!=|~=|<|>)\s*([0-9][0-9A-Za-z.*]*)")


def unmet_requirement(distribution: Any, version: str | None) -> str | None:
    """Return what a distribution asks of the core, such as ``>=2``, if a core of this version does not meet it."""
    if version is None:
        return None
    for requirement in requirements(distribution):
        if not re.match(r"modelmesh[-_.]+router(?![-_.\w])", requirement, re.IGNORECASE):
            continue
        if re.search(r"\bextra\s*==", requirement):
            continue
        wanted = requirement.split(";")[0]
        for operator, bound in _COMPARED.findall(wanted):
            if not _meets(version, operator, bound):
                return wanted[wanted.index(operator) :].strip()
    return None


def _meets(version: str, operator: str, bound: str) -> bool:
    """Compare release numbers; pre-release tags are left out of it, since a plugin's range is about releases."""
    if bound.endswith(".*"):
        prefix = _release(bound[:-2])
        same = _release(version)[: len(prefix)] == prefix
        return same if operator == "==" else not same
    left, right = _release(version), _release(bound)
    width = max(len(left), len(right))
    have = left + (0,) * (width - len(left))
    want = right + (0,) * (width - len(right))
    if operator == "~=":
        return have >= want and left[: len(right) - 1] == right[:-1]
    return {
        ">=": have >= want,
        "<=": have <= want,
        "==": have == want,
        "!=": have != want,
        "<": have < want,
        ">": have > want,
    }[operator]


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else (0,)


def own_version() -> str | None:
    """Return the version of the installed core; None when it runs from a source tree."""
    try:
        return importlib_metadata.version("modelmesh-router")
    except importlib_metadata.PackageNotFoundError:
        return None
