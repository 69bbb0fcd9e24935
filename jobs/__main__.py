"""`mlake VERB …`, also `python -m jobs VERB …`: the command line.

Owns the exit codes: 0 complete, 1 incomplete or internal (see `failures`), 2 refused, 3 no cluster answers, 4 no
node is large enough, 5 the cluster was lost, 130 stopped.
Does not own the options of a verb: those are the parameters of `main` in its module.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from cyclopts import App, CycloptsError, CycloptsPanel, Group, Parameter, UnusedCliTokensError

from jobs.failures import explain
from jobs.verbs import VERBS
from pipelines.reports.console import never_fail_to_print, open_console, print_error
from schemas import __version__
from schemas.errors import CLUSTER_LOST_CODE, is_interrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and turn any error into one sentence and an exit code.

    Raises:
        SystemExit: The command line means nothing; code 2.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    os.environ.setdefault("LANCE_LOG", "error")  # read when a verb imports Lance; its warnings speak to developers
    app = command_line(chosen=words[0] if words else "")
    if not words:
        app.help_print(words, console=open_console(is_error=True, is_page=True))
        sys.exit(2)
    try:
        return int(
            app(words, error_console=open_console(is_error=True, is_page=True), result_action="return_value") or 0
        )
    except KeyboardInterrupt:
        return _stopped()
    except BrokenPipeError:
        # The reader of our output has closed it; without this, Python complains again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if is_interrupt(error):
            return _stopped()
        failure = explain(error)
    except BaseException as error:
        # Raised where the Rust code of a library panics; it is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        failure = explain(error)
    print_error(failure.text)
    return failure.code


def _stopped() -> int:
    open_console(is_error=True).print("stopped; the same command resumes")
    return 130


def run() -> None:
    """Run as a program: treat SIGTERM as Ctrl-C, and exit with the code of `main`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # sent by `ray job stop` and by Kubernetes
    never_fail_to_print()
    code = main()
    if code == CLUSTER_LOST_CODE:  # what Ray does at exit would wait for the head, and end with another code
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def command_line(chosen: str) -> App:
    """Declare all verbs; only the chosen one is imported, for its options and its full help."""
    app = App(
        name="mlake",
        help="Stream image and text shards through encoders into tables of Matryoshka vectors, and search them.",
        help_epilogue="`mlake VERB --help` shows the options of a verb and an example.",
        help_format="markdown",
        version=__version__,
        version_flags=["--version"],
        group_commands=Group("Verbs"),
        group_parameters=Group("Options"),
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
        error_formatter=_explain_usage,
    )
    for verb, (summary, example) in VERBS.items():
        # A summary given here replaces the help of the verb, so the chosen one goes without.
        app.command(
            f"jobs.{verb}:main",
            name=verb,
            help=None if verb == chosen else summary,
            help_epilogue=f"Example: `{example}`",
        )
    app.register_install_completion_command()
    return app


def _explain_usage(error: CycloptsError) -> Any:
    if isinstance(error, UnusedCliTokensError):
        words = " ".join(error.unused_tokens or ())
        return CycloptsPanel(
            f'{words!r} is one argument too many; put words with spaces in quotes: mlake search TABLE "two words". '
            "A setting of a config is --set KEY=VALUE"
        )
    return CycloptsPanel(error)


if __name__ == "__main__":
    run()
