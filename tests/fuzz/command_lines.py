"""Seeded command lines and configs for every verb: valid ones, with some of their words replaced by hostile ones."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HOSTILE: tuple[Any, ...] = (
    "",
    " ",
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "99999999999999999999",
    "0.5",
    "true",
    "[]",
    "{}",
    "[1, 2]",
    "auto",
    "none",
    "[/]",
    "[bold]x",
    "{dim}",
    "a\x1b[2Jb",
    "\x00",
    "é\u202e",
    "\udcff",
    "../..",
    "/",
    "/dev/null",
    "/proc/self/mem",
    "s3://",
    "http://127.0.0.1:1/x",
    "file:///none",
    "x" * 5000,
    "a;b",
    "'",
    '"',
    "`",
    "%s",
    "\\",
    "*",
    "[",
    "(" * 200,
    "shard = 3",
    "no_such = 1",
    "score",
    "_distance",
    "vector",
    "id",
    "--help",
    "-",
    "--",
    "words.png",
    "cuda",
    "1",
    "64",
)
VALUES: tuple[Any, ...] = (
    "",
    0,
    -1,
    1,
    7,
    10**6,
    10**12,
    10**30,
    -0.0,
    1e-300,
    1e300,
    True,
    False,
    [],
    [""],
    {},
    [[]],
    {"a": 1},
    "auto",
    "none",
    "a\x1b[2J",
    "[/]",
    "no-such",
    "../x",
    "{dim}",
    "vector",
    "score",
    "x" * 300,
    [1, 1],
    [8, 16],
    ["id", "id"],
    "cuda",
)
OPTIONS = {
    "search": [
        "--k",
        "--where",
        "--columns",
        "--dims",
        "--exact",
        "--recall",
        "--json",
        "--endpoint",
        "--region",
        "--profile",
        "--encoder-path",
        "--trust-remote-code",
    ],
    "funnel": [
        "--recall",
        "--k",
        "--home",
        "--bytes",
        "--stages",
        "--objective",
        "--held-out",
        "--queries",
        "--card",
        "--dry-run",
    ],
    "rejects": ["--reason", "--limit", "--endpoint"],
    "clean": ["--older-than", "--compact", "--dry-run", "--profile"],
    "rotate": ["--endpoint", "--even-if-trained"],
    "encoders": ["--matryoshka"],
    "embed": ["--set", "--dry-run", "--log", "--retry-rejects"],
    "shortlist": ["--set", "--dry-run", "--plot"],
    "train": ["--set", "--dry-run", "--log"],
    "evaluate": ["--set", "--json"],
    "delete": ["--json", "--hide-prod", "--endpoint", "--region"],
    "demo": ["--set"],
    "deploy": ["--set"],
    "explore": ["--images", "--host", "--port", "--memory-gb", "--encoder-path", "--profile"],
    "history": ["--limit", "--json", "--html", "--ask", "--queries", "--images", "--endpoint"],
    "inspect": ["--version", "--html", "--json", "--region"],
    "jobs": ["--json"],
    "lift": ["--id", "--shard", "--json", "--endpoint"],
    "nightly": ["--set", "--log"],
    "plan": ["--set", "--machines", "--cpus", "--gpus", "--price", "--rows-per-s", "--pilot-rows", "--json"],
    "prod": ["--json", "--metrics", "--profile"],
    "publish": ["--generation", "--version", "--note", "--force", "--endpoint"],
    "rollback": ["--to", "--note", "--even-if-erased", "--endpoint"],
    "submit": ["--no-wait", "--image", "--installed", "--file", "--env"],
}


def command_line(rng: random.Random, table: str, folder: Path) -> list[str]:
    """Return the words of one command; a config that it needs is written into `folder`."""
    verb = rng.choice(sorted(OPTIONS))
    if verb in ("embed", "shortlist", "train", "evaluate"):
        words = [verb, _write(rng, verb, table, folder)]
        if verb != "evaluate" or rng.random() < 0.5:
            words.append("--dry-run")
    elif verb == "encoders":
        words = [verb, rng.choice(["wordllama", "clip", str(rng.choice(HOSTILE))])]
    elif verb in ("nightly", "deploy", "demo", "plan"):
        words = _with_config(rng, verb, table, folder)
    elif verb in ("jobs", "submit"):
        words = _to_a_cluster(rng, verb, table, folder)
    elif verb == "delete":
        where = rng.choice(["shard = 3", "id = 'none'", "text LIKE 'a%'", *HOSTILE])
        words = [verb, table, "--dry-run", "--where", str(where)]
    elif verb == "explore":
        # A host that cannot be listened on comes last, so that no server starts and waits for Ctrl-C.
        words = [verb, table]
    elif verb == "rotate":
        # Without --dry-run, a real table would start Ray.
        words = [verb, str(rng.choice(HOSTILE))] if rng.random() < 0.3 else [verb, table, "--dry-run"]
    else:
        words = [verb, table]
        if verb == "search":
            words.append(rng.choice(["a river", "-", "no.png", table, str(rng.choice(HOSTILE))]))
    for option in rng.sample(OPTIONS[verb], k=rng.randint(0, min(3, len(OPTIONS[verb])))):
        words += [option] if rng.random() < 0.2 else [option, str(rng.choice(HOSTILE))]
    if verb == "explore":
        return [*words, "--host", rng.choice(["192.0.2.1", "no.such.host.invalid", "x" * 300, "\udcff", "a b", "::g"])]
    if verb == "demo":
        return [*words, "--set", "limit=0"]  # refused: a demo takes minutes
    place = rng.randrange(1, len(words))
    if rng.random() < 0.15 and words[place] != "--dry-run":
        words[place] = str(rng.choice(HOSTILE))
    return words


def _with_config(rng: random.Random, verb: str, table: str, folder: Path) -> list[str]:
    """A verb with a config of its own; nights only plan, and a demo is refused."""
    if verb == "demo":
        return [verb]
    words = [verb, _write(rng, "embed" if verb == "plan" else verb, table, folder)]
    if verb == "plan":
        return words
    return [*words, "--dry-run"] if verb == "nightly" else [*words, "--out", str(folder / "deploy")]


def _to_a_cluster(rng: random.Random, verb: str, table: str, folder: Path) -> list[str]:
    """A verb for a cluster, of which none is there."""
    words = [verb, "--address", rng.choice(["http://127.0.0.1:1", *map(str, HOSTILE)])]
    if verb == "jobs":
        return [
            *words,
            rng.choice(["list", "logs", "stop"]),
            *rng.choice([[], ["raysubmit_1"], [str(rng.choice(HOSTILE))]]),
        ]
    sent = [rng.choice(["embed", "search", "jobs", str(rng.choice(HOSTILE))]), _write(rng, "embed", table, folder)]
    return [*words, *sent]


def _write(rng: random.Random, verb: str, table: str, folder: Path) -> str:
    config = _valid(verb, table, folder)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        _spoil(rng, config)
    path = folder / "config.toml"
    path.write_bytes(_toml(config).encode("utf-8", "surrogatepass"))
    return str(path)


def _valid(verb: str, table: str, folder: Path) -> dict[str, Any]:
    """Return a small config of a verb, with most of its keys."""
    if verb == "deploy":
        night = folder / "night.toml"
        night.write_text("[audit]\n")
        workers = {"cpus": 4, "memory_gib": 16, "gpus": 0, "most": 2}
        text = {
            "name": "lake",
            "namespace": "lake",
            "image": "i:1",
            "nightly": str(night),
            "bucket": "b",
            "prefix": "p",
        }
        return text | {
            "schedule": "0 2 * * *",
            "time_zone": "Etc/UTC",
            "most_hours": 2,
            "encode": workers,
            "decode": workers,
        }
    if verb == "nightly":
        night = {"audit": {"min_recall": 0.9}, "budget": {"minutes": 5}, "retain": {"generations": 2, "versions": 3}}
        return _valid("embed", table, folder) | night
    if verb == "embed":
        return {
            "shards": [str(folder / "shards" / "*.jsonl")],
            "table": str(folder / "new.lance"),
            "input": {"text": "text", "keep": ["n"]},
            "encoder": {"name": "wordllama", "batch": 4, "device": "cpu"},
            "rotation": {"kind": "none", "sample_rows": 100},
            "cluster": {"actors": 1, "cpus_per_actor": 1, "feeders": 0, "leases_per_actor": 1, "decode_threads": 1},
            "limits": {"max_reject_fraction": 0.1, "max_tries": 1, "sample_timeout_s": 5, "commit_age_s": 1},
            "storage": {"endpoint": "http://127.0.0.1:1"},
        }
    if verb == "shortlist":
        lists = {"dims": [64], "k": 3, "where": "shard = 0", "memory_bytes": 1 << 28}
        return {"table": table, "dims": [64], "index": {"type": "none", "partitions": 2}, "lists": lists}
    if verb == "train":
        return {
            "kind": "head-from-nothing",
            "out": str(folder / "out"),
            "data": {"table": table, "held_out": 0.2, "label": "text"},
            "loss": {"dims": [8, 16], "weights": [1.0, 1.0]},
            "run": {"epochs": 1, "batch": 8, "seed": 0},
            "optimiser": {"name": "sgd", "lr": 0.1, "betas": [0.9, 0.99]},
        }
    return {
        "folder": str(folder / "out"),
        "data": {"label": "no-such", "held_out": 0.2, "queries": 10},
        "systems": [{"name": "a", "database": table, "dims": [64]}],
        "measure": {"k": 3, "recall": [3], "draws": 10, "linear": False, "between": False},
    }


def _spoil(rng: random.Random, config: dict[str, Any]) -> None:
    """Give one key of a config a hostile value, remove it, or add one that is unknown."""
    here = config
    while (blocks := [value for value in here.values() if isinstance(value, dict)]) and rng.random() < 0.7:
        here = rng.choice(blocks)
    key = rng.choice([*here, "no-such-key"])
    if rng.random() < 0.1:
        here.pop(key, None)
    else:
        here[key] = copy.deepcopy(rng.choice(VALUES))  # a later change may go into it


def _toml(config: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(key)} = {_value(value)}\n" for key, value in config.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)
