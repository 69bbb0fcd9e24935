"""Every family gives what its library's own documented recipe gives, at every dim, for queries and for documents."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    NomicBertConfig,
    NomicBertModel,
    Qwen3Config,
    Qwen3Model,
    SiglipConfig,
    SiglipModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from pipelines.encoders import BadSample, EncoderSpec, encode_query, load_encoder, load_preparer, make_space, registry
from pipelines.vectors.matryoshka import cut
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import EncoderError
from schemas.records import Side
from tests.support.tiny_encoders import TEXTS, save_model, save_preprocessor, save_tokenizer, small_text_config

Floats = npt.NDArray[np.float32]
SIDES: tuple[Side, ...] = ("query", "document")


def encode(config: EncoderConfig, values: list[Any]) -> Floats:
    prepared = load_preparer(config, LimitsConfig()).prepare(values)
    assert not any(isinstance(p, BadSample) for p in prepared)
    return load_encoder(config).encode([p for p in prepared if not isinstance(p, BadSample)])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a registry entry's rule under a name of its own, for a model of other sizes."""

    def entry(like: str, **changes: Any) -> EncoderSpec:
        spec = replace(registry.encoder_spec(like), name=f"tiny-{like}", runs_code=False, **changes)
        monkeypatch.setitem(registry.REGISTRY, spec.name, spec)
        return spec

    return entry


def photo(size: tuple[int, int], seed: int = 0) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


PHOTOS = [photo((90, 60)), photo((40, 70), 1), photo((64, 64), 2)]


@pytest.mark.parametrize("side", SIDES)
def test_nomic_text_is_mean_then_layer_norm_then_slice_then_l2(tmp_path: Path, tiny: Any, side: Side) -> None:
    save_tokenizer(tmp_path)
    save_model(tmp_path, NomicBertModel, small_text_config(NomicBertConfig))
    spec = tiny("nomic-embed-text-v1.5", dims=(8, 16, 32), max_length=64)
    ours = encode(EncoderConfig(name=spec.name, path=str(tmp_path), side=side), TEXTS)

    prefix = {"query": "search_query: ", "document": "search_document: "}[side]
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), NomicBertModel.from_pretrained(tmp_path).eval()
    batch = tokenizer([prefix + text for text in TEXTS], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
    mask = batch["attention_mask"].unsqueeze(-1).float()
    pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    normed = functional.layer_norm(pooled, normalized_shape=(pooled.shape[1],))
    for dim in spec.dims:
        recipe = functional.normalize(normed[:, :dim], p=2, dim=1).numpy()
        np.testing.assert_allclose(cut(ours, dim), recipe, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("like", "model_class", "config_class", "prompts"),
    [
        (
            "mxbai-embed-large-v1",
            BertModel,
            BertConfig,
            ("Represent this sentence for searching relevant passages: ", ""),
        ),
        (
            "snowflake-arctic-embed-m-v1.5",
            BertModel,
            BertConfig,
            ("Represent this sentence for searching relevant passages: ", ""),
        ),
        ("bge-m3", XLMRobertaModel, XLMRobertaConfig, ("", "")),
    ],
)
def test_cls_models_take_the_first_token(
    tmp_path: Path, tiny: Any, side: Side, like: str, model_class: Any, config_class: Any, prompts: tuple[str, str]
) -> None:
    save_tokenizer(tmp_path)
    save_model(tmp_path, model_class, small_text_config(config_class))
    spec = tiny(like, dims=(16, 32), max_length=64)
    ours = encode(EncoderConfig(name=spec.name, path=str(tmp_path), side=side), TEXTS)

    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), model_class.from_pretrained(tmp_path).eval()
    prefix = prompts[SIDES.index(side)]
    batch = tokenizer([prefix + text for text in TEXTS], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        first = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state[:, 0]
    for dim in spec.dims:
        np.testing.assert_allclose(cut(ours, dim), functional.normalize(first[:, :dim]).numpy(), atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_e5_is_the_mean_with_its_two_prompts(tmp_path: Path, tiny: Any, side: Side) -> None:
    save_tokenizer(tmp_path)
    save_model(tmp_path, BertModel, small_text_config(BertConfig))
    spec = tiny("e5-base-v2", dims=(32,), max_length=64)
    ours = encode(EncoderConfig(name=spec.name, path=str(tmp_path), side=side), TEXTS)

    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), BertModel.from_pretrained(tmp_path).eval()
    prefix = {"query": "query: ", "document": "passage: "}[side]
    batch = tokenizer([prefix + text for text in TEXTS], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    hidden = hidden.masked_fill(~batch["attention_mask"][..., None].bool(), 0.0)
    recipe = functional.normalize(hidden.sum(1) / batch["attention_mask"].sum(1)[..., None]).numpy()
    np.testing.assert_allclose(ours, recipe, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_qwen3_takes_the_last_token_and_instructs_queries_only(tmp_path: Path, tiny: Any, side: Side) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    save_tokenizer(bare, causal=True)
    save_model(bare, Qwen3Model, small_text_config(Qwen3Config, num_key_value_heads=2, head_dim=8))
    SentenceTransformer(modules=[Transformer(str(bare)), Pooling(32, "lasttoken"), Normalize()], device="cpu").save(
        str(whole)
    )
    spec = tiny("qwen3-embedding-0.6b", dims=(16, 32), any_from=4, max_length=64)
    ours = encode(EncoderConfig(name=spec.name, path=str(whole), side=side), TEXTS)

    instruct = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    prompt = instruct if side == "query" else None
    full = SentenceTransformer(str(whole), device="cpu").encode(TEXTS, prompt=prompt)
    for dim in (4, 11, 16, 32):
        recipe = functional.normalize(torch.from_numpy(full[:, :dim])).numpy()
        np.testing.assert_allclose(cut(ours, spec.ladder.check(dim)), recipe, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_embeddinggemma_keeps_the_dense_modules_of_its_authors(tmp_path: Path, tiny: Any, side: Side) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    save_tokenizer(bare)
    save_model(bare, BertModel, small_text_config(BertConfig))
    torch.manual_seed(0)
    dense = [Dense(32, 96, bias=False, activation_function=torch.nn.Identity()), Dense(96, 24, bias=False)]
    SentenceTransformer(modules=[Transformer(str(bare)), Pooling(32), *dense, Normalize()], device="cpu").save(
        str(whole)
    )
    spec = tiny("embeddinggemma-300m", dims=(8, 24), max_length=64)
    ours = encode(EncoderConfig(name=spec.name, path=str(whole), side=side), TEXTS)

    prompt = {"query": "task: search result | query: ", "document": "title: none | text: "}[side]
    full = SentenceTransformer(str(whole), device="cpu").encode(TEXTS, prompt=prompt)
    for dim in spec.dims:
        recipe = functional.normalize(torch.from_numpy(full[:, :dim])).numpy()
        np.testing.assert_allclose(cut(ours, dim), recipe, atol=1e-5)


def test_what_sentence_transformers_truncates_is_our_cut_only_once_it_is_normalised(tmp_path: Path, tiny: Any) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    save_tokenizer(bare)
    save_model(bare, BertModel, small_text_config(BertConfig))
    SentenceTransformer(modules=[Transformer(str(bare)), Pooling(32), Normalize()], device="cpu").save(str(whole))
    spec = tiny("embeddinggemma-300m", dims=(8, 32), max_length=64)
    ours = cut(encode(EncoderConfig(name=spec.name, path=str(whole)), TEXTS), 8)
    theirs = SentenceTransformer(str(whole), device="cpu", truncate_dim=8)
    prompt = "title: none | text: "
    assert np.abs(np.linalg.norm(theirs.encode(TEXTS, prompt=prompt), axis=1) - 1).min() > 0.01
    np.testing.assert_allclose(theirs.encode(TEXTS, prompt=prompt, normalize_embeddings=True), ours, atol=1e-5)


def test_a_folder_that_does_not_say_how_to_pool_is_refused(tmp_path: Path, tiny: Any) -> None:
    save_tokenizer(tmp_path)
    save_model(tmp_path, BertModel, small_text_config(BertConfig))
    with pytest.raises(EncoderError, match=r"modules\.json"):
        load_encoder(EncoderConfig(name=tiny("granite-embedding-311m-r2").name, path=str(tmp_path)))


def test_clip_towers_share_a_space_and_equal_the_librarys_features(tmp_path: Path, tiny: Any) -> None:
    save_tokenizer(tmp_path)
    text = small_text_config(dict, projection_dim=24, bos_token_id=2, eos_token_id=3)
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = CLIPConfig(
        text_config=text, vision_config={**vision, "image_size": 32, "patch_size": 8}, projection_dim=24
    )
    save_model(tmp_path, CLIPModel, config)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    spec = tiny("clip-vit-base-patch32", dims=(24,), max_length=64)
    encoder_config = EncoderConfig(name=spec.name, path=str(tmp_path))

    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), CLIPModel.from_pretrained(tmp_path).eval()
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    pixels = processor([Image.open(io.BytesIO(p)) for p in PHOTOS], return_tensors="pt")
    with torch.no_grad():
        texts = model.get_text_features(batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
        images = model.get_image_features(**pixels).pooler_output
    np.testing.assert_allclose(encode(encoder_config, TEXTS), functional.normalize(texts).numpy(), atol=1e-5)
    np.testing.assert_allclose(encode(encoder_config, PHOTOS), functional.normalize(images).numpy(), atol=1e-5)

    space = make_space(encoder_config)
    np.testing.assert_allclose(encode_query(space, TEXTS[0]), functional.normalize(texts).numpy()[0], atol=1e-5)
    np.testing.assert_allclose(encode_query(space, PHOTOS[0]), functional.normalize(images).numpy()[0], atol=1e-5)


def test_siglip_pads_texts_to_its_length_and_squashes_images(tmp_path: Path, tiny: Any) -> None:
    save_tokenizer(tmp_path, max_length=16)
    text = small_text_config(dict)
    text["max_position_embeddings"] = 16
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = SiglipConfig(text_config=text, vision_config={**vision, "image_size": 32, "patch_size": 8})
    save_model(tmp_path, SiglipModel, config)
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    spec = tiny("siglip-base-patch16-224", dims=(32,), max_length=16)
    encoder_config = EncoderConfig(name=spec.name, path=str(tmp_path))

    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), SiglipModel.from_pretrained(tmp_path).eval()
    ids = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt")["input_ids"]
    pixels = processor([Image.open(io.BytesIO(p)) for p in PHOTOS], return_tensors="pt")
    with torch.no_grad():
        texts, images = model.get_text_features(ids).pooler_output, model.get_image_features(**pixels).pooler_output
    np.testing.assert_allclose(encode(encoder_config, TEXTS), functional.normalize(texts).numpy(), atol=1e-5)
    np.testing.assert_allclose(encode(encoder_config, PHOTOS), functional.normalize(images).numpy(), atol=1e-5)


def test_dinov2_is_its_class_token(tmp_path: Path, tiny: Any) -> None:
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=14, mlp_ratio=2
    )
    save_model(tmp_path, Dinov2Model, config)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28})
    processor.save_pretrained(tmp_path)
    spec = tiny("dinov2-small", dims=(32,))
    ours = encode(EncoderConfig(name=spec.name, path=str(tmp_path)), PHOTOS)

    model = Dinov2Model.from_pretrained(tmp_path).eval()
    pixels = processor([Image.open(io.BytesIO(p)) for p in PHOTOS], return_tensors="pt")
    with torch.no_grad():
        recipe = model(**pixels).last_hidden_state[:, 0]
    np.testing.assert_allclose(ours, functional.normalize(recipe).numpy(), atol=1e-5)


def test_a_preprocessor_file_that_cannot_be_followed_is_refused(tmp_path: Path, tiny: Any) -> None:
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=28, patch_size=14)
    save_model(tmp_path, Dinov2Model, config)
    save_preprocessor(tmp_path, image_processor_type="CLIPImageProcessor", do_resize=False, size={"shortest_edge": 32})
    with pytest.raises(EncoderError, match="preprocessor"):
        load_preparer(EncoderConfig(name=tiny("dinov2-small").name, path=str(tmp_path)), LimitsConfig())


def test_nomic_vision_takes_its_texts_from_the_text_model(
    tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, told = tmp_path / "seen", tmp_path / "told"
    save_model(
        seen, Dinov2Model, Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=28)
    )
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(seen)
    save_tokenizer(told)
    save_model(told, NomicBertModel, small_text_config(NomicBertConfig))
    text = tiny("nomic-embed-text-v1.5", dims=(32,), max_length=64)
    spec = tiny("nomic-embed-vision-v1.5", dims=(32,), max_length=64, text_tower=text.name)
    monkeypatch.setattr(
        registry, "_tower", lambda config, name: config.model_copy(update={"name": name, "path": str(told)})
    )

    config = EncoderConfig(name=spec.name, path=str(seen), side="query")
    alone = encode(EncoderConfig(name=text.name, path=str(told), side="query"), TEXTS)
    np.testing.assert_array_equal(encode(config, TEXTS), alone)
    assert encode(config, PHOTOS).shape == (3, 32)


def test_every_prompt_and_dim_of_the_registry_is_what_the_models_say() -> None:
    ladders = {
        "nomic-embed-text-v1.5": (64, 128, 256, 512, 768),
        "nomic-embed-vision-v1.5": (768,),
        "embeddinggemma-300m": (128, 256, 512, 768),
        "jina-embeddings-v3": (32, 64, 128, 256, 512, 768, 1024),
        "jina-clip-v2": (64, 128, 256, 512, 768, 1024),
        "mxbai-embed-large-v1": (512, 1024),
        "snowflake-arctic-embed-m-v1.5": (256, 768),
        "granite-embedding-311m-r2": (128, 256, 384, 512, 768),
        "wordllama": (64, 128, 256),
    }
    assert {name: registry.encoder_spec(name).dims for name in ladders} == ladders
    for name, width in (("0.6b", 1024), ("4b", 2560), ("8b", 4096)):
        ladder = registry.encoder_spec(f"qwen3-embedding-{name}").ladder
        assert (ladder.width, ladder.any_from) == (width, 32)
    for name in ("all-MiniLM-L6-v2", "bge-m3", "e5-base-v2", "siglip-base-patch16-224", "openclip-vit-b-32-laion2b"):
        assert not registry.encoder_spec(name).is_matryoshka
    assert "float16" not in registry.encoder_spec("embeddinggemma-300m").dtypes
