"""One client per store, and options that Lance understands."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from botocore.exceptions import ClientError

from pipelines.storage.folders import remove_folder
from pipelines.storage.s3 import check_conditional_writes, delete_keys, lance_access, lance_options, s3_client
from pipelines.tables.companion_commits import overwrite
from pipelines.tables.create import create_table
from schemas.columns import Ladder, Space
from schemas.config import StorageConfig
from schemas.errors import ConfigError
from tests.support.s3 import S3Server, running_moto

KEPT = pa.schema([])
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


def write_profile(file: Path, secret: str, name: str = "rewritten") -> None:
    file.write_text(f"[{name}]\naws_access_key_id = lake\naws_secret_access_key = {secret}\n")


def test_a_local_path_needs_nothing_and_reads_no_profile() -> None:
    assert lance_access("/data/t.lance", StorageConfig(profile="nobody")) == {}


def test_what_lance_renews_itself_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "two")
    storage = StorageConfig(region="eu-central-2")
    assert lance_access("s3://b/t.lance", storage) == {"storage_options": {"aws_region": "eu-central-2"}}


def test_an_open_table_goes_on_with_the_keys_that_were_written_meanwhile(
    s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, uri = tmp_path / "credentials", f"s3://{bucket}/t.lance"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    write_profile(file, s3_server.secret_key)
    storage = s3_server.storage.model_copy(update={"profile": "rewritten"})
    rows = pa.table({"a": range(100)})
    overwrite(uri, lambda: rows.to_reader(), rows.schema, storage)
    dataset = lance.dataset(**lance_access(uri, storage, renew_s=0, reread_s=0))
    client = s3_client(storage, reread_s=0)
    assert dataset.count_rows() == 100
    write_profile(file, "wrong")
    with pytest.raises(ValueError, match="SignatureDoesNotMatch"):
        dataset.to_table()
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client.list_objects_v2(Bucket=bucket)
    write_profile(file, s3_server.secret_key)
    assert dataset.to_table().num_rows == 100
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] > 0


@contextmanager
def careless_store(status: int) -> Iterator[StorageConfig]:
    """A store that takes every object, or answers a conditional write with another status."""

    class Answer(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(status if "If-None-Match" in self.headers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_DELETE = do_PUT

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield StorageConfig(endpoint=f"http://127.0.0.1:{server.server_address[1]}", region="us-east-1")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [200, 501])
def test_a_store_without_conditional_writes_is_refused(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "two")
    with careless_store(status) as storage, pytest.raises(ConfigError, match="has no conditional writes"):
        create_table("s3://bucket/t.lance", Space(encoder="m", revision="1", ladder=Ladder(dims=(8,))), KEPT, storage)


def test_objects_that_the_store_does_not_delete_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "two")
    with running_moto() as storage:
        client = s3_client(storage)
        client.create_bucket(Bucket="lake")
        for key in ("kept/a", "kept/b", "t/c"):
            client.put_object(Bucket="lake", Key=key, Body=b"1")
        resource = "arn:aws:s3:::lake/kept/*"
        deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": resource}
        policy = {"Version": "2012-10-17", "Statement": [deny]}
        client.put_bucket_policy(Bucket="lake", Policy=json.dumps(policy))
        delete_keys("lake", ["t/nobody"], storage)
        with pytest.raises(ClientError, match=r"AccessDenied.* 2 of 3 objects of bucket lake are not deleted.* kept/a"):
            delete_keys("lake", ["kept/a", "t/c", "kept/b"], storage)
        with pytest.raises(OSError, match="AccessDenied"):
            remove_folder("s3://lake/kept", storage)
        assert [found["Key"] for found in client.list_objects_v2(Bucket="lake")["Contents"]] == ["kept/a", "kept/b"]


def test_a_store_with_conditional_writes_is_asked_once_and_nothing_stays(s3_server: S3Server, bucket: str) -> None:
    check_conditional_writes(f"s3://{bucket}/", s3_server.storage)
    check_conditional_writes(f"s3://{bucket}/", s3_server.storage)
    assert s3_server.client().list_objects_v2(Bucket=bucket)["KeyCount"] == 0
