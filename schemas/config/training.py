"""The config of `mlake train`: the task, the model, the data, the loss, the optimiser and the run."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from schemas.config.blocks import ConfigBlock, InputConfig, LimitsConfig, StorageConfig, TrustConfig
from schemas.config.bounds import MAX_ACTORS, Count, Dim, Number, Seed

Kind = Literal["classify", "pairs", "mlm", "head-from-labels", "head-from-pairs", "head-from-nothing"]
Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet-small", "vit-s16", "vit-b16", "vit-small"]
Beta = Annotated[float, Number, Field(ge=0, lt=1)]
Bert = Literal["bert-base", "bert-mini", "bert-tiny"]


class ModelConfig(ConfigBlock):
    """The model to train. It starts from random weights; the frozen encoder under a head does not change.

    Attributes:
        image: Image backbone; the `small` ones are for images of about 30 pixels.
        text: Text transformer.
        pixels: Height and width of the input of the image backbone.
        channels: 3 for RGB, 1 for grey.
        width: Width of the vectors, by a linear projection; None is the backbone's own. A head's is its largest dim.
        max_length: Tokens after which a text is cut.
        vocabulary: Size of the vocabulary of the tokeniser that is trained on the texts, if `tokenizer` is None.
        tokenizer: Path of a `tokenizer.json`; None trains a tokeniser.
        hidden: Widths of a head's hidden layers; without any the head is linear.
    """

    image: Backbone | None = None
    text: Bert | None = None
    pixels: Annotated[int, Number, Field(ge=8, le=16_384)] = 224
    channels: Literal[1, 3] = 3
    width: Dim | None = None
    max_length: Annotated[int, Number, Field(ge=4, le=1_000_000)] = 64
    vocabulary: Annotated[int, Number, Field(ge=300, le=10_000_000)] = 30_522
    tokenizer: str | None = None
    hidden: tuple[Dim, ...] = ()


class LossConfig(ConfigBlock):
    """The nested loss.

    Attributes:
        dims: The ladder, ascending. A single dim makes a fixed-feature model.
        weights: Weight of the loss at each dim; None is 1 for each.
        tied: Train one classifier whose columns all dims share (MRL-E), not one per dim (MRL).
        smoothing: Label smoothing.
        temperature: Initial temperature of InfoNCE, or the fixed one of the distillation; None is the default.
    """

    dims: tuple[Dim, ...] = Field(min_length=1)
    weights: tuple[Annotated[float, Number, Field(ge=0, le=1e6)], ...] | None = None
    tied: bool = False
    smoothing: Annotated[float, Number, Field(ge=0, lt=1)] = 0.0
    temperature: Annotated[float, Number, Field(gt=0, le=1e4)] | None = None

    @model_validator(mode="after")
    def _ladder(self) -> Self:
        if list(self.dims) != sorted(set(self.dims)):
            raise ValueError("dims must ascend")
        if self.weights is not None and len(self.weights) != len(self.dims):
            raise ValueError(f"{len(self.weights)} weights for {len(self.dims)} dims; give one per dim, or none")
        return self


class DataConfig(ConfigBlock):
    """The training data.

    Attributes:
        train: Shard patterns as in `mlake embed`, or one folder with one subfolder of images per class.
        valid: Validation data, given the same way; without it nothing is measured during training. A head holds out a
            fraction of its table instead.
        input: The fields of a shard to use; not needed for a folder of images.
        label: Field that holds the class of a sample.
        caption: Field that holds the caption of an image.
        table: For a head: the table whose full, frozen vectors it is trained on.
        encoder_path: For a head on a table that was made with local weights: your copy of them.
        trust_remote_code: Let the frozen encoders run the Python that comes with their models.
        caption_encoder: For a head from pairs: the frozen encoder of the captions.
        group: For a head: rows with equal values in this column are held out together. Default: each row by itself.
        group_without: Words that are removed before `group` is compared: without `man` and `woman`, the values
            `man cook` and `woman cook` are one group.
        held_out: For a head: the fraction of the table that is held out.
        noise: For a head: length of the random vector that is added to each unit vector, drawn anew at each step.
        samples: Number of samples in an epoch; None reads the shards once to count them.
        classes: Number of classes, if the labels are the numbers 0, 1, …; None collects the classes while counting.
        shuffle_rows: Size of the shuffle buffer of a worker, in samples.
        augment: Crop and flip the training images at random.
    """

    train: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    input: InputConfig | None = None
    label: str | None = None
    caption: str | None = None
    table: str | None = None
    encoder_path: str | None = None
    trust_remote_code: bool = False
    caption_encoder: str = "wordllama"
    group: str | None = None
    group_without: tuple[str, ...] = ()
    held_out: Annotated[float, Number, Field(ge=0, lt=1)] = 0.1
    noise: Annotated[float, Number, Field(ge=0, le=1e4)] = 0.0
    samples: Annotated[Count, Field(le=10**12)] | None = None
    classes: Annotated[int, Number, Field(ge=2, le=10_000_000)] | None = None
    shuffle_rows: Count = 10_000
    augment: bool = True

    @model_validator(mode="before")
    @classmethod
    def _one_pattern_is_a_list_of_one(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        return raw | {key: [raw[key]] for key in ("train", "valid") if isinstance(raw.get(key), str)}

    @property
    def trust(self) -> TrustConfig:
        """What the encoder of `table` may load."""
        return TrustConfig(encoder_path=self.encoder_path, trust_remote_code=self.trust_remote_code)


class OptimiserConfig(ConfigBlock):
    """The optimiser and its schedule.

    Attributes:
        name: SGD with momentum, or AdamW.
        lr: Peak learning rate.
        momentum: Momentum of SGD.
        betas: Betas of AdamW.
        weight_decay: Decay of matrices and kernels; biases, norms and temperatures have none.
        schedule: Learning rate after the warm-up: `cosine` and `linear` fall to 0, `step` is multiplied by `gamma` at
            each milestone, `constant` stays.
        warmup_epochs: Epochs, possibly a fraction, in which the learning rate rises from 0.
        milestones: Epochs at which `step` lowers the learning rate.
        gamma: Factor of `step` at a milestone.
        clip_norm: Maximum norm of the gradient; None does not clip.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Number, Field(gt=0, le=1e4)] = 0.1
    momentum: Beta = 0.9
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: Annotated[float, Number, Field(ge=0, le=1e4)] = 1e-4
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    warmup_epochs: Annotated[float, Number, Field(ge=0, le=1e6)] = 0.0
    milestones: tuple[Count, ...] = ()
    gamma: Annotated[float, Number, Field(gt=0, le=1e4)] = 0.1
    clip_norm: Annotated[float, Number, Field(gt=0, le=1e9)] | None = None


class RunConfig(ConfigBlock):
    """Length of the run, hardware, and what is saved.

    Attributes:
        epochs: Passes over the data.
        batch: Samples per step, over all workers.
        accumulate: Number of parts of a worker's batch, computed one after another to save memory.
        precision: `auto` is bf16 if the device computes it faster, else float32.
        device: `auto` takes CUDA if there is a GPU.
        workers: Number of processes; more than one run on Ray Train.
        seed: Seed of weights, order and augmentation.
        checkpoint_steps: Steps between checkpoints; None writes one per epoch.
        tensorboard: Write curves for TensorBoard, if it is installed.
    """

    epochs: Annotated[Count, Field(le=1_000_000)] = 10
    batch: Annotated[int, Number, Field(ge=2, le=10_000_000)] = 256
    accumulate: Annotated[Count, Field(le=1_000_000)] = 1
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[Count, Field(le=MAX_ACTORS)] = 1
    seed: Seed = 0
    checkpoint_steps: Count | None = None
    tensorboard: bool = True

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch % (self.workers * self.accumulate):
            raise ValueError(
                f"batch={self.batch} does not divide into {self.workers} workers times {self.accumulate} parts"
            )
        return self


class Recipe(ConfigBlock):
    """The settings of the training loop."""

    optimiser: OptimiserConfig = OptimiserConfig()
    run: RunConfig = RunConfig()


class TrainConfig(Recipe):
    """Settings of `mlake train`.

    Attributes:
        kind: The task: what is trained, on which data.
        out: Folder for the checkpoint, the curves, and the trained encoder.
        into: For a head: table for the vectors of `data.table` mapped through the head; nothing is encoded again.
    """

    kind: Kind
    out: str
    into: str | None = None
    model: ModelConfig = ModelConfig()
    data: DataConfig
    loss: LossConfig
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()

    @property
    def is_head(self) -> bool:
        """Whether the task trains a head on a frozen encoder, not a whole model."""
        return self.kind.startswith("head")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        needs: dict[Kind, dict[str, Any]] = {
            "classify": {"model.image": self.model.image, "data.train": self.data.train},
            "pairs": {
                "model.image": self.model.image,
                "model.text": self.model.text,
                "model.width": self.model.width,
                "data.train": self.data.train,
                "data.input": self.data.input,
                "data.caption": self.data.caption,
            },
            "mlm": {"model.text": self.model.text, "data.train": self.data.train, "data.input": self.data.input},
            "head-from-labels": {"data.table": self.data.table, "data.label": self.data.label},
            "head-from-pairs": {"data.table": self.data.table, "data.caption": self.data.caption},
            "head-from-nothing": {"data.table": self.data.table},
        }
        if missing := [name for name, value in needs[self.kind].items() if not value]:
            raise ValueError(f"kind={self.kind} needs {' and '.join(missing)}")
        if self.kind == "classify" and self.data.input is not None and self.data.label is None:
            raise ValueError("kind=classify needs data.label: the field of the shards that holds a sample's class")
        modality = {"classify": "image", "pairs": "image", "mlm": "text"}.get(self.kind)
        if self.data.input is not None and modality and self.data.input.modality != modality:
            raise ValueError(f"kind={self.kind} learns from data.input.{modality}, not {self.data.input.modality}")
        if self.run.accumulate > 1 and self.kind != "classify":
            raise ValueError(
                f"run.accumulate is for kind=classify; kind={self.kind} compares the rows of a whole batch"
            )
        if self.into and not self.is_head:
            raise ValueError(f"into is for a head; for kind={self.kind} run `mlake embed` afterwards")
        if self.is_head and self.run.workers > 1:
            raise ValueError("a head is trained by one worker; its vectors are few enough")
        return self
