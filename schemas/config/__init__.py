"""One frozen model per job, and `load_config`, the only I/O of this folder.

A config travels whole: every function that needs settings takes the model, or one of its blocks, never loose arguments.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.errors import ConfigError, nearest
from schemas.records import Modality, ShardFormat, Side


class ConfigBlock(BaseModel):
    """Parent of every config block: unknown keys are refused and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class InputConfig(ConfigBlock):
    """What a shard holds and which of it is used.

    Attributes:
        format: Layout of the shards; `auto` goes by the file name.
        id: Field that names a sample. Default: the tar key, or `<shard>-<position>` elsewhere.
        text: Field to embed as text (exactly one of `text`, `image` and `vector`).
        image: Field to embed as an image; alternatives are joined by `;` as in `jpg;png`.
        vector: Field with vectors made elsewhere, for an encoder that takes them.
        keep: Fields kept beside the vector. In tars a name is a member's extension, or a key of the `json` member.
    """

    format: Literal["auto"] | ShardFormat = "auto"
    id: str | None = None
    text: str | None = None
    image: str | None = None
    vector: str | None = None
    keep: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_input(self) -> InputConfig:
        if sum(field is not None for field in (self.text, self.image, self.vector)) != 1:
            raise ValueError("name exactly one of `text`, `image` and `vector`: the field to embed")
        taken = {"id", "shard", "position", "input"} & set(self.keep)
        if taken or any(name.startswith("vector") for name in self.keep):
            raise ValueError("`keep` cannot hold id, shard, position, input or vector…: the table has those already")
        return self

    @property
    def modality(self) -> Modality:
        """What the named field holds."""
        if self.text is not None:
            return "text"
        return "image" if self.image is not None else "vector"


class EncoderConfig(ConfigBlock):
    """Which model embeds, and how.

    Attributes:
        name: Name in the registry; `python -m jobs encoders` lists them.
        path: Local folder or file with the model's weights, instead of the registered ones.
        side: Which of the model's prompts is put before the input.
        device: `auto` takes CUDA where there is a GPU.
        dtype: `auto` takes bf16 on GPUs that have it where the model allows it, else float32.
        batch: Samples per batch, or `auto`: a token budget for text, a pixel budget for images.
        compile: Run the model through `torch.compile`.
    """

    name: str
    path: str | None = None
    side: Side = "document"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch: Literal["auto"] | int = Field("auto")
    compile: bool = False


class RotationConfig(ConfigBlock):
    """Orthonormal rotation for encoders that are not Matryoshka-trained.

    Attributes:
        kind: `pca` sorts the dims by variance, so that a prefix keeps as much as a linear map can; `none` leaves them.
        sample_rows: Vectors that the rotation is fitted on.
    """

    kind: Literal["none", "pca"] = "none"
    sample_rows: int = Field(20_000, ge=2)


class ClusterConfig(ConfigBlock):
    """How work is spread.

    Attributes:
        actors: Encoder actors; `auto` is one per GPU, or one per machine's worth of CPUs where there is none.
        cpus_per_actor: CPUs that an actor holds, and threads torch uses in it; `auto` shares the machine out.
        gpus_per_actor: GPUs that an actor holds; `auto` is 1 where there are GPUs.
        feeders: CPU actors that read, decode and tokenise for the encoder actors; 0 does it in the actors' threads.
            `auto` is one for each CPU of the machines without a GPU, where there are GPUs, else 0.
        leases_per_actor: Leases in flight per actor: one encodes while the next is read.
        decode_threads: Threads that decode and tokenise, per actor; `auto` is the actor's CPUs.
    """

    actors: Literal["auto"] | int = "auto"
    cpus_per_actor: Literal["auto"] | float = "auto"
    gpus_per_actor: Literal["auto"] | float = "auto"
    feeders: Literal["auto"] | int = "auto"
    leases_per_actor: int = Field(2, ge=1)
    decode_threads: Literal["auto"] | int = "auto"


class LimitsConfig(ConfigBlock):
    """Bounds that keep a run healthy.

    Attributes:
        max_reject_fraction: A run whose share of rejected samples passes this stops. Judged once 20 samples are
            rejected, or all of them; 0 stops at the first.
        max_sample_bytes: A larger input is rejected.
        max_pixels: An image with more pixels is rejected before it is decoded.
        sample_timeout_s: A sample whose decoding takes longer is rejected.
        max_tries: Tries after which a shard is given up.
        lease_bytes: Small shards are leased together up to this many bytes.
        buffer_bytes: Decoded input waiting for the encoder, per lease.
        commit_shards: Shards that land in one commit at most.
        commit_age_s: Seconds after which finished shards land even if they are few.
    """

    max_reject_fraction: float = Field(0.05, ge=0, le=1)
    max_sample_bytes: int = Field(64 << 20, ge=1)
    max_pixels: int = Field(100_000_000, ge=1)
    sample_timeout_s: float = Field(30.0, gt=0)
    max_tries: int = Field(3, ge=1)
    lease_bytes: int = Field(64 << 20, ge=1)
    buffer_bytes: int = Field(128 << 20, ge=1)
    commit_shards: int = Field(256, ge=1)
    commit_age_s: float = Field(30.0, ge=0)


class StorageConfig(ConfigBlock):
    """Where S3 is. Credentials come from the boto3 chain only (environment, profile, instance role).

    Attributes:
        endpoint: URL of an S3-compatible store; None is AWS.
        region: Region name.
        profile: Profile of the shared AWS config.
    """

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None


class EmbedConfig(ConfigBlock):
    """Settings of `python -m jobs embed`."""

    shards: tuple[str, ...]
    table: str
    input: InputConfig
    encoder: EncoderConfig
    rotation: RotationConfig = RotationConfig()
    cluster: ClusterConfig = ClusterConfig()
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="before")
    @classmethod
    def _one_pattern_is_a_list_of_one(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("shards"), str):
            return raw | {"shards": [raw["shards"]]}
        return raw


class DemoConfig(ConfigBlock):
    """Settings of `python -m jobs demo`.

    Attributes:
        folder: Where its shards, tables and report go.
        limit: Samples per corpus at most; None takes all of them.
        shortlist_dim: Prefix that gets a column and an index of its own.
        recall: What the funnel is tuned to find of the true ten nearest.
    """

    folder: str = "lake/demo"
    limit: int | None = Field(None, ge=50)
    shortlist_dim: int = 64
    recall: float = Field(0.99, gt=0, le=1)


class PrefixIndexConfig(ConfigBlock):
    """How a prefix column is indexed.

    Attributes:
        type: `auto` goes by the table's size, and leaves small tables to a plain scan; `none` builds none.
        partitions: Cells that the index divides the vectors into; `auto` goes by the table's size.
        sub_vectors: Bytes that IVF_PQ codes a vector in; None is half the dim.
    """

    type: Literal["auto", "none", "IVF_FLAT", "IVF_SQ", "IVF_PQ", "IVF_RQ", "IVF_HNSW_FLAT", "IVF_HNSW_SQ"] = "auto"
    partitions: Literal["auto"] | int = "auto"
    sub_vectors: int | None = None


class ExactConfig(ConfigBlock):
    """Arithmetic of the exact search; none of it changes the result.

    Attributes:
        device: `auto` takes CUDA where there is a GPU.
        precision: Of the rough scores that choose the rows to score exactly; `auto` takes the quicker on the device.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class ListsConfig(ConfigBlock):
    """A shortlist table: the exact K nearest of every query, at every dim.

    Attributes:
        queries: Table whose vectors ask; None is the searched table itself.
        table: Where the lists go; None is `<table>.shortlist.lance`.
        dims: Prefix widths; empty is every rung of the ladder.
        k: Rows for each query at each dim.
        where: SQL that searched rows must satisfy.
        exclude_self: Leave out a row with the query's own id.
        memory_bytes: What a worker's process may hold at its peak, whatever the tables' sizes.
    """

    queries: str | None = None
    table: str | None = None
    dims: tuple[int, ...] = ()
    k: int = Field(100, ge=1, le=10_000)
    where: str | None = None
    exclude_self: bool = False
    memory_bytes: int = Field(2 << 30, ge=1)


class ShortlistConfig(ConfigBlock):
    """Settings of `python -m jobs shortlist`.

    Attributes:
        table: Table to give prefix columns, and to search.
        dims: Prefix columns to add; None is every rung below the full width.
        index: How the prefix columns are indexed.
        lists: A shortlist table to make or bring up to date; None makes none.
        exact: Arithmetic of the shortlist table.
    """

    table: str
    dims: tuple[int, ...] | None = None
    index: PrefixIndexConfig = PrefixIndexConfig()
    lists: ListsConfig | None = None
    exact: ExactConfig = ExactConfig()
    cluster: ClusterConfig = ClusterConfig()
    storage: StorageConfig = StorageConfig()


C = TypeVar("C", bound=ConfigBlock)


def load_config(model: type[C], path: str | Path | None, overrides: Sequence[str] = ()) -> C:
    """Read a TOML file, lay `key.sub=value` overrides over it, and check the whole.

    Args:
        model: The job's config model.
        path: TOML file; None starts from an empty one.
        overrides: `dotted.key=value`; the value is TOML, or a bare string where it is not valid TOML.

    Raises:
        ConfigError: The file is missing or not TOML, an override is malformed, or the result does not fit the model.

    Example:
        >>> load_config(EmbedConfig, "news.toml", ["encoder.batch=64"])  # doctest: +SKIP
    """
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = tomllib.loads(Path(path).read_text())
        except FileNotFoundError:
            raise ConfigError(f"no config file at {path}; examples are in jobs/configs/") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from None
    for override in overrides:
        _lay_over(raw, override)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path or 'config'}: " + "; ".join(_explain(model, e) for e in error.errors())) from None


def _lay_over(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r}: write key=value, for example --set encoder.batch=64")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, leaf = key.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is a value, not a block")
    raw[leaf] = value


def _explain(model: type[BaseModel], error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    where = ".".join(path) or "the whole config"
    if error["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        return f"unknown key {where!r}{nearest(path[-1], known)}; known here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{where!r} is missing"
    return f"{where!r}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r})"


def _known_keys(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    return sorted(model.model_fields)
