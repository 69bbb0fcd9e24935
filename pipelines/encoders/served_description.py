"""The file that describes a served encoder, at `encoder.path`. It is the user's own; no table names one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import orjson
from pydantic import Field, ValidationError

from pipelines.encoders.described import Described, SharedName
from schemas.errors import ConfigError
from schemas.records import Side

Api = Literal["openai", "voyage", "cohere", "gemini"]


class Description(Described):
    """What a server is asked for, and how.

    Attributes:
        api: How the server is asked.
        url: Its address.
        url_env: Environment variable with the address, in place of `url`.
        model: Name of the model there.
        revision: What you call this state of the model; another one is another space.
        key_env: Environment variable with the key; none is sent without it.
        sends_dims: Ask for the full width by a parameter of the request, where the server knows one.
        input_types: What Voyage, Cohere and Gemini call documents and queries; for OpenAI's interface, text put in
            front.
        prompts: Text put in front of documents and queries, for a model that asks for it; Gemini is then sent no task
            type.
        cuts: Let Voyage and Cohere cut texts that are longer than the model takes; otherwise these are refused.
        price_per_million_tokens: Price of a million tokens, in a currency of your choice; None counts no cost.
        batch: Texts in a request; Cohere takes 96, and Gemini 100.
        batch_characters: Characters in a request.
        concurrency: Requests at once.
        timeout_s: Seconds that a request may take.
        reference: A folder of sentence-transformers with the model that the server runs, or `hf://OWNER/NAME@COMMIT`:
            a few vectors are compared with it before a table is made.
        shares: Name of the space that registered models share with this one, as `voyage-4`.
    """

    api: Api
    url: str = ""
    url_env: str = ""
    model: str = Field(min_length=1)
    revision: str = ""
    key_env: str = ""
    sends_dims: bool = False
    input_types: dict[Side, str] = Field({})
    prompts: dict[Side, str] = Field({})
    cuts: bool = False
    price_per_million_tokens: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None
    batch: int = Field(64, ge=1, le=2048)
    batch_characters: int = Field(200_000, ge=1)
    concurrency: int = Field(4, ge=1, le=64)
    timeout_s: float = Field(60, gt=0, le=3600)
    reference: str = ""
    shares: SharedName = ""


def read_description(file: Path) -> Description:
    """Read the description of a served encoder.

    Raises:
        ConfigError: It is wrong, or names no address.
    """
    try:
        found = Description.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        example = '{"api": "openai", "url": "http://host/v1/embeddings", "model": "name", "dims": [256, 1024]}'
        raise ConfigError(f"encoder.path={file} must describe a server, such as {example}: {error}") from None
    if bool(found.url) == bool(found.url_env):
        raise ConfigError(f"encoder.path={file}: give either url or url_env")
    return found


def identity(file: Path) -> str:
    """Return the hash of what makes the vectors: not of the address, the key, or how the server is asked.

    Raises:
        ConfigError: The description is wrong.
    """
    found = read_description(file)
    parts = {"api", "model", "revision", "dims", "any_from", "sends_dims", "input_types"}
    facts = found.model_dump(mode="json", include=parts | ({"prompts"} if found.prompts else set()))
    return hashlib.sha256(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).hexdigest()
