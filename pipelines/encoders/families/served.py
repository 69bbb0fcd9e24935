"""Encoders behind an HTTP interface: OpenAI's `/v1/embeddings` (vLLM, TEI, Infinity, …), Voyage, Cohere, Gemini.

`encoder.path` names a JSON file of this user's own:

    {"api": "openai", "url": "https://api.openai.com/v1/embeddings", "model": "text-embedding-3-large",
     "dims": [256, 1024, 3072], "key_env": "OPENAI_API_KEY"}

Keys come from the environment only; `url_env` names a variable in place of `url`. What makes the vectors is part of the
space: not the address, nor how many texts are sent at once. Texts are sent in batches, several at a time. A server that
asks to wait (429, 503, Retry-After) is waited for. Answers are checked: number, order, width. Tokens are counted as the
server reports them, and estimated where it does not.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import urllib3

from pipelines.encoders.model_files import local_path
from pipelines.encoders.protocol import BadSample, Family, Prepared
from pipelines.encoders.raw_inputs import RawPreparer, estimated_tokens, unpack
from pipelines.encoders.served_apis import INTERFACES
from pipelines.encoders.served_description import read_description
from pipelines.encoders.spec import EncoderSpec
from pipelines.vectors.matryoshka import unit
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import ConfigError, EncoderError, EncoderRefuses
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


class ServedEncoder:
    """Asks a server for the vectors of texts."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Read the description, the address and the key.

        Raises:
            ConfigError: The file is wrong, or a variable that it names is not set.
        """
        self._file = file = local_path(config.path or "")
        self._description, self._side, self._width = read_description(file), config.side, spec.ladder.width
        self._interface = INTERFACES[self._description.api]
        self._url = self._description.url or _variable(self._description.url_env, file)
        self._headers = {"Content-Type": "application/json", "User-Agent": "matryoshka-lake"}
        if self._description.key_env:
            header, key = self._interface.key_header, _variable(self._description.key_env, file)
            self._headers[header] = f"Bearer {key}" if header == "Authorization" else key
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
        self._used, self._counting = Counter[str](), threading.Lock()
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

    def usage(self) -> dict[str, int]:
        """Return what the server was asked for so far, as `schemas.records.Usage` names it."""
        with self._counting:
            used = dict(self._used)
        price = self._description.price_per_million_tokens
        return used if price is None else used | {"cost_millionths": round(used.get("tokens", 0) * price)}

    def _batches(self, texts: Sequence[str]) -> Iterator[list[str]]:
        batch, characters = list[str](), 0
        most = min(self._description.batch, self._interface.most_texts)
        for text in texts:
            is_full = len(batch) == most or (characters + len(text) > self._description.batch_characters)
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
            return self._vectors(answer.data, texts)
        # Any status may be about an input: a firewall answers 403 to a text. Only another text tells.
        again = answer if answer.status in _RETRIED else self._post([_HARMLESS])
        if again.status == 200:
            self._vectors(again.data, [_HARMLESS])  # counts what it costs
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
        prompt = self._description.prompts.get(self._side, "")
        body = self._interface.body(self._description, self._side, self._width, [prompt + text for text in texts])
        try:
            return self._pool.request("POST", self._url, body=orjson.dumps(body), headers=self._headers)
        except urllib3.exceptions.HTTPError as error:
            raise EncoderError(f"{redact(self._url)} cannot be reached: {_line(error)}") from None

    def _vectors(self, data: bytes, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        try:
            answer = orjson.loads(data)
            self._count(self._interface.tokens(answer), texts)
            x_BD = np.array(self._interface.rows(answer, len(texts)), np.float64)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EncoderError(f"{redact(self._url)} answers no list of vectors: {_line(error)}") from None
        if x_BD.shape != (len(texts), self._width):
            raise EncoderError(
                f"{self._description.model} answers vectors of shape {x_BD.shape} for {len(texts)} texts; the "
                f"description says {self._width} dims"
            )
        x_BD[~np.isfinite(x_BD).all(axis=1)] = np.nan  # its input becomes a reject
        return unit(x_BD).astype(np.float32)

    def _count(self, said: object, texts: Sequence[str]) -> None:
        """Count the tokens of an answer; where the server says none, estimate them from the characters."""
        tokens = int(said) if isinstance(said, int | float) and said > 0 else 0
        estimated = 0 if tokens else sum(map(estimated_tokens, texts))
        with self._counting:
            self._used.update(requests=1, tokens=tokens + estimated, estimated_tokens=estimated)


class ServedFamily(Family):
    """Encoders behind an HTTP interface."""

    def describe(self, spec: EncoderSpec, path: Path) -> EncoderSpec:
        """Complete a spec from the description file.

        Raises:
            ConfigError: The file is no such description.
        """
        description = read_description(path)
        revision = f"{description.model} {description.revision}".strip()
        return description.complete(spec, revision, shares=description.shares)

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> RawPreparer:
        """Load nothing: the server tokenises."""
        return RawPreparer("text")

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> ServedEncoder:
        """Make the client."""
        return ServedEncoder(spec, config)


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
