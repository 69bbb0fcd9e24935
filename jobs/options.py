"""Options that several verbs share, each with its help text.

Owns the names and help texts that must read the same in every verb. An option of one verb only stands in its module.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from schemas.config import StorageConfig, TrustConfig
from schemas.config.bounds import MAX_COUNT, MAX_DIM, MAX_K


def within(low: float, high: float = math.inf, *, is_open: bool = False) -> Callable[[Any, Any], None]:
    """Return a validator of numbers from `low` to `high`; with `is_open`, both of these are left out."""

    def check(_: Any, value: float | None) -> None:
        # Written so that NaN fails.
        if value is not None and not (low < value < high if is_open else low <= value <= high):
            between = f"between {low:,} and {high:,}, not at either end" if is_open else f"from {low:,} to {high:,}"
            raise ValueError(f"Must be {between}.")

    return check


def new_file(*endings: str) -> Parameter:
    """Return the parameter of a file to write, whose name ends in one of these; the folder must be there already."""

    def check(kind: Any, path: Path | None) -> None:
        if path is None:
            return
        _check_new(kind, path)
        if path.is_dir() or path.suffix.lower().removeprefix(".") not in endings:
            raise ValueError(f"Must be a file that ends in .{' or .'.join(endings)}.")

    return Parameter(metavar="FILE", validator=check)


def _check_new(_: Any, path: Path) -> None:
    """Refuse a file or folder to write that lies in no folder: a mistyped path must not make folders."""
    if not path.absolute().parent.is_dir():
        raise ValueError(f"There is no folder {path.absolute().parent}.")


def _not_empty(_: Any, value: str | list[str] | None) -> None:
    for text in [value] if isinstance(value, str) else value or ():
        if not text.strip() or "\0" in text:
            raise ValueError("Must not be empty.")


Flag = Annotated[bool, Parameter(show_default=False)]

NewFolder = Parameter(metavar="FOLDER", validator=_check_new)
Text = Parameter(validator=_not_empty)
CountOfRows = Parameter(validator=within(1, MAX_K))
OneDim = Parameter(validator=within(1, MAX_DIM))
AnyCount = Parameter(validator=within(0, MAX_COUNT))

ConfigFile = Annotated[
    str, Parameter(name="config", validator=_not_empty, help="TOML file; examples are in jobs/configs/.")
]
Overrides = Annotated[
    list[str] | None,
    Parameter(name="--set", metavar="KEY=VALUE", help="Override one setting of the config. May be repeated."),
]
DryRun = Annotated[Flag, Parameter(help="Print the plan and change nothing.")]
Log = Annotated[
    Literal["auto", "screen", "json"],
    Parameter(
        help="Progress as bars, or as one JSON object a line on standard output; auto: bars in a terminal, and such "
        "lines on the error stream elsewhere."
    ),
]
TableAddress = Annotated[
    str,
    Parameter(name="table", validator=_not_empty, help="Address of the table: a local path or an s3:// URL."),
]
ClusterAddress = Annotated[
    str,
    Parameter(
        env_var="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        validator=_not_empty,
        help="Address of the cluster's dashboard, such as http://head:8265.",
    ),
]
Storage = Annotated[
    StorageConfig,
    Parameter(name="*", group=Group("Storage", help="For tables on S3. Credentials come from the boto3 chain.")),
]
Trust = Annotated[
    TrustConfig,
    Parameter(name="*", group=Group("Trust", help="For tables whose encoder needs files or code of yours.")),
]
