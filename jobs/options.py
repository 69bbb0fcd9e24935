"""Options that several verbs share."""

from __future__ import annotations

import argparse

from schemas.config import StorageConfig


def add_storage(parser: argparse.ArgumentParser) -> None:
    """Declare where S3 is, for verbs without a config file."""
    group = parser.add_argument_group("storage", "for tables on S3; credentials come from the boto3 chain")
    group.add_argument("--endpoint", help="URL of an S3-compatible store")
    group.add_argument("--region", help="region of the bucket")
    group.add_argument("--profile", help="profile of the shared AWS config")


def storage_of(args: argparse.Namespace) -> StorageConfig:
    """Return what `add_storage` declared."""
    return StorageConfig(endpoint=args.endpoint, region=args.region, profile=args.profile)
