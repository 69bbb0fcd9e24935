"""Jobs on a running cluster, through Ray's job API: submit a verb, follow it, list, stop.

Owns what is sent to the cluster, and how its answers become this project's errors and exit codes. Needs Ray's
dashboard address, such as `http://head:8265`, and its token where the cluster asks for one.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import ClusterUnreachable, ConfigError, InputError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

PACKAGES = ("matryoshka_lake", "jobs", "pipelines", "cluster", "schemas")
_ROOT = Path(__file__).resolve().parent.parent
_MAX_UPLOAD_BYTES = 100 << 20  # Ray refuses more
_IGNORED = shutil.ignore_patterns("__pycache__", ".git")
_POLL_S, _RETRY_S, _MAX_RETRIES = 1.0, 2.0, 30
_SILENCE_S = 60.0  # a connection that a firewall has dropped says nothing
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Submission:
    """What is sent.

    Attributes:
        words: The command after `mlake`.
        files: Local files that it reads, by their names there.
        modules: Packages and files of Python that it imports, as the one of an encoder's class.
        image: Container image that has the project; None sends this installation's own packages, so that both ends are
            of one version. The libraries that they need must be there.
        env: Environment variables of the job.
        is_installed: The cluster's machines have the project installed.
    """

    words: Sequence[str]
    files: Sequence[Path] = ()
    modules: Sequence[Path] = ()
    image: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    is_installed: bool = False


class JobClient:
    """The job API of one cluster."""

    def __init__(self, address: str) -> None:
        """Connect.

        Args:
            address: `http://head:8265`: the address of the dashboard, not that of `RAY_ADDRESS` for drivers.

        Raises:
            ConfigError: The address is none of the dashboard, or the cluster asks for a token that is missing or wrong.
            ClusterUnreachable: Nothing answers there.
        """
        if not address.startswith(("http://", "https://")):
            raise ConfigError(
                f"--address {address}: the address of the cluster's dashboard is asked for, such as http://head:8265; "
                "head:6379 is the one for drivers in RAY_ADDRESS"
            )
        self.address = address
        _use_token()
        with self._errors():
            from ray.job_submission import JobSubmissionClient

            self._client: JobSubmissionClient = JobSubmissionClient(address)

    def submit(self, submission: Submission) -> str:
        """Submit a job, and return its id.

        Raises:
            InputError: A file is not there, or all of them are too large to be sent.
            ConfigError: Two files have one name, or the cluster refuses the job.
        """
        with tempfile.TemporaryDirectory(prefix="mlake-submit-") as folder:
            _gather(submission.files, submission.modules, Path(folder))
            environment: dict[str, Any] = {
                "working_dir": folder,
                "env_vars": {"PYTHONUNBUFFERED": "1", **dict(submission.env)},
            }
            if submission.image is not None:
                environment["image_uri"] = submission.image
            elif not submission.is_installed:
                for name in PACKAGES:
                    shutil.copytree(_ROOT / name, Path(folder, name), ignore=_IGNORED)
            with self._errors():
                return self._client.submit_job(
                    entrypoint=shlex.join(["python", "-m", "jobs", *submission.words]),
                    runtime_env=environment,
                    metadata={"verb": submission.words[0]},
                )

    def follow(self, job: str, tell: Callable[[str], None]) -> int:
        """Pass on what a job prints until it ends, through lost connections, and return its exit code.

        A job that was stopped gives 130.

        Raises:
            ClusterUnreachable: The cluster does not answer for a minute.
            InputError: There is no such job.
        """
        seen, failures = 0, 0

        def pass_on(text: str) -> None:
            nonlocal seen
            tell(text)
            seen += len(text)

        while True:
            self._stream(job, seen, pass_on)
            try:
                state = self.details(job)
                has_ended = state.status in _ENDED
                if has_ended and (rest := self.logs(job)[seen:]):
                    pass_on(rest)
            except ClusterUnreachable:
                failures += 1
                if failures > _MAX_RETRIES:
                    raise
                time.sleep(_RETRY_S)
                continue
            if has_ended:
                return exit_code(state)
            failures = 0
            time.sleep(_POLL_S)

    def _stream(self, job: str, seen: int, pass_on: Callable[[str], None]) -> None:
        """Pass on whole lines as they come, after the first `seen` characters, until the connection ends or is silent.

        Why it ended is not told here: the next question to the cluster does.
        """
        from aiohttp import ClientError

        with suppress(OSError, RuntimeError, ClientError):
            asyncio.run(_pass_on_lines(self._client.tail_job_logs(job), seen, pass_on))

    def details(self, job: str) -> JobDetails:
        """Return the state of a job.

        Raises:
            InputError: There is no such job.
        """
        with self._errors(job):
            return self._client.get_job_info(job)

    def logs(self, job: str) -> str:
        """Return everything that a job has printed.

        Raises:
            InputError: There is no such job.
        """
        with self._errors(job):
            return str(self._client.get_job_logs(job))

    def jobs(self) -> list[JobDetails]:
        """Return all jobs that were submitted, the newest first."""
        with self._errors():
            listed = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(listed, key=lambda job: job.start_time or 0, reverse=True)

    def stop(self, job: str) -> bool:
        """Ask a job to stop, as Ctrl-C does; return whether it was running.

        Raises:
            InputError: There is no such job.
        """
        with self._errors(job):
            return bool(self._client.stop_job(job))

    @contextmanager
    def _errors(self, job: str = "") -> Iterator[None]:
        try:
            yield
        except (ConnectionError, TimeoutError) as error:
            raise ClusterUnreachable(
                f"no cluster answers at {self.address}: {' '.join(str(error).split())}; is it up, and is this the "
                "address of its dashboard?"
            ) from None
        except RuntimeError as error:
            text = " ".join(str(error).split())
            if job and ("404" in text or "does not exist" in text):
                raise InputError(f"{self.address} has no job {job!r}; list them: mlake jobs list") from None
            raise ConfigError(f"{self.address} refuses: {text}") from None
        except Exception as error:
            if type(error).__name__ != "AuthenticationError":  # its module is not imported before it is raised
                raise
            raise ConfigError(_about_token(self.address)) from None


async def _pass_on_lines(chunks: AsyncIterator[str], seen: int, pass_on: Callable[[str], None]) -> None:
    held = ""
    while True:
        try:
            chunk = await asyncio.wait_for(anext(chunks), _SILENCE_S)
        except (StopAsyncIteration, TimeoutError):
            return
        held += chunk[seen:]
        seen = max(0, seen - len(chunk))
        lines, end, held = held.rpartition("\n")  # a line may be on its way
        if end:
            pass_on(lines + end)


def exit_code(state: JobDetails) -> int:
    """Return the exit code of a job that has ended: its driver's; 130 where it was stopped, 1 where Ray failed it."""
    if state.status == "SUCCEEDED":
        return 0
    if state.status == "STOPPED":
        return 130
    return int(state.driver_exit_code) if state.driver_exit_code else 1


def _use_token() -> None:
    """Turn token authentication on where a token is at hand; Ray reads this when it is imported."""
    has_token = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if has_token or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _about_token(address: str) -> str:
    given = [name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if os.environ.get(name)]
    if os.environ.get("RAY_AUTH_MODE") == "token" and given:
        return f"{address} does not accept the token of {given[0]}; take the one that the cluster was started with"
    return (
        f"{address} asks for a token, and none was given; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that "
        "holds it (on KubeRay: the secret of the RayCluster)"
    )


def _gather(files: Sequence[Path], modules: Sequence[Path], folder: Path) -> None:
    """Copy what a job needs into one folder.

    Raises:
        InputError: A file is not there, or all of them are too large to be sent.
        ConfigError: Two files have one name, or a module has the name of a package of this project.
    """
    size = 0
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} is not a file; name the files that the job reads")
    for source in (*files, *modules):
        if source.stem in PACKAGES and source in modules:
            raise ConfigError(f"{source} has the name of a package of mlake, which is sent too; rename yours")
        if (folder / source.name).exists():
            raise ConfigError(f"two files are named {source.name}; they lie in one folder there, so rename one")
        if source.is_dir():
            shutil.copytree(source, folder / source.name, ignore=_IGNORED)
        else:
            shutil.copy(source, folder)
        copied = folder / source.name
        size += sum(each.stat().st_size for each in (copied, *copied.rglob("*")) if each.is_file())
        if size > _MAX_UPLOAD_BYTES:
            raise InputError(
                f"the files are larger than the {_MAX_UPLOAD_BYTES >> 20} MB that a cluster takes with a job; put them "
                "on storage that the cluster reaches, and name that in the config"
            )
