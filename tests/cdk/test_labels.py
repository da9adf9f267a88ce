"""Labels let only so many values pass."""

from __future__ import annotations

from modelmesh_cdk.labels import BoundedLabels


def test_values_beyond_the_limit_become_other() -> None:
    """Those that came first keep their names, for good."""
    labels = BoundedLabels(2)

    written = [labels.value("model", name) for name in ("a", "b", "c", "a", "d")]

    assert written == ["a", "b", "other", "a", "other"]


def test_each_label_has_a_limit_of_its_own() -> None:
    """Many models take no room from pools."""
    labels = BoundedLabels(1)
    labels.value("model", "a")

    assert labels.value("pool", "chat") == "chat"
    assert labels.counts() == {"model": 1, "pool": 1}


def test_memory_ends_where_the_limit_is() -> None:
    """Values that became other are not kept."""
    labels = BoundedLabels(10)

    for number in range(1_000):
        labels.value("model", f"m{number}")

    assert labels.counts() == {"model": 10}


def test_values_are_cleaned_once() -> None:
    """Taking out secrets is dear; it is done when a value is first seen."""
    seen: list[str] = []

    def clean(value: str) -> str:
        seen.append(value)
        return value.upper()

    labels = BoundedLabels(5, clean=clean)

    assert [labels.value("model", "a"), labels.value("model", "a")] == ["A", "A"]
    assert seen == ["a"]


def test_nothing_is_an_empty_label() -> None:
    """Prometheus takes an empty label for none."""
    assert BoundedLabels(1).value("pool", None) == ""
