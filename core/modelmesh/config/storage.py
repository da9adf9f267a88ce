"""The section of storage: where state is kept, when it is written, and what happens while the store is away."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from modelmesh.config.durations import PositiveDuration
from modelmesh.config.section import Count, Fraction, Section
from modelmesh.state_encoding import NEEDS_MSGPACK, StateFormat, has_msgpack


class OnStoreErrorConfig(Section):
    """What happens to limits while the state store does not answer.

    ``closed`` refuses calls under them, ``local`` keeps a share of each limit in this process, ``open`` lets calls
    through.
    """

    budget: Literal["local", "closed", "open"] = Field(default="closed", description="Limits on money.")
    quota: Literal["local", "closed", "open"] = Field(default="closed", description="Requests and tokens in a period.")
    rate_limit: Literal["local", "closed", "open"] = Field(default="local", description="Requests and tokens a minute.")


class LockingConfig(Section):
    """A lock around each write of the state."""

    enabled: bool = Field(default=True, description="Whether it is taken.")
    timeout: PositiveDuration = Field(default=30.0, description="How long to wait for it (duration).")
    retry_interval: PositiveDuration = Field(default=1.0, description="Between two looks (duration).")


class StorageConfig(Section):
    """Where state is kept; every key not listed here belongs to the state store's own settings."""

    connector: str = Field(
        default="modelmesh.memory.v1", description="State store: ID or short name. Read back as the full ID."
    )
    sync_policy: Literal["in-memory", "sync-on-boundary", "periodic", "immediate"] | None = Field(
        default=None,
        description="When state is written, which a start reads: never, at the end, in intervals besides, or with each"
        " change. By default sync-on-boundary for stores that survive a restart.",
    )
    sync_interval: PositiveDuration = Field(default=300.0, description="Between two writes, under periodic (duration).")
    format: StateFormat = Field(
        default="json",
        description="What the state is written in; whatever it was written in is read. msgpack needs the extra of its"
        " name.",
    )
    compression: bool = Field(default=False, description="Compress the state that is written, with gzip.")
    locking: LockingConfig = Field(
        default_factory=LockingConfig, description="How processes that share the store keep from writing at once."
    )
    call_timeout: PositiveDuration = Field(
        default=0.2, description="What a request may wait for a shared store (duration)."
    )
    on_store_error: OnStoreErrorConfig = Field(
        default_factory=OnStoreErrorConfig, description="What happens to limits while the store does not answer."
    )
    lease_share: Fraction = Field(
        default=0.0,
        description="Part of each budget and quota that a process takes from a shared store at a time, to grant from"
        " without asking again; 0 asks for each request.",
    )
    processes: Count = Field(
        default=1, description="Processes that share the store: each keeps that part of a local limit meanwhile."
    )
    settings: SkipJsonSchema[Any] = Field(default=None, repr=False, exclude=True)

    @field_validator("format")
    @classmethod
    def _can_be_written(cls, value: str) -> str:
        if value == "msgpack" and not has_msgpack():
            raise ValueError(NEEDS_MSGPACK)
        return value
