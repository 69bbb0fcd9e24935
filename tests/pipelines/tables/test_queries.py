"""Each form of a query becomes words, the bytes of an image, or a vector; everything else is refused in words."""

from __future__ import annotations

import array
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageOps

from pipelines.tables.queries import describe_query, read_queries, read_query
from schemas.errors import InputError

VECTOR = [0.25, 0.5, -1.0]


def _broken() -> bytes:
    held = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(held, "PNG")
    return held.getvalue()[:900]


BROKEN = _broken()


@pytest.mark.parametrize(
    "given",
    [
        VECTOR,
        tuple(VECTOR),
        np.array(VECTOR, np.float16),
        torch.tensor(VECTOR, dtype=torch.bfloat16, requires_grad=True),
        pa.array(VECTOR),
        pa.scalar(VECTOR).values,
        pa.scalar(VECTOR),
        pa.scalar(VECTOR, pa.list_(pa.float16(), 3)),
        [pa.scalar(number) for number in VECTOR],
        list(torch.tensor(VECTOR)),
        list(map(np.array, VECTOR)),
        np.array(VECTOR, object),
        array.array("f", VECTOR),
        memoryview(np.array(VECTOR)),
        pd.Series(VECTOR, dtype=object),
    ],
    ids=lambda given: type(given).__name__,
)
def test_numbers_are_one_vector_whatever_holds_them(given: object) -> None:
    asked, is_one = read_queries(given)
    assert is_one
    np.testing.assert_array_equal(asked[0], VECTOR)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        ["a", "b"],
        ("a", "b"),
        np.array(["a", "b"]),
        pa.array(["a", "b"]),
        np.array(["a", "b"], object),
        [pa.scalar("a"), np.array("b")],
        (word for word in "ab"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_several_texts_are_several_queries(given: object) -> None:
    assert read_queries(given) == (["a", "b"], False)


def test_bytes_and_one_text_are_taken_from_what_holds_them() -> None:
    assert [read_query(one) for one in (pa.scalar("a"), np.array("a"), np.str_("a"))] == ["a"] * 3
    assert [read_query(one) for one in (pa.scalar(b"a"), bytearray(b"a"), memoryview(b"a"))] == [b"a"] * 3


def test_several_vectors_are_several_queries_in_any_container() -> None:
    x_BD = np.eye(3, dtype=np.float32)
    for given in (x_BD, list(x_BD), x_BD.tolist(), torch.from_numpy(x_BD), pa.array(x_BD.tolist())):
        asked, is_one = read_queries(given)
        assert not is_one
        np.testing.assert_array_equal(np.stack(asked), x_BD)  # type: ignore[arg-type]
    assert [type(one) for one in read_queries(["words", b"bytes", VECTOR])[0]] == [str, bytes, np.ndarray]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "I", "F", "LAB"])
def test_a_picture_keeps_its_pixels_and_its_turn(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), "RGB")
    image = image.convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (8, 8), (10, 20, 30))
    image.getexif()[0x0112] = 6  # turned by a quarter
    read = Image.open(io.BytesIO(read_query(image)))  # type: ignore[arg-type]
    assert read.mode == mode
    turned, asked = ImageOps.exif_transpose(read), ImageOps.exif_transpose(image)
    np.testing.assert_array_equal(np.asarray(turned), np.asarray(asked))
    file = tmp_path / "a.bin"
    file.write_bytes(b"any bytes")
    assert read_query(file) == b"any bytes"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "no query in an empty list"),
        (np.zeros((0, 3)), "no query in an empty list"),
        (7, "a query is a int"),
        (np.zeros((2, 2, 3)), r"array of shape \(2, 2, 3\); a picture is asked for as a PIL image"),
        ([["a", "b"]], "itself a list of 2"),
        ([None], "a query is a NoneType"),
        ([True, False], "a query is a bool"),
        (["words", VECTOR, VECTOR[:2]], "the queries have 2 and 3 dims; search each width by itself"),
        ({"a": 1}, "a query is a dict"),
        ({"a", "b"}, "a query is a set"),
        (np.ma.masked_array(VECTOR, [True, False, False]), "some of its numbers are masked"),
        (np.ma.masked, "some of its numbers are masked"),
        (Path("nowhere.png"), "'nowhere.png' cannot be read.*a Path names an image file"),
        ([VECTOR, " \t\n"], "nothing but white space"),
        ("a\ud800", r"'a\\ud800' is not valid Unicode: surrogates not allowed"),
        (io.StringIO("a"), "an open file, of type StringIO; pass its Path, or what it holds"),
        (io.BufferedReader(io.BytesIO(b"a")), "an open file, of type BufferedReader"),
        (pa.scalar(None), "a query is a NoneType"),
        ([2**2000, 1], "a query is a int"),
        (np.array(VECTOR, complex), "a query is a complex"),
        (np.array(1.0), "a query is a float"),
        (pd.DataFrame({"a": [1.0], "b": ["c"]}), "a query in a list is a list|a query is a float"),
        (torch.zeros(3).to_sparse(), "a query of type Tensor cannot be read"),
        (torch.zeros(3, device="meta"), "a query of type Tensor cannot be read"),
        (np.array([{}], object), "a query is a dict"),
        (array.array("f"), "no query in an empty list"),
        (Image.open(io.BytesIO(BROKEN)), "the picture cannot be read: .*; pass another"),
    ],
)
def test_what_is_no_query_is_refused_with_what_is_allowed(given: object, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        read_queries(given)
    assert re.search("words|pass", str(refused.value))


def test_titles_say_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def described(query: object) -> str:
        asked, is_one = read_queries(query)
        return describe_query(query, asked, is_one=is_one)

    monkeypatch.chdir(tmp_path)
    Path("fox.png").write_bytes(b"pixels")
    assert described("a\x1bb") == "nearest to 'a\\x1bb'"
    assert [described(one) for one in (VECTOR, b"pixels", ["a", "b"], Path("fox.png"))] == [
        "nearest to a vector",
        "nearest to a picture",
        "nearest to each of 2 queries",
        "nearest to fox.png",
    ]
