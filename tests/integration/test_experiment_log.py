"""`--log-to`: the figures of a run as TensorBoard, MLflow and Weights & Biases read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCli

from edgetune import finetune
from edgetune.config.toml_config import make_config
from edgetune.report.experiment_log import ExperimentLogs
from edgetune.utils.errors import UsageError


def settings(tiny_model: Path, demo_eval_csv: Path) -> dict[str, Any]:
    return {"eval": str(demo_eval_csv), "model": str(tiny_model), "backend": "ort", "max_steps": 3}


def test_tensorboard(tiny_model: Path, demo_csv: Path, demo_eval_csv: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    given = settings(tiny_model, demo_eval_csv)
    result = finetune(demo_csv, out=tmp_path / "run", log_to="tensorboard", **given)
    (home,) = (tmp_path / "tensorboard").iterdir()
    found = accumulator.EventAccumulator(str(home)).Reload()
    assert [event.step for event in found.Scalars("train/loss")] == [1, 2, 3]
    assert found.Scalars("train/learning_rate")[0].value > 0
    assert found.Scalars("final/accuracy")[-1].value == pytest.approx(result.accuracy)
    assert any("held_out_accuracy" in tag for tag in found.Tags()["scalars"])
    (text,) = found.Tensors("model_folder/text_summary")
    assert text.tensor_proto.string_val[0].decode() == str(tmp_path / "run" / "model")


def test_mlflow_and_wandb(
    run_cli: RunCli,
    tiny_model: Path,
    demo_csv: Path,
    demo_eval_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    options = [
        f"--{name.replace('_', '-')}={value}" for name, value in settings(tiny_model, demo_eval_csv).items()
    ]
    logs = ("--log-to", "mlflow", "--log-to", "wandb-offline")
    code, out, err = run_cli("finetune", demo_csv, *options, *logs, "--out", tmp_path / "run", "--json")
    assert code == 0, err
    assert "failed" not in err
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("edgetune").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.max_steps"] == "3"
    assert run.data.params["model_folder"] == str(tmp_path / "run" / "model")
    assert run.data.metrics["final/accuracy"] == json.loads(out)["accuracy"]
    assert [one.step for one in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3]
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_a_missing_package_is_one_sentence(
    run_cli: RunCli, demo_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    code, _, err = run_cli("finetune", demo_csv, "--log-to", "mlflow", "--out", tmp_path / "run")
    assert code == 1
    assert "edgetune[log]" in err
    assert not (tmp_path / "run").exists()


def test_names_with_commas() -> None:
    found = make_config({"data": {"train": "a.csv"}, "train": {"log_to": ["mlflow,TensorBoard", "mlflow"]}})
    assert found.train.log_to == ("mlflow", "tensorboard")
    with pytest.raises(UsageError, match="wandb-offline"):
        make_config({"data": {"train": "a.csv"}, "train": {"log_to": "wandb"}})


def test_a_log_that_fails_ends_no_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    warned: list[str] = []
    (tmp_path / "tensorboard").write_text("a file where the folder would be")
    with_file = ExperimentLogs(("tensorboard",), warned.append)
    with_file.start(tmp_path / "run", make_config({"data": {"train": "a.csv"}}))
    with_file.record({"kind": "step", "step": 1, "loss": 0.5, "lr": 0.1})
    assert len(warned) == 1
