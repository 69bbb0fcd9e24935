"""`mlake VERB …`, also `python -m jobs VERB …`: the command line.

Owns the list of verbs and the exit codes: 0 complete, 1 incomplete or internal (see `failures`), 2 refused, 3 no
cluster answers, 130 stopped.
Does not own the options of a verb: those are the parameters of `main` in its module.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from cyclopts import App, Group, Parameter

from jobs.failures import explain
from pipelines.reports.console import never_fail_to_print, open_console, print_error
from schemas import __version__

# Each verb with its summary, which is the first line of its help, and an example.
VERBS = {
    "demo": ("Embed, index, measure and search real data that pip installs.", "mlake demo --set limit=500"),
    "embed": (
        "Embed shards into a table; the same command resumes.",
        "mlake embed photos.toml --set encoder.batch=64 --dry-run",
    ),
    "funnel": (
        "Tune a funnel to a recall target at the lowest measured cost.",
        "mlake funnel lake/demo/glosses.lance --recall 0.99 --home codes",
    ),
    "shortlist": (
        "Add prefix columns and their indexes; list the nearest rows of every query at every dim.",
        "mlake shortlist jobs/configs/shortlist.toml --plot agreement.svg",
    ),
    "train": (
        "Train a Matryoshka model on shards, or a head on the vectors of a table; the same command resumes.",
        "mlake train jobs/configs/train/head-from-pairs.toml --set run.epochs=5",
    ),
    "evaluate": (
        "Measure tables or encoders at every dim, beside baselines, with intervals and a report.",
        "mlake evaluate jobs/configs/evaluate/tables.toml",
    ),
    "search": (
        "Search a table by words, by an image, or by each line of stdin.",
        'mlake search lake/demo/glosses.lance "fear of spiders" --k 5 --columns words gloss',
    ),
    "inspect": (
        "Say what a table is, whether its indexes and funnels hold, and what to do next.",
        "mlake inspect lake/demo/glosses.lance --html glosses.html",
    ),
    "explore": (
        "Explore a table on a local page: ask it, and move sliders for dims and candidates.",
        "mlake explore lake/demo/pictures.lance --port 0",
    ),
    "encoders": ("List the encoders with their Matryoshka rules, or describe one.", "mlake encoders wordllama"),
    "rotate": (
        "Rotate a table's vectors so that their prefixes can be searched; nothing is encoded again.",
        "mlake rotate lake/photos.lance",
    ),
    "rejects": (
        "Count and list the samples that could not be embedded.",
        "mlake rejects lake/photos.lance --reason bad_image --limit 100",
    ),
    "nightly": (
        "Embed what is new, bring what is derived up to date, audit the result, and publish it.",
        "mlake nightly photos.toml --set budget.minutes=90 --dry-run",
    ),
    "submit": (
        "Run a verb on a cluster, follow it here, and end with its exit code.",
        "mlake submit --address http://head:8265 embed photos.toml --set encoder.batch=64",
    ),
    "jobs": (
        "List the jobs of a cluster, print what one has printed, or stop one.",
        "mlake jobs list --address http://head:8265",
    ),
    "publish": (
        "Publish a version of a table to the readers of prod.",
        'mlake publish lake/photos.lance --note "new captions"',
    ),
    "rollback": ("Show the readers of prod an earlier publication again.", "mlake rollback lake/photos.lance --to 12"),
    "prod": ("Print the address and version of what is published.", "mlake prod lake/photos.lance --json"),
    "history": ("List the publications and the nights of a table.", "mlake history lake/photos.lance --limit 5"),
    "clean": ("Remove files that no version of a table needs.", "mlake clean lake/photos.lance --compact --dry-run"),
}


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
        open_console(is_error=True).print("stopped; the same command resumes")
        return 130
    except BrokenPipeError:
        # The reader of our output has closed it; without this, Python complains again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        failure = explain(error)
    except BaseException as error:
        # Raised where the Rust code of a library panics; it is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        failure = explain(error)
    print_error(failure.text)
    return failure.code


def run() -> None:
    """Run as a program: treat SIGTERM as Ctrl-C, and exit with the code of `main`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # sent by `ray job stop` and by Kubernetes
    never_fail_to_print()
    sys.exit(main())


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


if __name__ == "__main__":
    run()
