"""What `python -m jobs train` is told: the task, the model, the data, the loss, the optimiser and the run."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from schemas.config.blocks import ConfigBlock, InputConfig, LimitsConfig, StorageConfig

Kind = Literal["classify", "pairs", "mlm", "head-from-labels", "head-from-pairs", "head-from-nothing"]
Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet-small", "vit-s16", "vit-b16", "vit-small"]
Bert = Literal["bert-base", "bert-mini", "bert-tiny"]


class ModelConfig(ConfigBlock):
    """What is trained. Everything starts from random weights; what a head stands on stays as it is.

    Attributes:
        image: Backbone of the images; the `small` ones are for pictures of some thirty pixels.
        text: Transformer of the texts.
        pixels: Height and width of the square that the image backbone sees.
        channels: 3 for RGB, 1 for grey.
        width: Width of the vectors, by a linear projection; None is the backbone's own. A head's is its ladder's end.
        max_length: Tokens after which a text is cut.
        vocabulary: Tokens of the tokeniser that is trained on the texts, where none is given.
        tokenizer: A `tokenizer.json`; None trains one.
        hidden: Widths of a head's hidden layers; none of them makes it linear.
    """

    image: Backbone | None = None
    text: Bert | None = None
    pixels: int = Field(224, ge=8)
    channels: Literal[1, 3] = 3
    width: int | None = Field(None, ge=1)
    max_length: int = Field(64, ge=4)
    vocabulary: int = Field(30_522, ge=300)
    tokenizer: str | None = None
    hidden: tuple[int, ...] = ()


class LossConfig(ConfigBlock):
    """The nested loss.

    Attributes:
        dims: The ladder, ascending. One dim makes a fixed-feature model.
        weights: Importance of each dim; None is 1 for each.
        tied: One head whose columns all dims share (MRL-E), instead of one each (MRL).
        smoothing: Label smoothing.
        temperature: Of InfoNCE, where it starts; of the distillation, throughout. None is the loss's own.
    """

    dims: tuple[int, ...] = Field(min_length=1)
    weights: tuple[float, ...] | None = None
    tied: bool = False
    smoothing: float = Field(0.0, ge=0, lt=1)
    temperature: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _ladder(self) -> Self:
        if list(self.dims) != sorted(set(self.dims)) or self.dims[0] < 1:
            raise ValueError("dims must be 1 or more and ascend")
        if self.weights is not None and len(self.weights) != len(self.dims):
            raise ValueError(f"{len(self.weights)} weights for {len(self.dims)} dims; give one per dim, or none")
        return self


class DataConfig(ConfigBlock):
    """What is learnt from.

    Attributes:
        train: Shards as `jobs embed` takes them, or one folder with a subfolder of images per class.
        valid: The same, held out; none measures nothing on the way. A head holds a fraction of its table out instead.
        input: Which fields of a shard are used; a folder of images needs none.
        label: Field with the class of a sample.
        caption: Field with the words that belong to an image.
        table: Of a head: the table whose vectors, whole and frozen, it learns from.
        caption_encoder: Of a head from pairs: the frozen encoder of the captions.
        group: Of a head: column whose equal rows are held out together, or not at all. Default: each row by itself.
        group_without: Words that make no difference there: `man cook` and `woman cook` are one group without the first.
        held_out: Of a head: the fraction held out.
        noise: Of a head: length of the random vector added to each unit vector, anew each time it is learnt from.
        samples: Samples that make an epoch; None counts them first, by reading the shards once.
        classes: Where labels are the numbers 0, 1, …: how many; None collects them while counting.
        shuffle_rows: Samples of a worker among which the next is drawn.
        augment: Crop and flip the training images at random.
    """

    train: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    input: InputConfig | None = None
    label: str | None = None
    caption: str | None = None
    table: str | None = None
    caption_encoder: str = "wordllama"
    group: str | None = None
    group_without: tuple[str, ...] = ()
    held_out: float = Field(0.1, ge=0, lt=1)
    noise: float = Field(0.0, ge=0)
    samples: int | None = Field(None, ge=1)
    classes: int | None = Field(None, ge=2)
    shuffle_rows: int = Field(10_000, ge=1)
    augment: bool = True

    @model_validator(mode="before")
    @classmethod
    def _one_pattern_is_a_list_of_one(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        return raw | {key: [raw[key]] for key in ("train", "valid") if isinstance(raw.get(key), str)}


class OptimiserConfig(ConfigBlock):
    """How weights move.

    Attributes:
        name: SGD with momentum, or AdamW.
        lr: Peak learning rate.
        momentum: Of SGD.
        betas: Of AdamW.
        weight_decay: On matrices and kernels; never on biases, norms and temperatures.
        schedule: How the rate falls after the warm-up: to 0 by a cosine or a line, by `gamma` at milestones, or not.
        warmup_epochs: Epochs, or parts of one, in which the rate rises from 0.
        milestones: Epochs at which `step` falls.
        gamma: Factor by which it does.
        clip_norm: Largest norm of the gradient; None leaves it.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    warmup_epochs: float = Field(0.0, ge=0)
    milestones: tuple[int, ...] = ()
    gamma: float = Field(0.1, gt=0)
    clip_norm: float | None = Field(None, gt=0)


class RunConfig(ConfigBlock):
    """How long, on what, and what is kept.

    Attributes:
        epochs: Passes over the data.
        batch: Samples a step, of all workers together.
        accumulate: Parts that a worker's batch is cut into, for less memory.
        precision: `auto` is bf16 where the device multiplies it faster, else float32.
        device: `auto` takes CUDA where there is a GPU.
        workers: Processes; more than one go through Ray Train.
        seed: Of weights, order and augmentation.
        checkpoint_steps: Steps between checkpoints; None is one an epoch.
        tensorboard: Write curves for TensorBoard, where it is installed.
    """

    epochs: int = Field(10, ge=1)
    batch: int = Field(256, ge=2)
    accumulate: int = Field(1, ge=1)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(1, ge=1)
    seed: int = Field(0, ge=0)
    checkpoint_steps: int | None = Field(None, ge=1)
    tensorboard: bool = True

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch % (self.workers * self.accumulate):
            raise ValueError(
                f"batch={self.batch} does not divide into {self.workers} workers times {self.accumulate} parts"
            )
        return self


class Recipe(ConfigBlock):
    """What the loop is told: how weights move, and for how long."""

    optimiser: OptimiserConfig = OptimiserConfig()
    run: RunConfig = RunConfig()


class TrainConfig(Recipe):
    """Settings of `python -m jobs train`.

    Attributes:
        kind: What is trained on what.
        out: Folder for the checkpoint, the curves, and in the end the trained encoder.
        into: Of a head: table that gets the vectors of `data.table` through the head; nothing is encoded again for it.
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
        """Whether a head on a frozen encoder is trained, not a whole model."""
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
            raise ValueError(f"into is for a head; after kind={self.kind} the data is embedded by `jobs embed`")
        if self.is_head and self.run.workers > 1:
            raise ValueError("a head is trained by one worker; its vectors are few enough")
        return self
