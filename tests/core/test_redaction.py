"""Redaction: secrets go in every spelling, and everything else stays as it was."""

from __future__ import annotations

import base64
import json
import time
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.redaction import MIN_LENGTH, REDACTED, Redactor, is_secret_name

SECRET = "canary/+ 0123456789?&=ü\n'\""
SECRETS = st.text(st.characters(exclude_categories=("Cs",)), min_size=MIN_LENGTH, max_size=40)


@pytest.fixture
def redactor() -> Redactor:
    """One that knows the secret."""
    return Redactor([SECRET])


@pytest.mark.parametrize(
    "spelling",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote(SECRET),
        quote_plus(SECRET),
        SECRET.encode().hex(),
        SECRET.encode().hex().upper(),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        repr(SECRET),
        repr(SECRET.encode()),
    ],
    ids=[
        "plain",
        "quoted",
        "path",
        "form",
        "hex",
        "HEX",
        "base64",
        "urlsafe",
        "json",
        "json as it is",
        "repr",
        "bytes",
    ],
)
def test_a_known_secret_goes_in_every_spelling(redactor: Redactor, spelling: str) -> None:
    """And what surrounds it stays."""
    text = redactor.text(f"before {spelling} after")

    assert REDACTED in text
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert "canary" not in text
    assert spelling not in text


@given(st.binary(max_size=7), SECRETS, st.binary(max_size=7))
def test_a_known_secret_is_found_inside_longer_base64(before: bytes, secret: str, after: bytes) -> None:
    """As in a Basic ``Authorization`` value, wherever its bytes begin."""
    encoded = base64.b64encode(before + secret.encode() + after).decode()

    text = Redactor([secret]).text(encoded)

    assert len(secret.encode()) < 12 or text != encoded


@given(st.text(max_size=30), SECRETS, st.text(max_size=30))
def test_no_known_secret_survives_in_text(before: str, secret: str, after: str) -> None:
    """Whatever it is and whatever stands around it."""
    text = Redactor([secret]).text(before + secret + after)

    assert secret not in text.replace(REDACTED, "\0")


@given(st.lists(SECRETS, min_size=1, max_size=5))
def test_secrets_that_contain_one_another_go_whole(secrets: list[str]) -> None:
    """The longest is taken first."""
    secrets.append(secrets[0] + "-suffix-0")
    redactor = Redactor(secrets)

    assert "-suffix-0" not in redactor.text(f"[{secrets[-1]}]")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Authorization: Bearer abc.def-123456", f"Bearer {REDACTED}"),
        ("Basic dXNlcjpwYXNz", f"Basic {REDACTED}"),
        ("https://api/x?key=abcdef&alt=json", f"https://api/x?key={REDACTED}&alt=json"),
        ("https://api/x?a=b&access_token=abcdef#top", f"https://api/x?a=b&access_token={REDACTED}#top"),
        ('{"api_key": "abcdef"}', f'{{"api_key": "{REDACTED}"}}'),
        ("x-api-key: abcdef", f"x-api-key: {REDACTED}"),
        ("password=hunter22", f"password={REDACTED}"),
        ("key sk-proj-abcdefghijklmnop rejected", f"key {REDACTED} rejected"),
        ("gsk_abcdefghijklmnopqrst", REDACTED),
        ("hf_abcdefghijklmnopqrst", REDACTED),
        ("AIzaSyAbcdefghijklmnopqrstuvwxyz012345678", REDACTED),
        ("xai-abcdefghijklmnopqrst", REDACTED),
        ("redis://user:hunter2@host:6379/0", f"redis://user:{REDACTED}@host:6379/0"),
        ("git clone https://0123456789abcdef0123@host/x", f"https://{REDACTED}@host/x"),
        ("Authorization: Token 0123456789abcdef rejected", f"Authorization: Token {REDACTED} rejected"),
        ("Authorization: Digest username=u, response=0123", f"Authorization: {REDACTED}"),
        ("('authorization', 'abcdefgh')", f"('authorization', '{REDACTED}')"),
        ("[(b'x-api-key', b'abcdefgh')]", f"(b'x-api-key', b'{REDACTED}')"),
        ("Set-Cookie: session=abcdefgh; Path=/", f"Set-Cookie: {REDACTED}"),
        ("OPENAI_API_KEY=abcdefgh python x.py", f"OPENAI_API_KEY={REDACTED} python x.py"),
        ('{"clientSecret": "two words", "n": 1}', f'{{"clientSecret": "{REDACTED}", "n": 1}}'),
        (r"{\"api_key\": \"abcdefgh\"}", rf"{{\"api_key\": \"{REDACTED}\"}}"),
        ("{'aws_session_token': 'abcdefgh'}", f"{{'aws_session_token': '{REDACTED}'}}"),
        ("--hf-token abcdefgh --n 3", f"--hf-token {REDACTED} --n 3"),
        ("key=abcdef0123456789", f"key={REDACTED}"),
        ("https://x/?X-Amz-Signature=abcdef&a=b", f"?X-Amz-Signature={REDACTED}&a=b"),
        ("Incorrect API key provided: abcdefgh.", f"API key provided: {REDACTED}"),
        ("AKIAIOSFODNN7EXAMPLE", REDACTED),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjMifQ.dozjgNryP4", REDACTED),
        ("ghp_0123456789abcdefghijklmn", REDACTED),
        ("sk_live_0123456789abcdef", REDACTED),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- after", f"{REDACTED} after"),
    ],
)
def test_what_is_shaped_like_a_credential_goes_unknown_as_it_is(text: str, clean: str) -> None:
    """Headers, URL parameters, assignments, and provider keys by their prefix."""
    assert clean in Redactor().text(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the quick brown fox",
        "the token count was 12, the key idea is rotation",
        "the bearer of bad news",
        "https://api.acme.dev/v1/chat?model=small",
        "risk-assessment-of-long-hyphenated-words",
        "max_tokens=100, tokens_in=5",
        "ask-me-anything-you-want-to-know",
        '{"prompt_tokens": 12, "max_tokens": 4096, "api_key": null, "secret": false}',
        '{"token": "Hello", "logprob": -0.1}',
        "the token: rotate early and often",
        "keys: name, size, colour",
        "the secretary said so: no",
        "author: Mary",
        "a cookie recipe",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    """It is the same object: redacting costs nothing where there is nothing to redact."""
    assert Redactor([SECRET]).text(text) is text


@pytest.mark.parametrize(
    "text",
    [
        "would be taken literally; write ${secrets:OPENAI_API_KEY} for a secret",
        "${secret:OPENAI_API_KEY} would be taken literally; write ${secrets:OPENAI_API_KEY} for a secret",
        "a secret reference lacks its closing brace; write ${secrets:NAME}",
        "${ secrets : openai-key } and ${env:OPENAI_TOKEN}",
        'api_key: "${secrets:OPENAI_API_KEY}"',
        "password=${secrets:REDIS_PASSWORD}",
        "redis://:${secrets:REDIS_PASSWORD}@cache.acme.dev:6379/0",
        "a password may stand in it (redis://:password@host) or in the setting password",
        "postgresql://user:password@host:5432/name, or redis://user:password@host.",
    ],
)
def test_where_a_secret_is_and_how_it_is_written_stays(text: str) -> None:
    """A reference holds no secret, and neither does an example: a remedy without them cannot be followed."""
    assert Redactor([SECRET]).text(text) is text


@pytest.mark.parametrize(
    "text",
    [
        "write ${secrets:hunter2Hunter2}",
        "write ${secrets:a1b2c3d4e5f60718} for a secret",
        "write ${secrets:sk-abcdefghijklmnopqrst} for a secret",
        "secrets:HUNTERTWO",
        "secret: HUNTERTWO}",
        "{secrets:HUNTERTWO}",
        "${secrets:HUNTERTWO",
        "${secrets:NAME}, secret: hunter22",
        'api_key: "${secrets:NAME}hunter22"',
        'api_key: "${secrets:NAME} hunter22"',
        "api_key: 'hunter22${secrets:NAME}'",
        "redis://:hunter22@host",
        "redis://:password@cache.acme.dev",
        "redis://:password@host.acme.dev",
        "redis://:password@host-1:6379",
        "redis://:password1@host",
        "redis://:${secrets:NAME}hunter22@host",
    ],
)
def test_what_only_begins_like_a_reference_or_an_example_goes(text: str) -> None:
    """Whatever may be a value is one."""
    cleaned = Redactor().text(text)

    assert REDACTED in cleaned
    assert not any(value in cleaned for value in ("hunter2", "HUNTER", "a1b2", "sk-a", ":password", "hunter22"))


def test_a_known_secret_goes_in_a_reference_too() -> None:
    """Whoever has such a secret has it hidden wherever it stands."""
    assert Redactor(["password"]).text("redis://:password@host") == f"redis://:{REDACTED}@host"
    assert "HUNTERTWO" not in Redactor(["HUNTERTWO"]).text("write ${secrets:HUNTERTWO}")


@pytest.mark.parametrize("kept", [8, 12, len(SECRET) - 1])
@pytest.mark.parametrize("end", ["…", "...…"], ids=["dots", "dots twice"])
def test_the_beginning_of_a_secret_goes_where_a_text_was_cut(redactor: Redactor, kept: int, end: str) -> None:
    """Messages are shortened before they get here; half a key is too much as well."""
    text = redactor.text(f"the key {SECRET[:kept]}{end}")

    assert text == f"the key {REDACTED}…"


@pytest.mark.parametrize("spelled", [SECRET, SECRET.encode().hex(), base64.b64encode(SECRET.encode()).decode()])
def test_a_text_may_be_cut_in_its_middle_and_in_any_spelling(redactor: Redactor, spelled: str) -> None:
    """A short name of an error that was cut, and then its message."""
    text = redactor.text(f"HTTP 401 {spelled[:12]}…: go… away")

    assert text == f"HTTP 401 {REDACTED}…: go… away"


@pytest.mark.parametrize(
    "words",
    ["key=", "eyJ-", "a.", "secret ", "?a&", "api_key '", "authorization: ", "-----BEGIN PRIVATE KEY-----", "x://"],
)
def test_no_text_takes_long(words: str) -> None:
    """Made to be slow, a hundred kilobytes still take no second."""
    started = time.process_time()

    Redactor([SECRET]).text(words * (100_000 // len(words)) + "://")

    assert time.process_time() - started < 1.0


def test_redacting_twice_changes_nothing(redactor: Redactor) -> None:
    """What has gone through the gate may go through it again."""
    once = redactor.text(f"Bearer {SECRET[:6]} key=abcdefgh api_key: 'abcdefgh' {SECRET}")

    assert redactor.text(once) == once


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "API_KEY",
        "apikey",
        "x-api-key",
        "OPENAI_API_KEY",
        "Authorization",
        "proxy-authorization",
        "token",
        "access_token",
        "client_secret",
        "password",
        "Set-Cookie",
        "x-goog-api-key",
        "aws_secret_access_key",
        "accessToken",
        "clientSecret",
        "passphrase",
        "pwd",
        "auth",
        "api_keys",
        "authtoken",
        "access_key_id",
        "connection_string",
    ],
)
def test_names_that_hold_credentials_are_known(name: str) -> None:
    """In snake, kebab and camel case."""
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "tokens_in",
        "max_tokens",
        "total_tokens",
        "model",
        "monkey",
        "keyboard",
        "key_points",
        "tokenization",
        "tokens",
        "author",
        "",
    ],
)
def test_other_names_are_not(name: str) -> None:
    """Figures and words keep theirs."""
    assert not is_secret_name(name)


def test_structures_are_cleaned_through_and_through(redactor: Redactor) -> None:
    """Mappings, lists, tuples and sets become new containers; the given ones stay as they were."""
    given_value: dict[str, Any] = {
        "api_key": "short",
        "headers": MappingProxyType({"Authorization": ["Bearer x"]}),
        "items": [f"a {SECRET} b", (SECRET,), {SECRET}],
        SECRET: 1,
        f"{SECRET} token": "short",
        "tokens_in": 5,
        "token": 7,
        "secret": None,
        "fine": True,
    }
    before = repr(given_value)

    clean = redactor.value(given_value)

    assert clean == {
        "api_key": REDACTED,
        "headers": {"Authorization": REDACTED},
        "items": [f"a {REDACTED} b", [REDACTED], [REDACTED]],
        REDACTED: 1,
        f"{REDACTED} token": REDACTED,
        "tokens_in": 5,
        "token": 7,
        "secret": None,
        "fine": True,
    }
    assert repr(given_value) == before


class Stubborn:
    """Cannot be put into words."""

    def __str__(self) -> str:
        raise RuntimeError(SECRET)


def test_other_objects_become_redacted_text(redactor: Redactor) -> None:
    """One that cannot even be described is named by its type; bytes are no way out."""
    assert redactor.value(ValueError(f"bad {SECRET}")) == f"bad {REDACTED}"
    assert redactor.value(Stubborn()) == "<Stubborn>"
    assert "canary" not in redactor.value(SECRET.encode())
    assert "canary" not in json.dumps(redactor.value({1: {SECRET: Stubborn()}}))


def test_endless_structures_end(redactor: Redactor) -> None:
    """A list that holds itself is cut off."""
    endless: list[Any] = [SECRET]
    endless.append(endless)

    assert "canary" not in json.dumps(redactor.value(endless))


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
        max_leaves=10,
    )
)
def test_a_secret_anywhere_in_a_structure_is_gone(structure: Any) -> None:
    """However it is nested."""
    redactor = Redactor([SECRET])

    clean = redactor.value({"a": [structure, {"b": [SECRET, structure]}], SECRET: structure})

    assert "canary" not in json.dumps(clean)


def test_short_values_are_not_looked_for_in_text() -> None:
    """They would blank ordinary words; the names they stand under still redact them."""
    redactor = Redactor(["chat"])

    assert redactor.text("chat completion") == "chat completion"
    assert redactor.value({"password": "chat"}) == {"password": REDACTED}


def test_a_secret_that_is_no_text_can_be_known() -> None:
    """A variable of the environment may hold any bytes; Python reads them as lone surrogates."""
    redactor = Redactor(["canary\udcff0123456789"])

    assert redactor.text("a canary\udcff0123456789 b") == f"a {REDACTED} b"


def test_a_redactor_shows_no_secret(redactor: Redactor) -> None:
    """Not even in a debugger's list of variables."""
    assert "canary" not in repr(redactor) + str(redactor)


def test_a_secret_made_known_later_is_found_in_texts_judged_before() -> None:
    """What was clean until then is looked at again."""
    redactor = Redactor()
    record = {"note": "canary-0123456789", "canary-0123456789": 1}
    assert redactor.mapping(record) == record

    redactor.add("canary-0123456789")

    assert redactor.mapping(record) == {"note": REDACTED, REDACTED: 1}


def test_what_is_remembered_of_texts_is_bounded() -> None:
    """Each request brings an ID that never comes again; they leave no trace for good."""
    redactor = Redactor()

    for number in range(10_000):
        redactor.mapping({f"name{number}": f"text{number}"})

    assert len(redactor._clean) <= 4_096
    assert len(redactor._names) <= 4_096
    assert redactor.text("x" * 10_000) not in redactor._clean


def test_a_request_id_of_ones_own_passes_unread_and_nothing_that_only_looks_like_it() -> None:
    """What follows the trusted beginning must be a number, and a short one."""
    redactor = Redactor(["canary-secret-value"])
    redactor.trust("req_0123456789ab_")

    assert redactor.text("req_0123456789ab_1f") == "req_0123456789ab_1f"
    assert redactor.text("req_0123456789ab_canary-secret-value") == f"req_0123456789ab_{REDACTED}"
    assert redactor.text("req_0123456789ab_ sk-abcdefghijklmnopqrst").endswith(REDACTED)
