"""The one gate that keeps secrets out of logs, traces, events, statistics and error messages.

What is taken out: values under names that hold credentials; known secrets (every resolved one is known) whether
plain, URL-quoted, hexadecimal or base64; credentials in ``Authorization`` values and URL parameters; and anything
shaped like a provider key (``sk-…``).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

REDACTED = "***REDACTED***"

MIN_LENGTH = 8
"""Shorter values are not looked for inside text: they would blank ordinary words. Their names still redact them."""

_SECRET_NAME = re.compile(
    r"(?:^|[_\-.\s])(?:(?:api|auth|access|bearer)?[_\-]?(?:key|token)|secrets?|passwords?|passwd|pass|pwd|passphrase"
    r"|authorization|auth|jwt|dsn|credentials?|cookie|bearer|connection[_\-]?string)$"
    r"|^(?:x-)?(?:api|goog-api)-?key$|(?:api|access)[_\-]?key(?:s|[_\-]?id)?$|(?:api|auth|access|bearer)[_\-]?tokens?$"
    r"|(?<=[a-z0-9])(?-i:Key|Token|Secret|Password|Credentials?)$",
    re.IGNORECASE,
)
_STRONG = (
    r"(?:api[_\-\s]?keys?(?:\sprovided)?|[_\-]key|(?-i:[a-z0-9]Key)|access[_\-]?key[_\-]?id|[_\-]token|(?-i:[a-z0-9]Token)"
    r"|(?:api|auth|access|bearer)tokens?|secrets?|passwords?|passwd|passphrase|\bpwd|connection[_\-]?string|credentials?"
    r"|\bjwt|\bdsn|\bauth)"
)
"""Names whose value goes whatever it looks like."""
_NAMED = re.compile(
    r"(?:key(?:s|[_\-]?id)?(?:\sprovided)?|token|(?:api|auth|access|bearer)[_\-]?tokens|secrets?|passwords?|passwd"
    r"|passphrase|pwd|connection[_\-]?string|credentials?|jwt|dsn|auth)[\"'\\]*\s*[:=,]"
)
"""Finds such a name with something after it in lower-case text, several times as quickly as what takes it out."""
_NAME = r"(?-i:[A-Z_][A-Z0-9_]{0,63}|[a-z][a-z_.\-]{0,63}\d{0,2})"
"""What a secret is called in a reference to it; anything that looks less like words is taken for the secret itself."""
_REFERENCE = rf"\$\{{\s{{0,4}}(?:secrets?|env)\s{{0,4}}:\s{{0,4}}{_NAME}\s{{0,4}}\}}"
"""``${secrets:NAME}``, which says where a secret is and not what it is, also misspelt."""
_IN_REFERENCE = rf"(?!(?:(?<=\$\{{)|(?<=\$\{{\s))secrets?\s{{0,4}}:\s{{0,4}}{_NAME}\s{{0,4}}\}})"
"""Holds where no such reference has just begun: its own ``secrets:`` is no name with a value behind it."""
_EXAMPLE = r"password@host(?![\w@]|[.\-]\w)"
"""The end of ``redis://:password@host``, which shows how a URL is written; a real host is called otherwise."""
_FIGURE = r"(?!(?:null|none|true|false|\d+(?:\.\d+)?)\b|\*\*\*)"
"""What stays after such a name: figures, and what has been taken out before."""
_PATTERNS: tuple[tuple[tuple[str, ...] | None, re.Pattern[str], str], ...] = (
    # (one of what must stand in the lower-case text for it to match, None for a name that `_NAMED` finds; the pattern;
    # what takes the place of what it finds)
    (
        ("private key-----",),
        re.compile(r"(?is)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [^-]*-----|\Z)"),
        REDACTED,
    ),
    (("bearer", "basic"), re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=\-]{6,}"), r"\1 " + REDACTED),
    (
        ("authorization",),
        re.compile(
            r"(?i)(authorization[\"'\\]*\s*[:=,]\s*+(?:b(?=[\"']))?[\"'\\]*+)(?!(?:bearer|basic) \*\*\*|\*\*\*)"
            r"(token\s+|api-?key\s+)?((?:digest|negotiate|hmac|aws4)\S*\s[^\r\n\"']+|[^\s\"'\\,;}&]{4,})"
        ),
        r"\1\2" + REDACTED,
    ),
    (
        ("cookie",),
        re.compile(r"(?i)(\bcookie[\"'\\]*\s*[:=,]\s*b?[\"'\\]*)(?!\*\*\*)[^\r\n\"'\\]{4,}"),
        r"\1" + REDACTED,
    ),
    (
        ("key=", "token=", "sig=", "signature=", "auth=", "secret=", "password=", "credential=", "jwt="),
        re.compile(
            r"(?i)([?&][\w\-.]*(?:key|token|sig|signature|auth|secret|password|credential|jwt)=)(?!\*\*\*)[^&\s\"'#\\]+"
        ),
        r"\1" + REDACTED,
    ),
    (
        None,
        re.compile(
            # A quoted value to its end, also where the quotes are escaped; an unquoted one to the next blank.
            rf"(?i){_IN_REFERENCE}({_STRONG}(?:[\"'\\]*\s*[:=]\s*\[?\s*b?|[\"'\\]+\s*,\s*b?))"
            rf"(?:(\\*[\"']){_FIGURE}(?!{_REFERENCE}\\*[\"'])[^\"'\\\r\n]{{4,}}|{_FIGURE}[^\s\"'\\,;}}{{&)\]\[]{{4,}})"
        ),
        r"\1\2" + REDACTED,
    ),
    (
        None,
        # A word that means other things as well: only what looks like a credential goes.
        re.compile(
            r"(?i)(\b(?:keys?|token)[\"'\\]*\s*[:=,]\s*b?[\"'\\]*)"
            r"(?=[A-Za-z_+/=.~\-]{0,64}\d)(?=[\d_+/=.~\-]{0,64}[A-Za-z])[A-Za-z0-9_+/=.~\-]{12,}"
        ),
        r"\1" + REDACTED,
    ),
    (
        ("key ", "token ", "secret ", "password "),
        re.compile(r"(?i)(--[\w\-]*(?:key|token|secret|password)\s+)(?![*\-])[^\s\"']{8,}"),
        r"\1" + REDACTED,
    ),
    (
        ("://",),
        re.compile(
            r"(?i)\b([a-z][a-z0-9+.\-]{0,20}://[^\s/:@\"']*:)"
            rf"(?!\*\*\*|{_REFERENCE}@|{_EXAMPLE})[^\s/@\"']+@"
        ),
        r"\1" + REDACTED + "@",
    ),
    (("://",), re.compile(r"(://)[^\s/:@\"'*]{16,}@"), r"\1" + REDACTED + "@"),
    (
        ("sk", "pk", "rk", "xai", "hf", "r8", "fw", "pplx", "aiza"),
        re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|r8|fw|pplx|AIza)[-_]?[A-Za-z0-9][A-Za-z0-9_\-]{14,}\b"),
        REDACTED,
    ),
    (
        ("akia", "asia", "eyj", "gh", "xox", "glpat"),
        re.compile(
            r"\b(?:A[KS]IA[A-Z0-9]{16}|eyJ[\w\-]{8,512}\.[\w\-]{8,}(?:\.[\w\-]*)?|gh[opsur]_\w{20,}|github_pat_\w{20,}"
            r"|xox[abposr]-[\w\-]{10,}|glpat-[\w\-]{16,})"
        ),
        REDACTED,
    ),
)
_HINTS = (
    *("key", "token", "sk-", "secret", "sig", "://", "bearer", "basic", "passw", "auth", "cookie", "credential"),
    *("passphrase", "pwd", "connection", "jwt", "dsn", "sk_", "pk_", "rk_", "akia", "asia", "eyj", "ghp_", "gho_"),
    *("ghs_", "ghu_", "ghr_", "github_pat", "xox", "glpat"),
    *("pk-", "rk-", "gsk_", "xai-", "hf_", "r8_", "fw_", "pplx", "aiza"),
)
"""Text without any of these, in lower case, holds nothing that a pattern finds: most texts are done with quickly."""

_NUMBERS = frozenset({int, float, bool, type(None)})

_REMEMBERED = 4_096
_REMEMBERED_LENGTH = 64
_DEPTH = 32


def _is_number(text: str) -> bool:
    return len(text) <= 16 and not text.strip("0123456789abcdef")


class Redactor:
    """Takes secrets out of text and structures. Adding a value is rare, redacting frequent; any thread may do both.

    IDs, reasons and field names come again and again: short texts that turned out to be clean are remembered.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._secrets: tuple[str, ...] = ()
        self._known: dict[str, None] = {}
        self._pattern: re.Pattern[str] | None = None
        self._clean: set[str] = set()
        self._names: dict[str, tuple[str, bool]] = {}
        self._own = "\0"  # what no text begins with
        for value in known:
            self.add(value)

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} known values)"

    def add(self, secret: str) -> None:
        """Make a secret known, in every spelling it may turn up in."""
        if len(secret) < MIN_LENGTH:
            return
        self._secrets = (*self._secrets, secret)
        # A new one, not a longer one: another thread may be walking over it.
        known = dict.fromkeys((*self._known, *_spellings(secret)))
        longest_first = sorted(known, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(spelling) for spelling in longest_first))
        self._known = known
        # New ones, not emptied: whoever judges a text by the old pattern just now remembers it in the old ones.
        self._clean, self._names = set(), {}

    def trust(self, prefix: str) -> None:
        """Let pass unread what begins with this, which nobody else could have made, and is a hexadecimal number then.

        Request IDs are of this kind: each is new, so none of them is remembered, and every record has one.
        """
        self._own = prefix

    def text(self, text: str) -> str:
        """Return a text without secrets; the same object when there are none."""
        clean = self._clean
        if text in clean or (text.startswith(self._own) and _is_number(text[len(self._own) :])):
            return text
        redacted = text
        for spelling in self._known:
            # One after the other: a pattern of all of them takes two to three times as long to find nothing.
            if spelling in text:
                assert self._pattern is not None
                redacted = self._pattern.sub(REDACTED, text)
                break
        if "…" in redacted:
            redacted = self._without_beginnings(redacted)
        lowered = redacted.lower() if redacted.isascii() else redacted.casefold()
        for hint in _HINTS:
            if hint in lowered:
                redacted = _without_credentials(redacted, lowered)
                break
        if len(text) <= _REMEMBERED_LENGTH and redacted == text:
            if len(clean) >= _REMEMBERED:
                clean.clear()
            clean.add(text)
        return redacted

    def _without_beginnings(self, text: str) -> str:
        """Take out the beginning of a secret, in any spelling, wherever a text was cut."""
        *cut, rest = text.split("…")
        for place, part in enumerate(cut):
            whole = part.rstrip(".")
            for spelling in self._known:
                start = whole.rfind(spelling[:MIN_LENGTH], max(0, len(whole) - len(spelling)))
                if start >= 0 and spelling.startswith(whole[start:]):
                    cut[place] = f"{whole[:start]}{REDACTED}"
                    break
        return "…".join([*cut, rest])

    def value(self, value: Any, _depth: int = 0) -> Any:
        """Return any JSON-like value without secrets, as new containers; other objects become redacted text."""
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            return self.text(value)
        if _depth > _DEPTH:
            return "…"
        if isinstance(value, Mapping):
            return self.mapping(value, _depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            seen = self._clean
            return [item if isinstance(item, str) and item in seen else self.value(item, _depth + 1) for item in value]
        return self.text(_described(value))

    def mapping(self, mapping: Mapping[Any, Any], _depth: int = 0) -> dict[str, Any]:
        """Return a mapping without secrets: text under a name that holds credentials goes, whatever it is."""
        quick = self._plain(mapping, _depth) if type(mapping) is dict else None
        if quick is not None:
            return quick
        clean: dict[str, Any] = {}
        names = self._names
        for key, value in mapping.items():
            known = names.get(key) if isinstance(key, str) else None
            name, is_secret = known or self._name(key)
            # Numbers stay: tokens_in and its like are figures, and no credential is a number.
            if value is None or isinstance(value, (int, float)):
                clean[name] = value
            elif is_secret:
                clean[name] = REDACTED
            else:
                clean[name] = self.value(value, _depth + 1)
        return clean

    def _plain(self, mapping: dict[Any, Any], depth: int) -> dict[str, Any] | None:
        """Return a copy of what holds no secret at its first level; None when the slower way has to look.

        Nearly every record is of this kind, and to find it so is three times as quick as to make it anew.
        """
        names, seen, text = self._names, self._clean, self.text
        nested: list[str] = []
        for key, value in mapping.items():
            judged = names.get(key)
            if judged is None or judged[1]:
                return None
            kind = type(value)
            if kind is str:
                if value not in seen and text(value) != value:
                    return None
            elif kind not in _NUMBERS:
                nested.append(key)
        clean = mapping.copy()
        for key in nested:
            clean[key] = self.value(clean[key], depth + 1)
        return clean

    def _name(self, key: object) -> tuple[str, bool]:
        """Return a field's name without secrets, and whether it holds a credential."""
        name = key if isinstance(key, str) else _described(key)
        names = self._names
        judged = (self.text(name), is_secret_name(name))
        if len(name) <= _REMEMBERED_LENGTH and judged[0] == name:
            if len(names) >= _REMEMBERED:
                names.clear()
            names[name] = judged
        return judged


def _without_credentials(text: str, lowered: str) -> str:
    is_named: bool | None = None
    for words, pattern, replacement in _PATTERNS:
        if words is None:
            if is_named is None:
                is_named = _NAMED.search(lowered) is not None
            if is_named:
                text = pattern.sub(replacement, text)
        elif any(word in lowered for word in words):
            text = pattern.sub(replacement, text)
    return text


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a credential."""
    return _SECRET_NAME.search(name) is not None


def _spellings(secret: str) -> set[str]:
    raw = secret.encode("utf-8", "surrogatepass")  # a variable of the environment may hold bytes that are no text
    spelled = {secret, quote(raw), quote(raw, safe=""), quote_plus(raw), raw.hex(), raw.hex().upper()}
    spelled |= {raw.hex(" "), raw.hex(":"), base64.b32encode(raw).decode().rstrip("=")}
    spelled |= {"".join(f"%{byte:02X}" for byte in raw), "".join(f"%{byte:02x}" for byte in raw)}
    # Inside JSON or a repr: a key of several lines is written with backslashes there.
    spelled |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    spelled |= {repr(secret)[1:-1], repr(raw)[2:-1]}
    # Inside a longer base64 text the bytes may start at any of three offsets; of each, the characters that do not
    # depend on the neighbours are looked for.
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).decode().rstrip("=")
        inner = encoded[-(-offset * 8 // 6) : len(encoded) - (1 if (len(raw) + offset) % 3 else 0)]
        if len(inner) >= MIN_LENGTH:
            spelled |= {inner, inner.replace("+", "-").replace("/", "_")}
    return spelled


def _described(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"
