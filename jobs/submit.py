"""`mlake submit VERB …`: run a verb on a cluster, follow it here, and end with its exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cluster.submission import JobClient, Submission
from jobs.options import ClusterAddress, Flag
from jobs.verbs import VERBS
from pipelines.encoders.own_class import class_places, named_classes
from pipelines.reports.console import open_console
from schemas.errors import ConfigError
from schemas.printable import counted

_FOLLOWS_ITSELF = ("submit", "jobs")
_WITH_LOG = ("embed", "nightly", "train")


def main(
    *words: Annotated[str, Parameter(allow_leading_hyphen=True)],
    address: ClusterAddress,
    no_wait: Flag = False,
    image: Annotated[str | None, Parameter(metavar="IMAGE")] = None,
    installed: Flag = False,
    file: Annotated[list[Path] | None, Parameter(metavar="PATH")] = None,
    env: Annotated[list[str] | None, Parameter(metavar="NAME=VALUE")] = None,
) -> int:
    """Run a verb on a cluster, follow it here, and end with its exit code.

    Local files among the words, such as the config, are sent along, and so is the package or file of a class that the
    config names. This installation's packages are sent too, so that both ends are of one version. Ctrl-C stops
    following; the job goes on.

    Args:
        words: The command after mlake, for example: embed photos.toml --set encoder.batch=64
        no_wait: Print the job's id and return.
        image: Container image that has the project, in place of this installation's packages.
        installed: The machines of the cluster have the project installed; send no packages.
        file: Another file that the job reads. May be repeated.
        env: Environment variable of the job. May be repeated. Secrets belong to the cluster, not here.
    """
    submission = _submission(words, file or [], env or [], image, is_installed=installed)
    client = JobClient(address)
    job = client.submit(submission)
    console = open_console(is_error=True)
    if no_wait:
        print(job)
        return 0
    console.print(f"job {job}; stop it: mlake jobs stop {job} --address {address}", soft_wrap=True)
    try:
        code = client.follow(job, _tell)
    except KeyboardInterrupt:
        console.print(f"job {job} goes on; follow it: mlake jobs logs {job} --address {address}", soft_wrap=True)
        return 130
    if code:
        console.print(f"job {job} ended with exit code {code}", soft_wrap=True)
    return code


def _submission(
    words: tuple[str, ...], files: list[Path], env: list[str], image: str | None, *, is_installed: bool
) -> Submission:
    if not words or words[0] not in VERBS or words[0] in _FOLLOWS_ITSELF:
        allowed = ", ".join(verb for verb in VERBS if verb not in _FOLLOWS_ITSELF)
        raise ConfigError(f"{words[0] if words else 'nothing'!r} cannot be submitted; allowed: {allowed}")
    sent = [Path(word) for word in words[1:] if Path(word).suffix and Path(word).is_file()]
    if lost := [word for word in words[1:] if word.endswith(".toml") and Path(word) not in sent]:
        raise ConfigError(f"no config file at {lost[0]}; files that the job reads are sent from here")
    there = [Path(word).name if Path(word) in sent else word for word in words]
    if words[0] in _WITH_LOG and "--log" not in words:
        there += ["--log", "json"]
    pairs = [tuple(each.split("=", 1)) for each in env]
    if bad := [each for each in env if "=" not in each]:
        raise ConfigError(f"--env {bad[0]!r}: write NAME=VALUE")
    modules = [place for name in named_classes(words, sent) for place in class_places(name)]
    return Submission(
        there,
        [*sent, *files],
        list(dict.fromkeys(modules)),
        image,
        tuple((n, value) for n, value in pairs),
        is_installed,
    )


def _tell(text: str) -> None:
    """Print the job's log; on a terminal a line of progress stays one line."""
    for line in text.splitlines():
        progress = _progress(line) if sys.stderr.isatty() else None
        if progress is None:
            print(line, flush=True)
        else:
            print(f"\r\x1b[K{progress}", end="", file=sys.stderr, flush=True)


def _progress(line: str) -> str | None:
    try:
        said = json.loads(line)
    except ValueError:
        return None
    if not isinstance(said, dict) or "shards_total" not in said:
        return None
    return (
        f"{said['landed']:,} of {counted(said['shards_total'], 'shard')}, {counted(said['rows'], 'row')}, "
        f"{said['rows_per_s']:,.0f} rows/s, {counted(said['rejects'], 'reject')}, {counted(said['actors'], 'actor')}"
    )
