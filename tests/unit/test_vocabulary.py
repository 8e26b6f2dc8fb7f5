"""Models whose files do not fit together are refused when their folder is opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RunCli, Trained, write_model

from edgetune.backends.backend_contract import Backend
from edgetune.backends.model_loader import ensure_tokenizer
from edgetune.backends.onnx_export import load_torch_model
from edgetune.data.batches import Batch
from edgetune.models.source import max_positions, resolve_model
from edgetune.models.vocabulary import pad_token_id
from edgetune.utils.errors import ModelError


def edit(path: Path, **values: Any) -> None:
    """Change a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def add_token(folder: Path) -> int:
    """Add a token to a tokenizer as `add_tokens` does; return its id."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    number = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": number, "content": "<new>"})
    path.write_text(json.dumps(tokenizer))
    return number


def test_tokens_added_without_resizing(model_copy: Path, run_cli: RunCli) -> None:
    number = add_token(model_copy)
    with pytest.raises(ModelError, match=rf"'<new>' with id {number}.*{number} token embeddings.*resize"):
        resolve_model(str(model_copy))
    code, out, err = run_cli("finetune", model_copy / "no-such-data.csv", "--model", model_copy)
    assert (code, out) == (1, "")
    assert "<new>" in err  # told before the data is looked at


def test_a_run_whose_tokenizer_was_replaced(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    import shutil

    run = Path(shutil.copytree(trained.folder, tmp_path / "run"))
    shutil.rmtree(run / "ensemble")  # else the encoder may not be asked at all
    add_token(run / "onnx")
    for args in (("predict", run, "a <new> text"), ("evaluate", run, trained.evaluation)):
        code, _, err = run_cli(*args)
        assert code == 1
        assert "<new>" in err


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"vocab_size": 99_999}, r"vocab_size = 99,999, but embeddings\.word_embeddings"),
        ({"vocab_size": 100}, r"vocab_size = 100, but embeddings\.word_embeddings"),
        ({"max_position_embeddings": 512}, r"max_position_embeddings = 512, .* has 128 rows"),
        ({"type_vocab_size": 0}, r"type_vocab_size = 0, .* has 2 rows"),
        ({"pad_token_id": 99_999}, r"pad_token_id = 99,999, but the model has"),
    ],
)
def test_a_config_that_does_not_fit_the_weights(model_copy: Path, values: dict[str, Any], says: str) -> None:
    edit(model_copy / "config.json", **values)
    with pytest.raises(ModelError, match=says):
        resolve_model(str(model_copy))


def test_layers_of_another_size_are_not_drawn_anew(model_copy: Path) -> None:
    edit(model_copy / "config.json", intermediate_size=80)
    with pytest.raises(ModelError, match=r"intermediate\.dense"):
        load_torch_model(model_copy, 2, "sdpa")


def test_a_folder_without_a_tokenizer(model_copy: Path, tmp_path: Path, run_cli: RunCli) -> None:
    for path in [*model_copy.glob("*token*"), *model_copy.glob("vocab*")]:
        path.unlink()
    with pytest.raises(ModelError, match=r"tokenizer"):
        ensure_tokenizer(resolve_model(str(model_copy)), tmp_path)
    code, _, err = run_cli("export", "--model", model_copy, "--labels", 2, "--out", tmp_path / "out")
    assert code == 1
    assert "has no tokenizer" in err


@pytest.mark.parametrize("content", ["{", "[]", "x"])
def test_a_damaged_tokenizer(model_copy: Path, content: str) -> None:
    (model_copy / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        resolve_model(str(model_copy))


@pytest.mark.parametrize(
    ("config", "pad"),
    [
        ({"pad_token_id": 3}, 3),
        ({"pad_token_id": None, "eos_token_id": 7, "vocab_size": 9}, 7),
        ({"pad_token_id": -1, "eos_token_id": [8, 9], "vocab_size": 9}, 8),
        ({"eos_token_id": 50256, "vocab_size": 9}, 0),
        ({"model_type": "roberta"}, 1),
        ({"model_type": "roberta", "pad_token_id": None, "eos_token_id": 2, "vocab_size": 9}, 1),
        ({}, 0),
    ],
)
def test_which_token_fills_a_row(config: dict[str, Any], pad: int, tmp_path: Path) -> None:
    assert pad_token_id(config, tmp_path) == pad


def test_the_tokenizers_own_pad_token_comes_first(model_copy: Path) -> None:
    config = {"eos_token_id": 7, "vocab_size": 1000}
    edit(model_copy / "tokenizer_config.json", pad_token="[MASK]")
    assert pad_token_id(config, model_copy) == 4


def test_a_gpt_says_how_many_positions_it_has_under_another_name() -> None:
    assert max_positions({"model_type": "gpt2", "n_positions": 64}) == 64


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 without a pad token."""
    folder = tmp_path_factory.mktemp("gpt2")
    write_model(folder, "gpt2", n_embd=32, n_layer=2, n_head=2, n_positions=64)
    edit(folder / "config.json", pad_token_id=None, eos_token_id=3)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        edit(folder / name, pad_token=None)
    return folder


@pytest.mark.parametrize("backend", ["torch", "ort"])
def test_a_decoder_without_a_pad_token_trains(
    gpt2: Path, backend: str, artifacts_of: Callable[..., Any], tmp_path: Path
) -> None:
    from edgetune.backends.ort.ort_backend import OrtBackend
    from edgetune.backends.torch.torch_backend import TorchBackend

    source = resolve_model(str(gpt2))
    assert source.pad_id == 3
    opened: Backend = (
        TorchBackend(source, 2, "embeddings", 0, onnx=False)
        if backend == "torch"
        else OrtBackend(artifacts_of(model=gpt2), 0)
    )
    tokens = np.array([2, 9, 8, 7, 6, 3, 2, 9, 3], dtype=np.int32)
    batch = Batch(
        rows=np.arange(2),
        labels=np.array([0, 1]),
        tokens=tokens,
        offsets=np.array([0, 6, 9]),
        first_lengths=np.array([6, 3]),
        scored=np.zeros(2, dtype=np.bool_),
    )
    assert np.isfinite(opened.train_step(batch, 0.01)).all()
    opened.save(tmp_path, ("a", "b"), skip_onnx=True)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["pad_token_id"] == 3
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path / "model").pad_token_id == 3
