"""What descriptions at `encoder.path` have in common: ladder and licence of a model that no catalogue lists."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.encoders.catalogue import MODELS
from pipelines.encoders.spec import EncoderSpec
from schemas.config.bounds import Dim


def _is_shared(name: str) -> str:
    if name and name not in (known := sorted({spec.shares for spec in MODELS if spec.shares})):
        raise ValueError(f"no models share a space named {name!r}; known: {', '.join(known)}")
    return name


SharedName = Annotated[str, AfterValidator(_is_shared)]
"""Name of a space that models of the catalogue share."""


class Described(BaseModel):
    """The facts that every description gives.

    Attributes:
        dims: The ladder, up to the full width; one dim for a model that was not trained for prefixes.
        any_from: Smallest dim, where the model was trained for every dim from there.
        licence: The terms.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dims: tuple[Dim, ...] = Field(min_length=1)
    any_from: Dim | None = None
    licence: str = "its maker's"

    def complete(self, spec: EncoderSpec, revision: str, **facts: Any) -> EncoderSpec:
        """Return a spec with these facts, a revision, and others that the family reads."""
        dims = tuple(sorted(set(self.dims)))
        return replace(spec, dims=dims, any_from=self.any_from, licence=self.licence, revision=revision, **facts)


class OwnDescription(Described):
    """What is said of a class of the user's own.

    Attributes:
        revision: What its maker calls this state of it; another one is another space.
        modality: What it takes.
    """

    revision: str = Field(min_length=1)
    modality: Literal["text", "image"] = "text"
