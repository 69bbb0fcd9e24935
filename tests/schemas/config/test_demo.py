"""The demo needs no setting, and refuses one that makes no sense."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from schemas.config import DemoConfig


def test_the_demo_has_a_default_for_every_setting() -> None:
    assert DemoConfig().folder == "lake/demo"


@pytest.mark.parametrize("change", [{"limit": 49}, {"recall": 0}, {"recall": 1.01}])
def test_a_setting_out_of_its_range_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        DemoConfig.model_validate(change)
