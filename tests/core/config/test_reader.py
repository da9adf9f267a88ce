"""The reader: lines, strictness, and bounds."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelmesh.config.reader import read_file, read_text
from modelmesh.errors import ConfigurationError

CANARY = "sk-canary-4711-do-not-show"

BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


def test_every_key_and_item_has_its_line() -> None:
    """Lines are 1-based."""
    document = read_text("a:\n  b: 1\n  c:\n    - x\n    - y\n")

    assert [document.line_of(path) for path in (("a",), ("a", "b"), ("a", "c", 1))] == [1, 2, 5]


def test_words_that_yaml_1_1_takes_for_booleans_stay_text() -> None:
    """Norway keeps its country code, as key and as value."""
    assert read_text("no: [on, off, yes, 12:30, 2024-01-01, true]").data == {
        "no": ["on", "off", "yes", "12:30", "2024-01-01", True]
    }


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "is empty"),
        ("a: 1\nb: [1\n", 3, "not valid YAML"),
        ("a:\n\tb: 1\n", 2, "indent with spaces"),
        ("a: 1\na: 2\n", 2, "first in line 1"),
        ("- a\n", 1, "mapping at the top"),
        ("a: &x [*x]\n", 1, "contains itself"),
        ("a: *nobody\n", 1, "undefined alias"),
        ("a: !!python/object:os.system x\n", 1, "!tag"),
        (BOMB, None, "aliases multiplied"),
        ("a: " + "[" * 100 + "]" * 100, 1, "nested deeper"),
        ("a: " + "[" * 20_000, None, "nested deeper"),
    ],
    ids=["empty", "bracket", "tab", "twice", "list", "cycle", "alias", "tag", "bomb", "deep", "very deep"],
)
def test_what_cannot_be_read_is_one_clear_error(text: str, line: int | None, words: str) -> None:
    """The line is named where there is one."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        read_text(text, file="mesh.yaml")

    (problem,) = caught.value.problems
    assert problem.file == "mesh.yaml"
    assert line is None or problem.line == line


PRINTABLE = st.characters(
    exclude_categories=("Cs", "Cc", "Cn"), exclude_characters="\ufffe\uffff", include_characters="\n\t"
)


@given(st.one_of(st.text(PRINTABLE), st.text(alphabet="ab:-[]{}&*!|>'\"#% \n\t<~?@0.", max_size=60)))
@example("a: 1_")
@example("a: !!int x")
@example("a: !!bool x")
@example("a: \x07")
@example("<<: 1")
def test_no_text_raises_anything_but_a_configuration_error(text: str) -> None:
    """A user never sees a traceback from the parser."""
    try:
        assert isinstance(read_text(text).data, dict)
    except ConfigurationError as error:
        assert error.problems  # noqa: PT017 (either outcome is right)


@pytest.mark.parametrize(
    ("text", "line", "code"),
    [("a: \x00", 1, "U+0000"), ("a: 1\r\nb: \x07", 2, "U+0007"), ("\ud800: 1", 1, "U+D800")],
    ids=["nul", "bell", "surrogate"],
)
def test_a_character_that_yaml_forbids_is_a_configuration_error(text: str, line: int, code: str) -> None:
    """A stray control character is told like any other mistake."""
    with pytest.raises(ConfigurationError, match="remove it") as caught:
        read_text(text, file="mesh.yaml")

    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == ("mesh.yaml", line)
    assert code in problem.message


@pytest.mark.parametrize(
    ("text", "line"),
    [('{\n\t"a": 1\n}', 2), ("a:\n  b: 1\n\tc: 2\n", 3), ("a: [\n\t1]", 2), ("a: |\n\tx\n", 2)],
    ids=["json", "block", "flow", "literal"],
)
def test_a_tab_is_one_error_that_names_its_line(text: str, line: int) -> None:
    """In JSON as in YAML."""
    with pytest.raises(ConfigurationError, match="indent with spaces") as caught:
        read_text(text, file="mesh.yaml")

    assert [problem.line for problem in caught.value.problems] == [line]


@pytest.mark.parametrize(
    "text",
    [
        f"a: {CANARY}: x",
        f"a: *{CANARY}",
        f"a: [&{CANARY} 1, &{CANARY} 2, *x]",
        f"a: !{CANARY} x",
        f"a: !{CANARY}!x y",
        f"a: !!int {CANARY}",
        f"a: !!bool {CANARY}",
        f"a: !!timestamp {CANARY}",
        f"a: %{CANARY}",
        f"a: '{CANARY}",
        f"a: {CANARY}\n--- {CANARY}",
        f"a: {{b: {CANARY}\n: 1}}",
        CANARY,
    ],
    ids=[
        "colon",
        "alias",
        "anchor",
        "tag",
        "handle",
        "int",
        "bool",
        "time",
        "percent",
        "quote",
        "documents",
        "flow",
        "top",
    ],
)
def test_no_error_repeats_a_value(text: str) -> None:
    """A key that YAML stumbles over, such as one that begins with * or !, is not shown."""
    with pytest.raises(ConfigurationError) as caught:
        read_text(text)

    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("written", "value"),
    [("0x1f", 31), ("0o17", 15), ("1_000", 1000), ("-1.5e3", -1500.0), ("1e3", 1000.0), ("012", "012"), ("~", None)],
    ids=str,
)
def test_numbers_are_those_of_yaml_1_2(written: str, value: object) -> None:
    """Digits behind a zero are text, as in an account number."""
    read = read_text(f"a: {written}").data["a"]

    assert (read, type(read)) == (value, type(value))


def test_merges_and_aliases_lay_a_mapping_under_another() -> None:
    """What is written wins over what is merged, and lines are those of the writing."""
    document = read_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n")

    assert document.data["b"] == {"x": 1, "y": 3}
    assert document.line_of(("b", "y")) == 4


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"a: \xff", "not UTF-8"),
        (b"a: 1\n" * (3 * 1024 * 1024), "larger than 10 MB"),
        (None, "check the path"),
    ],
    ids=["encoding", "size", "absent"],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, raw: bytes | None, words: str) -> None:
    """The error holds the file as the user named it."""
    path = tmp_path / "mesh.yaml"
    if raw is not None:
        path.write_bytes(raw)

    with pytest.raises(ConfigurationError, match=words) as caught:
        read_file(path)

    assert caught.value.problems[0].file == str(path)
