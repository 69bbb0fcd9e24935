"""Options that several verbs share, each with its help text.

Owns the names and help texts that must read the same in every verb. An option of one verb only stands in its module.
"""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Group, Parameter

from schemas.config import StorageConfig, TrustConfig

Flag = Annotated[bool, Parameter(show_default=False)]

ConfigFile = Annotated[str, Parameter(name="config", help="TOML file; examples are in jobs/configs/.")]
Overrides = Annotated[
    list[str] | None,
    Parameter(name="--set", metavar="KEY=VALUE", help="Override one setting of the config. May be repeated."),
]
DryRun = Annotated[Flag, Parameter(help="Print the plan and change nothing.")]
Log = Annotated[
    Literal["screen", "json"], Parameter(help="Progress as bars on the screen, or as one JSON object a line.")
]
TableAddress = Annotated[str, Parameter(name="table", help="Address of the table: a local path or an s3:// URL.")]
Storage = Annotated[
    StorageConfig,
    Parameter(name="*", group=Group("Storage", help="For tables on S3. Credentials come from the boto3 chain.")),
]
Trust = Annotated[
    TrustConfig,
    Parameter(name="*", group=Group("Trust", help="For tables whose encoder needs files or code of yours.")),
]
