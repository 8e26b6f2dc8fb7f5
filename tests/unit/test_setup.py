"""What a run finds out about its model and data before it is planned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edgetune.config.toml_config import make_config
from edgetune.models.source import resolve_model
from edgetune.runs.open_choices import PATIENCE, _ends_plainly, with_passes


def test_padding_in_the_tokenizers_file_does_not_forbid_truncation(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    assert _ends_plainly(tiny_model / "tokenizer.json")
    tokenizer.enable_padding(length=32)
    tokenizer.enable_truncation(8)
    tokenizer.save(str(tmp_path / "padded.json"))
    assert _ends_plainly(tmp_path / "padded.json")


def test_the_built_in_models_texts_can_be_truncated() -> None:
    assert _ends_plainly(resolve_model(None).tokenizer_file)


def test_texts_with_other_special_tokens_are_not_truncated(tiny_model: Path, tmp_path: Path) -> None:
    found = json.loads((tiny_model / "tokenizer.json").read_text())
    found["post_processor"] = None
    (tmp_path / "bare.json").write_text(json.dumps(found))
    assert not _ends_plainly(tmp_path / "bare.json")


@pytest.mark.parametrize(
    ("n_rows", "given", "epochs", "patience"),
    [
        (900, {}, 10, PATIENCE),
        (3_200, {}, 3, PATIENCE),
        (50_000, {}, 1, None),
        (900, {"epochs": 4}, 4, None),
        (900, {"max_steps": 50}, 1, None),
        (900, {"keep": "last"}, 10, None),
        (3_200, {"batch_size": 8}, 1, None),
    ],
)
def test_small_data_is_passed_over_more_often(
    n_rows: int, given: dict[str, object], epochs: int, patience: int | None
) -> None:
    config = with_passes(make_config({"data": {"train": "x.csv"}, "train": given}), n_rows)
    assert (config.train.epochs, config.budget.patience) == (epochs, patience)


def test_a_deadline_decides_by_itself() -> None:
    config = make_config({"data": {"train": "x.csv"}, "budget": {"deadline_s": 60.0}})
    assert with_passes(config, 900) == config
