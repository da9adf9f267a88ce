"""What is left of limits: how much, until when, and for how long at this pace."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from modelmesh import ModelMesh
from modelmesh.interfaces.provider import RateLimitStatus
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, ScriptedProvider
from modelmesh_cdk.testing.scripted import answer
from modelmesh_plugins.commands.quota import command

SIX = datetime(2026, 11, 21, 6, tzinfo=UTC).timestamp()
MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC).timestamp()


def mesh_with(provider: ScriptedProvider, **limits: Any) -> ModelMesh:
    """Return a mesh of one model whose provider has these limits, at six in the morning."""
    mesh = ModelMesh(clock=FakeClock(time=SIX), environ={})
    mesh.initialize(
        {
            "providers": {"p": {"instance": provider, **limits}},
            "models": {
                "m": {"provider": "p", "capabilities": ["chat-completion"], "pricing": {"output_per_1k_tokens": 1.0}}
            },
            "pools": {"chat-completion": {}},
        }
    )
    return mesh


def ask(mesh: ModelMesh, times: int = 1) -> None:
    """Ask so many times."""
    for _ in range(times):
        request = CompletionRequest([{"role": "user", "content": "hi"}], metadata={"parameters": {"max_tokens": 100}})
        asyncio.run(mesh.get_router().acomplete("chat-completion", request))


def test_what_is_used_and_left_and_when_it_begins_anew() -> None:
    """In dollars for money, in requests for a quota."""
    provider = ScriptedProvider(default=answer(tokens=100))
    with mesh_with(provider, budget={"daily_limit": 1.0}, quota={"requests": 10, "reset_schedule": "daily"}) as mesh:
        ask(mesh, 3)
        money, requests = mesh.get_quota()

    assert (money.unit, round(money.spent, 6), round(money.left, 6)) == ("USD", 0.3, 0.7)
    assert (requests.unit, requests.spent, requests.left, requests.resets_at) == ("requests", 3, 7, MIDNIGHT)


def test_a_pace_that_ends_before_the_window_is_foretold() -> None:
    """Six of ten in six hours: the rest lasts four hours more."""
    with mesh_with(ScriptedProvider(), quota={"requests": 10, "reset_schedule": "daily"}) as mesh:
        ask(mesh, 6)
        (row,) = mesh.get_quota()

    assert row.runs_out_at == SIX + 4 * 3600


def test_a_pace_that_lasts_is_no_news() -> None:
    """One of a hundred in six hours reaches midnight with ease."""
    with mesh_with(ScriptedProvider(), quota={"requests": 100, "reset_schedule": "daily"}) as mesh:
        ask(mesh)
        (row,) = mesh.get_quota()

    assert row.runs_out_at is None


def test_what_providers_say_of_their_own_limits_is_kept() -> None:
    """The last figures of each."""
    status = RateLimitStatus(requests_remaining=7, requests_limit=10, reset_seconds=1.0)
    with mesh_with(ScriptedProvider([answer(rate_limits=status)])) as mesh:
        ask(mesh)
        (row,) = mesh.get_headroom()

    assert (row.provider, row.status) == ("p", status)


def test_the_command_reads_the_store(tmp_path: Path) -> None:
    """What one process used, another one shows."""
    file = tmp_path / "modelmesh.yaml"
    file.write_text(
        "providers: {here: {connector: modelmesh.simulator.v1, quota: {requests: 10, reset_schedule: daily}}}\n"
        "models: {tiny: {provider: here, capabilities: [chat-completion]}}\n"
        "pools: {chat-completion: {}}\n"
        f"storage: {{connector: modelmesh.sqlite.v1, path: {tmp_path / 'state.db'}}}\n"
    )
    with ModelMesh() as mesh:
        mesh.initialize(file)
        ask(mesh, 2)

    shown = CliRunner().invoke(command, [str(file)], standalone_mode=False).output
    (row,) = json.loads(CliRunner().invoke(command, [str(file), "--json"], standalone_mode=False).output)

    assert "the daily quota" in shown
    assert (row["spent"], row["left"]) == (2, 8)


@pytest.mark.parametrize("store", ["file", "sqlite"])
def test_the_command_shows_what_providers_said_to_other_processes(tmp_path: Path, store: str) -> None:
    """What is left, when it begins anew, and when it will be used up; nothing of it is configured here."""
    file = tmp_path / "modelmesh.yaml"
    file.write_text(
        "providers: {here: {connector: modelmesh.simulator.v1}}\n"
        "models: {tiny: {provider: here, capabilities: [chat-completion]}}\n"
        "pools: {chat-completion: {}}\n"
        f"storage: {{connector: modelmesh.{store}.v1, path: {tmp_path / 'state'}}}\n"
    )
    with ModelMesh() as mesh:
        mesh.initialize(file)
        status = RateLimitStatus(requests_remaining=7, requests_limit=10, tokens_remaining=0, reset_seconds=3_600.0)
        mesh.get_router().get_pool("chat-completion").members["tiny"].model.provider.take_rate_limits(status)

    shown = CliRunner().invoke(command, [str(file)], standalone_mode=False, env={"COLUMNS": ""}).output
    requests, tokens = json.loads(CliRunner().invoke(command, [str(file), "--json"], standalone_mode=False).output)

    assert "requests a window, as provider 'here' said" in shown
    assert (requests["spent"], requests["left"], requests["limit"]) == (3, 7, 10)
    assert (tokens["left"], tokens["runs_out_at"]) == (0, tokens["seen_at"])
    assert requests["resets_at"] == requests["seen_at"] + 3_600.0


def test_the_last_word_before_a_process_ends_is_kept(tmp_path: Path) -> None:
    """Though it came right after another one."""
    config = {
        "providers": {"p": {"instance": ScriptedProvider([_left(9), _left(3)])}},
        "models": {"m": {"provider": "p", "capabilities": ["chat-completion"]}},
        "pools": {"chat-completion": {}},
        "storage": {"connector": "file", "path": str(tmp_path / "state")},
    }
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(config)
        ask(mesh)
        before = mesh.get_headroom()  # that one is written
        ask(mesh)

    with ModelMesh(environ={}) as mesh:
        mesh.initialize(config)
        (row,) = mesh.get_headroom()

    assert before[0].status.requests_remaining == 9
    assert (row.status.requests_remaining, row.resets_at) == (3, (row.seen_at or 0.0) + 60.0)


def _left(requests: int) -> Any:
    return answer(rate_limits=RateLimitStatus(requests_remaining=requests, requests_limit=10, reset_seconds=60.0))


def test_a_configuration_without_limits_says_so(tmp_path: Path) -> None:
    """Rather than print an empty table."""
    file = tmp_path / "modelmesh.yaml"
    file.write_text(
        "providers: {here: {connector: modelmesh.simulator.v1}}\n"
        "models: {tiny: {provider: here, capabilities: [chat-completion]}}\n"
        "pools: {chat-completion: {}}\n"
    )

    assert "sets no budget" in CliRunner().invoke(command, [str(file)], standalone_mode=False).output


LIMITED = """\
providers:
  here: {{connector: modelmesh.simulator.v1, {limits}}}
  off: {{connector: modelmesh.simulator.v1, enabled: false, rate_limit: {{rpm: 1}}}}
models: {{tiny: {{provider: here, capabilities: [chat-completion]}}}}
pools: {{chat-completion: {{}}}}
"""
ROLLING = "quota: {requests: 5, reset_schedule: rolling, rolling_window: 1h}"
RATES = "rate_limit: {rpm: 60, concurrency: 2}"


def shown_with(folder: Path, limits: str, *options: str) -> str:
    """Return what the command prints for a provider with these limits."""
    file = folder / "modelmesh.yaml"
    file.write_text(LIMITED.format(limits=limits))
    result = CliRunner().invoke(command, [str(file), *options], standalone_mode=False, env={"COLUMNS": ""})
    assert result.return_value == 0
    return result.output


def test_a_rolling_quota_is_shown_though_nothing_tells_what_is_left(tmp_path: Path) -> None:
    """Its books are a moment in time, and no number: the row says so, and over how long it flows back."""
    shown = shown_with(tmp_path, ROLLING)
    (row,) = json.loads(shown_with(tmp_path, ROLLING, "--json"))

    (line,) = [line for line in shown.splitlines() if "the rolling quota of 5 requests at provider 'here'" in line]
    assert "not kept as a number" in line
    assert "flows back over 1h" in line
    assert (row["unit"], row["limit"], row["spent"], row["left"], row["resets_at"]) == ("requests", 5, None, None, None)


@pytest.mark.parametrize("limits", [RATES, f"{RATES}, {ROLLING}"], ids=["alone", "beside a quota"])
def test_rates_are_said_not_to_be_shown(tmp_path: Path, limits: str) -> None:
    """They are limits all the same; a provider that is switched off has none."""
    shown = shown_with(tmp_path, limits)

    assert "sets no budget" not in shown
    assert "the rate limits of provider 'here' are not shown" in shown
    assert "off" not in shown


def test_rates_are_not_mentioned_in_data(tmp_path: Path) -> None:
    """A list of rows is a list of rows."""
    assert json.loads(shown_with(tmp_path, RATES, "--json")) == []


def test_without_rates_nothing_is_said_of_them(tmp_path: Path) -> None:
    """There is nothing that is not shown."""
    assert "not shown" not in shown_with(tmp_path, ROLLING)
