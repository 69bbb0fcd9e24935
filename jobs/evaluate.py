"""`mlake evaluate CONFIG`: compare systems dim by dim, beside their baselines.

    prepare     embed the test set where a system has an encoder, open the tables of the others
    align       match the rows of all tables by id
    evaluate    1-NN, mAP, recall, nDCG, linear probes; corrupted images; cascades; shortlists and funnels
    report      a table in the terminal, metrics.json, report.html

Owns the order of these four; `pipelines.evaluation` measures.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from cluster.session import connect
from jobs import embed
from jobs.options import ConfigFile, DryRun, Flag, Overrides
from pipelines.embedding.plan import make_plan
from pipelines.evaluation.alignment import align
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.prepare import prepare
from pipelines.evaluation.results import Results
from pipelines.reports.console import open_console
from pipelines.reports.evaluation import metrics_file, write_results
from pipelines.reports.json_lines import stored_line
from pipelines.reports.plans import print_evaluate_plan
from pipelines.reports.plots import check_plots
from pipelines.reports.terminal import print_results, waiting
from schemas.config import EmbedConfig, check_given, load_config
from schemas.config.evaluation import EvaluateConfig
from schemas.errors import RunError
from schemas.printable import counted


def main(
    config_file: ConfigFile,
    /,
    *,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
) -> int:
    """Measure tables or encoders at every dim, beside baselines, with intervals and a report.

    The results are printed, and written as metrics.json and report.html into the folder that the config names.

    Args:
        as_json: Print the content of metrics.json as one line; all else goes to the standard error stream.
    """
    config, console = load_config(EvaluateConfig, config_file, overrides or ()), open_console(is_error=as_json)
    check_plots()
    if dry_run:
        print_evaluate_plan(config, console)
        return 0
    results = run(config, console)
    print_results(results, console)
    for path in write_results(results, Path(config.folder)):
        console.print(f"written: {path}", soft_wrap=True)
    if as_json:
        print(stored_line(metrics_file(results)))
    return 0


def run(config: EvaluateConfig, console: Console | None = None) -> Results:
    """Measure everything that the config asks for.

    Raises:
        LakeError: The config, the data or the tables do not allow it; see `prepare` and `align`.

    Example:
        >>> evaluate(load_config(EvaluateConfig, "jobs/configs/evaluate/tables.toml"))  # doctest: +SKIP
    """
    check_given(EvaluateConfig, config=config)
    console = console or open_console()
    with ExitStack() as stack:
        tables = prepare(config, partial(_embed, console=console, stack=stack))
    return evaluate(align(config, tables), partial(waiting, console))


def _embed(config: EmbedConfig, console: Console, stack: ExitStack) -> None:
    """Embed what a table lacks; all calls share one Ray session, and none is started where nothing is to do."""
    if not make_plan(config).todo:
        return
    stack.enter_context(connect())
    summary = embed.run(config)
    if summary.is_stopped:
        raise RunError("stopped while embedding; the same command resumes")
    console.print(f"embedded {counted(summary.rows, 'row')} in {summary.total_s:.1f} s: {config.table}")
