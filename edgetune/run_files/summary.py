"""What a run hands back: one typed value, printed by `--json` and kept as `summary.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from edgetune.run_files.run_folder import damage_errors
from edgetune.utils.parsing import read_json_file


class RunResult(BaseModel):
    """The summary of a run. Units are in the names; shares (`…_rate`) are in [0, 1].

    Attributes:
        accuracy: on the evaluation rows; None when the run was interrupted before an evaluation.
        accuracy_interval: 95 % Wilson interval of it.
        elapsed_s: wall clock from the start of the process (or of the call, from Python) to the end.
        time_split_s: where it went; adds up to `elapsed_s`.
        n_seen: examples taken from the stream, n_scored: scored before the decision, n_trained: trained.
        skipped_backward_rate: share of n_seen that was scored and not trained (a_b of the paper).
        skipped_both_rate: share of n_seen that was neither scored nor trained (a_fb).
        t_norm_modelled: the paper's T / T_TrainAll, from this run's own measured T_f and T_b.
        t_norm_measured: seconds of preparing, scoring, choosing and training, over what n_seen examples
            would have cost in this run's own train steps of rows as long as those.
        score_ms_per_example, train_ms_per_example: measured means.
        first_step_s: when the first optimizer step began.
        deadline_s: when the process had to have ended; None without a budget.
        deadline_used_rate: share of it that had passed when this summary was written.
        planned: what the planner promised: `lines` (planned and real seconds), `n_rows`, `rows_interval`,
            `n_steps`, `passes`, `memory_mb`, `energy_j`, `profile`, `reasons`, and `revised`, the rows that
            were expected after the first steps; None without a plan.
        n_left: examples that were chosen and for which there was no time.
        energy_j: joules since the run began; `energy_measured` says whether a sensor gave it, and
            `energy_source` which one, or how it was estimated.
        energy_eq6_kwh, co2e_lb: by equation 6 of the paper.
        n_bad_rows, n_unlabelled_rows: rows left out because they could not be used, or have no label.
        date: when the summary was made, UTC, ISO.
        by_label, by_length: how often rows of a class or of a padded length came in the stream (`n_seen`),
            and which share of those was trained: does the method starve a class?
        breaks: where the run was broken off and went on: `n_steps` and `elapsed_s` at the checkpoint, and
            what was lost (`n_steps_lost`, `lost_s`: made again).
        n_diverged: how often the loss was no number, so that the run went back and halved the learning rate.
        ensemble: the learners, each with its weight, its accuracy on the evaluation rows and on the
            `n_held_out` rows that the weights were fitted on (`cross_fitted`: on all rows, each answered by
            learners that were not fitted on it); the calibration error of their answer; and the
            `threshold` that the highest class probability reaches on 95 % of the held-out rows (a text below
            it may belong to no class; None if the weights were not fitted again after `--resume`).
            None where the encoder is the only learner; otherwise `accuracy` is that of the ensemble.
        texts_apart: whether the encoder reads the two texts of a pair apart; `onnx/` alone classifies then.
        multi_label: whether a row may have several labels; then `accuracy` is the share of rows whose labels
            are all right, `micro_f1` the F1 of all decisions together, `thresholds` the probabilities from
            which a class is predicted, and there is no `mcc` and no `confusion`.
        cache: rows found in and missed by the cache of frozen layers, and its size; None without one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    schema_version: Literal[2] = 2
    method: str
    preset: str = ""
    backend: str = ""
    model: str
    dataset: str
    label_names: list[str]
    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    macro_f1: float | None = None
    mcc: float | None = None
    eval_loss: float | None = None
    n_eval: int = 0
    eval_source: str
    elapsed_s: float
    time_split_s: dict[str, float]
    n_train: int
    n_bad_rows: int
    n_seen: int = 0
    n_scored: int = 0
    n_trained: int = 0
    n_steps: int = 0
    skipped_backward_rate: float = 0.0
    skipped_both_rate: float = 0.0
    stages: list[dict[str, Any]] = []
    threshold: float | None = None
    selection: dict[str, Any] = {}
    t_norm_modelled: float | None = None
    t_norm_measured: float | None = None
    score_ms_per_example: float | None = None
    train_ms_per_example: float | None = None
    first_step_s: float | None = None
    deadline_s: float | None
    deadline_used_rate: float | None
    planned: dict[str, Any] | None
    n_left: int = 0
    energy_j: float
    energy_measured: bool
    energy_source: str
    energy_eq6_kwh: float
    co2e_lb: float
    cache: dict[str, int | float] | None
    n_unlabelled_rows: int = 0
    multi_label: bool = False
    micro_f1: float | None = None
    thresholds: list[float] = []
    date: str = ""
    by_label: list[dict[str, Any]] = []
    by_length: list[dict[str, Any]] = []
    peak_memory_mb: float | None
    run_dir: str
    epochs: int = 0
    best_epoch: int | None = None
    best_epoch_chosen_on_eval: bool = False
    batch_size: int = 0
    lr: float = 0.0
    seed: int
    precision: str = "fp32"
    freeze: str = ""
    frozen_depth: int = 0
    texts_apart: bool = False
    max_length: int
    n_parameters_trained: int = 0
    interrupted: bool
    breaks: list[dict[str, Any]] = []
    n_diverged: int = 0
    ensemble: dict[str, Any] | None = None
    per_class: list[dict[str, Any]]
    confusion: list[list[int]]
    worse_than_majority: bool = False
    warnings: list[str]
    machine: dict[str, Any]
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as written to `summary.json`."""
        return self.model_dump(mode="json")


def read_summary(folder: Path) -> dict[str, Any]:
    """Read a run's summary; {} where there is none (yet).

    Raises:
        RunError: it is damaged.
    """
    path = folder / "summary.json"
    if not path.is_file():
        return {}
    with damage_errors(path):
        return dict(read_json_file(path))
