"""Settings of the Redis store: what cannot work is refused when they are read, with what to write instead."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
from pydantic import ValidationError

redis_py = pytest.importorskip("redis.asyncio.connection")
redis = pytest.importorskip("modelmesh_plugins.state_stores.redis")


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("redis://host?socket_timeout=5", "'socket_timeout' cannot stand in the URL: set storage.timeout instead"),
        ("redis://host?timeout=5", "'timeout' cannot stand in the URL: set storage.timeout instead"),
        ("redis://host?socket_connect_timeout=5", "set storage.connect_timeout instead"),
        ("redis://host?protocol=3", "'protocol' cannot stand in the URL: leave it out"),
        ("redis://host?client_name=x", "'client_name' cannot stand in the URL: leave it out"),
        ("redis://host?decode_responses=True", "'decode_responses' cannot stand in the URL: leave it out"),
        ("redis://host?encoding=latin-1", "'encoding' cannot stand in the URL: leave it out"),
        ("redis://host?connection_class=x", "'connection_class' cannot stand in the URL: leave it out"),
        ("redis://host?max_connections=10", "one or two connections of each event loop"),
        ("redis://host?retry_on_timeout=yes", "the store itself decides what is tried again"),
        ("redis://host?port=99", "'port' cannot stand in the URL: write it before the question mark"),
        ("redis://host?ssl=true", "begin the URL with rediss:// instead"),
        ("redis://host?ssl_cert_reqs=none", "'ssl_cert_reqs' cannot stand in the URL: begin the URL with rediss://"),
        ("unix:///run/redis.sock?ssl_ca_certs=x", "'ssl_ca_certs' cannot stand in the URL"),
        ("unix:///run/redis.sock?socket_keepalive=1", "'socket_keepalive' cannot stand in the URL: leave it out"),
        ("rediss://host?ssl_cert_req=none", "did you mean 'ssl_cert_reqs'?"),
        ("rediss://host?ssl_cert_reqs=perhaps", "refuses the value of an option in the URL"),
        ("redis://host?protocol=3&max_connections=1", "'protocol' cannot .* option 'max_connections' cannot"),
    ],
    ids=lambda value: value.partition("?")[2] if "://" in value and "?" in value else "",
)
def test_an_option_that_cannot_stand_in_the_url_is_refused(url: str, remedy: str) -> None:
    """The option is named, and what to write instead; the password is not."""
    url = url.replace("://", "://:hunter22@", 1) if "unix" not in url else f"{url}&password=hunter22"

    with pytest.raises(ValidationError, match=remedy) as caught:
        redis.RedisConfig(url=url)

    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("password", ["12?hunter22=x", "12?hunter22"], ids=["like an option", "plain"])
def test_a_question_mark_in_the_password_is_told(password: str) -> None:
    """What follows it looks like an option, and is not shown."""
    with pytest.raises(ValidationError, match=r"in a password write \? as %3F") as caught:
        redis.RedisConfig(url=f"redis://user:{password}@host:6379/0")

    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("password", ["12@hunter22#x", "12#hunter22"], ids=["after an at sign", "after digits"])
def test_a_hash_in_the_password_is_told(password: str) -> None:
    """What stands before it would be taken for host or port, which messages name."""
    with pytest.raises(ValidationError, match="in a password write # as %23") as caught:
        redis.RedisConfig(url=f"redis://:{password}@host:6379/0")

    assert "12" not in str(caught.value)


@pytest.mark.parametrize("path", ["/mesh", "/0x1", "/-1", "/0/1", "/1 2", "/hunter22@host/0"])
def test_a_database_that_is_no_number_is_refused(path: str) -> None:
    """It would be database 0, and the limits in it somebody else's."""
    with pytest.raises(ValidationError, match="the number of a database, such as /0") as caught:
        redis.RedisConfig(url=f"rediss://host:6379{path}")

    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("path", ["", "/", "/3", "/%33"])
def test_a_database_may_be_left_out(path: str) -> None:
    """Then it is the first."""
    assert redis.RedisConfig(url=f"redis://host:6379{path}").place().startswith("host:6379/")


@pytest.mark.parametrize("url", ["redis://host", "unix:///run/redis.sock"], ids=["TCP", "unix"])
def test_a_certificate_authority_without_tls_is_refused(url: str) -> None:
    """Nobody should believe the connection is encrypted."""
    with pytest.raises(ValidationError, match="tls_ca_file is for TLS: begin url with rediss://"):
        redis.RedisConfig(url=url, tls_ca_file="ca.pem")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host:6380?db=3", {"host": "host", "port": 6380, "db": 3}),
        ("redis://host?username=user&password=p@ss", {"username": "user", "password": "p@ss"}),
        ("unix:///run/redis.sock?db=2&password=p@ss", {"path": "/run/redis.sock", "db": 2, "password": "p@ss"}),
        ("redis://host?socket_keepalive=no&health_check_interval=5", {"socket_keepalive": False}),
        ("rediss://host/1?ssl_ca_certs=ca.pem&ssl_certfile=own.pem&ssl_keyfile=own.key", {"db": 1}),
    ],
    ids=["database", "user", "unix", "connection", "TLS"],
)
def test_an_option_of_connections_goes_on_working(url: str, expected: dict[str, Any]) -> None:
    """Where the server is, who asks, and how TLS is spoken."""
    connection = redis.connection.make_connection(redis.RedisConfig(url=url))

    assert {name: getattr(connection, name) for name in expected} == expected


def test_options_of_tls_reach_it() -> None:
    """With those of the certificates the settings have no name for."""
    options = "ssl_cert_reqs=optional&ssl_check_hostname=no&ssl_min_version=772&ssl_ciphers=ALL"
    config = redis.RedisConfig(url=f"rediss://host?{options}", tls_ca_file="ca.pem")

    tls = redis.connection.make_connection(config).ssl_context

    assert (tls.ca_certs, tls.cert_reqs, tls.check_hostname) == ("ca.pem", ssl.CERT_OPTIONAL, False)
    assert (tls.min_version, tls.ciphers) == (ssl.TLSVersion.TLSv1_3, "ALL")


def test_a_server_is_asked_with_all_options_there_are(redis: Any) -> None:
    """Those that stand in a URL of TCP do no harm to calls or messages."""
    url = f"{redis.server.url}?socket_keepalive=1&socket_read_size=4096&health_check_interval=1"

    async def scenario() -> None:
        store = redis.make(url=url)
        listener = store.subscribe("news")
        try:
            await store.save("key", b"data")
            await store.publish("news", b"heard")
            assert await anext(listener) == b"heard"
            assert (await store.load("key")).data == b"data"
        finally:
            await listener.aclose()
            await store.close()

    asyncio.run(scenario())


def test_limits_of_time_may_have_a_unit() -> None:
    """As other durations in the section do."""
    config = redis.RedisConfig(timeout="300ms", connect_timeout="3s")

    assert (config.timeout, config.connect_timeout) == (0.3, 3.0)


def test_the_default_url_is_shown() -> None:
    """It is no secret, unlike what a URL of one's own may hold."""
    schema = redis.RedisConfig.model_json_schema()

    assert schema["properties"]["url"]["default"] == "redis://localhost:6379/0"
