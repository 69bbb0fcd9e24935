"""The check of settings that a Python program passes: the type hints of a public function hold at run time."""

from __future__ import annotations

from schemas.errors import ConfigError


def check_given(kind: type, **given: object) -> None:
    """Refuse values that are not of the type that a public function takes.

    Args:
        kind: The type.
        given: Values by the name of their parameter.

    Raises:
        ConfigError: A value is of another type.
    """
    for name, value in given.items():
        if not isinstance(value, kind):
            wanted = "True or False" if kind is bool else f"a {kind.__name__}"
            raise ConfigError(f"{name}: pass {wanted}; this is of type {type(value).__name__}")
