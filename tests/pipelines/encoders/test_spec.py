"""The terms of a model are told where there are any."""

from __future__ import annotations

from pipelines.encoders import encoder_spec, licence_notice


def test_the_licence_notice_names_every_restriction() -> None:
    assert licence_notice(encoder_spec("wordllama")) is None
    assert "forbids commercial use" in str(licence_notice(encoder_spec("jina-clip-v2")))
    assert "gated" in str(licence_notice(encoder_spec("embeddinggemma-300m")))
    assert "runs Python code" in str(licence_notice(encoder_spec("nomic-embed-text-v1.5")))
