"""The blocks that several jobs' configs share.

Owns the parent of every block and the shared blocks; a job's own blocks are in the job's module.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.column_names import column_name_problem
from schemas.config.bounds import MAX_ACTORS, MAX_COUNT, MAX_SECONDS, Bytes, Count, Dim, Number, Seconds
from schemas.records import IdPrefix, Modality, ShardFormat, Side
from schemas.refusals import SaysWhatIsWrong
from schemas.templates import is_template, parse_template

CLASS_NAME = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
"""Pattern of the name of a class: `module:Class`."""
CLASS_EXAMPLE = "my_pkg.my_module:MyEncoder"
_AS = " as "


class ConfigBlock(BaseModel, metaclass=SaysWhatIsWrong):
    """Parent of every config block: unknown keys are refused and nothing changes after loading.

    Strings are not empty, and numbers are finite; the types in `bounds` add the ends of each number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_min_length=1, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _without_null_characters(cls, value: Any) -> Any:
        texts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(text, str) and "\0" in text for text in texts):
            raise ValueError("a string cannot hold the character NUL")
        return value


class InputConfig(ConfigBlock):
    """Layout of the shards, and the fields that are used.

    Attributes:
        format: Layout of the shards; `auto` decides by the file name.
        id: Field that names a sample. Default: the tar key, or `<shard>-<position>` elsewhere.
        id_prefix: `shard` puts the shard's number before each id, so that ids are unique in the whole table although
            several shards use the same; `none` keeps them as they are.
        text: Field to embed as text (exactly one of `text`, `image` and `vector`), or a template of several, as in
            `"{title}: {body}"`: `{title?}` is a field that may be missing, and `{{` and `}}` are braces.
        image: Field to embed as an image; `;` separates alternatives, as in `jpg;png`.
        vector: Field with precomputed vectors, for an encoder that takes them.
        keep: Fields stored beside the vector, each under its own name or under another one: `"score as stars"` stores
            the field `score` as the column `stars`. In a tar a field is a member's extension, or a key of the `json`
            member.
    """

    format: Literal["auto"] | ShardFormat = "auto"
    id: str | None = None
    id_prefix: IdPrefix = "none"
    text: str | None = None
    image: str | None = None
    vector: str | None = None
    keep: tuple[str, ...] = ()

    @field_validator("keep")
    @classmethod
    def _columns_have_names(cls, keep: tuple[str, ...]) -> tuple[str, ...]:
        columns = [_kept(entry)[1] for entry in keep]
        for entry, column in zip(keep, columns, strict=True):
            if not _kept(entry)[0]:
                raise ValueError(f"{entry!r} names no field")
            if problem := column_name_problem(column):
                raise ValueError(f"there cannot be a column {column!r}: {problem}; {_rename(entry)}")
            if columns.count(column) > 1:
                raise ValueError(f"two columns {column!r}; name each once, or {_rename(entry)}")
        return keep

    @field_validator("text")
    @classmethod
    def _template_can_be_read(cls, text: str | None) -> str | None:
        if text is not None and is_template(text):
            parse_template(text)
        return text

    @model_validator(mode="after")
    def _one_input(self) -> InputConfig:
        if sum(field is not None for field in (self.text, self.image, self.vector)) != 1:
            raise ValueError("name exactly one of `text`, `image` and `vector`: the field to embed")
        return self

    @property
    def columns(self) -> dict[str, str]:
        """Kept columns, in order: the name in the table to the field that it is taken from."""
        return {column: field for field, column in map(_kept, self.keep)}

    @property
    def has_template(self) -> bool:
        """Whether the text is made of several fields by a template."""
        return self.text is not None and is_template(self.text)

    @property
    def modality(self) -> Modality:
        """Modality of the field to embed."""
        if self.text is not None:
            return "text"
        return "image" if self.image is not None else "vector"


def _kept(entry: str) -> tuple[str, str]:
    """Return the field and the column of an entry of `keep`."""
    field, renamed, column = entry.rpartition(_AS)
    return (field.strip() or field, column.strip() or column) if renamed else (entry, entry)


def _rename(entry: str) -> str:
    return f'store it under another name: keep = ["{_kept(entry)[0]}{_AS}NAME"]'


class ChunkConfig(ConfigBlock):
    """Long texts are cut into passages, each a row of its own, so that nothing of a text is left out.

    A text that fits is one passage. Every row has the columns `document` (the sample's id), `passage` (its number, from
    0), and `start` and `stop` (its characters in the text); its `id` is `<document>#<passage>`. A kept column of the
    embedded field holds the passage's text.

    Attributes:
        tokens: Tokens of a passage at most, those of the prompt and the encoder's special ones included.
        overlap: Tokens that a passage may share with the one before it, in whole sentences, paragraphs or words.
        by: Where texts are cut. A sentence or paragraph that is longer than a passage is cut at sentences and words.
    """

    tokens: Annotated[int, Number, Field(ge=8, le=MAX_COUNT)] = 512
    overlap: Annotated[int, Number, Field(ge=0, le=MAX_COUNT)] = 64
    by: Literal["sentence", "paragraph", "tokens"] = "sentence"

    def __str__(self) -> str:
        """Return it as a table remembers it."""
        return f"tokens = {self.tokens}, overlap = {self.overlap}, by = {self.by!r}"


class PromptsConfig(ConfigBlock):
    """Text put in front of an input.

    Attributes:
        query: Before a query.
        document: Before a document.
    """

    query: str | None = None
    document: str | None = None


class ModelSettings(ConfigBlock):
    """What the files of a model of your own do not say, or say otherwise than you want.

    Attributes:
        dims: The ladder that the model was trained for; its full width is always part of it.
        any_from: Smallest dim, where the model was trained for every dim from there.
        prompts: Text put in front of queries and documents, in place of the model's own.
        pooling: How token vectors become one.
        max_length: Tokens after which a text is cut.
    """

    dims: Annotated[tuple[Dim, ...], Field(min_length=1)] | None = None
    any_from: Dim | None = None
    prompts: PromptsConfig | None = None
    pooling: Literal["mean", "cls", "last"] | None = None
    max_length: Count | None = None


class EncoderConfig(ModelSettings):
    """The model that embeds, and how it runs. The settings of `ModelSettings` are for a model of your own.

    Attributes:
        name: Name in the registry; `mlake encoders` lists them.
        class: Your own class in place of a name, as in `my_pkg.my_module:MyEncoder`. It is imported here, and the
            machines of a cluster get a copy of its top package or file.
        path: Local folder or file with the model's weights, in place of the registered ones.
            `hf://OWNER/NAME@COMMIT` names a repository of the Hugging Face hub.
        side: Selects the model's prompt for documents or for queries; it is put before the input.
        device: `auto` takes CUDA if there is a GPU.
        dtype: `auto` takes bf16 if the GPU has it and the model allows it, else float32.
        batch: Samples per batch, or `auto`: a token budget for text, a pixel budget for images.
        compile: Run the model through `torch.compile`.
        trust_remote_code: Let a model run the Python that comes with it, where it needs to (`runs_code` in `mlake
            encoders NAME`), and a head ask the server that its file names. No table and no model file can set this.
        unverified: Take a model that this release was not compared with (`unverified` in `mlake encoders`).
        reference_samples: Samples that are compared with the model's reference implementation before a table is made,
            where that is installed; 0 compares none.
    """

    # In Python the setting is `class_`, since `class` is a word of the language.
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    name: str
    class_: str | None = Field(None, alias="class")
    path: str | None = None
    side: Side = "document"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch: Literal["auto"] | Annotated[Count, Field(le=1_000_000)] = "auto"
    compile: bool = False
    trust_remote_code: bool = False
    unverified: bool = False
    reference_samples: Annotated[int, Number, Field(ge=0, le=1000)] = 8

    @model_validator(mode="before")
    @classmethod
    def _class_needs_no_name(cls, given: Any) -> Any:
        if isinstance(given, dict) and not {"class", "class_"}.isdisjoint(given):
            return {"name": "own"} | given
        return given

    @field_validator("class_")
    @classmethod
    def _is_a_class(cls, name: str | None) -> str | None:
        if name is not None and re.fullmatch(CLASS_NAME, name) is None:
            raise ValueError(f"write module:Class, such as {CLASS_EXAMPLE}")
        return name


class TrustConfig(ConfigBlock):
    """What a search in words, or by an image, may load for the encoder that a table names.

    A table may come from a stranger, so the path in its space is never opened, and it cannot ask for code.

    Attributes:
        encoder: Name of a model that answers in place of the table's encoder, since the makers of both state that they
            share a space: `voyage-4-nano` for a table of `voyage-4-large`. `encoder_path` is then its file.
        encoder_path: Your folder or file with the weights of the table's encoder, if it was made with local ones.
        encoder_class: Your class, as in `my_pkg.my_module:MyEncoder`, if the table was made by one; or the name of an
            encoder that a package you installed offers.
        trust_remote_code: Let the encoder run the Python that comes with its model.
        unverified: Take an encoder that this release was not compared with.
    """

    encoder: str | None = None
    encoder_path: str | None = None
    encoder_class: str | None = None
    trust_remote_code: bool = False
    unverified: bool = False


class RotationConfig(ConfigBlock):
    """Orthonormal rotation for encoders that are not Matryoshka-trained.

    Attributes:
        kind: `pca` sorts the dims by variance, so that a prefix keeps the most that a linear map can; `none` rotates
            nothing.
        sample_rows: Number of vectors that the rotation is fitted on.
    """

    kind: Literal["none", "pca"] = "none"
    sample_rows: Annotated[int, Number, Field(ge=2, le=MAX_COUNT)] = 20_000


class ClusterConfig(ConfigBlock):
    """How work is spread over processes and machines.

    Attributes:
        actors: Encoder actors; `auto` is one per GPU, or one per machine if there are no GPUs; it takes those that
            join the cluster later.
        cpus_per_actor: CPUs that an actor reserves, and torch threads in it; `auto` divides the machine evenly.
        gpus_per_actor: GPUs that an actor reserves; `auto` is 1 if there are GPUs.
        feeders: CPU actors that read, decode and tokenise for the encoder actors; with 0 the encoder actors do it in
            threads. `auto` is one per CPU of the machines without a GPU if there are GPUs, else 0.
        leases_per_actor: Leases in flight per actor: one is encoded while the next is read.
        decode_threads: Threads per actor that decode and tokenise; `auto` is the number of the actor's CPUs.
        wait_for_node_s: Where no node of the cluster is large enough for an actor, the run ends after this time; an
            autoscaler needs minutes to add one.
    """

    actors: Literal["auto"] | Annotated[Count, Field(le=MAX_ACTORS)] = "auto"
    cpus_per_actor: Literal["auto"] | Annotated[float, Number, Field(ge=0.01, le=1024)] = "auto"
    gpus_per_actor: Literal["auto"] | Annotated[float, Number, Field(ge=0, le=64)] = "auto"
    feeders: Literal["auto"] | Annotated[int, Number, Field(ge=0, le=MAX_ACTORS)] = "auto"
    leases_per_actor: Annotated[Count, Field(le=64)] = 2
    decode_threads: Literal["auto"] | Annotated[Count, Field(le=1024)] = "auto"
    wait_for_node_s: Annotated[float, Number, Field(ge=0, le=30 * 86400)] = 600.0


class LimitsConfig(ConfigBlock):
    """Limits of a run.

    Attributes:
        max_reject_fraction: The run stops when the share of rejected samples is above this. It is checked from 20
            rejects on, or when all samples are rejected; 0 stops at the first reject.
        max_sample_bytes: Larger inputs are rejected.
        max_pixels: Images with more pixels are rejected before they are decoded.
        sample_timeout_s: Samples that take longer to decode are rejected.
        max_tries: A shard that failed this often is given up.
        lease_bytes: Small shards share a lease up to this many bytes.
        lease_shards: Most shards that share a lease, however small they are.
        buffer_bytes: Decoded input that may wait for the encoder, per lease.
        commit_shards: Maximum number of shards in one commit.
        commit_age_s: Finished shards are committed after this many seconds, even if they are few.
    """

    max_reject_fraction: Annotated[float, Number, Field(ge=0, le=1)] = 0.05
    max_sample_bytes: Bytes = 64 << 20
    max_pixels: Annotated[Count, Field(le=10**10)] = 100_000_000
    sample_timeout_s: Seconds = 30.0
    max_tries: Annotated[Count, Field(le=1000)] = 3
    lease_bytes: Bytes = 64 << 20
    lease_shards: Annotated[Count, Field(le=1_000_000)] = 256
    buffer_bytes: Bytes = 128 << 20
    commit_shards: Annotated[Count, Field(le=1_000_000)] = 256
    commit_age_s: Annotated[float, Number, Field(ge=0, le=MAX_SECONDS)] = 30.0


class ReuseConfig(ConfigBlock):
    """Samples of equal content are encoded once: the others take over the vector that is stored.

    Attributes:
        hashes: Whether a table has a column with the hash of each input. `auto`: new tables of texts or images have
            it, and others go on without; `add`: a table that lacks it gets it, for the rows from then on; `off`: new
            tables go without, and a column that is there stays unused and empty.
        memory_bytes: Memory of each actor for hashes of the table, 32 bytes each, and for what it has encoded.
    """

    hashes: Literal["auto", "add", "off"] = "auto"
    memory_bytes: Bytes = 1 << 30


class StorageConfig(ConfigBlock):
    """Address of S3. Credentials come from the boto3 chain only (environment, profile, instance role).

    Attributes:
        endpoint: URL of an S3-compatible store; None is AWS.
        region: Name of the region.
        profile: Profile in the shared AWS config.
    """

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
