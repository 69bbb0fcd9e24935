"""Secrets of addresses: no stored config and no message holds one, and everything else stays as it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.config import EmbedConfig
from schemas.errors import ConfigError, ShardsFailed
from schemas.redaction import redact, unsigned

_SECRET = "S3cr3t"
_URLS = [
    f"https://b.s3.amazonaws.com/a.tar?X-Amz-Credential=x&X-Amz-Signature={_SECRET}",
    f"https://acc.blob.core.windows.net/c/a.tar?sv=2024&sig={_SECRET}%3D",
    f"https://user:{_SECRET}@host:9000/a.tar",
    f"HTTPS://{_SECRET}@host/a.tar?token={_SECRET}",
    f"s3://bucket/a.tar?token={_SECRET}",
    f"http://user:p{_SECRET}@[::1]:9000",
]


@pytest.mark.parametrize("url", _URLS)
@pytest.mark.parametrize("around", ["{}", "({})", "'{}', 'x'", "[{}: gone]", '{{"endpoint":"{}"}}'])
def test_no_secret_of_an_address_stays(url: str, around: str) -> None:
    said = redact(around.format(url))
    assert _SECRET not in said
    assert url.partition("://")[0] in said
    assert redact(said) == said
    if around.startswith("{{"):
        assert json.loads(said).keys() == {"endpoint"}


@pytest.mark.parametrize(
    "text",
    ["s3://b/part-?.tar", "/data/a=b?.tar", "https://host/a.tar", "memory://x/??/[ab].jsonl", "a@b.c", "50 % of 3?"],
)
def test_what_is_not_secret_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60), st.sampled_from(_URLS), st.text(max_size=60))
def test_json_of_a_config_stays_json(before: str, url: str, after: str) -> None:
    config = {"a": before, "b": [url, after], "c": 1}
    found = json.loads(redact(json.dumps(config)))
    assert found.keys() == config.keys()
    assert _SECRET not in json.dumps(found["b"][0])


def test_errors_and_journals_hold_none() -> None:
    assert _SECRET not in str(ConfigError(f"storage.endpoint={_URLS[2]} cannot be reached"))
    assert _SECRET not in str(ShardsFailed({_URLS[0]: "gone"}, 2))
    config = {
        "shards": _URLS[:2],
        "table": "t.lance",
        "input": {"text": "text"},
        "encoder": {"name": "wordllama"},
        "storage": {"endpoint": _URLS[2]},
    }
    assert _SECRET not in redact(EmbedConfig.model_validate(config).model_dump_json())


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        (_URLS[0], "https://b.s3.amazonaws.com/a.tar"),
        (_URLS[1], "https://acc.blob.core.windows.net/c/a.tar"),
        (_URLS[2], "https://host:9000/a.tar"),
        ("https://h/a.tar?versionId=3&X-Goog-Signature=1&x-goog-date=2#1", "https://h/a.tar?versionId=3#1"),
        ("https://h/a.tar?Expires=1&Signature=2&Key-Pair-Id=3", "https://h/a.tar"),
        ("https://h/a.tar?response-content-type=x&X-Amz-Signature=2&x-id=GetObject", "https://h/a.tar"),
        ("https://h/a.tar?rscd=file&sv=2&sig=3", "https://h/a.tar"),
        ("https://h/a.tar?response-content-type=x&x-id=1", "https://h/a.tar?response-content-type=x&x-id=1"),
        ("https://h/a.tar?token=1", "https://h/a.tar?token=1"),
        ("https://h/get?sv=2&st=3&file=a%2Fb.tar", "https://h/get?sv=2&st=3&file=a%2Fb.tar"),
        ("https://TOKEN@h/a.tar", "https://h/a.tar"),
        ("s3://b/a?sig=1", "s3://b/a?sig=1"),
        ("abfs://box@account/a.tar", "abfs://box@account/a.tar"),
        ("/data/a:b@c?sig=1", "/data/a:b@c?sig=1"),
    ],
)
def test_a_ledger_names_a_file_without_password_and_signature(uri: str, name: str) -> None:
    assert unsigned(uri) == unsigned(name) == name
