"""A real server on loopback that misbehaves in every way: what is waited for, what costs one input, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.embedding.batching import BatchBudget, encode_safely
from pipelines.encoders import encode_query, load_encoder, load_preparer, make_space, usage_of
from pipelines.encoders.checkpoints import Layer, save_head
from pipelines.encoders.registry import describe_tower
from schemas.checkpoints import HeadFile
from schemas.config import EncoderConfig, LimitsConfig, TrustConfig
from schemas.errors import ConfigError, EncoderError, EncoderNotTrusted, EncoderRefuses, InputError
from schemas.records import Usage
from tests.support.embedding_server import DIM, Server, running_server, texts_of, vector_of


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


def described(server: Server, folder: Path, **facts: object) -> EncoderConfig:
    path = folder / "served.json"
    said = {"api": "openai", "url": server.url, "model": "m", "dims": [4, DIM], "batch": 3, "timeout_s": 5}
    path.write_text(json.dumps(said | facts))
    return EncoderConfig(name="served", path=str(path), device="cpu")


def encoded(config: EncoderConfig, texts: list[str]) -> np.ndarray:
    prepared = load_preparer(config, LimitsConfig()).prepare(texts)
    return load_encoder(config).encode(prepared)  # type: ignore[arg-type]


def expected(texts: list[str]) -> np.ndarray:
    x_BD = np.array([vector_of(text) for text in texts])
    return x_BD / np.linalg.norm(x_BD, axis=1, keepdims=True)


TEXTS = [f"text {n} ünï €" for n in range(8)]


@pytest.mark.parametrize("api", ["openai", "voyage", "cohere", "gemini"])
@pytest.mark.parametrize("faults", [[], ["429", "500", "503"], ["reordered", "reordered", "reordered"]])
def test_vectors_come_back_in_order_whatever_has_to_be_waited_for(
    api: str, faults: list[str], server: Server, tmp_path: Path
) -> None:
    has_places = api in ("openai", "voyage")
    server.faults = [fault for fault in faults if has_places or fault.isdigit()]
    np.testing.assert_allclose(encoded(described(server, tmp_path, api=api), TEXTS), expected(TEXTS), atol=1e-6)
    assert max(len(texts_of(body)) for body in server.asked) <= 3
    if api == "cohere":
        assert {body["input_type"] for body in server.asked} == {"search_document"}


def test_gemini_is_told_the_task_and_its_short_vectors_are_made_unit(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    config = described(server, tmp_path, api="gemini", dims=[2, 4], sends_dims=True, key_env="MY_KEY")
    prefix = expected(TEXTS)[:, :4]
    np.testing.assert_allclose(
        encoded(config, TEXTS), prefix / np.linalg.norm(prefix, axis=1, keepdims=True), atol=1e-6
    )
    encode_query(make_space(config), "a question", TrustConfig(encoder_path=config.path))
    requests = [request for body in server.asked for request in body["requests"]]
    assert {(request["model"], request["outputDimensionality"]) for request in requests} == {("models/m", 4)}
    assert [request["taskType"] for request in requests] == ["RETRIEVAL_DOCUMENT"] * 8 + ["RETRIEVAL_QUERY"]
    assert set(server.keys) == {"secret"}
    task = make_space(described(server, tmp_path, api="gemini")).fingerprint
    server.asked.clear()
    prompted = described(server, tmp_path, api="gemini", prompts={"document": "title: none | text: "})
    np.testing.assert_allclose(encoded(prompted, ["a"]), expected(["title: none | text: a"]), atol=1e-6)
    assert server.asked == [
        {"requests": [{"model": "models/m", "content": {"parts": [{"text": "title: none | text: a"}]}}]}
    ]
    assert make_space(prompted).fingerprint != task


@pytest.mark.parametrize("api", ["openai", "voyage", "cohere", "gemini"])
def test_tokens_are_counted_as_the_server_reports_them_or_estimated(api: str, server: Server, tmp_path: Path) -> None:
    config = described(server, tmp_path, api=api, price_per_million_tokens=0.5)
    encoder, prepared = load_encoder(config), load_preparer(config, LimitsConfig()).prepare(TEXTS)
    server.faults = ["429", "500"]  # what is not answered is not counted
    encoder.encode(prepared)  # type: ignore[arg-type]
    words = sum(len(text.split()) for text in TEXTS)
    assert Usage.of(usage_of(encoder)) == Usage(3, words, 0, round(0.5 * words) / 1e6)
    server.reports_usage = False
    encoder.encode(prepared[:3])  # type: ignore[arg-type]
    guess = sum(1 + len(text) // 4 for text in TEXTS[:3])
    assert Usage.of(usage_of(encoder)) == Usage(4, words + guess, guess, round(0.5 * (words + guess)) / 1e6)
    free = load_encoder(described(server, tmp_path, api=api))
    assert Usage.of(usage_of(free)) is None
    free.encode(prepared)  # type: ignore[arg-type]
    assert Usage.of(usage_of(free)).cost is None  # type: ignore[union-attr]


@pytest.mark.parametrize("api", ["voyage", "cohere"])
def test_a_text_that_the_server_would_cut_is_refused_unless_it_may(api: str, server: Server, tmp_path: Path) -> None:
    server.most_words = 5
    config, texts = described(server, tmp_path, api=api), [TEXTS[0], "owl " * 6]
    prepared = load_preparer(config, LimitsConfig()).prepare(texts)
    done = encode_safely(load_encoder(config), prepared, [1, 1], BatchBudget.of(config, "text"))  # type: ignore[arg-type]
    assert "this input is too long" in str(done.bad[1])
    np.testing.assert_allclose(
        encoded(described(server, tmp_path, api=api, cuts=True), texts), expected(texts), atol=1e-6
    )


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("width", r"shape \(3, 7\) for 3 texts; the description says 8 dims"),
        ("fewer", "answers 2 vectors for 3 texts"),
        ("twice", "answers 3 vectors for 3 texts"),
        ("cut", "answers no list of vectors"),
    ],
)
def test_an_answer_that_is_no_vectors_is_refused(fault: str, said: str, server: Server, tmp_path: Path) -> None:
    server.faults = [fault]
    with pytest.raises(EncoderError, match=said):
        encoded(described(server, tmp_path), TEXTS[:3])


def test_one_bad_input_costs_itself_alone(server: Server, tmp_path: Path) -> None:
    config, texts = described(server, tmp_path, batch=64), [*TEXTS[:3], "bad", *TEXTS[3:]]
    preparer = load_preparer(config, LimitsConfig())
    prepared = preparer.prepare(texts)
    done = encode_safely(load_encoder(config), prepared, preparer.units(prepared), BatchBudget.of(config, "text"))  # type: ignore[arg-type]
    assert done.bad.keys() == {3}
    assert "this input is not allowed" in str(done.bad[3])
    np.testing.assert_allclose(done.vectors_BD, expected(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(400, "change model, api"), (401, "the key in MY_KEY"), (403, "the key in MY_KEY"), (404, "change url or model")],
)
def test_a_server_that_refuses_everything_is_no_matter_of_inputs(
    status: int, remedy: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    server.refuses = status
    config = described(server, tmp_path, batch=1, key_env="MY_KEY")
    preparer = load_preparer(config, LimitsConfig())
    prepared = preparer.prepare(TEXTS)
    with pytest.raises(EncoderRefuses, match=rf"answers {status}: .*no such deployment.*{remedy}.*served\.json"):
        encode_safely(load_encoder(config), prepared, preparer.units(prepared), BatchBudget.of(config, "text"))  # type: ignore[arg-type]
    server.refuses = 0
    with pytest.raises(InputError, match=r"cannot be embedded.*not allowed"):
        encode_query(make_space(config), "bad", TrustConfig(encoder_path=config.path))
    server.faults = [str(status)]  # once, to one text: a firewall
    done = encode_safely(load_encoder(config), prepared[:1], [1], BatchBudget.of(config, "text"))  # type: ignore[arg-type]
    assert done.bad[0].reason == "refused"


def test_what_was_answered_is_not_asked_again_for_a_bad_neighbour(server: Server, tmp_path: Path) -> None:
    config, texts = described(server, tmp_path, batch=8), [f"t{n}" for n in range(63)]
    preparer = load_preparer(config, LimitsConfig())
    prepared = preparer.prepare([*texts[:30], "bad", *texts[30:]])
    budget = BatchBudget.of(config, "text")
    done = encode_safely(load_encoder(config), prepared, preparer.units(prepared), budget)  # type: ignore[arg-type]
    assert (done.bad.keys(), len(done.good)) == ({30}, 63)
    asked = [text for body in server.asked for text in body["input"]]
    assert len(asked) <= 64 + 8 * 6  # only the batch of the bad one comes again, whole or in halves
    assert budget.plan(np.full(640, 100)).__len__() <= 2  # batches are large enough for several requests at once


def test_a_head_asks_no_server_that_its_file_names_without_leave(server: Server, tmp_path: Path) -> None:
    tower = describe_tower(described(server, tmp_path))
    eye = Layer(torch.eye(8), torch.zeros(8))
    save_head(tmp_path / "head", HeadFile(dims=(4, 8), towers={"text": tower}), {"text": [eye]})
    head = EncoderConfig(name="matryoshka-head", path=str(tmp_path / "head"))
    with pytest.raises(EncoderNotTrusted, match=r"a head's file names a server, .* encoder\.trust_remote_code=true"):
        encoded(head, TEXTS)
    assert not server.asked
    allowed = head.model_copy(update={"trust_remote_code": True})
    np.testing.assert_allclose(encoded(allowed, TEXTS), expected(TEXTS), atol=1e-6)


def test_a_vector_with_nan_costs_its_input_alone(server: Server, tmp_path: Path) -> None:
    server.faults = ["nan"]
    config = described(server, tmp_path, batch=8)
    preparer = load_preparer(config, LimitsConfig())
    prepared = preparer.prepare(TEXTS)
    done = encode_safely(load_encoder(config), prepared, preparer.units(prepared), BatchBudget.of(config, "text"))  # type: ignore[arg-type]
    assert done.bad.keys() == {0}


def test_how_a_server_is_asked_is_no_part_of_the_space(server: Server, tmp_path: Path) -> None:
    space = make_space(described(server, tmp_path))
    for facts in ({"timeout_s": 9}, {"concurrency": 1}, {"batch": 5}, {"key_env": "K"}, {"url": "http://other"}):
        assert make_space(described(server, tmp_path, **facts)).fingerprint == space.fingerprint
    for facts in ({"model": "n"}, {"revision": "2"}, {"api": "voyage"}, {"input_types": {"query": "q: "}}):
        assert make_space(described(server, tmp_path, **facts)).fingerprint != space.fingerprint


def test_keys_and_addresses_come_from_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = described(server, tmp_path, url="", url_env="MY_URL", key_env="MY_KEY", sends_dims=True)
    with pytest.raises(ConfigError, match="MY_URL, which is not set"):
        encoded(config, ["a"])
    monkeypatch.setenv("MY_URL", server.url)
    monkeypatch.setenv("MY_KEY", "secret")
    space = make_space(config)
    vector_D = encode_query(space, "a question", TrustConfig(encoder_path=config.path))
    np.testing.assert_allclose(vector_D, expected(["a question"])[0], atol=1e-6)
    assert server.keys == ["Bearer secret"]
    assert server.asked[0]["dimensions"] == DIM
    assert "secret" not in space.model_dump_json()
    server.faults = ["500"] * 9
    monkeypatch.setattr("pipelines.encoders.families.served._TRIES", 1)
    with pytest.raises(EncoderError, match="answers 500"):
        encoded(config, ["a"])
    monkeypatch.setenv("MY_URL", "http://127.0.0.1:9")
    with pytest.raises(EncoderError, match="cannot be reached"):
        encoded(config, ["a"])


@pytest.mark.parametrize(
    "facts",
    [
        {"api": "x"},
        {"price_per_million_tokens": -1},
        {"dims": []},
        {"dims": [0, 8]},
        {"url": ""},
        {"url_env": "A"},
        {"unknown": 1},
    ],
)
def test_a_description_that_is_wrong_is_refused(facts: dict[str, object], server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"served\.json"):
        make_space(described(server, tmp_path, **facts))
