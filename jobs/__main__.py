"""`python -m jobs <verb> …`: the one command line. Exit codes: 0 complete, 1 not complete, 2 refused, 130 stopped."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from schemas.errors import LakeError, RunError

VERBS = {
    "demo": "embed, index, measure and search real data that pip installs",
    "embed": "embed shards into a table; resumes by itself",
    "funnel": "tune a funnel to a recall at the least measured cost, with its recall card",
    "shortlist": "add prefix columns and their indexes; list the exact nearest of every query at every dim",
    "train": "train a Matryoshka model on shards, or a Matryoshka head on the vectors of a table; resumes by itself",
    "evaluate": "measure tables or encoders dim by dim, beside baselines, with intervals and a report",
    "search": "search a table by words, by an image, or by lines from stdin",
    "encoders": "list the encoders with their Matryoshka rules, or describe one",
    "rotate": "give a table of a non-Matryoshka encoder prefixes that mean something, without encoding again",
    "rejects": "show and count the samples that could not be embedded",
    "clean": "remove files that no version of a table needs",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; print what went wrong in one sentence."""
    parser = argparse.ArgumentParser("python -m jobs", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    os.environ.setdefault("LANCE_LOG", "error")  # read when a verb imports Lance; its warnings speak to developers
    chosen = next((word for word in (argv if argv is not None else sys.argv[1:]) if word in VERBS), None)
    for verb, help_text in VERBS.items():
        verb_parser = verbs.add_parser(verb, help=help_text, description=help_text)
        if verb == chosen:  # only the chosen verb's libraries are worth the time to import
            module = importlib.import_module(f"jobs.{verb}")
            module.add_arguments(verb_parser)
            verb_parser.set_defaults(main=module.main)
    args = parser.parse_args(argv)
    try:
        return int(args.main(args))
    except LakeError as error:
        _say_error(str(error))
        return 1 if isinstance(error, RunError) else 2
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command resumes", highlight=False)
        return 130
    except BrokenPipeError:
        # Whoever read our output has closed it; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # A disk, a store or a cluster that refuses. Lance ends its messages with the line of its source.
        reason = re.sub(r", [^ ]+\.rs:\d+:\d+", "", str(error))
        _say_error(f"{reason or type(error).__name__}; when that is mended, the same command goes on from here")
        return 1


def _say_error(text: str) -> None:
    Console(stderr=True).print(f"[bold red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `ray job stop` and Kubernetes ask by SIGTERM
    sys.exit(main())
