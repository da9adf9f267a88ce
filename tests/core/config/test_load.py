"""Loading: what a good file becomes, and what each kind of mistake is answered with."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from modelmesh._engine.build_pools import pool_policy
from modelmesh.config.configuration import Configuration
from modelmesh.errors import ConfigurationError, Problem

Load = Callable[..., Configuration]

CANARY = "sk-canary-4711-do-not-show"

BASE = """\
providers:
  acme.chat.v1:
    api_key: ${secrets:ACME_KEY}
models:
  m:
    provider: acme.chat.v1
    capabilities: [chat-completion]
"""
"""Seven lines; what a case adds begins in line 8."""

POOL = "pools:\n  chat-completion:\n"
ENVIRON = {"ACME_KEY": CANARY}


def problems(load: Load, text: str) -> tuple[Problem, ...]:
    """Load what must not load, and return what was found."""
    with pytest.raises(ConfigurationError) as caught:
        load(text, ENVIRON)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(caught.value.problems)
    assert CANARY not in shown
    return caught.value.problems


@pytest.mark.parametrize(
    ("added", "line", "path", "words"),
    [
        (POOL + "    strategey: round-robin\n", 10, "pools.chat-completion.strategey", "did you mean 'strategy'"),
        (POOL + "    deadline: 3 weeks\n", 10, "pools.chat-completion.deadline", "such as 500ms"),
        (POOL + "    max_attempts: lots\n", 10, "pools.chat-completion.max_attempts", "whole number"),
        (POOL + "    strategy: round-robbin\n", 10, "pools.chat-completion.strategy", "modelmesh.round-robin.v1"),
        (POOL + "    models: [mm]\n", 10, "pools.chat-completion.models[0]", "unknown model 'mm'"),
        (POOL + "    providers: [acme]\n", 10, "pools.chat-completion.providers[0]", "acme.chat.v1"),
        (POOL + "    capability: chat-completoin\n", 10, "pools.chat-completion.capability", "chat-completion"),
        (POOL + "    session_timeout: 30m\n", 10, "pools.chat-completion.session_timeout", "unknown key"),
        (POOL + "    model_priority: [m]\n", 10, "pools.chat-completion.model_priority", "does not read it"),
        (POOL + "    fallback_strategy: error\n", 10, "pools.chat-completion.fallback_strategy", "does not read it"),
        (POOL + "    priority: 1\n    priority: 2\n", 11, "pools.chat-completion.priority", "first in line 10"),
        (POOL + "    retry: {initial_delay: 1h}\n", 10, "pools.chat-completion.retry", "longer than max_delay"),
        ("pools:\n  nowhere: {}\n", 9, "pools.nowhere", "needs capability:, models: or selector:"),
        ("pools:\n  text-to-image: {}\n", 9, "pools.text-to-image", "no configured model can ever be"),
        (POOL + "    timeouts: {total: 0s}\n", 10, "pools.chat-completion.timeouts.total", "greater than 0"),
        (POOL + "discovery: {}\n", 10, "discovery", "not supported yet"),
        (POOL + "proxy: {auth: {enabled: true}}\n", 10, "proxy.auth", "at least one token"),
        (POOL + "proxy: {auth: {tokens: ['${secrets:NOPE}']}}\n", 10, "proxy.auth.tokens[0]", "'NOPE' is not in"),
        (POOL + "storage: {connector: redis}\n", 10, "storage.connector", "modelmesh.memory.v1"),
    ],
    ids=lambda value: value.strip().splitlines()[-1].strip()[:40] if isinstance(value, str) and "\n" in value else "",
)
def test_a_mistake_is_named_with_its_line_its_path_and_a_remedy(
    load: Load, added: str, line: int, path: str, words: str
) -> None:
    """One mistake is one problem, at the place where it was written."""
    (problem,) = problems(load, BASE + added)

    assert (problem.file, problem.line, problem.path) == ("mesh.yaml", line, path)
    assert words in problem.message


def test_all_mistakes_come_at_once_in_document_order(load: Load) -> None:
    """Nobody has to fix a file one error at a time."""
    found = problems(load, BASE + POOL + "    deadline: soon\n    strategey: x\nstorage: {encryption: {}}\n")

    assert [problem.line for problem in found] == [10, 11, 12]


@pytest.mark.parametrize(
    "text",
    [
        f"providers:\n  acme.chat.v1: {{api_kye: {CANARY}}}\n",
        f"providers:\n  acme.chat.v1: {{timeout: {CANARY}}}\n",
        f"providers:\n  acme.chat.v1: {{api_key: [{CANARY}]}}\n",
        f"providers:\n  acme.chat.v1: {CANARY}\n",
        f"{BASE}{POOL}    deadline: {CANARY}\n",
        f"{BASE}{POOL}    retry: {CANARY}\n",
        f"{BASE}{POOL}    retry: {{backoff: {CANARY}}}\n",
        f"{BASE}{POOL}proxy: {{auth: {{tokens: {CANARY}}}}}\n",
        f"{BASE}{POOL}    timeouts: {{total: '${{secrets:ACME_KEY}}'}}\n",
    ],
    ids=["misspelt", "number", "list", "entry", "duration", "section", "choice", "tokens", "reference"],
)
def test_a_key_in_the_wrong_place_is_never_repeated(load: Load, text: str) -> None:
    """Errors describe values without showing them."""
    assert problems(load, text)


def test_secrets_reach_settings_and_stay_out_of_reprs(load: Load) -> None:
    """A resolved key is in the connector's settings, known to redaction, and nowhere in text."""
    configuration = load(BASE + POOL, ENVIRON)

    assert configuration.providers["acme.chat.v1"].settings.api_key.get_secret_value() == CANARY
    assert configuration.known_secrets() == {CANARY}
    assert CANARY not in repr(configuration) + str(configuration.model_dump())


def test_a_key_written_in_plain_text_is_known_to_redaction(load: Load) -> None:
    """Redaction does not depend on where the key came from."""
    configuration = load(BASE.replace("${secrets:ACME_KEY}", "plain-key-1") + POOL)

    assert "plain-key-1" in configuration.known_secrets()


@pytest.mark.parametrize(
    ("alternate", "flat"),
    [
        ("hierarchy_node: chat-completion", "capability: chat-completion"),
        ("rotation: {policy: round-robin}", "strategy: round-robin"),
        ("rotation: {deactivation: {retry_limit: 7}}", "deactivation: {retry_limit: 7}"),
        ("retry: {non_retryable: [418]}", "retry: {non_retryable_codes: [418]}"),
        ("allowed_providers: [acme.chat.v1]", "providers: [acme.chat.v1]"),
    ],
    ids=["capability", "strategy", "deactivation", "retry", "providers"],
)
def test_other_spellings_mean_the_flat_one(load: Load, alternate: str, flat: str) -> None:
    """What other documents write is understood."""
    assert load(f"{BASE}{POOL}    {alternate}\n", ENVIRON).pools == load(f"{BASE}{POOL}    {flat}\n", ENVIRON).pools


def test_both_spellings_with_different_values_are_an_error(load: Load) -> None:
    """Neither wins in silence; the other's line is named."""
    (problem,) = problems(load, BASE + POOL + "    strategy: round-robin\n    rotation: {policy: priority-selection}\n")

    assert problem.line == 11
    assert "line 10" in problem.message


def test_a_strategy_gets_its_own_keys(load: Load) -> None:
    """Keys of the strategy's settings model stand in the pool and reach the strategy."""
    pool = load(BASE + POOL + "    strategy: priority-selection\n    model_priority: [m]\n", ENVIRON).pools[
        "chat-completion"
    ]

    assert pool.strategy_settings.model_priority == ("m",)
    assert pool.fallback_strategy == "modelmesh.round-robin.v1"


def test_the_engine_reads_every_rule_of_a_pool(load: Load) -> None:
    """Names and units of the configuration are those the engine asks for."""
    policy = pool_policy(load(BASE + POOL + "    retry: {initial_delay: 250ms}\n", ENVIRON).pools["chat-completion"])

    assert (policy.retry.initial_delay, policy.deadline, policy.timeouts.connect) == (0.25, 600.0, 5.0)


def test_parts_without_a_connector_share_the_default_one(load: Load) -> None:
    """Events and statistics go to the section's connector, the log to its own."""
    section = load(BASE + POOL + "observability: {logging: {connector: 'null'}}\n", ENVIRON).observability

    assert section is not None
    assert [(part, target.connector) for part, target in section.targets()] == [
        ("events", "modelmesh.console.v1"),
        ("logging", "modelmesh.null.v1"),
        ("statistics", "modelmesh.console.v1"),
    ]


def test_a_wrong_type_hides_no_dangling_reference(load: Load) -> None:
    """Everything is reported at once, in the document's order, and nothing that only follows from it."""
    text = (
        BASE.replace("[chat-completion]", "[chat-completoin]")
        + "  n: {provider: acme, capabilities: 5}\n"
        + POOL
        + "    deadline: soon\n    models: [x]\n    include: 7\n"
        + "observability: {events: {filter: [rotatoin]}}\n"
    )

    found = problems(load, text)

    assert [problem.line for problem in found] == [7, 8, 8, 11, 12, 13, 14]
    assert {problem.path for problem in found} == {
        "models.m.capabilities[0]",
        "models.n.provider",
        "models.n.capabilities",
        "pools.chat-completion.deadline",
        "pools.chat-completion.models[0]",
        "pools.chat-completion.include",
        "observability.events.filter[0]",
    }


@pytest.mark.parametrize(
    ("added", "path"),
    [
        (POOL + "    capability: '${secrets:ACME_KEY}'\n", "pools.chat-completion.capability"),
        (POOL + "    deadline: '${secrets:ACME_KEY}'\n", "pools.chat-completion.deadline"),
        (POOL + "routing: {allow_model_names: '${secrets:ACME_KEY}'}\n", "routing.allow_model_names"),
        ("  n: {provider: acme.chat.v1, capabilities: ['${secrets:ACME_KEY}']}\n" + POOL, "models.n.capabilities[0]"),
        (POOL + "observability: {logging: {level: '${secrets:ACME_KEY}'}}\n", "observability.logging.level"),
    ],
    ids=["capability", "duration", "flag", "list", "choice"],
)
def test_a_secret_reference_elsewhere_says_where_they_are_read(load: Load, added: str, path: str) -> None:
    """It would be taken literally there."""
    found = {problem.path: problem.message for problem in problems(load, BASE + added)}

    assert "references are read in the settings of connectors" in found[path]


def test_a_variable_without_secrets_is_not_taken_literally(load: Load) -> None:
    """The commonest slip sends no request with a key that is no key."""
    (problem,) = problems(load, BASE.replace("secrets:", "") + POOL)

    assert "write ${secrets:ACME_KEY}" in problem.message


@pytest.mark.parametrize("connector", ["", "connector: memory, "], ids=["by default", "named"])
def test_a_setting_of_another_state_store_names_it(load: Load, catalogue: Any, connector: str) -> None:
    """A path without a connector is no mistaken path: the store that it belongs to is missing."""

    class Settings(BaseModel):
        path: str = ""

    catalogue.offer("state_stores", "modelmesh.file.v1", Settings)

    (problem,) = problems(load, BASE + POOL + f"storage: {{{connector}path: state.json}}\n")

    assert problem.path == "storage.path"
    assert "state store 'modelmesh.memory.v1' does not read it ('modelmesh.file.v1' does)" in problem.message


@pytest.mark.parametrize(
    "text",
    [
        POOL + "    strategy_instnce: x\n",
        POOL + "storage: {instanc: x}\n",
        POOL + "proxy: {resolvr: x}\nresolvr: x\n",
        POOL + "observability: {logging: {targt: x}}\n",
        POOL + "secrets: {instanc: x}\n",
    ],
    ids=["strategy", "storage", "root", "target", "secrets"],
)
def test_hints_offer_only_what_a_file_can_hold(load: Load, text: str) -> None:
    """Names of what is passed in code, or computed, are not suggested."""
    for problem in problems(load, BASE + text):
        offered = problem.message.split("; ", 1)[1]
        assert not any(name in offered for name in ("instance", "settings", "target", "resolver"))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("providers: {acme.chat.v1: {instance: x}}\n", "providers.acme.chat.v1.instance"),
        (BASE + POOL + "    strategy_instance: x\n", "pools.chat-completion.strategy_instance"),
        (BASE + POOL + "observability: {instance: {a: 1}}\n", "observability.instance"),
        (BASE + POOL + "resolver: x\n", "resolver"),
        (BASE + POOL + "    strategy_settings: {a: 1}\n", "pools.chat-completion.strategy_settings"),
        (BASE + POOL + "observability: {target: {connector: x}}\n", "observability.target"),
    ],
    ids=["provider", "strategy", "observability", "resolver", "settings", "target"],
)
def test_what_is_passed_in_code_cannot_be_written_in_a_file(load: Load, text: str, path: str) -> None:
    """It would be text where an object is meant."""
    assert path in [problem.path for problem in problems(load, text)]


@pytest.mark.parametrize(
    ("section", "path", "words"),
    [
        ("{connector: 'null', console: {colorize: true}}", "observability.console", "nothing reads this"),
        ("{console: {colourise: true}}", "observability.console.colourise", "did you mean 'colorize'"),
        ("{console: {colorize: maybe}}", "observability.console.colorize", "true or false"),
        ("{connector: console, colorize: maybe}", "observability.colorize", "true or false"),
        ("{console: {colorize: maybe}, colorize: true, routin: 1}", "observability.routin", "did you mean 'routing'"),
        ("{connector: null}", "observability.connector", "in quotes"),
        ("{tracing: {colorize: true}}", "observability.tracing.colorize", "none is named here"),
        ("{logging: {connector: consle}, console: {}}", "observability.logging.connector", "modelmesh.console.v1"),
    ],
    ids=["unused", "typo", "type", "beside", "overridden", "null", "no connector", "unknown"],
)
def test_connector_sections_are_checked_where_they_stand(load: Load, section: str, path: str, words: str) -> None:
    """A section of a connector's own name is validated when it serves, and refused when it serves nobody."""
    (problem,) = problems(load, f"{BASE}{POOL}observability: {section}\n")

    assert (problem.path, problem.line) == (path, 10)
    assert words in problem.message


def test_a_connectors_section_serves_every_part_that_names_it(load: Load) -> None:
    """What a part gives itself wins."""
    text = "observability: {connector: 'null', console: {colorize: false}, logging: {connector: console},"
    section = load(f"{BASE}{POOL}{text} routing: {{connector: console, colorize: true}}}}\n", ENVIRON).observability

    assert section is not None
    assert section.logging.target is not None
    assert section.routing.target is not None
    assert (section.logging.target.settings.colorize, section.routing.target.settings.colorize) == (False, True)


def test_a_heading_with_nothing_under_it_is_no_mistake(load: Load) -> None:
    """Sections whose lines are commented out are as good as absent."""
    assert load(BASE + POOL + "proxy:\nsecrets:\nobservability:\nstorage:\n", ENVIRON).observability is None


def test_a_switched_off_provider_is_not_looked_at(load: Load) -> None:
    """Its plugin and its key may be missing."""
    off = "  other.llm.v1: {enabled: false, api_key: '${secrets:NOPE}'}\n"

    assert load(BASE.replace("models:", off + "models:") + POOL, ENVIRON).providers["other.llm.v1"].enabled is False


def test_a_validator_that_repeats_a_secret_is_muted(load: Load, catalogue: Any) -> None:
    """Whatever a third party's connector says, a resolved secret is taken out of it."""

    class Settings(BaseModel):
        api_key: str

        @field_validator("api_key")
        @classmethod
        def _refuse(cls, value: str) -> str:
            raise ValueError(f"cannot use {value}")

    catalogue.offer("providers", "acme.chat.v1", Settings)

    with pytest.raises(ConfigurationError) as caught:
        load(BASE + POOL, ENVIRON)

    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(caught.value.problems)
    assert CANARY not in shown
    assert "cannot use ***" in shown
