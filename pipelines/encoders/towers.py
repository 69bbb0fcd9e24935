"""Towers of whole models trained here: pixels or token ids in, features out.

Owns architectures, sizes and the image rule; has no loss, no data and no file. The backbones are classes of the
transformers library, with random weights.

Shapes: B rows, H height, W width, C channels, L tokens, D features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipelines.encoders.image_preprocessing import ImageRule
from schemas.config.training import ModelConfig
from schemas.errors import ConfigError, DependencyMissing

_TINY_PIXELS = 64
# Mean and spread of ImageNet's channels, as every ResNet is fed; grey pictures are centred.
_RGB = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_GREY = ((0.5,), (0.5,))

RESNETS: dict[str, dict[str, Any]] = {
    "resnet18": {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]},
    "resnet34": {"layer_type": "basic", "depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 256, 512]},
    "resnet50": {"layer_type": "bottleneck", "depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048]},
    "resnet-small": {
        "layer_type": "basic",
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [32, 64, 128, 256],
        "embedding_size": 32,
    },
}
VITS: dict[str, dict[str, Any]] = {
    "vit-s16": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 16},
    "vit-b16": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16},
    "vit-small": {
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "patch_size": 7,
        "attn_implementation": "eager",  # of 17 tokens; torch's fused attention takes twice as long there on a CPU
    },
}
BERTS: dict[str, dict[str, int]] = {
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "bert-mini": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},
    "bert-tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
}


class ImageTower(nn.Module):
    """An image backbone, from uint8 pixels to features; `width` is theirs."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        """Make the backbone that `config.image` names.

        Raises:
            ConfigError: The backbone cannot be made so.
            DependencyMissing: transformers is not installed.
        """
        super().__init__()
        name, self.channels = config.image or "", config.channels
        mean, std = _RGB if config.channels == 3 else _GREY
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.is_vit = name in VITS
        self.backbone = _vit(config) if self.is_vit else _resnet(config)
        own = int(self.backbone.config.hidden_size if self.is_vit else self.backbone.config.hidden_sizes[-1])
        self.width = config.width or own
        self.project = nn.Linear(own, self.width, bias=False) if config.width else nn.Identity()

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """Return (B, D) features of (B, H, W, 3 or 1) uint8 pixels; a model of grey pictures takes colour as well."""
        x_BHWC = pixels_BHWC.float() / 255.0
        if self.channels == 1 and x_BHWC.shape[-1] == 3:
            x_BHWC = x_BHWC.mean(-1, keepdim=True)
        x_BCHW = ((x_BHWC - self.mean) / self.std).permute(0, 3, 1, 2)
        out = self.backbone(pixel_values=x_BCHW)
        features_BD: Tensor = out.last_hidden_state[:, 0] if self.is_vit else out.pooler_output.flatten(1)
        projected: Tensor = self.project(features_BD)
        return projected


class TextTower(nn.Module):
    """A BERT, from token ids to hidden states and their mean; `width` is theirs."""

    def __init__(self, config: ModelConfig, vocabulary: int, pad: int = 0) -> None:
        """Make the transformer that `config.text` names, over `vocabulary` tokens of which `pad` is the padding.

        Raises:
            DependencyMissing: transformers is not installed.
        """
        super().__init__()
        sizes = BERTS[config.text or ""]
        transformers = _transformers()
        own = sizes["hidden_size"]
        bert = transformers.BertConfig(
            **sizes,
            intermediate_size=4 * own,
            vocab_size=vocabulary,
            max_position_embeddings=config.max_length,
            pad_token_id=pad,
        )
        self.backbone = transformers.BertModel(bert, add_pooling_layer=False)
        self.width = config.width or own
        self.project = nn.Linear(own, self.width, bias=False) if config.width else nn.Identity()

    @property
    def embedding(self) -> Tensor:
        """(C, D) vectors of the tokens, as they go in."""
        weight: Tensor = self.backbone.get_input_embeddings().weight
        return weight

    def hidden(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return the (B, L, D) hidden states of int64 ids; `mask` is 1 where a token is, 0 on padding."""
        states: Tensor = self.backbone(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        return states

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return (B, D) features: the mean of the tokens' hidden states, projected."""
        weight_BL1 = mask_BL.unsqueeze(-1).to(torch.float32)
        mean_BD = (self.hidden(ids_BL, mask_BL) * weight_BL1).sum(1) / weight_BL1.sum(1).clamp(min=1)
        projected: Tensor = self.project(mean_BD)
        return projected


def tower_image_rule(pixels: int) -> ImageRule:
    """Return the image rule of a tower: the central seven eighths of an image; a tiny image whole."""
    return ImageRule((pixels, pixels), pixels if pixels < _TINY_PIXELS else round(pixels / 0.875))


def _resnet(config: ModelConfig) -> Any:
    transformers = _transformers()
    model = transformers.ResNetModel(
        transformers.ResNetConfig(num_channels=config.channels, **RESNETS[config.image or ""])
    )
    if config.image == "resnet-small":
        # The stem of the large ones halves the picture twice, and of thirty pixels that leaves too few.
        size = model.config.embedding_size
        model.embedder.embedder.convolution = nn.Conv2d(config.channels, size, 3, stride=2, padding=1, bias=False)
        model.embedder.pooler = nn.Identity()
    return model.to(memory_format=torch.channels_last)


def _vit(config: ModelConfig) -> Any:
    sizes = VITS[config.image or ""]
    if config.pixels % sizes["patch_size"]:
        raise ConfigError(
            f"model.pixels={config.pixels}: {config.image} cuts images into squares of {sizes['patch_size']} pixels; "
            "give a multiple of that"
        )
    transformers = _transformers()
    return transformers.ViTModel(
        transformers.ViTConfig(
            **sizes,
            intermediate_size=4 * sizes["hidden_size"],
            image_size=config.pixels,
            num_channels=config.channels,
        ),
        add_pooling_layer=False,
    )


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError:
        raise DependencyMissing(
            "training a whole model needs transformers; run: pip install 'matryoshka-lake[train]' "
            "(a head on a frozen encoder needs nothing more)"
        ) from None
    return transformers
