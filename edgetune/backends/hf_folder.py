"""The files of a Hugging Face folder beside its weights: tokenizer and config. Needs no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgetune.models.checks import TOKENIZER_FILES, open_tokenizer
from edgetune.models.vocabulary import tokenizers_pad_token
from edgetune.utils.errors import MissingDependencyError, ModelError
from edgetune.utils.isolation import no_telemetry
from edgetune.utils.parsing import read_json_file

_VOCABULARIES = ("tokenizer.json", "vocab.json", ".txt", ".model", ".bpe", ".spm", ".codes", ".vocab")


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
        if not any(path.name.endswith(_VOCABULARIES) for path in folder.iterdir()):
            raise ModelError(
                f"{folder} has no tokenizer, as where only a model's weights were saved; copy tokenizer.json "
                "(or vocab.txt) of the model that it was made from into it."
            ) from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder} has no usable tokenizer: {first[:200]}") from error
    if not (target / "tokenizer.json").is_file():
        raise ModelError(f"{folder} has no fast tokenizer; edgetune needs a tokenizer.json.")


def write_tokenizer_and_config(
    targets: Iterable[Path],
    tokenizer_folder: Path,
    config: Mapping[str, Any],
    label_names: tuple[str, ...],
    *,
    multi_label: bool,
) -> None:
    """Put the files beside a trained model's weights into some folders.

    Args:
        targets: existing folders.
        tokenizer_folder: whatever tokenizer files it has are copied. Settings that name no pad token, such as
            GPT-2's, get that of the config's `pad_token_id`: programs pad batches with it.
        config: the model's; `config.json` has the run's labels instead of its own.
        label_names: by class id.
        multi_label: whether a row may have several of them.
    """
    said = {
        **{name: value for name, value in config.items() if name != "num_labels"},
        "id2label": {str(number): name for number, name in enumerate(label_names)},
        "label2id": {name: number for number, name in enumerate(label_names)},
        "problem_type": f"{'multi' if multi_label else 'single'}_label_classification",
    }
    for target in targets:
        for name in TOKENIZER_FILES:
            if (tokenizer_folder / name).is_file():
                shutil.copyfile(tokenizer_folder / name, target / name)
        if tokenizers_pad_token(target) is None and (target / "tokenizer.json").is_file():
            path = target / "tokenizer_config.json"
            settings = read_json_file(path) if path.is_file() else {}
            token = open_tokenizer(target / "tokenizer.json").id_to_token(config["pad_token_id"])
            path.write_text(json.dumps({**settings, "pad_token": token}, indent=2) + "\n", encoding="utf-8")
        text = json.dumps(said, indent=2, ensure_ascii=False) + "\n"
        (target / "config.json").write_text(text, encoding="utf-8")
