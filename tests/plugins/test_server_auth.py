"""Bearer keys let in whoever has one of them."""

from __future__ import annotations

import hmac

import pytest
from pydantic import SecretStr

from modelmesh_plugins.server.auth import BearerKeys
from modelmesh_plugins.server.errors import ApiError

KEYS = BearerKeys([SecretStr("first-key"), SecretStr("schlüssel"), SecretStr(" padded \n")])

ACCEPTED = {
    "first": b"Bearer first-key",
    "another": "Bearer schlüssel".encode(),
    "scheme in lower case": b"bearer first-key",
    "more space": b"  Bearer   first-key ",
    "written with space around": b"Bearer padded",
}
REFUSED = {
    "none": None,
    "empty": b"",
    "wrong": b"Bearer other-key",
    "a beginning": b"Bearer first",
    "longer": b"Bearer first-key1",
    "other case": b"Bearer FIRST-KEY",
    "two at once": b"Bearer first-key padded",
    "no key": b"Bearer ",
    "no scheme": b"first-key",
    "other scheme": b"Basic first-key",
    "no text": b"Bearer \xff\xfe",
}


@pytest.mark.parametrize("header", ACCEPTED.values(), ids=ACCEPTED)
def test_each_key_lets_its_caller_in(header: bytes) -> None:
    """Whatever the scheme's case and the space around the key."""
    KEYS.check(header)


@pytest.mark.parametrize("header", REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused(header: bytes | None) -> None:
    """401, and neither what was sent nor what would fit is told."""
    with pytest.raises(ApiError) as caught:
        KEYS.check(header)

    assert caught.value.status == 401
    assert caught.value.code == "invalid_api_key"
    assert "first" not in caught.value.message


def test_without_keys_everybody_is_let_in() -> None:
    """A server on loopback may do without."""
    BearerKeys([]).check(None)


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the place of the fitting key nor its length shows in the time."""
    lengths: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def counting(left: bytes, right: bytes) -> bool:
        lengths.append((len(left), len(right)))
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", counting)

    KEYS.check(b"Bearer first-key")

    assert lengths == [(32, 32)] * 3


def test_keys_are_not_shown() -> None:
    """A debugger sees how many there are."""
    assert repr(KEYS) == "BearerKeys(3)"
