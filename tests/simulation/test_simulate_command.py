"""``modelmesh simulate``: a configuration under a scenario, as a table, as data and as a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from modelmesh_plugins.commands.simulate import command

CONFIGURATION = """
providers:
  cheap: {connector: openai.llm.v1, api_key: "${secrets:NOBODY_HAS_THIS_KEY}"}
  dear: {connector: simulator}
models:
  small: {provider: cheap, capabilities: [chat-completion], pricing: {input_per_1k_tokens: 0.001}}
  large: {provider: dear, capabilities: [chat-completion], pricing: {input_per_1k_tokens: 0.01}}
pools:
  chat: {capability: chat-completion, strategy: cost-first}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a configuration."""
    (tmp_path / "mesh.yaml").write_text(CONFIGURATION, encoding="utf-8")
    return tmp_path


def simulate(folder: Path, scenario: str, *options: str) -> Result:
    """Run the command on a scenario."""
    (folder / "scenario.yaml").write_text(scenario, encoding="utf-8")
    arguments = [str(folder / "mesh.yaml"), "--scenario", str(folder / "scenario.yaml"), *options]
    return CliRunner().invoke(command, arguments)


def figures(folder: Path, scenario: str) -> dict[str, Any]:
    """Return the figures of a scenario."""
    result = simulate(folder, scenario, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def test_an_outage_moves_requests_to_the_other_provider_and_back(files: Path) -> None:
    """An hour of it costs money and no answer; afterwards all is as it was."""
    found = figures(files, "duration: 2h\nrate: 0.5\nevents: [{at: 30m, provider: cheap, outage: 1h}]")

    before, during, after = found["spans"]
    assert found["total"]["failed"] == 0
    assert set(before["answered_by"]) == {"cheap"}
    assert during["answered_by"]["dear"] > 0.95 * during["requests"]
    assert after["answered_by"]["cheap"] > 0.9 * after["requests"]
    assert during["cost_usd"] > 5 * before["cost_usd"]


def test_without_a_second_provider_an_outage_is_errors(files: Path) -> None:
    """Whoever has one provider only learns what it costs."""
    (files / "mesh.yaml").write_text(CONFIGURATION.replace("large: {provider: dear", "large: {provider: cheap"))

    found = figures(files, "duration: 30m\nrate: 0.2\nevents: [{at: 10m, provider: cheap, outage: 10m}]")

    assert [span["error_rate"] > 0.9 for span in found["spans"]] == [False, True, False]


def test_a_quota_is_used_up_and_no_further(files: Path) -> None:
    """The provider gives what it gives; the rest goes elsewhere."""
    found = figures(files, "duration: 1h\nrate: 0.1\nproviders: {cheap: {quota: {requests: 50}}}")

    cheap = found["providers"][0]
    assert (cheap["quota_used"], cheap["quota"]) == (50, 50)
    assert found["total"]["answered_by"]["cheap"] == 50
    assert found["total"]["failed"] == 0


def test_a_price_event_changes_the_cost_from_then_on(files: Path) -> None:
    """Ten times the price is ten times the cost per request."""
    found = figures(files, "duration: 1h\nrate: 1\nevents: [{at: 30m, provider: cheap, price: 10}]")

    before, after = (span["cost_usd"] / span["requests"] for span in found["spans"])
    assert after == pytest.approx(10 * before, rel=0.01)


def test_a_scenario_is_always_the_same_run(files: Path) -> None:
    """What is drawn hangs on the seed alone."""
    scenario = (
        "duration: 10m\nrate: 2\nseed: {seed}\nrequests: {{stream: 50%}}\nproviders: {{cheap: {{error_rate: 30%}}}}"
    )

    first, again, other = (figures(files, scenario.format(seed=seed)) for seed in (1, 1, 2))

    assert first == again != other


def test_traffic_changes_at_an_event(files: Path) -> None:
    """A rush has its requests in its own span."""
    found = figures(files, "duration: 30m\nrate: 0.1\nevents: [{at: 10m, for: 10m, rate: 5}]")

    assert [round(span["requests"] / 600, 0) for span in found["spans"]] == [0, 5, 0]


def test_the_table_tells_what_happened_when(files: Path) -> None:
    """A line from one event to the next, and one for each provider."""
    result = simulate(files, "duration: 20m\nevents: [{at: 10m, provider: cheap, outage: 5m}]")

    assert result.exit_code == 0
    for said in ("0:10:00", "cheap: outage", "errors", "p95 s", "quota used", "dear"):
        assert said in result.output


def test_the_plot_is_svg_with_a_line_for_each_figure(files: Path) -> None:
    """Errors, two latencies, cost, and answers of each provider; events are shaded and named."""
    drawing = files / "plot.svg"

    simulate(files, "duration: 20m\nevents: [{at: 10m, provider: cheap, outage: 5m}]", "--svg", str(drawing))

    root = ElementTree.fromstring(drawing.read_text(encoding="utf-8"))
    names = {each.tag.rpartition("}")[2] for each in root.iter()}
    texts = [each.text for each in root.iter() if each.text]
    assert names >= {"svg", "polyline", "rect", "text", "title"}
    assert {"p95", "cheap", "dear", "cheap: outage"} <= set(texts)
    assert "nan" not in drawing.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("scenario", "line", "said"),
    [
        ("duration: 1h\nrat: 3", 2, "did you mean 'rate'"),
        ("duration: 1h\nevents:\n- {at: 5m, provider: chep, outage: 1m}", 3, "did you mean 'cheap'"),
        ("duration: 1h\nevents:\n- {at: 2h, provider: cheap, outage: 1m}", 3, "the scenario is over after 3600 s"),
        ("duration: 1h\nevents:\n- {at: 2m, provider: cheap}", 3, "an event changes one of"),
        ("duration: 1h\nevents:\n- {at: 2m, provider: cheap, outage: 1m, price: 2}", 3, "here are outage, price"),
        ("duration: 1h\nevents:\n- {at: 2m, error_rate: 10%}", 3, "error_rate needs a provider"),
        ("duration: 1h\npool: chatt", 2, "did you mean 'chat'"),
        ("duration: 1h\nproviders:\n  nobody: {latency: 1s}", 3, "unknown provider 'nobody'"),
        ("duration: 1h\nproviders:\n  cheap: {error_rate: 150%}", 3, "less than or equal to 1"),
        ("duration: 1h\nproviders:\n  cheap: {quota: {requests: 5, timezone: Mars/Base}}", 3, "no time zone"),
        ("duration: 1y", 1, "duration"),
        ("duration: 30d\nrate: 1000", 1, "too many"),
        ("rate: 5", 1, "duration: is missing; add it"),
    ],
)
def test_a_mistake_is_told_with_its_line(files: Path, scenario: str, line: int, said: str) -> None:
    """File, line, what is wrong and what was probably meant."""
    result = simulate(files, scenario)

    assert result.exit_code == 1
    assert f"scenario.yaml:{line}:" in result.output
    assert said in result.output


@pytest.mark.parametrize("scenario", ["", "# nothing yet", "[]", "1h"], ids=["empty", "comment", "list", "text"])
def test_what_is_no_scenario_is_told_what_one_needs(files: Path, scenario: str) -> None:
    """Which is not what a configuration needs."""
    result = simulate(files, scenario)

    assert result.exit_code == 1
    assert "duration, such as 1h" in result.output
    assert "models" not in result.output


@pytest.mark.parametrize("traffic", ["rate: 0", "rate: 0.0001"], ids=["none", "too little"])
def test_a_scenario_without_requests_is_refused(files: Path, traffic: str) -> None:
    """Tables of nothing would tell nothing, and a drawing would be blank."""
    result = simulate(files, f"duration: 1m\n{traffic}", "--svg", str(files / "plot.svg"))

    assert result.exit_code == 1
    assert "scenario.yaml: no request comes in it: raise rate, or duration" in result.output
    assert not (files / "plot.svg").exists()


def test_traffic_that_only_begins_with_an_event_is_enough(files: Path) -> None:
    """A rate of 0 is no mistake by itself."""
    found = figures(files, "duration: 2m\nrate: 0\nevents: [{at: 1m, rate: 2}]")

    assert [span["requests"] > 0 for span in found["spans"]] == [False, True]


def test_a_missing_file_is_told(files: Path) -> None:
    """No traceback."""
    result = CliRunner().invoke(command, [str(files / "mesh.yaml"), "--scenario", str(files / "none.yaml")])

    assert result.exit_code == 1
    assert "none.yaml" in result.output
