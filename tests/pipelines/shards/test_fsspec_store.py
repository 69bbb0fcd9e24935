"""Stores that fsspec reaches."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler
from typing import Any

import fsspec
import pytest

from pipelines.shards import list_shards
from schemas.config import InputConfig
from schemas.errors import ConfigError, DependencyMissing, ShardNotFound, ShardUnreadable
from tests.support.shard_files import read, shard_at, tar_bytes, text_members

TEXT = InputConfig(text="txt", keep=("n",))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.tar").write_bytes(tar_bytes(text_members(["1", "2"])))
    with _served(functools.partial(_Quiet, directory=tmp_path)) as served:
        yield served


@contextmanager
def _served(handler: Callable[..., BaseRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_http(site: str) -> None:
    shard = shard_at(f"{site}/d/a.tar")
    assert shard.size == 10_240
    assert list(read(shard, TEXT).inputs) == ["1", "2"]
    assert list_shards([f"{site}/d/{{a,a}}.tar"]) == [shard]
    with pytest.raises(ShardNotFound, match=r"b\.tar is not there"):
        list_shards([f"{site}/d/b.tar"])


def test_two_files_whose_addresses_differ_in_a_signature_alone_are_refused_and_none_is_lost(tmp_path: Path) -> None:
    class ByToken(_Quiet):
        def translate_path(self, path: str) -> str:
            return str(tmp_path / path.rpartition("=")[2][:3])

        def end_headers(self) -> None:
            if "tagged" in self.path:
                self.send_header("ETag", f'"{self.translate_path(self.path)[-3:]}"')
            super().end_headers()

    for name in ("one", "two"):
        (tmp_path / name).write_bytes(tar_bytes(text_members([name])))
    with _served(ByToken) as site:
        assert len(list_shards([f"{site}/tagged.tar?Signature={name}" for name in ("one", "one2")])) == 1
        for file in ("tagged.tar", "plain.tar"):
            with pytest.raises(ConfigError, match=f"two addresses of http.*/{file} differ only in what is") as refused:
                list_shards([f"{site}/{file}?Signature={name}" for name in ("one", "two")])
            assert "Signature=" not in str(refused.value)


def test_what_a_server_refuses_is_said_without_the_signature(tmp_path: Path) -> None:
    answers = {"expired": 403, "login": 401, "down": 500}
    now = {"status": 200}

    class Refuses(_Quiet):
        def send_head(self) -> Any:
            status = next((answers[word] for word in answers if word in self.path), now["status"])
            if status != 200:
                return self.send_error(status)
            return super().send_head()

    (tmp_path / "a.tar").write_bytes(tar_bytes(text_members(["1"])))
    with _served(functools.partial(Refuses, directory=tmp_path)) as site:
        for query, said in (
            ("?Signature=expired", r"the server refuses it \(403 .*sign it again"),
            ("?Signature=login", r"the server refuses it \(401"),
            ("?Signature=down", "the server answers 500"),
        ):
            with pytest.raises(ShardUnreadable, match=f"a.tar.*: .*{said}") as refused:
                list_shards([f"{site}/a.tar{query}"])
            assert "Signature=" not in str(refused.value)
        shard = shard_at(f"{site}/a.tar?Signature=good")
        now["status"] = 403
        with pytest.raises(ShardUnreadable, match="the server refuses it"):
            read(shard, TEXT)
        now["status"] = 404
        with pytest.raises(ShardNotFound, match="is gone"):
            read(shard, TEXT)
    with pytest.raises(ShardUnreadable, match=r"reading fails: Cannot connect to host"):
        list_shards([f"{site}/a.tar"])


def test_any_filesystem_of_fsspec() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe(
        {"/x/b-2.tar": tar_bytes(text_members(["2"])), "/x/b-10.tar": tar_bytes(text_members(["10"])), "/x/no": b""}
    )
    shards = list_shards(["memory://x"])
    assert [shard.uri for shard in shards] == ["memory:///x/b-2.tar", "memory:///x/b-10.tar"]
    assert list_shards(["memory://x/*.tar"]) == shards
    assert list(read(shards[1], TEXT).inputs) == ["10"]
    memory.pipe("/x/b-2.tar", b"other")
    with pytest.raises(ShardUnreadable, match="has changed"):
        read(shards[0], TEXT)
    memory.rm("/x/b-10.tar")
    with pytest.raises(ShardNotFound, match="is gone"):
        read(shards[1], TEXT)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(DependencyMissing, match="nowhere:// is read through fsspec, which says"):
        list_shards(["nowhere://x/y.tar"])
