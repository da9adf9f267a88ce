"""Forms with files, as clients send recordings (RFC 7578); the whole body is in memory, within the server's limit."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message

MAX_PARTS = 64
MAX_HEAD_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form.

    Attributes:
        name: Of the field.
        content: Its bytes.
        filename: What the client calls the file; None for a field that is none.
        content_type: As the client says; empty when it does not.
    """

    name: str
    content: bytes
    filename: str | None = None
    content_type: str = ""

    @property
    def text(self) -> str:
        """What a field that is no file holds.

        Raises:
            ValueError: It is no UTF-8.
        """
        return self.content.decode("utf-8")


def parse_form(content_type: str, body: bytes) -> list[Part]:
    """Return the fields of a form, in the order they were sent.

    Raises:
        ValueError: It is no form, or a broken one; says what is wrong.
    """
    boundary = _parameter(content_type, "boundary", header="content-type")
    if not boundary or not boundary.isascii():
        raise ValueError("the form has no boundary")
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("ascii"))
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise ValueError("the form is not whole: its last boundary is missing")
    if len(pieces) - 2 > MAX_PARTS:
        raise ValueError(f"the form has more than {MAX_PARTS} fields")
    return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> Part:
    head, found, content = piece.partition(b"\r\n\r\n")
    if not found or len(head) > MAX_HEAD_BYTES:
        raise ValueError("a field of the form has no end of its headers")
    headers: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    disposition = headers.get("content-disposition", "")
    field = _parameter(disposition, "name", header="content-disposition")
    if not disposition.lower().startswith("form-data") or field is None:
        raise ValueError("a field of the form has no name")
    filename = _parameter(disposition, "filename", header="content-disposition")
    return Part(field, content, filename, headers.get("content-type", ""))


def _parameter(value: str, name: str, *, header: str) -> str | None:
    """Return a parameter of a header, unquoted; an encoded one (``filename*``) decoded."""
    message = Message()
    message[header] = value
    found = message.get_param(name, header=header)
    if isinstance(found, tuple):
        charset, _, text = found
        return text.encode("latin-1", "replace").decode(charset or "utf-8", "replace")
    return found
