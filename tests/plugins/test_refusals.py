"""How commands say what is wrong with a configuration."""

from __future__ import annotations

from modelmesh.errors import ConfigurationError, ModelMeshError, Problem
from modelmesh_plugins.commands.refusals import refusal, refusal_lines

KEY = "sk-live-4f9aK2mQ7rT1xV8z"


def test_a_place_that_is_called_like_a_secret_hides_nothing_behind_it() -> None:
    """``api_key: secret 'NAME' is …`` is a place and a sentence, not a name and its value."""
    problem = Problem("secret 'KEY_ONE' is not in the environment; set it there", "providers.one.api_key", "a.yaml", 2)
    error = ConfigurationError.from_problems([problem])

    assert refusal_lines(error) == [str(problem)]
    assert refusal(error) == f"the configuration has 1 problem:\n  {problem}"


def test_a_secret_in_what_is_said_is_taken_out() -> None:
    """Whoever wrote the sentence: a connector's own check, or an error that is no list of problems."""
    problems = [Problem(f"refused the key {KEY}", "providers.one", "a.yaml", 2)]

    said = [
        *refusal_lines(ConfigurationError.from_problems(problems)),
        *refusal_lines(ModelMeshError(f"api_key={KEY} is refused")),
        refusal(ModelMeshError(f"Authorization: Bearer {KEY}")),
    ]

    assert KEY not in "".join(said)
    assert said[0] == "a.yaml:2: providers.one: refused the key ***REDACTED***"


def test_a_remedy_can_be_followed() -> None:
    """The reference that it says to write, and the example that it gives, are there to be read."""
    remedies = [
        "would be taken literally; write ${secrets:OPENAI_API_KEY} for a secret",
        "a password may stand in it (redis://:password@host) or in the setting password",
    ]
    problems = [Problem(each, "providers.one.api_key", "a.yaml", 2) for each in remedies]

    assert refusal_lines(ConfigurationError.from_problems(problems)) == [
        f"a.yaml:2: providers.one.api_key: {each}" for each in remedies
    ]
