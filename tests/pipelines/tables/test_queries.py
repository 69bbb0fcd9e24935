"""Each form of a query becomes words, the bytes of an image, or a vector; everything else is refused in words."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageOps

from pipelines.tables.queries import describe_query, read_queries, read_query
from schemas.errors import InputError

VECTOR = [0.25, 0.5, -1.0]


@pytest.mark.parametrize(
    "given",
    [
        VECTOR,
        tuple(VECTOR),
        np.array(VECTOR, np.float16),
        torch.tensor(VECTOR, dtype=torch.bfloat16, requires_grad=True),
        pa.array(VECTOR),
        pa.scalar(VECTOR).values,
    ],
    ids=["list", "tuple", "numpy", "torch", "arrow", "arrow scalar"],
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
        (word for word in "ab"),
    ],
    ids=["list", "tuple", "numpy", "arrow", "generator"],
)
def test_several_texts_are_several_queries(given: object) -> None:
    assert read_queries(given) == (["a", "b"], False)


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
        (np.zeros((0, 3)), "no query in an empty ndarray"),
        (7, "a query is a int"),
        (np.zeros((2, 2, 3)), r"array of shape \(2, 2, 3\); a picture is asked for as a PIL image"),
        ([["a", "b"]], "itself a list of 2"),
        ([None], "a query is a NoneType"),
        ([True, False], "a query is a bool"),
        (["words", VECTOR, VECTOR[:2]], "the queries have 2 and 3 dims; search each width by itself"),
        ({"a": 1}, "a query is a dict"),
        ({"a", "b"}, "a query is a set"),
        (np.ma.masked_array(VECTOR, [True, False, False]), "some of its numbers are masked"),
        (Path("nowhere.png"), "'nowhere.png' cannot be read.*a Path names an image file"),
    ],
)
def test_what_is_no_query_is_refused_with_what_is_allowed(given: object, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        read_queries(given)
    assert "words" in str(refused.value)


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
