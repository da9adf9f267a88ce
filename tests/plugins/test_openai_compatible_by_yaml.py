"""A provider that speaks OpenAI's language, by YAML alone: how its key is sent, and what its statuses mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from modelmesh import ModelMesh
from modelmesh.errors import AllProvidersExhaustedError, ConfigurationError
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FaultServer


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A provider that is down."""
    with FaultServer(default=503) as running:
        yield running


def configuration(url: str, added: str = "", retry: str = "") -> dict[str, Any]:
    """Return a mesh with one provider, to which settings are added."""
    text = f"""\
providers: {{here: {{connector: openai-compatible, base_url: "{url}", api_key: "${{secrets:KEY}}", {added}}}}}
models: {{tiny: {{provider: here, capabilities: [chat-completion]}}}}
pools: {{chat-completion: {{retry: {{max_attempts: 2, initial_delay: 1ms, max_delay: 1ms, {retry}}}}}}}
"""
    data: dict[str, Any] = yaml.safe_load(text)
    return data


def ask(config: dict[str, Any]) -> None:
    """Ask for one chat, which fails."""
    with ModelMesh() as mesh:
        mesh.initialize(config, secrets={"KEY": "sk-canary-h8Rr21"})
        with pytest.raises(AllProvidersExhaustedError):
            mesh.get_router().complete("chat-completion", CompletionRequest([{"role": "user", "content": "hi"}]))


@pytest.mark.parametrize(
    ("added", "retry", "calls"),
    [
        ("", "", 3),
        ("error: {non_retryable_codes: [503]}", "", 1),
        ("error: {non_retryable_codes: [503]}", "retryable_codes: [503]", 3),
        ("max_retries: 0", "", 3),
    ],
    ids=["by default", "the provider's", "the pool's", "none of its own"],
)
def test_a_provider_says_after_which_statuses_it_may_be_asked_again(
    server: FaultServer, added: str, retry: str, calls: int
) -> None:
    """Unless the pool names the status itself."""
    ask(configuration(server.url, added, retry))

    assert len(server.requests) == calls


def test_a_key_is_sent_as_the_configuration_says(server: FaultServer) -> None:
    """In the header that the API reads, with the secret from its store."""
    ask(configuration(server.url, "auth: {method: header, name: x-api-key}"))

    headers = server.requests[0].headers
    assert headers["x-api-key"] == "sk-canary-h8Rr21"
    assert "authorization" not in headers


@pytest.mark.parametrize(
    ("added", "path", "said"),
    [
        ("auth: {metod: header}", "providers.here.auth.metod", "did you mean 'method'"),
        ("auth: {method: oauth}", "providers.here.auth.method", "is not supported yet"),
        ("auth: {method: header}", "providers.here.auth", "method header needs name"),
        ("error: {retryable: [418]}", "providers.here.error.retryable", "did you mean 'retryable_codes'"),
        ("batch: {supported: true}", "providers.here.batch.supported", "hands no batches over; remove it"),
        ("max_retries: 2", "providers.here.max_retries", "must be 0: the mesh itself repeats calls"),
    ],
    ids=["near match", "to come", "incomplete", "codes", "batches", "retries"],
)
def test_a_mistake_in_them_is_named(server: FaultServer, added: str, path: str, said: str) -> None:
    """With its place and what to do."""
    with ModelMesh() as mesh, pytest.raises(ConfigurationError) as caught:
        mesh.initialize(configuration(server.url, added), secrets={"KEY": "k"})

    (problem,) = caught.value.problems
    assert problem.path == path
    assert said in problem.message
