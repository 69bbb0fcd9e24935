"""The blocks that several jobs' configs share.

Owns the parent of every block and the shared blocks; a job's own blocks are in the job's module.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
