"""What every section of a configuration is made of: its base class, and values that several sections use.

A section is one frozen pydantic model, its attributes named as the keys in YAML. Sections hold exactly what is built; a
key that is planned stands in `modelmesh.config.not_yet` until it works. Durations are seconds, sizes bytes, money USD.
Connector settings are instances of the connector's own model and stay out of every repr.
"""

from __future__ import annotations

from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict
from pydantic.json_schema import SkipJsonSchema

from modelmesh.interfaces.ledger import LARGEST_AMOUNT, NANO_USD

# Strict numbers: YAML has numbers of its own, so a quoted one or a boolean in their place is a mistake to report.
Whole = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=1, le=LARGEST_AMOUNT)]
"""How many of something, at least one; no more than the books of a limit can hold."""
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
LARGEST_USD = LARGEST_AMOUNT // NANO_USD
"""The most dollars that the books of a limit can hold, which count in nano-USD."""
Money = Annotated[float, Strict(), Field(gt=0, le=LARGEST_USD, allow_inf_nan=False)]
"""USD, more than none."""
Price = Annotated[float, Strict(), Field(ge=0, le=LARGEST_USD, allow_inf_nan=False)]
"""USD, or free."""
Fraction = Annotated[float, Strict(), Field(ge=0, le=1)]
StatusCode = Annotated[int, Strict(), Field(ge=100, le=599)]
Name = Annotated[str, Field(min_length=1)]
Programmatic = SkipJsonSchema[Annotated[Any, Field(default=None, repr=False, exclude=True)]]
"""A Python object; it cannot be written in YAML and is no part of the schema."""


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"no time zone is called {name!r}; write a name such as UTC or Europe/Berlin") from None
    return name


Zone = Annotated[str, AfterValidator(_zone)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values do not change, errors do not repeat their input."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
