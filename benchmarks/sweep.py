"""Embed every file of a folder of strange files, one by one, and count what becomes of them.

    python benchmarks/sweep.py FOLDER                 # such as clones of apache/parquet-testing, nst/JSONTestSuite,
                                                      # python-pillow/Pillow (Tests/images), webdataset (testdata)

Each Parquet file, tar, JSON text and image becomes a shard with a table of its own; every column is kept. What can
become of it:

    landed     rows are in the table, and the kept values equal those that pyarrow reads
    rejected   the sample is counted with its reason, and the rest of the shard is in the table
    refused    one sentence says why
    altered    rows are in the table with other values: a fault
    internal   an error that nobody foresaw, a crash, or no answer within a minute: a fault

Owns the counting. The cases run in a process of their own, which is started again when one takes it down.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import queue
import resource
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_WITHIN_S = 60.0
_MEMORY_BYTES = 12 << 30
_SHOWN = 12
_FAULTS = ("altered", "internal")


@dataclass(frozen=True)
class Case:
    """One strange file as a shard.

    Attributes:
        name: Path of the file, for the report.
        kind: `parquet`, `json`, `image` or `tar`.
        shard: Path of the shard that holds it.
        input: The `input` block of the config.
        encoder: Name of the encoder.
        has_twin: Whether pyarrow can read the shard, to compare with.
    """

    name: str
    kind: str
    shard: str
    input: dict[str, Any]
    encoder: str = "wordllama"
    has_twin: bool = False


def cases_of(folder: Path, scratch: Path) -> Iterator[Case]:
    """Make a case of every file below a folder."""
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        name, suffix = str(file.relative_to(folder)), file.suffix.lower()
        if ".git" in file.parts:
            continue
        if ".parquet" in file.name:
            yield _parquet_case(name, file, scratch / f"{number}.parquet")
        elif suffix == ".json" and "test" in str(file):
            yield _json_case(name, file.read_bytes(), scratch / f"{number}.jsonl")
        elif suffix in (".tar", ".tgz") or file.name.endswith(".tar.gz"):
            yield _tar_case(name, file)
        elif suffix in _image_suffixes():
            yield _image_case(name, file, scratch / f"{number}.tar")


def _image_suffixes() -> frozenset[str]:
    from PIL import Image

    Image.init()
    return frozenset(Image.registered_extensions())


def _parquet_case(name: str, file: Path, shard: Path) -> Case:
    """Keep every column. A file without texts gets a column of them, where pyarrow can read it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if "encrypted" in name:  # pyarrow may abort the process
            raise ValueError
        with pa.OSFile(str(file)) as source:
            schema = pq.read_schema(source)
    except Exception:
        shard.symlink_to(file)
        return Case(name, "parquet", str(shard), {"text": "text"})
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    if texts:
        shard.symlink_to(file)
        keep = [field for field in schema.names if field != "id"]
        return Case(name, "parquet", str(shard), {"text": texts[0], "keep": keep}, has_twin=True)
    try:
        table = pq.read_table(file)
        pq.write_table(table.append_column("sweep", pa.array(["words"] * len(table))), shard)
    except Exception:
        shard.symlink_to(file)
        return Case(name, "parquet", str(shard), {"text": schema.names[0] if schema.names else "text"})
    keep = [field for field in table.schema.names if field != "id"]
    return Case(name, "parquet", str(shard), {"text": "sweep", "keep": keep}, has_twin=True)


def _json_case(name: str, content: bytes, shard: Path) -> Case:
    """A line whose kept field is the file's text, between two good ones."""
    good = b'{"text": "words", "kept": null}\n'
    line = content.replace(b"\r", b" ").replace(b"\n", b" ")
    shard.write_bytes(good + b'{"text": "words", "kept": ' + line + b"}\n" + good)
    return Case(name, "json", str(shard), {"text": "text", "keep": ["kept"]})


def _image_case(name: str, file: Path, shard: Path) -> Case:
    extension = file.suffix.lower().removeprefix(".")
    with tarfile.open(shard, "w") as out:
        data = file.read_bytes()
        member = tarfile.TarInfo(f"sample.{extension}")
        member.size = len(data)
        out.addfile(member, io.BytesIO(data))
    return Case(name, "image", str(shard), {"image": extension}, "efficientnet-lite0")


def _tar_case(name: str, file: Path) -> Case:
    try:
        with tarfile.open(file) as source:
            extensions = Counter(Path(member.name).name.partition(".")[2].lower() for member in source)
    except (OSError, tarfile.TarError, EOFError):
        extensions = Counter()
    images = [extension for extension in extensions if extension in ("jpg", "jpeg", "png", "ppm", "webp")]
    texts = [extension for extension in extensions if extension in ("txt", "json", "cls", "text", "transcript")]
    if images:
        return Case(name, "tar", str(file), {"image": images[0], "keep": texts[:1]}, "efficientnet-lite0")
    return Case(name, "tar", str(file), {"text": texts[0] if texts else "txt", "keep": texts[1:2]})


def embed_one(case: Case, table: str) -> tuple[int, Counter[str], Any]:
    """Embed a case into a new table, in this process; return its rows, its rejects by reason, and its kept values."""
    import pyarrow as pa

    from pipelines.embedding.creation import create_table_for
    from pipelines.embedding.embedder import Embedder
    from pipelines.embedding.plan import make_plan
    from pipelines.tables.ledger import commit_leases
    from schemas.config import EmbedConfig
    from schemas.records import Lease

    limits = {"max_reject_fraction": 1.0}
    blocks = {"input": case.input, "encoder": {"name": case.encoder, "device": "cpu"}, "limits": limits}
    config = EmbedConfig.model_validate({"shards": [case.shard], "table": table, **blocks})
    plan = make_plan(config)
    made = create_table_for(config, plan, lambda shards: _no_rotation(), str)
    result = Embedder(config, 1).run(Lease(plan.todo))
    commit_leases(made, [result], "sweep")
    made = made.refresh()
    kept = made.dataset.to_table(columns=made.kept.names) if made.kept.names else pa.table({})
    return made.dataset.count_rows(), Counter(reject.reason for reject in result.rejects), kept


def _no_rotation() -> Any:
    raise AssertionError("no rotation is configured")


def _outcome(case: Case, table: str) -> tuple[str, str]:
    """Run a case; return what became of it, and why."""
    from pydantic import ValidationError

    from jobs.failures import explain

    try:
        rows, rejects, kept = embed_one(case, table)
    except ValidationError as error:
        return "refused", f"config: {error.errors()[0]['msg']}"
    except BaseException as error:
        said = explain(error).text
        return ("internal", said) if said.startswith("internal") else ("refused", said)
    if rejects:
        return "rejected", ", ".join(sorted(rejects))
    if case.has_twin and (column := _altered(case, kept)):
        return "altered", column
    return ("landed", "") if rows else ("refused", "no rows")


def _altered(case: Case, kept: Any) -> str:
    """Return the first kept column whose values differ from what pyarrow reads, or an empty text."""
    import pyarrow.parquet as pq

    try:
        twin = pq.read_table(case.shard)
    except (OSError, ValueError):  # there is nothing to compare with
        return ""
    for column in case.input["keep"]:
        if column not in kept.column_names:
            return column
        if kept[column].type == twin[column].type and kept[column].equals(twin[column]):
            continue
        found, wanted = ([_plain(value) for value in values.to_pylist()] for values in (kept[column], twin[column]))
        if found != wanted:
            return column
    return ""


def _plain(value: object) -> str:
    """Write a value so that maps equal lists of pairs, NaN equals NaN, and every number of one value is one text."""
    if isinstance(value, dict):
        if value.keys() == {"key", "value"}:
            return _plain((value["key"], value["value"]))
        return "{" + ",".join(f"{key}:{_plain(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_plain(one) for one in value) + "]"
    return repr(value)


def _serve() -> None:
    """Run the cases that come on stdin, one JSON object a line; answer each with a line."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    logging.disable(logging.CRITICAL)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as scratch:
            answers.write(json.dumps(_outcome(Case(**json.loads(line)), f"{scratch}/t.lance")) + "\n")
        answers.flush()


class _Server:
    """The process that runs the cases."""

    def __init__(self) -> None:
        command = [sys.executable, __file__, "--serve"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, case: Case) -> tuple[str, str] | None:
        """Return the outcome of a case; None after a crash or a minute, when the process is gone."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(case)) + "\n")
        self._process.stdin.flush()
        try:
            line = self._answers.get(timeout=_WITHIN_S)
        except queue.Empty:
            line = ""
        if line:
            outcome, why = json.loads(line)
            return outcome, why
        self.close()
        return None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def main() -> int:
    """Sweep the folders; exit 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        _serve()
        return 0
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as scratch:
        server = _Server()
        for place, folder in enumerate(args.folders):
            (Path(scratch) / str(place)).mkdir()
            for case in cases_of(folder.resolve(), Path(scratch) / str(place)):
                found = server.ask(case)
                if found is None:
                    found, server = ("internal", "the process ended, or gave no answer"), _Server()
                counts[case.kind][found[0]] += 1
                reasons[f"{case.kind} {found[0]}"][found[1].replace(case.shard, "SHARD")[:110]] += 1
                if found[0] in _FAULTS:
                    print(f"{found[0]}: {case.name}: {found[1][:300]}", flush=True)
        server.close()
    for kind, count in sorted(counts.items()):
        print(f"{kind}: " + ", ".join(f"{number} {outcome}" for outcome, number in count.most_common()))
    for what, said in sorted(reasons.items()):
        for why, number in said.most_common(_SHOWN):
            print(f"  {what}: {number} x {why}")
    return int(any(count[fault] for count in counts.values() for fault in _FAULTS))


if __name__ == "__main__":
    sys.exit(main())
