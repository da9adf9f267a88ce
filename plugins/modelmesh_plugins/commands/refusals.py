"""How commands say what is wrong: a line each, without secrets."""

from __future__ import annotations

from dataclasses import replace

from modelmesh.errors import ConfigurationError, ModelMeshError, Problem
from modelmesh.redaction import Redactor


def refusal(error: ModelMeshError) -> str:
    """Return what an error says; of a configuration's several problems one line each, under a line that counts them."""
    problems = _problems(error)
    return ConfigurationError.from_problems(problems).message if problems else Redactor().text(error.message)


def refusal_lines(error: ModelMeshError) -> list[str]:
    """Return the problems of a configuration alone, or what another error says."""
    return [str(problem) for problem in _problems(error)] or [Redactor().text(error.message)]


def _problems(error: ModelMeshError) -> list[Problem]:
    # A problem's place is no name with its value behind it, even where it is called api_key.
    redactor = Redactor()
    problems = error.problems if isinstance(error, ConfigurationError) else ()
    return [replace(problem, message=redactor.text(problem.message)) for problem in problems]
