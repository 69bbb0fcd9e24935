"""docs/architecture.md names the rooms, modules and functions that exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_every_module_and_function_it_names_exists() -> None:
    named = re.findall(r"`((?:jobs|cluster|pipelines|schemas)/[\w/]+\.py)(?::(\w+))?`", PAGE)
    assert len(named) > 15
    for path, name in named:
        assert (ROOT / path).is_file(), path
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert not name or hasattr(module, name), f"{path} has no {name}"


def test_it_lists_every_room_from_low_to_high() -> None:
    rooms = re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.M)
    assert set(rooms) == {p.name for p in (ROOT / "pipelines").iterdir() if (p / "__init__.py").is_file()}
    settings = (ROOT / "pyproject.toml").read_text()
    layers = re.findall(
        r'^    "(\w+)",$', settings.partition('containers = ["pipelines"]')[2].partition("]\n")[0], flags=re.M
    )
    low_to_high = [layer for layer in reversed(layers) if layer in rooms]
    assert [room for room in rooms if room in low_to_high] == low_to_high
