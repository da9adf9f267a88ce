"""The section of the HTTP server: where it listens, who may call it, and which web pages may."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator

from modelmesh.config.section import Name, Section, Whole


class ProxyAuthConfig(Section):
    """Who may call the HTTP server."""

    enabled: bool | None = Field(default=None, description="Ask for a token; implied by tokens.")
    method: Literal["bearer"] = Field(default="bearer", description="How the token is sent.")
    tokens: tuple[SecretStr, ...] = Field(
        default=(), repr=False, description="Accepted tokens; write them as ${secrets:NAME}."
    )

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> ProxyAuthConfig:
        if self.enabled and not self.tokens:
            raise ValueError("enabled without tokens would let nobody in; give at least one token")
        if any(not token.get_secret_value().strip() for token in self.tokens):
            raise ValueError("an empty token would let anybody in; remove it")
        return self

    @property
    def is_required(self) -> bool:
        """Whether a request needs a token."""
        return bool(self.tokens) if self.enabled is None else self.enabled


class CorsConfig(Section):
    """Which web pages may call the HTTP server."""

    enabled: bool = Field(default=True, description="Answer browsers' cross-origin questions.")
    origins: tuple[str, ...] = Field(default=("*",), description="Origins that may call; * for any.")


class ProxyConfig(Section):
    """The OpenAI-compatible HTTP server (``modelmesh serve``)."""

    host: Name = Field(
        default="127.0.0.1", description="Address to listen on; one that is not loopback needs auth.tokens."
    )
    port: Annotated[Whole, Field(ge=0, le=65535)] = Field(default=8080, description="Port; 0 for any free one.")
    endpoints: tuple[str, ...] = Field(default=(), description="Paths to serve; all when empty.")
    auth: ProxyAuthConfig = Field(default_factory=ProxyAuthConfig, description="Who may call.")
    cors: CorsConfig = Field(default_factory=CorsConfig, description="Which web pages may call.")
