"""What must not be imported: nothing heavy for `--help`, no torch to train from artifacts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conftest import RunCli

HEAVY = "torch transformers onnxruntime onnx optimum datasets matplotlib pyarrow numpy sklearn tokenizers"

WATCHED = """
import json, sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    asked = []
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}.split():
            self.asked.append(name)
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
from edgetune.cli.app import main
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
print(json.dumps({{"code": code, "asked": Blocker.asked, "loaded": sorted(sys.modules)}}))
"""


def watched(run_process: RunCli, blocked: str, cwd: Path, *args: object) -> dict[str, Any]:
    """Run a command in a process where some packages are missing; say which it asked for."""
    done = run_process("-c", WATCHED.format(blocked=blocked), *args, cwd=cwd)
    assert "Traceback" not in done.err, done.err
    found: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    assert found["code"] == 0, done.err
    return found


def test_help_imports_nothing_heavy(run_process: RunCli, tmp_path: Path) -> None:
    for args in (["--help"], ["finetune", "--help"], ["--version"]):
        assert watched(run_process, HEAVY, tmp_path, *args)["asked"] == []


def test_trains_from_artifacts_without_torch_and_transformers(
    artifacts_of: Any, demo_csv: Path, run_process: RunCli, tmp_path: Path
) -> None:
    absent = "torch transformers optimum onnx datasets sentence_transformers huggingface_hub accelerate"
    artifacts = artifacts_of("embeddings", 4).folder
    found = watched(
        *(run_process, absent, tmp_path),
        *("finetune", demo_csv, "--artifacts", artifacts, "--backend", "ort", "--out", tmp_path / "run"),
        *("--method", "three-stage", "--set", "warmup_gain=0", "--quiet"),
    )
    assert found["asked"] == []
    onnx = {path.name for path in (tmp_path / "run" / "onnx").iterdir()}
    assert onnx >= {"model.onnx", "tokenizer.json", "tokenizer_config.json", "config.json"}
    model = {path.name for path in (tmp_path / "run" / "model").iterdir()}
    assert model >= {"model.safetensors", "tokenizer.json", "config.json", "README.md"}

    used = watched(run_process, absent, tmp_path, "predict", tmp_path / "run", "the invoice is wrong")
    assert used["asked"] == []
    measured = watched(run_process, absent, tmp_path, "evaluate", tmp_path / "run", demo_csv)
    assert measured["asked"] == []

    import torch
    from transformers import AutoModelForSequenceClassification

    model_, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "run" / "model", output_loading_info=True
    )
    assert not any(report.values())
    with torch.inference_mode():
        assert model_(torch.tensor([[2, 8, 9, 3]])).logits.shape == (1, 4)
