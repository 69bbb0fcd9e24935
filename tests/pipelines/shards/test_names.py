"""Globs match whole addresses, and only `**` crosses folders."""

from __future__ import annotations

import pytest

from pipelines.shards.names import NamePattern, split_wild


@pytest.mark.parametrize(
    ("pattern", "address", "does_match"),
    [
        ("s3://b/*.tar", "s3://b/x.tar", True),
        ("s3://b/*.tar", "s3://b/d/x.tar", False),
        ("s3://b/**/*.tar", "s3://b/d/e/x.tar", True),
        ("s3://b/**/*.tar", "s3://b/x.tar", True),
        ("s3://b/x-?.tar", "s3://b/x-12.tar", False),
        ("s3://b/x-[0-3].tar", "s3://b/x-2.tar", True),
        ("s3://b/x-[!0-3].tar", "s3://b/x-2.tar", False),
        ("s3://b/x+1.tar", "s3://b/xx1.tar", False),
    ],
)
def test_globs(pattern: str, address: str, does_match: bool) -> None:
    assert NamePattern(*split_wild(pattern)).matches(address) is does_match
