"""One query in a space: what cannot be embedded there is refused."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.encoders import encode_query, make_space
from schemas.config import EncoderConfig
from schemas.errors import InputError, SpaceMismatch

SPACE = make_space(EncoderConfig(name="wordllama"))


def test_a_query_is_one_unit_row() -> None:
    vector_D = encode_query(SPACE, "a goal")
    assert vector_D.shape == (256,)
    assert np.isclose(np.linalg.norm(vector_D), 1)


def test_a_query_of_another_modality_is_refused() -> None:
    with pytest.raises(SpaceMismatch, match="embeds text inputs; this query is image"):
        encode_query(SPACE, b"pixels")


def test_an_empty_query_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be embedded"):
        encode_query(SPACE, "")
