"""The files of a Hugging Face folder beside its weights: tokenizer and config. Needs no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetune.models.checks import TOKENIZER_FILES, open_tokenizer
from edgetune.models.vocabulary import tokenizers_pad_token
from edgetune.utils.errors import MissingDependencyError, ModelError
from edgetune.utils.isolation import no_telemetry
from edgetune.utils.parsing import read_json_file

_VOCABULARIES = ("tokenizer.json", "vocab.json", ".txt", ".model", ".bpe", ".spm", ".codes", ".vocab")


def _may_be_vocabulary(path: Path) -> bool:
    return path.name.endswith(_VOCABULARIES)


def convert_tokenizer(folder: Path, target: Path) -> None:
    """Write a model's tokenizer as a fast one, through transformers.

    Raises:
        MissingDependencyError: transformers is not installed.
        ModelError: it cannot read or convert the tokenizer.
    """
    no_telemetry()
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError(
            f"{folder} has no tokenizer.json, and converting its tokenizer requires transformers; "
            'run `pip install "edgetune[cpu]"`.'
        ) from error
    from edgetune.backends.onnx_export import quiet

    try:
        with quiet():
            AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            ).save_pretrained(target)
    except (OSError, ValueError, ImportError, TypeError) as error:
        if not any(_may_be_vocabulary(path) for path in folder.iterdir()):
            raise ModelError(
                f"{folder} has no tokenizer, as where only a model's weights were saved; copy tokenizer.json "
                "(or vocab.txt) of the model that it was made from into it."
            ) from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder} has no usable tokenizer: {first[:200]}") from error
    if not (target / "tokenizer.json").is_file():
        raise ModelError(f"{folder} has no fast tokenizer; edgetune needs a tokenizer.json.")


def copy_tokenizer(source: Path, target: Path, pad_id: int) -> None:
    """Copy whatever tokenizer files a folder has.

    Settings that name no pad token, such as GPT-2's, get that of `pad_id`: programs pad batches with it.
    """
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if tokenizers_pad_token(target) is None and (target / "tokenizer.json").is_file():
        path = target / "tokenizer_config.json"
        settings = read_json_file(path) if path.is_file() else {}
        token = open_tokenizer(target / "tokenizer.json").id_to_token(pad_id)
        path.write_text(json.dumps({**settings, "pad_token": token}, indent=2) + "\n", encoding="utf-8")


def write_config(
    config: Mapping[str, Any], target: Path, label_names: tuple[str, ...], multi_label: bool = False
) -> None:
    """Write a model's `config.json` with the run's labels, of which a row has one unless `multi_label`."""
    config = {name: value for name, value in config.items() if name != "num_labels"}
    config["id2label"] = {str(number): name for number, name in enumerate(label_names)}
    config["label2id"] = {name: number for number, name in enumerate(label_names)}
    config["problem_type"] = f"{'multi' if multi_label else 'single'}_label_classification"
    target.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
