"""The base of everything that is observed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Fact(BaseModel):
    """A frozen value without fields that its class does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid")
