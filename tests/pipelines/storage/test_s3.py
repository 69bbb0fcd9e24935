"""One client per store, and options that Lance understands."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.storage.s3 import lance_options, s3_client
from schemas.config import StorageConfig
from schemas.errors import ConfigError

LOCAL = StorageConfig(endpoint="http://127.0.0.1:9000", region="eu-central-1")


def test_there_is_one_client_per_store_with_time_outs() -> None:
    client = s3_client(LOCAL)
    assert s3_client(StorageConfig(endpoint=LOCAL.endpoint, region=LOCAL.region)) is client
    assert (client.meta.endpoint_url, client.meta.region_name) == (LOCAL.endpoint, LOCAL.region)
    assert client.meta.config.connect_timeout == 10
    assert client.meta.config.read_timeout == 20


def test_lance_gets_what_differs_from_its_defaults() -> None:
    assert lance_options(StorageConfig()) is None
    assert lance_options(LOCAL) == {
        "aws_endpoint": LOCAL.endpoint,
        "aws_virtual_hosted_style_request": "false",
        "allow_http": "true",
        "aws_region": "eu-central-1",
    }


def test_a_profile_gives_its_credentials_and_a_missing_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text("[lake]\naws_access_key_id = one\naws_secret_access_key = two\naws_session_token = three\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    assert lance_options(StorageConfig(profile="lake")) == {
        "aws_access_key_id": "one",
        "aws_secret_access_key": "two",
        "aws_session_token": "three",
    }
    for call in (lance_options, s3_client):
        with pytest.raises(ConfigError, match=r"storage.profile: .*nobody"):
            call(StorageConfig(profile="nobody"))
