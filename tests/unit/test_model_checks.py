"""Strangers' models: what is refused before a library opens it, and what is never run."""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import ARCHITECTURES
from safetensors.numpy import load_file, save_file
from strangers import write_bomb, write_module

from edgetune.backends.model_loader import convert_tokenizer
from edgetune.backends.onnx_export import load_torch_model
from edgetune.models import checks
from edgetune.models.checks import (
    MAX_HEADER_BYTES,
    MAX_JSON_BYTES,
    MAX_TOKENIZER_BYTES,
    check_safetensors,
    check_sizes,
)
from edgetune.models.source import resolve_model
from edgetune.utils.errors import ModelError

PICKLES = ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "extra.pkl", "last.ckpt"]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Is there once a stranger's code has run."""
    return tmp_path / "code-was-run"


@pytest.fixture
def yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks on the terminal is told yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")


def edit(path: Path, **values: Any) -> None:
    """Change a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# Pickles


def test_the_bomb_works(mark: Path, tmp_path: Path) -> None:
    """Or the tests below would prove nothing."""
    write_bomb(tmp_path / "x.pkl", mark)
    pickle.loads((tmp_path / "x.pkl").read_bytes())
    assert mark.is_dir()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.pkl", "last.ckpt"])
def test_weights_that_are_a_pickle_are_refused_by_name(model_copy: Path, mark: Path, name: str) -> None:
    (model_copy / "model.safetensors").unlink()
    write_bomb(model_copy / name, mark)
    with pytest.raises(ModelError, match=rf"\({name}\).*safe_serialization=True"):
        resolve_model(str(model_copy))
    assert not mark.exists()


def test_a_folder_with_safetensors_works_and_its_pickles_are_not_read(model_copy: Path, mark: Path) -> None:
    for name in [*PICKLES, "pytorch_model.bin"]:
        write_bomb(model_copy / name, mark)
    source = resolve_model(str(model_copy))
    source.fingerprint()
    model, _ = load_torch_model(source.folder, 2, "sdpa")
    assert model.config.num_labels == 2
    convert_tokenizer(source.folder, model_copy / "made")
    assert not mark.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5, "zip"])
def test_a_pickle_under_the_name_of_safetensors(model_copy: Path, mark: Path, protocol: Any) -> None:
    weights = model_copy / "model.safetensors"
    if protocol == "zip":  # as torch.save has it
        with zipfile.ZipFile(weights, "w") as archive:
            archive.writestr("archive/data.pkl", "x")
    else:
        weights.write_bytes(pickle.dumps({"a": list(range(1000))}, protocol=protocol))
    with pytest.raises(ModelError, match=r"model\.safetensors .*pickle"):
        resolve_model(str(model_copy))


def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path: Path) -> None:
    for n in (640, 896, 1280):  # 0x0280, 0x0380, 0x0500: the first bytes of a pickle, as a length
        path = tmp_path / f"{n}.safetensors"
        head = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(n).encode()
        path.write_bytes(struct.pack("<Q", n) + head + b"\0" * 4)
        check_safetensors(path)


def test_an_index_may_only_name_safetensors_of_the_folder(model_copy: Path, mark: Path) -> None:
    shard = model_copy / "model-00001-of-00002.safetensors"
    (model_copy / "model.safetensors").rename(shard)
    write_bomb(model_copy / "pytorch_model.bin", mark)
    names = list(load_file(shard))
    for other in ("pytorch_model.bin", "../elsewhere.safetensors", "/etc/passwd"):
        named = dict.fromkeys(names[1:], shard.name) | {names[0]: other}
        index = {"metadata": {}, "weight_map": named}
        (model_copy / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match=r"index\.json "):
            resolve_model(str(model_copy))
    named = dict.fromkeys(names, shard.name)
    (model_copy / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": named})
    )
    load_torch_model(resolve_model(str(model_copy)).folder, 2, "sdpa")
    assert not mark.exists()


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": 3}'])
def test_an_index_that_is_none(model_copy: Path, text: str) -> None:
    (model_copy / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match="no weight_map"):
        resolve_model(str(model_copy))


def test_weights_elsewhere_and_adapters_are_refused(model_copy: Path) -> None:
    edit(model_copy / "config.json", transformers_weights="../../other.safetensors")
    with pytest.raises(ModelError, match="transformers_weights"):
        resolve_model(str(model_copy))
    edit(model_copy / "config.json", transformers_weights=None)
    (model_copy / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"adapter.*merge"):
        resolve_model(str(model_copy))


# Remote code


def test_code_that_a_config_names_is_refused_and_not_run(model_copy: Path, mark: Path, yes: None) -> None:
    write_module(model_copy / "evil.py", mark, "class Evil: pass\n")
    named = {"AutoConfig": "evil.Evil", "AutoModelForSequenceClassification": "evil.Evil"}
    edit(model_copy / "config.json", auto_map=named, model_type="brandnew")
    with pytest.raises(ModelError, match="remote code"):
        resolve_model(str(model_copy))
    with pytest.raises(ModelError):  # and were that check not there
        load_torch_model(model_copy, 2, "sdpa")
    assert not mark.exists()


def test_code_of_a_model_without_code_of_its_config(model_copy: Path, mark: Path, yes: None) -> None:
    write_module(model_copy / "evil.py", mark, "class Evil: pass\n")
    edit(model_copy / "config.json", auto_map={"AutoModelForSequenceClassification": "evil.Evil"})
    load_torch_model(model_copy, 2, "sdpa")  # transformers has a BERT of its own
    assert not mark.exists()


def test_code_of_a_tokenizer_is_not_run(model_copy: Path, mark: Path, tmp_path: Path, yes: None) -> None:
    write_module(model_copy / "evil.py", mark, "class Evil: pass\n")
    (model_copy / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}})
    )
    with pytest.raises(ModelError, match="custom code"):
        convert_tokenizer(model_copy, tmp_path / "made")
    assert not mark.exists()


# Sizes


@pytest.mark.parametrize("n_header", [10**6, 2**40, 2**63, 2**64 - 1])
def test_a_header_that_claims_more_than_the_file(model_copy: Path, n_header: int) -> None:
    weights = model_copy / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", n_header) + weights.read_bytes()[8:])
    with pytest.raises(ModelError, match=r"header claims [\d,]+ "):
        resolve_model(str(model_copy))


def test_a_header_of_many_mb_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    n = MAX_HEADER_BYTES + 1
    with path.open("wb") as file:
        file.write(struct.pack("<Q", n) + b"{")
        file.truncate(n + 100)
    monkeypatch.setattr("safetensors.safe_open", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ModelError, match=r"10 MB"):
        check_safetensors(path)


def test_weights_larger_than_the_memory(model_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "memory_mb", lambda: 0.2)
    monkeypatch.setattr(checks, "check_sizes", lambda *_: None)
    save_file({"a": np.zeros(100_000, np.float32)}, model_copy / "model.safetensors")
    with pytest.raises(ModelError, match=r"0\.0 GB .* 0\.0 GB "):
        resolve_model(str(model_copy))


@pytest.mark.parametrize(
    ("name", "most"), [("config.json", MAX_JSON_BYTES), ("tokenizer.json", MAX_TOKENIZER_BYTES)]
)
def test_files_of_absurd_size_are_not_read(model_copy: Path, name: str, most: int) -> None:
    with (model_copy / name).open("r+b") as file:
        file.truncate(most + 1)
    with pytest.raises(ModelError, match=rf"{name} has [\d,]+ MB"):
        resolve_model(str(model_copy))


def test_a_model_in_a_folder_of_the_folder_is_named(model_copy: Path) -> None:
    with pytest.raises(ModelError, match=re.escape(str(model_copy))):
        resolve_model(str(model_copy.parent))


def test_weights_without_a_tokenizer(model_copy: Path) -> None:
    for path in model_copy.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        convert_tokenizer(model_copy, model_copy / "made")


def test_a_config_that_nests_too_deep(model_copy: Path) -> None:
    (model_copy / "config.json").write_text('{"a":' * 200_000 + "1" + "}" * 200_000)
    with pytest.raises(ModelError, match="nested"):
        resolve_model(str(model_copy))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"vocab_size": 10**9},
            r"asks for .* GB of weights \(vocab_size = 1,000,000,000\), but this machine has",
        ),
        ({"hidden_size": 10**6}, r"hidden_size = 1,000,000"),
        ({"num_hidden_layers": 10**7}, r"num_hidden_layers = 10,000,000, but no model has more than 1,000"),
        ({"max_position_embeddings": 10**12}, r"max_position_embeddings = 1,000,000,000,000"),
        ({"type_vocab_size": 10**12}, r"type_vocab_size"),
        ({"num_labels": 10**9}, r"num_labels = 1,000,000,000"),
        ({"text_config": {"vocab_size": 10**9}}, r"vocab_size = 1,000,000,000"),
        ({"block_sizes": [10**6, 1]}, r"block_sizes = 1,000,001"),
        ({"hidden_size": "many"}, r"hidden_size is many, but must be a non-negative integer"),
        ({"hidden_size": -4}, r"hidden_size is -4, but must be a non-negative integer"),
        ({"vocab_size": 3.5}, r"vocab_size is 3\.5"),
        ({"num_hidden_layers": True}, r"num_hidden_layers is True"),
        ({"pad_token_id": [0]}, r"pad_token_id is \[0\]"),
        ({"max_position_embeddings": "x"}, r"max_position_embeddings is x"),
    ],
)
def test_numbers_that_no_machine_can_hold(
    model_copy: Path, values: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "memory_mb", lambda: 64_000.0)
    edit(model_copy / "config.json", **values)
    with pytest.raises(ModelError, match=says) as caught:
        resolve_model(str(model_copy))
    assert str(model_copy / "config.json") in str(caught.value)


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_no_number_of_an_architecture_fills_the_memory_unnoticed(model_type: str) -> None:
    """Every number of a config made huge: it is refused, or the model is small all the same."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    plain = {"vocab_size": 99, "pad_token_id": 0, **ARCHITECTURES[model_type]}
    config = AutoConfig.for_model(model_type, **plain).to_dict()
    check_sizes(config, Path("config.json"), 4_000.0)
    numbers = [name for name, value in config.items() if type(value) is int and not name.endswith("_id")]
    assert len(numbers) > 5
    n_built = 0
    for name in numbers:
        try:
            check_sizes({**config, name: 10**8}, Path("config.json"), 1_000.0)
        except ModelError:
            continue
        try:
            with torch.device("meta"):
                built = AutoModelForSequenceClassification.from_config(
                    AutoConfig.for_model(model_type, **{**config, name: 10**8})
                )
        except Exception:  # the architecture itself refuses the number
            continue
        n_built += 1
        n_bytes = 4 * sum(one.numel() for one in [*built.parameters(), *built.buffers()])
        assert n_bytes < 1e9, f"{name} gives {n_bytes / 1e9:.1f} GB"
    assert n_built < len(numbers)


def test_known_models_are_let_through_and_not_overrated() -> None:
    """About the sizes of models that are out there; the guess must not be far above what they have."""
    known = [
        (22.7, {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "vocab_size": 30522}),
        (109, {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "vocab_size": 30522}),
        (66, {"dim": 768, "hidden_dim": 3072, "n_layers": 6, "vocab_size": 30522}),
        (
            560,
            {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "vocab_size": 250002},
        ),
        (
            223,
            {
                "hidden_size": 4096,
                "embedding_size": 128,
                "intermediate_size": 16384,
                "num_hidden_layers": 12,
                "num_hidden_groups": 1,
                "inner_group_num": 1,
                "vocab_size": 30000,
            },
        ),
    ]
    for millions, sizes in known:
        config = {**sizes, "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0}
        config |= {"rope_theta": 160_000, "seed": 10**9, "eos_token_id": 10**9}
        found = [one for one in checks._numbers(config, Path("x")) if not checks._NO_SIZE.fullmatch(one[0])]
        assert 0.7 * millions < checks.n_weights(found) / 1e6 < 1.3 * millions, sizes
