"""Settings of the PostgreSQL store: what cannot work is refused, early where it can be, and with what to write."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from pydantic import ValidationError

from modelmesh.errors import StateStoreError

psycopg = pytest.importorskip("psycopg")
config = pytest.importorskip("modelmesh_plugins.state_stores.postgres.config")
failures = pytest.importorskip("modelmesh_plugins.state_stores.postgres.failures")
store = pytest.importorskip("modelmesh_plugins.state_stores.postgres.store")


@pytest.mark.parametrize(
    ("rest", "remedy"),
    [
        ("host:abc/mesh", "a port is a whole number from 1 to 65535"),
        ("host:99999/mesh", "a port is a whole number from 1 to 65535"),
        ("one:5432,two:abc/mesh", "a port is a whole number from 1 to 65535"),
        ("/mesh?port=0", "a port is a whole number from 1 to 65535"),
        ("host/mesh?connect_timeout=5", "set storage.connect_timeout instead"),
        ("host/mesh?sslmod=require", "after a question mark parameters of libpq, such as sslmode"),
    ],
    ids=["words", "too large", "of several", "parameter", "timeout", "unknown parameter"],
)
def test_a_url_that_cannot_work_is_refused(rest: str, remedy: str) -> None:
    """The remedy is told; the password is not."""
    with pytest.raises(ValidationError, match=remedy) as caught:
        config.PostgresConfig(url=f"postgresql://mesh:hunter22@{rest}")

    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("password", ["12@hunter22", "12@hunter22/x", "12@hunter22?sslmode=x", "a@b@hunter22#x"])
def test_an_at_sign_in_the_password_is_told(password: str) -> None:
    """What follows it would be the host, which messages name."""
    with pytest.raises(ValidationError, match="in a password write @ as %40") as caught:
        config.PostgresConfig(url=f"postgresql://mesh:{password}@host:5432/mesh")

    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "mesh@host/mesh",
        "mesh@host:5432/mesh",
        "mesh@one:5432,two/mesh",
        "mesh@/mesh?host=/run/postgresql",
        "mesh:p%40ss@host/mesh",
        "host/mesh?user=me@there&password=p@ss",
    ],
)
def test_a_url_that_can_work_is_taken(url: str) -> None:
    """With one host, several, or a socket."""
    assert config.PostgresConfig(url=f"postgresql://{url}").options()["dbname"] == "mesh"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ('invalid sslmode value: "hunter22"', "a value for sslmode that is none"),
        ('invalid integer value "hunter22" for connection option "keepalives"', "a value for keepalives that is none"),
        ("server does not support SSL, but SSL was required", "speaks no TLS"),
        ('root certificate file "/none" does not exist', "name its authority by sslrootcert"),
        ('could not read certificate file "/none": no start line', "see sslcert and sslkey"),
        ('private key file "/none" does not exist', "see sslcert and sslkey"),
        ('FATAL:  unrecognized configuration parameter "hunter22"', "see its log, and the parameters of storage.url"),
    ],
    ids=["sslmode", "number", "no TLS", "root certificate", "certificate", "key", "options"],
)
def test_what_the_library_refuses_is_told(words: str, remedy: str) -> None:
    """It is no server that cannot be reached, and asking again helps nobody."""
    told = failures.failure("host:5432/mesh", psycopg.OperationalError(f"connection is bad: {words}"))

    assert remedy in told.message
    assert "hunter22" not in told.message
    assert not told.retryable


def test_a_host_that_is_no_name_cannot_be_reached() -> None:
    """As the error of a store, not of the library that looks names up."""

    async def scenario() -> None:
        made = store.PostgresStateStore(config.PostgresConfig(url="postgresql://mesh@a..b:1/mesh"))
        try:
            with pytest.raises(StateStoreError, match=r"at a\.\.b:1/mesh cannot be reached"):
                await made.load("key")
        finally:
            await made.close()

    asyncio.run(scenario())


def test_a_listener_goes_on_looking_for_a_host_that_is_no_name() -> None:
    """It may be one again, where names are looked up anew; meanwhile nothing is reported that nobody asked for."""
    said: list[Any] = []

    async def scenario() -> bool:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        made = store.PostgresStateStore(config.PostgresConfig(url="postgresql://mesh@a..b:1/mesh"))
        heard = made.subscribe("news")
        try:
            for _ in range(3):
                with pytest.raises(StateStoreError):
                    await made.load("key")
            return bool(made._listener._task.done())
        finally:
            await heard.aclose()
            await made.close()
            gc.collect()

    assert asyncio.run(scenario()) is False
    assert said == []


def test_limits_of_time_may_have_a_unit() -> None:
    """As other durations in the section do."""
    made = config.PostgresConfig(url="postgresql://mesh@host/mesh", timeout="300ms", connect_timeout="3s")

    assert (made.timeout, made.connect_timeout) == (0.3, 3.0)
