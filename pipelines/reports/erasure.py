"""Output of `mlake delete`: what was erased, and what still keeps its bytes."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from pipelines.nightly.erase import Erasure
from schemas.printable import counted


def print_erasure(erasure: Erasure, console: Console, *, is_planned: bool) -> None:
    """Print what was erased or would be, then what keeps bytes, with the command that removes it."""

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False)

    done = "would be erased" if is_planned else "erased"
    for generation, rows in erasure.rows.items():
        say(f"generation {generation}: {counted(rows, 'row')} {done}")
    if erasure.before:
        say(f"older versions have {counted(erasure.before, 'such row')}, which the newest has not")
    for hint in erasure.hints:
        say(hint)
    if erasure.shards:
        stay = "would stay" if is_planned else "stay"
        say(f"they are of {counted(len(erasure.shards), 'shard')}, and {stay} out under their ids until `mlake lift`")
    if erasure.places:
        say(
            f"without an id of their own are {counted(erasure.places, 'sample')}: should their shards change, "
            "`mlake embed` refuses these until `mlake lift`; take the samples out of them"
        )
    if erasure.lists:
        say(f"the lists of {erasure.lists:,} queries named them, and are removed; mlake shortlist searches them anew")
    if is_planned and erasure.shown:
        say(erasure.unseen or f"`prod` shows {counted(erasure.shown, 'such row')}; it would be published without them")
    elif is_still_shown(erasure):
        say(f"a run has committed meanwhile: {erasure.unseen}")
    elif erasure.is_hidden:
        say("`prod` shows nothing until the next publication")
    elif erasure.publication is not None:
        say(f"publication {erasure.publication} shows the table without them")
    if not erasure.keepers:
        say("nothing was erased before that is still kept" if is_planned else "no version keeps a byte of erased rows")
        return
    say("still kept are bytes of erased rows by:")
    for keeper in erasure.keepers:
        until = "" if keeper.until is None else f" until {keeper.until:%Y-%m-%d %H:%M} UTC"
        say(f"  {keeper.uri}: {keeper.what}{until}; what removes it: {keeper.command}")
    say(_gone(erasure))


def is_still_shown(erasure: Erasure) -> bool:
    """Tell whether readers of `prod` are shown erased rows still."""
    return bool(erasure.unseen) and not erasure.is_hidden


def erasure_facts(erasure: Erasure, *, is_planned: bool) -> dict[str, Any]:
    """Return it as JSON holds it."""
    return {
        "is_planned": is_planned,
        "rows": sum(erasure.rows.values()),
        "rows_by_generation": erasure.rows,
        "shards": len(erasure.shards),
        "lists_removed": erasure.lists,
        "rows_of_prod": erasure.shown,
        "publication": erasure.publication,
        "prod_is_hidden": erasure.is_hidden,
        "prod_shows_them": is_still_shown(erasure),
        "rows_of_older_versions": erasure.before,
        "known_by_place": erasure.places,
        "hints": list(erasure.hints),
        "is_gone": not erasure.keepers and not (is_planned and any(erasure.rows.values())),
        "keepers": [
            {
                "uri": keeper.uri,
                "kind": keeper.kind,
                "what": keeper.what,
                "until": None if keeper.until is None else keeper.until.isoformat(),
                "command": keeper.command,
            }
            for keeper in erasure.keepers
        ],
    }


def _gone(erasure: Erasure) -> str:
    """Say when the last byte can be gone."""
    if any(keeper.kind in ("prod", "run") for keeper in erasure.keepers):
        return "when the last byte is gone is not known yet: something above has no end"
    ends = [keeper.until for keeper in erasure.keepers if keeper.until is not None]
    return (
        f"the last byte can be gone {f'from {max(ends):%Y-%m-%d %H:%M} UTC on' if ends else 'now'}, by these commands"
    )
