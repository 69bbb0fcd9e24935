"""The config of `mlake deploy`: the values that the manifests of a Kubernetes cluster are rendered from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.config.blocks import ConfigBlock
from schemas.config.bounds import Count, Number

_Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$")]
_Cores = Annotated[int, Number, Field(ge=1, le=1024)]
_GiB = Annotated[int, Number, Field(ge=1, le=16_384)]
_Few = Annotated[int, Number, Field(ge=0, le=4096)]


class WorkersConfig(ConfigBlock):
    """One kind of machine. Requests and limits are equal, so that no neighbour takes the memory of a run.

    Attributes:
        cpus: Cores of each.
        memory_gib: Memory of each.
        gpus: GPUs of each.
        most: How many there may be; there are none while nothing runs.
    """

    cpus: _Cores = 4
    memory_gib: _GiB = 16
    gpus: _Few = 0
    most: _Few = 4


class DeployConfig(ConfigBlock):
    """Settings of `mlake deploy`.

    Attributes:
        name: Prefix of every object.
        namespace: Namespace of every object.
        image: Image that `Dockerfile.cpu` or `Dockerfile.cuda` builds.
        ray_version: Ray's version in that image.
        encode: Machines that encode; with GPUs, the image must be the CUDA one.
        decode: Machines without GPUs that read and decode for them; None where the encoders do it themselves.
        head_memory_gib: Memory of the head, which runs no actors.
        is_spot: Encode and decode on machines that may be taken away; the head never does.
        service_account: Kubernetes account of the pods; it carries the cloud's right to the bucket.
        token_secret: Secret with the key `auth_token`; KubeRay makes it where it is not there.
        queue: Kueue's queue, where the cluster has Kueue.
        idle_s: Seconds after which a machine without work is given back.
        nightly: File with the config of `mlake nightly`; it becomes a ConfigMap.
        schedule: When a night starts, as cron writes it.
        time_zone: Of the schedule.
        most_hours: A night that takes longer is ended; the next one goes on.
        bucket: S3 bucket of shards and tables, for the policies.
        prefix: Below it lie the tables.
        shards_prefix: Below it lie the shards, which are only read.
    """

    name: _Name = "lake"
    namespace: _Name = "lake"
    image: str
    ray_version: str = "2.60.0"
    encode: WorkersConfig = WorkersConfig()
    decode: WorkersConfig | None = None
    head_memory_gib: _GiB = 8
    is_spot: bool = False
    service_account: _Name = "lake"
    token_secret: _Name = "lake-token"
    queue: _Name | None = None
    idle_s: Annotated[Count, Field(le=86_400)] = 120
    nightly: str
    schedule: str = "0 2 * * *"
    time_zone: str = "Etc/UTC"
    most_hours: Annotated[Count, Field(le=168)] = 20
    bucket: str
    prefix: str = "lake"
    shards_prefix: str = "shards"

    @property
    def accelerator(self) -> Literal["cpu", "cuda"]:
        """Which Dockerfile makes the image."""
        return "cuda" if self.encode.gpus else "cpu"
