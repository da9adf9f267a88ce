"""The key of a provider is seen in the header of a request and nowhere else, whatever goes wrong."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import traceback
from types import FrameType, TracebackType
from typing import Any

import pytest

from modelmesh.errors import ModelMeshError
from modelmesh_cdk.testing import faults, refused_url
from modelmesh_cdk.testing.faults import CLOSE, RecordedRequest


def echo(status: int) -> Any:
    """Answer with an error that repeats the request's headers, as some gateways do."""

    def step(request: RecordedRequest) -> Any:
        said = {"error": {"message": f"bad request: {dict(request.headers)}", "code": request.headers["authorization"]}}
        return [faults.response(json.dumps(said).encode(), status)]

    return step


def echo_in_stream(request: RecordedRequest) -> Any:
    """Repeat the key in an error event after some content."""
    error = {"error": {"message": f"who is {request.headers['authorization']}?", "code": None}}
    return faults.events(faults.chunk(text="Hel"), error)(request)


FAULTS = {
    "no HTTP": lambda _: [b"220 mail.example ESMTP\r\n\r\n", CLOSE],
    "a huge header": faults.huge_header(),
    "a bad header": lambda _: [b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", CLOSE],
    "a bad length": lambda _: [b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}", CLOSE],
    "reset": faults.reset(),
    "reset mid body": faults.reset("mid_body"),
    "close": faults.close(),
    "hang": faults.hang(),
    "hang mid body": faults.hang("mid_body"),
    "html": faults.body(b"<html>"),
    "redirect": faults.redirect("http://elsewhere.invalid/"),
    "broken gzip": lambda _: [faults.response(b"no", headers={"content-encoding": "gzip"})],
    "echo 400": echo(400),
    "echo 401": echo(401),
    "echo 429": echo(429),
    "echo 500": echo(500),
    "echo in a stream": echo_in_stream,
    "cut stream": faults.stream("Hel", end="cut"),
}


def spellings(secret: str) -> list[str]:
    """Return what a leak may look like: the key, parts of it, and its usual encodings."""
    raw = secret.encode()
    parts = [secret[start : start + 12] for start in range(0, len(secret) - 12, 4)]
    return [*parts, base64.b64encode(raw).decode()[:-4], raw.hex()]


def shown_by(error: BaseException, *, locals_too: bool = True) -> str:
    """Return all that a report of this exception may print: texts, reprs, attributes, and the locals of its frames."""
    shown: list[str] = ["".join(traceback.format_exception(error))]
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        shown += [repr(each), str(each), repr(each.args), repr(vars(each))]
        shown += locals_of(each.__traceback__) if locals_too else []
        pending += [each.__cause__, each.__context__, getattr(each, "last_error", None)]
    return "\n".join(shown)


def locals_of(trace: TracebackType | None) -> list[str]:
    """Return the locals of a traceback's frames, except those of tests and of the fault server."""
    shown = []
    while trace is not None:
        frame: FrameType = trace.tb_frame
        if "tests/faults" not in frame.f_code.co_filename:
            shown += [repr(value) for value in frame.f_locals.values()]
        trace = trace.tb_next
    return shown


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("step", list(FAULTS.values()), ids=list(FAULTS))
def test_the_key_stands_in_no_exception(
    world: Any, canary: str, step: Any, is_streamed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """R20, F39: not in its text, attributes, causes, nor in the locals of any frame it went through."""
    world.provider(default=step)
    world.build(timeouts={"connect": 1, "total": 0.1})

    with pytest.raises(ModelMeshError) as caught:
        list(world.stream()) if is_streamed else world.ask()

    # The pieces of a stream are locals while they are read: of a key that comes back in one, only texts are free.
    is_in_pieces = is_streamed and step is echo_in_stream
    shown = shown_by(caught.value, locals_too=not is_in_pieces) + "".join(capfd.readouterr())
    assert [part for part in spellings(canary) if part in shown] == []


@pytest.mark.parametrize("url", ["refused", "http://nobody.invalid/v1"], ids=["refused", "no such host"])
def test_the_key_stands_in_no_exception_of_a_connection_that_never_was(world: Any, canary: str, url: str) -> None:
    """R20: the same where no answer came at all."""
    world.elsewhere(refused_url() if url == "refused" else url)

    with pytest.raises(ModelMeshError) as caught:
        world.ask()

    shown = shown_by(caught.value)
    assert [part for part in spellings(canary) if part in shown] == []


def test_the_key_stands_in_no_log_line(
    world: Any, canary: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """R20: with everything logged at its fullest, by us and by the libraries below, no line holds the key."""
    caplog.set_level(logging.DEBUG)
    for name, step in FAULTS.items():
        if name != "echo 400":  # it would end the walk
            world.provider(default=step)
    observability = {
        "connector": "modelmesh.console.v1",
        "logging": {"level": "full"},
        "tracing": {"connector": "modelmesh.console.v1", "min_severity": "debug"},
    }
    world.build(timeouts={"total": 0.1}, deadline=60, sections={"observability": observability})

    with pytest.raises(ModelMeshError):
        world.ask(f"my key is {canary}")
    with pytest.raises(ModelMeshError):
        list(world.stream(f"my key is {canary}"))
    world.mesh.shutdown()

    written = "".join(capfd.readouterr()) + caplog.text
    assert "server_error" in written or "500" in written
    assert [part for part in spellings(canary) if part in written] == []


def test_the_key_stands_in_no_repr_and_no_text_of_the_mesh(world: Any, canary: str) -> None:
    """R20: nothing that a person prints while looking around shows the key."""
    world.provider()
    world.ask()
    mesh, router = world.mesh, world.mesh.get_router()
    provider = mesh.get_registry().list_models()[0].provider
    things = [mesh, router, provider, provider.connector, provider.connector.config, *router.list_pools()]

    shown = "".join(
        [repr(thing) + str(thing) for thing in things]
        + [
            mesh.describe(),
            str(mesh.pool_status()),
            str(mesh.virtual_models()),
            provider.connector.config.model_dump_json(),
        ]
    )

    assert canary[:12] not in shown


def test_the_key_stands_in_no_receipt(world: Any, canary: str) -> None:
    """R20: what a caller stores about a request holds reasons, and these no key."""
    for name in ("echo 401", "echo 500", "echo 429"):
        world.provider(FAULTS[name])
    world.provider("fine")

    receipt = world.ask().metadata["receipt"]

    assert len(receipt.attempts) == 4
    assert canary[:12] not in repr(receipt) + str(receipt.attempts)


def test_an_error_can_be_sent_to_another_process_without_the_key(world: Any, canary: str) -> None:
    """R20: a pickled error, as task queues keep it, holds no key."""
    world.provider(default=echo(500))

    with pytest.raises(ModelMeshError) as caught:
        world.ask()

    assert canary[:12].encode() not in pickle.dumps(caught.value.args)
    assert canary[:12].encode() not in pickle.dumps(caught.value.last_error.args)


def test_the_key_goes_in_one_header_and_nowhere_else(world: Any, canary: str) -> None:
    """F39: not in the URL, not in the body, not in a second header."""
    server = world.provider()
    world.ask()

    (request,) = server.requests

    assert request.headers["authorization"] == f"Bearer {canary}"
    rest = {name: value for name, value in request.headers.items() if name != "authorization"}
    assert canary not in repr(rest) + request.path + request.body.decode()


def test_no_key_of_one_provider_reaches_another(world: Any, canary: str) -> None:
    """R21: a rotated request takes the prompt along, and no credential."""
    first, second = world.provider(default=500), world.provider("fine")
    keys = {"p0": {"api_key": "the-key-of-the-first"}, "p1": {"api_key": canary}}
    world.build(providers=keys)

    world.ask()

    sent = [server.requests[0].headers["authorization"] for server in (first, second)]
    assert sent == ["Bearer the-key-of-the-first", f"Bearer {canary}"]
    assert "the-key-of-the-first" not in repr(second.requests)
