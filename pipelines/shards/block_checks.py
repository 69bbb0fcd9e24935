"""Checks of samples as read: from raw blocks to SampleBlocks and rejects, for every format alike.

Owns the rules for good samples. Works by column: a sample costs no Python object unless it is rejected.

Reasons of the rejects made here: `missing_field`, `empty_text`, `empty_image`, `bad_utf8`, `too_large`, `missing_id`,
`duplicate_id`, `interleaved`, `bad_kept_value`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.shards.kept_types import is_bytes, is_text
from pipelines.shards.kept_values import check_convertible, convert, shown
from pipelines.shards.raw_blocks import BLOCK_BYTES, INPUT_TYPES, RawBlock, input_field
from pipelines.shards.templates import TextTemplate
from schemas.config import InputConfig, LimitsConfig
from schemas.records import Reject, SampleBlock, Shard

Mask = npt.NDArray[np.bool_]
RejectRows = Callable[[Mask, str, Callable[[int], str]], None]


class BlockChecker:
    """Checks the raw blocks of one shard, in order, and makes SampleBlocks of them."""

    def __init__(self, shard: Shard, config: InputConfig, limits: LimitsConfig, kept: pa.Schema) -> None:
        """Start a shard.

        Args:
            shard: The shard.
            config: The fields to read.
            limits: `max_sample_bytes` is enforced here.
            kept: Fields of the kept columns, with the types that they are converted to.
        """
        self._shard, self._limits, self._kept = shard, limits, kept
        self._modality = config.modality
        self._field = input_field(config)
        self._template = TextTemplate(self._field, shard.uri) if config.has_template else None
        self._id_field = config.id
        self._has_prefix = config.id_prefix == "shard"
        self._seen = SeenIds()
        self._schema = pa.schema(
            [
                pa.field("id", pa.string(), nullable=False),
                pa.field("position", pa.int64(), nullable=False),
                pa.field("input", INPUT_TYPES[config.modality], nullable=False),
                *kept,
            ]
        )

    def check(self, raw: RawBlock) -> Iterator[SampleBlock]:
        """Reject the bad samples of a raw block and yield the good ones, at most `BLOCK_BYTES` per block."""
        rejects = [self._named(reject) for reject in raw.rejects] if raw.ids is None else raw.rejects
        if not len(raw.positions):
            if rejects:
                yield SampleBlock(pa.RecordBatch.from_pylist([], self._schema), rejects)
            return
        ids, has_id = self._ids(raw)
        good: Mask = np.ones(len(ids), bool)

        def reject(bad: Mask, reason: str, say: Callable[[int], str]) -> None:
            for row in np.flatnonzero(bad & good):
                at = raw.positions[int(row)].as_py()
                rejects.append(Reject(self._shard.id, at, ids[int(row)].as_py() or "", reason, say(int(row))))
            good[bad] = False

        reject(~has_id, "missing_id", lambda row: f"{self._id_field or 'the id'} is null or not a text")
        made = None if self._template is None else self._template.fill(raw.kept)
        texts = raw.inputs if made is None else made.texts
        is_null = _mask(pc.is_null(texts))
        if raw.ids is not None:
            again = ~self._seen.are_new(ids) & has_id
            late_piece = again & is_null & (self._shard.format == "webdataset")
            reject(late_piece, "interleaved", lambda row: "more members of a sample after members of another one")
            reject(again, "duplicate_id", lambda row: "an earlier sample of this shard has the same id")
        reject(is_null, "missing_field", lambda row: f"has no {self._field if made is None else made.lacking(row)}")
        for name, is_utf8 in () if made is None else made.are_utf8.items():
            self._reject_broken(name, is_utf8, reject)
        inputs = self._inputs(texts, reject)
        kept = [self._kept_column(raw.kept[f.name], f, raw.are_scalars.get(f.name), reject) for f in self._kept]
        if self._has_prefix and raw.ids is not None:
            ids = _with_shard(self._shard, ids)
        rejects.sort(key=lambda r: r.position)
        columns = [ids, raw.positions, inputs, *kept]
        if not good.all():
            keep = pa.array(good)
            columns = [column.filter(keep) for column in columns]
        yield from _split(pa.RecordBatch.from_arrays(columns, schema=self._schema), rejects)

    def _named(self, reject: Reject) -> Reject:
        """Name a sample that could not be read as it would have been named, where samples have no ids of their own."""
        return replace(reject, key=reject.key or f"{self._shard.id}-{reject.position}")

    def _ids(self, raw: RawBlock) -> tuple[pa.Array, Mask]:
        if raw.ids is None:
            ids = _with_shard(self._shard, raw.positions.cast(pa.string()))
            return ids, np.ones(len(ids), bool)
        ids, is_text_N = convert(raw.ids, pa.string())
        return ids, is_text_N & ~_mask(pc.is_null(ids))

    def _kept_column(self, array: pa.Array, to: pa.Field, are_scalars: Mask | None, reject: RejectRows) -> pa.Array:
        """Convert a kept column, and reject the samples whose value does not fit its type."""
        is_utf8: Mask | bool = True
        if self._shard.format == "webdataset" and not (is_text(to.type) or is_bytes(to.type)):
            array, is_utf8 = convert(array, pa.string())
        check_convertible(array.type, to.type, to.name, self._shard.uri)
        column, fits = convert(array, to.type, are_scalars)
        fits &= is_utf8
        is_bad_text = is_text(to.type) and (is_text(array.type) or is_bytes(array.type))
        why = "is not valid UTF-8" if is_bad_text else f"does not fit {to.type}"
        reject(~fits, "bad_kept_value", lambda row: f"{to.name} = {shown(array, row)} {why}")
        return column

    @staticmethod
    def _reject_broken(name: str, is_utf8: Mask, reject: RejectRows) -> None:
        reject(~is_utf8, "bad_utf8", lambda row: f"{name} is not valid UTF-8")

    def _inputs(self, inputs: pa.Array, reject: RejectRows) -> pa.Array:
        cap = self._limits.max_sample_bytes
        size = _sizes(inputs)
        reject(
            size > cap, "too_large", lambda row: f"{self._field} is {size[row]} bytes; limits.max_sample_bytes is {cap}"
        )
        if self._modality == "vector":
            return _vectors(inputs)
        if self._modality == "image":
            reject(size == 0, "empty_image", lambda row: f"{self._field} is empty")
            return inputs.cast(pa.binary())
        texts, is_utf8 = convert(inputs, pa.string())
        self._reject_broken(self._field, is_utf8, reject)
        blank = _mask(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0))
        reject(blank, "empty_text", lambda row: f"{self._field} is empty or only white space")
        return texts


def _with_shard(shard: Shard, ids: pa.Array) -> pa.Array:
    """Put the number of a shard before ids that are unique within it."""
    return pc.binary_join_element_wise(str(shard.id), ids, "-")


class SeenIds:
    """The ids of a shard so far, as sorted runs of 64-bit hashes that double in length: 8 bytes per id."""

    def __init__(self) -> None:
        """Start with none."""
        self._runs: list[npt.NDArray[np.int64]] = []

    def are_new(self, ids: pa.Array) -> Mask:
        """Add ids; return for each whether it is new, both among earlier ids and in this array."""
        hashes = np.fromiter(map(hash, ids.to_pylist()), np.int64, len(ids))
        unique, first = np.unique(hashes, return_index=True)
        fresh = np.ones(len(unique), bool)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            fresh &= run[at] != unique
        new = np.zeros(len(ids), bool)
        new[first[fresh]] = True
        if fresh.any():
            self._runs.append(unique[fresh])
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            self._runs.append(np.sort(np.concatenate((self._runs.pop(), self._runs.pop()))))
        return new


def _mask(array: pa.Array) -> Mask:
    mask: Mask = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
    return mask


def _sizes(inputs: pa.Array) -> npt.NDArray[np.int64]:
    """Return the bytes of each input; 0 for null."""
    is_list = pa.types.is_nested(inputs.type)
    lengths = pc.list_value_length(inputs) if is_list else pc.binary_length(inputs)
    sizes: npt.NDArray[np.int64] = pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return sizes * (inputs.type.value_type.bit_width // 8) if is_list else sizes


def _vectors(inputs: pa.Array) -> pa.Array:
    """Cast to lists of float64, which loses nothing; a null number becomes NaN, which the preparer rejects."""
    lists = inputs.cast(pa.list_(inputs.type.value_type)).cast(INPUT_TYPES["vector"])
    if not lists.flatten().null_count:
        return lists
    numbers = pc.fill_null(lists.values, np.nan)
    return pa.ListArray.from_arrays(lists.offsets, numbers, mask=lists.is_null())


def _split(rows: pa.RecordBatch, rejects: Sequence[Reject]) -> Iterator[SampleBlock]:
    """Cut a block where its rows, kept columns included, pass `BLOCK_BYTES`."""
    todo = [rows]
    while todo:
        part = todo.pop()
        # Halved, since the bytes of a nested row are known only from a slice.
        if part.nbytes > BLOCK_BYTES and len(part) > 1:
            middle = len(part) // 2
            todo += [part.slice(middle), part.slice(0, middle)]
            continue
        yield SampleBlock(part, rejects)
        rejects = ()
