"""Settings of the PostgreSQL store: what cannot work is refused, early where it can be, and with what to write."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

psycopg = pytest.importorskip("psycopg")
config = pytest.importorskip("modelmesh_plugins.state_stores.postgres.config")
failures = pytest.importorskip("modelmesh_plugins.state_stores.postgres.failures")


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


@pytest.mark.parametrize("rest", ["host/mesh", "host:5432/mesh", "one:5432,two/mesh", "/mesh?host=/run/postgresql"])
def test_a_url_that_can_work_is_taken(rest: str) -> None:
    """With one host, several, or a socket."""
    assert config.PostgresConfig(url=f"postgresql://mesh@{rest}").options()["dbname"] == "mesh"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ('invalid sslmode value: "hunter22"', "a value for sslmode that is none"),
        ('invalid integer value "hunter22" for connection option "keepalives"', "a value for keepalives that is none"),
        ("server does not support SSL, but SSL was required", "speaks no TLS"),
        ('root certificate file "/none" does not exist', "name its authority by sslrootcert"),
        ('could not read certificate file "/none": no start line', "see sslcert and sslkey"),
        ('private key file "/none" does not exist', "see sslcert and sslkey"),
    ],
    ids=["sslmode", "number", "no TLS", "root certificate", "certificate", "key"],
)
def test_what_the_library_refuses_is_told(words: str, remedy: str) -> None:
    """It is no server that cannot be reached, and asking again helps nobody."""
    told = failures.failure("host:5432/mesh", psycopg.OperationalError(f"connection is bad: {words}"))

    assert remedy in told.message
    assert "hunter22" not in told.message
    assert not told.retryable


def test_limits_of_time_may_have_a_unit() -> None:
    """As other durations in the section do."""
    made = config.PostgresConfig(url="postgresql://mesh@host/mesh", timeout="300ms", connect_timeout="3s")

    assert (made.timeout, made.connect_timeout) == (0.3, 3.0)
