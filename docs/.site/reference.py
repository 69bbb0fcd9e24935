"""Write the parts of the reference that are not in docstrings: every verb with its options, every setting of a config.

Owns the Markdown files in the folder that it is given; `docs/reference/*.md` include them when `make docs` builds the
site.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import get_args

import orjson
from cyclopts.docs.markdown import generate_markdown_docs
from pydantic.fields import FieldInfo

import matryoshka_lake
from jobs.__main__ import command_line
from jobs.verbs import VERBS
from schemas.config.blocks import ConfigBlock

JOBS = {
    "embed": "EmbedConfig",
    "nightly": "NightlyConfig",
    "shortlist": "ShortlistConfig",
    "train": "TrainConfig",
    "evaluate": "EvaluateConfig",
    "deploy": "DeployConfig",
    "demo": "DemoConfig",
}


def main(folder: Path) -> None:
    """Write `commands.md` and `settings.md` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "commands.md").write_text("\n\n".join(map(_verb, sorted(VERBS))) + "\n")
    (folder / "settings.md").write_text("\n\n".join(_settings()) + "\n")


def _verb(verb: str) -> str:
    """Return what `mlake VERB --help` says, as Markdown."""
    app = command_line(chosen=verb)
    options = generate_markdown_docs(app, commands_filter=[verb], generate_toc=False, no_root_title=True)
    return f"## mlake {verb}\n\n{options.strip()}\n\nExample: `{VERBS[verb][1]}`"


def _settings() -> list[str]:
    """Return a table for every config model of a job, and for every block, once."""
    written, parts = set[type[ConfigBlock]](), list[str]()

    def write(model: type[ConfigBlock], title: str) -> None:
        if model in written:
            return
        parents = [parent for parent in written if issubclass(model, parent)]
        written.add(model)
        known = {name for parent in parents for name in parent.model_fields}
        fields = {field.alias or name: field for name, field in model.model_fields.items() if name not in known}
        blocks, said = {name: _block(field) for name, field in fields.items()}, _meanings(model)
        rows = [
            f"| `{name}` | {_default(field, blocks[name])} | {said.get(name) or _summary(blocks[name])} |"
            for name, field in fields.items()
        ]
        parts.append(
            "\n".join(
                [
                    title,
                    "",
                    " ".join([_summary(model), *map(_also, parents)]),
                    "",
                    "| setting | default | meaning |",
                    "|---|---|---|",
                    *rows,
                ]
            )
        )
        for block in filter(None, blocks.values()):
            write(block, f"### {block.__name__}")

    for job, name in JOBS.items():
        write(getattr(matryoshka_lake, name), f"## mlake {job}")
    return parts


def _also(parent: type[ConfigBlock]) -> str:
    return f"All settings of {parent.__name__}, and these:"


def _meanings(model: type[ConfigBlock]) -> dict[str, str]:
    """Return what the docstrings of a model and its parents say of each setting."""
    said = dict[str, str]()
    for parent in reversed(model.__mro__):
        _, _, attributes = inspect.cleandoc(parent.__doc__ or "").partition("Attributes:\n")
        for name, text in re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", attributes, re.MULTILINE):
            said[name] = " ".join(text.split()).replace("|", "\\|")
    return said


def _block(field: FieldInfo) -> type[ConfigBlock] | None:
    """Return the block that a setting holds, alone or in a list; None for a plain value."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, ConfigBlock)), None)


def _summary(model: type[ConfigBlock] | None) -> str:
    """Return the first paragraph of a model's docstring, on one line."""
    return " ".join(inspect.cleandoc(model.__doc__ or "").split("\n\n")[0].split()) if model else ""


def _default(field: FieldInfo, block: type[ConfigBlock] | None) -> str:
    if block is not None:
        return f"[{block.__name__}](#{block.__name__.lower()})"
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else f"`{orjson.dumps(value).decode()}`"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
