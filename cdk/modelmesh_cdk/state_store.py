"""BaseStateStore: what state stores share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast
from unicodedata import category

from pydantic import BaseModel, ConfigDict

from modelmesh.errors import StateStoreError
from modelmesh.hookspecs import hookimpl
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.state_store import StateRecord, StoreGuarantees

MAX_KEY_LENGTH = 512

ConfigT = TypeVar("ConfigT", bound=BaseModel)


class NoConfig(BaseModel):
    """Settings of a store that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class BaseStateStore(ABC, Generic[ConfigT]):
    """Inherit this and write the four ``_…`` methods; keys have been checked when they are called.

    Attributes:
        config_model: Settings from the ``storage`` section.
        connector_id: Set it only when one plugin offers several connectors; else the entry point's name is the ID.
        guarantees: What the store promises.
    """

    config_model: ClassVar[type[BaseModel]] = NoConfig
    connector_id: ClassVar[str] = ""
    guarantees: StoreGuarantees
    context: ConnectorContext

    def __init__(self, config: ConfigT | None = None) -> None:
        self.config = config if config is not None else cast("ConfigT", self.config_model())

    @classmethod
    @hookimpl
    def modelmesh_state_stores(cls) -> Mapping[str, type[BaseStateStore[Any]]]:
        """Offer this class under its entry point's name."""
        return {cls.connector_id: cls}

    def bind(self, context: ConnectorContext) -> None:
        """Receive clock and trace."""
        self.context = context

    async def load(self, key: str) -> StateRecord | None:
        """Return the record, or None."""
        return await self._load(check_key(key))

    async def save(self, key: str, data: bytes, *, expected_version: int | None = None) -> StateRecord | None:
        """Write a record, if its version is the expected one; None when it was not."""
        if not isinstance(data, bytes):
            raise StateStoreError(f"state is saved as bytes, not {type(data).__name__}")
        return await self._save(check_key(key), data, expected_version)

    async def delete(self, key: str) -> bool:
        """Remove a record; return whether there was one."""
        return await self._delete(check_key(key))

    async def list(self, prefix: str = "") -> Sequence[str]:
        """Keys that begin with the prefix, sorted."""
        return sorted(await self._list(prefix))

    async def close(self) -> None:
        """Flush and release."""

    @abstractmethod
    async def _load(self, key: str) -> StateRecord | None: ...

    @abstractmethod
    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None: ...

    @abstractmethod
    async def _delete(self, key: str) -> bool: ...

    @abstractmethod
    async def _list(self, prefix: str) -> Sequence[str]: ...


def check_key(key: str) -> str:
    """Return a key that any store can hold.

    Raises:
        StateStoreError: It is empty, too long, or has control characters or halves of surrogate pairs, which no
            encoding can write.
    """
    if not key or len(key) > MAX_KEY_LENGTH or any(category(letter) in ("Cc", "Cs") for letter in key):
        raise StateStoreError(f"a state key is 1 to {MAX_KEY_LENGTH} printable characters")
    return key
