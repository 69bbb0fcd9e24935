"""What changed in the answers of two publications: the same questions, in words or by rows, with pictures."""

from __future__ import annotations

import io
from pathlib import Path

import lance
import pyarrow as pa
from PIL import Image

from pipelines.nightly.answers import ask_twice
from pipelines.tables.commits import add_columns
from pipelines.tables.generations import PublishRequest, describe, publish
from pipelines.tables.pictures import Pictures
from pipelines.tables.publication_log import read_log
from pipelines.tables.table import VectorTable
from tests.support.wordllama_tables import wordllama_table

TEXTS = ["a red apple", "a green apple", "a boat on the sea", "a ship in the harbour", "stock prices fall", "a pear"]


def publish_newest(table: VectorTable) -> None:
    publish(table.uri, describe(table.refresh(), 1), table.storage, PublishRequest())


def test_what_is_new_gone_or_moved_is_said_of_each_answer(tmp_path: Path) -> None:
    table = wordllama_table(tmp_path / "t.lance", TEXTS)
    publish_newest(table)
    log = read_log(table.uri, table.storage)
    alone = ask_twice(table.uri, log, 3, Pictures(), table.storage)
    assert (alone.asked, alone.why_not) == ((), "Nothing else was published before.")

    found = table.search("apples and pears", k=6)["id"].to_pylist()
    table.dataset.delete(f"id = '{found[0]}'")
    publish_newest(table)
    log = read_log(table.uri, table.storage)
    compared = ask_twice(table.uri, log, ["apples and pears", "the market"], Pictures(), table.storage)
    assert compared.before is not None
    assert compared.now is not None
    assert (compared.before.number, compared.now.number) == (1, 2)
    first = compared.asked[0]
    assert [answer.id for answer in first.before] == found
    assert [answer.id for answer in first.now] == found[1:]
    assert [answer.change for answer in first.before] == ["gone", "now 1.", "now 2.", "now 3.", "now 4.", "now 5."]
    assert [answer.change for answer in first.now] == ["was 2.", "was 3.", "was 4.", "was 5.", "was 6."]
    assert (first.is_changed, first.kept, first.row) == (True, 5, "")
    assert {answer.words for answer in first.now} < set(TEXTS)

    # Rows ask: of a shard that both hold, an id that names one row in both.
    (by_row,) = ask_twice(table.uri, log, 5, Pictures(), table.storage).asked
    assert by_row.row == min({f"s{n}" for n in range(6)} - {found[0]})
    assert by_row.question == TEXTS[int(by_row.row[1:])]
    assert by_row.row not in {answer.id for answer in by_row.now}

    # What was published before may be gone.
    lance.dataset(table.uri).tags.delete("published-1")
    lance.dataset(table.uri).cleanup_old_versions(retain_versions=1, delete_unverified=True)
    gone = ask_twice(table.uri, log, 3, Pictures(), table.storage)
    assert gone.asked == ()
    assert "What was published before can be asked no more" in gone.why_not


def test_rows_come_with_their_pictures(tmp_path: Path) -> None:
    table = wordllama_table(tmp_path / "t.lance", TEXTS)
    add_columns(table.uri, [pa.field("photo", pa.string())], table.storage)
    for number in range(len(TEXTS)):
        png = io.BytesIO()
        Image.new("RGB", (9, 9), (number * 40, 0, 0)).save(png, "PNG")
        (tmp_path / f"{number}.png").write_bytes(png.getvalue())
        table.refresh().dataset.update({"photo": f"'{number}.png'"}, where=f"id = 's{number}'")
    publish_newest(table)
    table.refresh().dataset.delete("id = 's1'")
    publish_newest(table)
    log = read_log(table.uri, table.storage)
    (asked,) = ask_twice(table.uri, log, 1, Pictures(tmp_path), table.storage).asked
    assert asked.png is not None
    assert Image.open(io.BytesIO(asked.png)).getpixel((0, 0)) == (0, 0, 0)
    assert all(answer.png for answer in (*asked.before, *asked.now))
