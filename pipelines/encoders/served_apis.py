"""The interfaces of servers of vectors: what a request says, and where an answer holds its vectors and its tokens.

Owns the layout of requests and answers. Owns no connection and checks no vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Protocol

from pipelines.encoders.served_description import Api, Description
from schemas.errors import EncoderError
from schemas.records import Side

Answer = Mapping[str, Any]


class Interface(Protocol):
    """One interface."""

    key_header: str
    """The header of the key; `Authorization` carries it behind `Bearer`."""
    most_texts: int
    """Texts that a request may have."""

    def body(self, asked: Description, side: Side, width: int, texts: Sequence[str]) -> dict[str, Any]:
        """Return the body of a request for B texts."""
        ...

    def rows(self, answer: Answer, count: int) -> list[Any]:
        """Return the vectors of an answer, in the order of the texts.

        Raises:
            EncoderError: It does not hold one vector for each of `count` texts.
        """
        ...

    def tokens(self, answer: Answer) -> object:
        """Return the tokens that the server counted; None where it says nothing."""
        ...


class _OpenAI:
    key_header = "Authorization"
    most_texts = 2048

    def body(self, asked: Description, side: Side, width: int, texts: Sequence[str]) -> dict[str, Any]:
        kind = asked.input_types.get(side, "")
        body = {"model": asked.model, "input": [kind + text for text in texts], "encoding_format": "float"}
        return body | ({"dimensions": width} if asked.sends_dims else {})

    def rows(self, answer: Answer, count: int) -> list[Any]:
        places = [item.get("index", place) for place, item in enumerate(answer["data"])]
        if sorted(places) != list(range(count)):
            raise EncoderError(f"the server answers {len(places)} vectors for {count} texts")
        return [item["embedding"] for _, item in sorted(zip(places, answer["data"], strict=True), key=itemgetter(0))]

    def tokens(self, answer: Answer) -> object:
        return (answer.get("usage") or {}).get("total_tokens")


class _Voyage(_OpenAI):
    most_texts = 1000

    def body(self, asked: Description, side: Side, width: int, texts: Sequence[str]) -> dict[str, Any]:
        kind = asked.input_types.get(side) or side
        body = {"model": asked.model, "input": list(texts), "input_type": kind, "truncation": asked.cuts}
        return body | ({"output_dimension": width} if asked.sends_dims else {})


class _Cohere:
    key_header = "Authorization"
    most_texts = 96

    def body(self, asked: Description, side: Side, width: int, texts: Sequence[str]) -> dict[str, Any]:
        kind = asked.input_types.get(side) or ("search_query" if side == "query" else "search_document")
        body = {"model": asked.model, "texts": list(texts), "input_type": kind, "embedding_types": ["float"]}
        body["truncate"] = "END" if asked.cuts else "NONE"
        return body | ({"output_dimension": width} if asked.sends_dims else {})

    def rows(self, answer: Answer, count: int) -> list[Any]:
        return list(answer["embeddings"]["float"])

    def tokens(self, answer: Answer) -> object:
        return ((answer.get("meta") or {}).get("billed_units") or {}).get("input_tokens")


class _Gemini:
    key_header = "x-goog-api-key"
    most_texts = 100

    def body(self, asked: Description, side: Side, width: int, texts: Sequence[str]) -> dict[str, Any]:
        kind = asked.input_types.get(side) or ("RETRIEVAL_QUERY" if side == "query" else "RETRIEVAL_DOCUMENT")
        facts: dict[str, Any] = {"model": f"models/{asked.model.removeprefix('models/')}"}
        facts |= {} if asked.prompts else {"taskType": kind}
        facts |= {"outputDimensionality": width} if asked.sends_dims else {}
        return {"requests": [facts | {"content": {"parts": [{"text": text}]}} for text in texts]}

    def rows(self, answer: Answer, count: int) -> list[Any]:
        return [item["values"] for item in answer["embeddings"]]

    def tokens(self, answer: Answer) -> object:
        return (answer.get("usageMetadata") or {}).get("promptTokenCount")


INTERFACES: Mapping[Api, Interface] = {
    "openai": _OpenAI(),
    "voyage": _Voyage(),
    "cohere": _Cohere(),
    "gemini": _Gemini(),
}
