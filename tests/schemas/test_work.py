"""What a retry policy does where nothing is set: three tries, no split, no error is final."""

from __future__ import annotations

from schemas.work import RetryPolicy


def test_by_default_an_item_is_tried_three_times_as_a_whole() -> None:
    policy = RetryPolicy[int]()
    assert policy.max_tries == 3
    assert list(policy.split(5)) == []
    assert not policy.is_final(ValueError())
    policy.on_failure(ValueError())
