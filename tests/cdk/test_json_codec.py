"""JSON to and from bytes, with orjson and without."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh_cdk import json_codec
from modelmesh_cdk.json_codec import decode_json, encode_json, not_finite


@pytest.fixture(params=[True, False], ids=["orjson", "standard library"], autouse=True)
def _codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with the ``fast`` extra and as if it were not installed."""
    if request.param:
        pytest.importorskip("orjson")
    monkeypatch.setattr(json_codec, "_FAST", request.param)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, None, True]}, b'{"a":[1,2.5,null,true]}'),
        ("é\u2028", '"é\u2028"'.encode()),
        (2**70, b"1180591620717411303424"),
        ({1: "a"}, b'{"1":"a"}'),
        ("\ud800é", '"\\ud800é"'.encode()),
        ((1, 2), b"[1,2]"),
    ],
    ids=ascii,
)
def test_values_are_written_without_spaces_as_utf_8(value: Any, text: bytes) -> None:
    """Also those that orjson leaves to the standard library, and texts that UTF-8 cannot hold."""
    assert encode_json(value) == text


@pytest.mark.parametrize("value", [{1, 2}, object(), b"x", {"a": {"b": 1j}}], ids=["set", "object", "bytes", "nested"])
def test_what_json_has_no_form_for_is_a_type_error(value: Any) -> None:
    """Whichever of the two writes it."""
    with pytest.raises(TypeError):
        encode_json(value)


@pytest.mark.parametrize(
    "text",
    [
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"",
        b"{",
        b"nul",
        b"\xff",
        b"\xef\xbb\xbf1",
        b'"\xe9"',
        '"x"'.encode("utf-16"),
        b"[" * 200_000,
        b'{"a":1}x',
    ],
    ids=lambda text: ascii(text[:8]),
)
def test_what_is_no_json_is_a_value_error(text: bytes) -> None:
    """Cut, in another encoding, or nested beyond reason."""
    with pytest.raises(ValueError, match=r"."):
        decode_json(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_a_number_that_json_lacks_is_written_as_null(value: float) -> None:
    """Beside what orjson leaves to the standard library as well: what goes out is always JSON."""
    assert encode_json({"a": [value, 1.5]}) == b'{"a":[null,1.5]}'
    assert encode_json(({"a": {"b": value}}, 2**70)) == b'[{"a":{"b":null}},1180591620717411303424]'


@pytest.mark.parametrize(
    ("value", "path"),
    [({"a": [1.0, {"b": math.nan}]}, "a[1].b"), ({"a": (2.0, "NaN", None, 10**400)}, None), (math.inf, "")],
    ids=["nested", "none", "itself"],
)
def test_the_place_of_such_a_number_is_found(value: Any, path: str | None) -> None:
    """So that an error can name it."""
    assert not_finite(value) == path


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


def test_what_is_written_reads_back_as_it_was() -> None:
    """Here and in the standard library."""

    @given(VALUES)
    def check(value: Any) -> None:
        text = encode_json(value)
        assert decode_json(text) == value
        assert json.loads(text) == value

    check()


def test_a_float_keeps_its_last_digit() -> None:
    """Figures such as 0.1 + 0.2 survive."""
    assert decode_json(encode_json(math.nextafter(0.3, 1.0))) == math.nextafter(0.3, 1.0)
