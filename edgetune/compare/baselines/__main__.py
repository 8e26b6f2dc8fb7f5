"""`python -m edgetune.compare.baselines NAME TASK.json`: run one baseline, in this process and no other.

    training rows ─→ fit, which saves its model ─→ the clock stops ─→ evaluation rows ─→ predict
                  ─→ predicted.json ─→ result.json, the last thing written

The deadline counts from the start of the process to the saved model (`elapsed_s`, of which `time_split_s`
gives the phases of `edgetune.utils.meter`); evaluation is timed apart (`evaluate_s`). Exit codes and messages
are those of `edgetune.utils.errors`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgetune.compare.baselines import INSTALL, Baseline, all_baselines, find_baseline
from edgetune.compare.baselines.task import (
    BaselineClock,
    BaselineTask,
    TrainRows,
    read_labelled,
    read_task,
    read_train,
)
from edgetune.data.readers import require_exists
from edgetune.run_files.run_folder import disk_errors
from edgetune.utils.errors import EdgetuneError, MissingDependencyError, UsageError
from edgetune.utils.files import write_atomic
from edgetune.utils.hub import HUB_PREFIX
from edgetune.utils.isolation import no_network
from edgetune.utils.machine import installed, versions
from edgetune.utils.meter import Meter, process_age_s
from edgetune.utils.sanitize import one_line

_IMPORTED_AT_S, _CPU_AT_IMPORT_S = time.perf_counter(), time.process_time()

USAGE = "python -m edgetune.compare.baselines NAME TASK.json"
PACKAGES = ("scikit-learn", "accelerate", "sentence-transformers", "setfit")

# Read when the libraries are imported, so all of it is set before.
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the baseline that the arguments name; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--help"], ["-h"]):
        lines = [f"  {baseline.name:16}{baseline.summary}" for baseline in all_baselines().values()]
        print("\n".join([f"Usage: {USAGE}", "", "Baselines:", *lines]))
        return 0
    try:
        if len(given) != 2:
            raise UsageError(
                f"Give one baseline and one task: {USAGE}. The baselines are {', '.join(all_baselines())}."
            )
        meter = Meter(process_age_s(_IMPORTED_AT_S, _CPU_AT_IMPORT_S))
        baseline, task = find_baseline(given[0]), read_task(Path(given[1]))
        no_network()
        os.environ.update(QUIET if task.device == "cuda" else QUIET | NO_GPU)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        result = run_baseline(baseline, task, meter)
        print(
            f"{baseline.name}: accuracy {result['accuracy']:.4f} on {result['n_eval']:,} rows, "
            f"{result['n_train_used']:,} rows used, {result['elapsed_s']:.1f} s to the saved model."
        )
    except EdgetuneError as error:
        print(f"edgetune.compare.baselines: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("edgetune.compare.baselines: stopped.", file=sys.stderr)
        return 130
    return 0


def run_baseline(baseline: Baseline, task: BaselineTask, meter: Meter) -> dict[str, Any]:
    """Train, save, evaluate, write `predicted.json` and `result.json`, and return what is in the latter.

    The meter runs since the start.

    Raises:
        EdgetuneError: what is wrong and what to do; there is then no `result.json`.
    """
    baseline.check()
    if not task.eval.startswith(HUB_PREFIX):
        require_exists(task.eval)
    with disk_errors(task.out):
        task.out.mkdir(parents=True, exist_ok=True)
        for name in ("result.json", "predicted.json"):
            (task.out / name).unlink(missing_ok=True)
        rows = read_train(task)
        watch = BaselineClock(baseline.name, meter, task.deadline_s)
        if watch.left_s() <= 0:
            raise watch.out_of_time_error()
        try:
            fitted = baseline.fit(task, rows, watch)
        except ImportError as error:  # packages that are there but do not fit together
            raise MissingDependencyError(
                f"{baseline.name} cannot be imported ({error}); install compatible packages with `{INSTALL}`."
            ) from error
        split_s = meter.split_s()
        elapsed_s = sum(split_s.values())
        with meter.phase("evaluate"):
            texts, gold = read_labelled(task.eval, task.data)
            predicted = [rows.label_names[i] for i in fitted.predict(texts).tolist()]
        result = {
            "schema_version": 1,
            "name": baseline.name,
            "accuracy": sum(name == true for name, true in zip(predicted, gold, strict=True)) / len(gold),
            "n_eval": len(gold),
            "n_train_used": fitted.n_train_used,
            "n_trained": fitted.n_trained,
            "elapsed_s": elapsed_s,
            "evaluate_s": meter.split_s()["evaluate"],
            "time_split_s": {name: spent_s for name, spent_s in split_s.items() if spent_s > 0},
            "notes": [*fitted.notes, *_notes(task, rows, gold, elapsed_s)],
            "versions": versions() | {name: found for name in PACKAGES if (found := installed(name))},
        }
        write_atomic(task.out / "predicted.json", json.dumps(predicted, ensure_ascii=False))
        write_atomic(task.out / "result.json", json.dumps(result, ensure_ascii=False, indent=1))
    return result


def _notes(task: BaselineTask, rows: TrainRows, gold: list[str], elapsed_s: float) -> list[str]:
    """Say what the run around the baseline knows."""
    notes = []
    if len(rows) < rows.n_read:
        notes.append(
            f"The baseline was given a random sample of {len(rows):,} of {rows.n_read:,} training rows."
        )
    known = set(rows.label_names)
    if n_unknown := sum(name not in known for name in gold):
        notes.append(
            f"{n_unknown:,} evaluation rows have a label that no training row has; they count as wrong."
        )
    if task.deadline_s is not None and elapsed_s > task.deadline_s:
        notes.append(f"The model was saved {elapsed_s - task.deadline_s:.1f} s after the deadline.")
    return notes


if __name__ == "__main__":
    sys.exit(main())
