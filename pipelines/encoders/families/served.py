"""Encoders behind an HTTP interface: OpenAI's `/v1/embeddings` (vLLM, TEI, Infinity, Ollama, …), Voyage, Cohere.

`encoder.path` names a JSON file of this user's own:

    {"api": "openai", "url": "https://api.openai.com/v1/embeddings", "model": "text-embedding-3-large",
     "dims": [256, 1024, 3072], "key_env": "OPENAI_API_KEY"}

Keys come from the environment only; `url_env` names a variable in place of `url`. What makes the vectors is part of the
space: not the address, nor how many texts are sent at once. Texts are sent in batches, several at a time. A server that
asks to wait (429, 503, Retry-After) is waited for. Answers are checked: number, order, width.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
import urllib3
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.encoders.model_files import local_path
from pipelines.encoders.protocol import BadSample, Family, Prepared
from pipelines.encoders.raw_inputs import RawPreparer, unpack
from pipelines.encoders.spec import EncoderSpec
from pipelines.vectors.matryoshka import unit
from schemas.config import EncoderConfig, LimitsConfig
from schemas.config.bounds import Dim
from schemas.errors import ConfigError, EncoderError, EncoderRefuses
from schemas.records import Side
from schemas.redaction import redact

_RETRIED = (408, 429, 500, 502, 503, 504)
_TRIES, _BACKOFF_S, _LONGEST_WAIT_S = 6, 0.5, 120
_MOST_ANSWERED = 4096
_HARMLESS = "a red fox"
# What to change where even a harmless text is refused; 404 and others are the address or the model.
_REMEDIES = {
    400: "model, api, dims with sends_dims, or input_types",
    401: "the key in {key}",
    402: "the account of the key in {key}",
    403: "the key in {key}, or what it may do",
    422: "model, api, dims with sends_dims, or input_types",
}


class Description(BaseModel):
    """The file at `encoder.path`.

    Attributes:
        api: How the server is asked.
        url: Its address.
        url_env: Environment variable with the address, in place of `url`.
        model: Name of the model there.
        revision: What you call this state of the model; another one is another space.
        dims: The ladder, up to the full width, which is what is asked for.
        any_from: Smallest dim, where the model was trained for every dim from there.
        key_env: Environment variable with the key; none is sent without it.
        sends_dims: Ask for the full width by a parameter of the request, where the server knows one.
        input_types: What Voyage and Cohere call documents and queries; for OpenAI's interface, text put in front.
        batch: Texts in a request.
        batch_characters: Characters in a request.
        concurrency: Requests at once.
        timeout_s: Seconds that a request may take.
        reference: A folder of sentence-transformers with the model that the server runs, or `hf://OWNER/NAME@COMMIT`:
            a few vectors are compared with it before a table is made.
        licence: The terms.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    api: Literal["openai", "voyage", "cohere"]
    url: str = ""
    url_env: str = ""
    model: str = Field(min_length=1)
    revision: str = ""
    dims: tuple[Dim, ...] = Field(min_length=1)
    any_from: Dim | None = None
    key_env: str = ""
    sends_dims: bool = False
    input_types: dict[Side, str] = Field({})
    batch: int = Field(64, ge=1, le=2048)
    batch_characters: int = Field(200_000, ge=1)
    concurrency: int = Field(4, ge=1, le=64)
    timeout_s: float = Field(60, gt=0, le=3600)
    reference: str = ""
    licence: str = "its maker's"


class ServedEncoder:
    """Asks a server for the vectors of texts."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Read the description, the address and the key.

        Raises:
            ConfigError: The file is wrong, or a variable that it names is not set.
        """
        self._file = file = local_path(config.path or "")
        self._description, self._side, self._width = read_description(file), config.side, spec.ladder.width
        self._url = self._description.url or _variable(self._description.url_env, file)
        self._headers = {"Content-Type": "application/json", "User-Agent": "matryoshka-lake"}
        if self._description.key_env:
            self._headers["Authorization"] = f"Bearer {_variable(self._description.key_env, file)}"
        retries = urllib3.Retry(
            total=_TRIES,
            backoff_factor=_BACKOFF_S,
            backoff_max=_LONGEST_WAIT_S,
            retry_after_max=_LONGEST_WAIT_S,
            status_forcelist=_RETRIED,
            allowed_methods=None,
            raise_on_status=False,
        )
        self._pool = urllib3.PoolManager(
            maxsize=self._description.concurrency, retries=retries, timeout=self._description.timeout_s
        )
        self._answered: dict[str, npt.NDArray[np.float32]] = {}
        self._threads = ThreadPoolExecutor(self._description.concurrency, "served")

    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B texts to (B, D) float32 unit rows.

        Raises:
            EncoderError: The server cannot be reached, or its answers are no such vectors.
            EncoderRefuses: It refuses a harmless text as well.
            BadSample: It refuses an input, and takes a harmless text.
        """
        texts = [str(unpack(one)) for one in prepared]
        if len(self._answered) > _MOST_ANSWERED:
            self._answered.clear()
        is_fresh = not self._answered
        unknown = [text for text in dict.fromkeys(texts) if text not in self._answered]
        answers = [(batch, self._threads.submit(self._ask, batch)) for batch in self._batches(unknown)]
        for batch, answer in answers:
            if answer.exception() is None:
                self._answered |= dict(zip(batch, answer.result(), strict=True))
        # A batch with a refused input comes again in halves; what was answered is not asked, or paid for, twice.
        for _, answer in answers:
            answer.result()
        x_BD = np.stack([self._answered[text] for text in texts])
        if is_fresh:
            self._answered.clear()
        return x_BD

    def _batches(self, texts: Sequence[str]) -> Iterator[list[str]]:
        batch, characters = list[str](), 0
        for text in texts:
            is_full = len(batch) == self._description.batch or (
                characters + len(text) > self._description.batch_characters
            )
            if batch and is_full:
                yield batch
                batch, characters = [], 0
            batch.append(text)
            characters += len(text)
        if batch:
            yield batch

    def _ask(self, texts: list[str]) -> npt.NDArray[np.float32]:
        answer = self._post(texts)
        if answer.status == 200:
            return self._vectors(answer.data, len(texts))
        # Any status may be about an input: a firewall answers 403 to a text. Only another text tells.
        again = answer if answer.status in _RETRIED else self._post([_HARMLESS])
        if again.status == 200:
            raise BadSample("refused", f"the server answers {answer.status}: {_text(answer.data)}")
        said = f"{again.status}: {_text(again.data)}"
        if again.status in _RETRIED:
            raise EncoderError(f"{redact(self._url)} answers {said}, after {_TRIES} more tries")
        remedy = _REMEDIES.get(again.status, "url or model")
        raise EncoderRefuses(
            f"{redact(self._url)} refuses every text, also {_HARMLESS!r}: it answers {said}; change "
            f"{remedy.format(key=self._description.key_env or 'key_env, which names none')}, in {self._file}"
        )

    def _post(self, texts: list[str]) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool.request("POST", self._url, body=orjson.dumps(self._body(texts)), headers=self._headers)
        except urllib3.exceptions.HTTPError as error:
            raise EncoderError(f"{redact(self._url)} cannot be reached: {_line(error)}") from None

    def _body(self, texts: list[str]) -> dict[str, Any]:
        asked, kind = self._description, self._description.input_types.get(self._side, "")
        if asked.api == "cohere":
            default = "search_query" if self._side == "query" else "search_document"
            body = {"model": asked.model, "texts": texts, "input_type": kind or default, "embedding_types": ["float"]}
            return body | ({"output_dimension": self._width} if asked.sends_dims else {})
        if asked.api == "voyage":
            body = {"model": asked.model, "input": texts, "input_type": kind or self._side}
            return body | ({"output_dimension": self._width} if asked.sends_dims else {})
        body = {"model": asked.model, "input": [kind + text for text in texts], "encoding_format": "float"}
        return body | ({"dimensions": self._width} if asked.sends_dims else {})

    def _vectors(self, data: bytes, count: int) -> npt.NDArray[np.float32]:
        try:
            answer = orjson.loads(data)
            if self._description.api == "cohere":
                rows = answer["embeddings"]["float"]
            else:
                places = [item.get("index", place) for place, item in enumerate(answer["data"])]
                if sorted(places) != list(range(count)):
                    raise EncoderError(f"{self._description.model} answers {len(places)} vectors for {count} texts")
                rows = [
                    item["embedding"] for _, item in sorted(zip(places, answer["data"], strict=True), key=itemgetter(0))
                ]
            x_BD = np.array(rows, np.float64)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EncoderError(f"{redact(self._url)} answers no list of vectors: {_line(error)}") from None
        if x_BD.shape != (count, self._width):
            raise EncoderError(
                f"{self._description.model} answers vectors of shape {x_BD.shape} for {count} texts; the description "
                f"says {self._width} dims"
            )
        x_BD[~np.isfinite(x_BD).all(axis=1)] = np.nan  # its input becomes a reject
        return unit(x_BD).astype(np.float32)


class ServedFamily(Family):
    """Encoders behind an HTTP interface."""

    def describe(self, spec: EncoderSpec, path: Path) -> EncoderSpec:
        """Complete a spec from the description file.

        Raises:
            ConfigError: The file is no such description.
        """
        description = read_description(path)
        return replace(
            spec,
            dims=tuple(sorted(set(description.dims))),
            any_from=description.any_from,
            revision=f"{description.model} {description.revision}".strip(),
            licence=description.licence,
        )

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> RawPreparer:
        """Load nothing: the server tokenises."""
        return RawPreparer("text")

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> ServedEncoder:
        """Make the client."""
        return ServedEncoder(spec, config)


def identity(file: Path) -> str:
    """Return the hash of what makes the vectors: not of the address, the key, or how the server is asked.

    Raises:
        ConfigError: The description is wrong.
    """
    parts = {"api", "model", "revision", "dims", "any_from", "sends_dims", "input_types"}
    facts = read_description(file).model_dump(mode="json", include=parts)
    return hashlib.sha256(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).hexdigest()


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


def _variable(name: str, file: Path) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(f"{file} names the environment variable {name}, which is not set")
    return value


def _text(data: bytes) -> str:
    return _line(data.decode(errors="replace"))


def _line(said: object) -> str:
    text = " ".join(redact(str(said)).split())
    return text if len(text) <= 300 else text[:300] + "…"
