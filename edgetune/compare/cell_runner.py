"""Runs one cell in a process of its own, and measures the model that it leaves on all evaluation rows."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from edgetune.compare.grid import MATCHED, Cell, encoder_alone
from edgetune.compare.outcome import Outcome, pack_answers
from edgetune.compare.shared_rows import SharedRows
from edgetune.config.toml_config import group_by_section, make_config
from edgetune.models.model_hub import HUB_PREFIX
from edgetune.utils.errors import WORSE_THAN_MAJORITY, EdgetuneError
from edgetune.utils.files import write_atomic
from edgetune.utils.formatting import counted
from edgetune.utils.isolation import module_command
from edgetune.utils.machine import machine_info
from edgetune.utils.types import BoolArray

LAST_WORDS_S = 20.0
"""What a child gets to save and leave when the comparison is stopped."""


class CellRunner:
    """Makes an outcome of a cell, by a method of ours or an outside program."""

    def __init__(self, folder: Path, rows: Mapping[str, SharedRows], cache_dir: Path) -> None:
        """Run cells in a comparison's folder.

        Args:
            folder: of the comparison.
            rows: by name of the data.
            cache_dir: where tokens and artifacts are kept.
        """
        self.folder, self.rows = folder, rows
        self._cache_dir = cache_dir

    def run(self, cell: Cell, home: Path, key: str) -> Outcome:
        """Run a cell; what goes wrong in it is its outcome."""
        try:
            if cell.method == MATCHED:
                raise EdgetuneError(
                    "The three-stage run on this data and seed failed, so there is no share of rows to match."
                )
            run = self._run_outside if cell.outside else self._run_own
            return run(cell, home, key)
        except EdgetuneError as error:
            return self._outcome(cell, key, "", error=str(error))
        except (OSError, ValueError, LookupError) as error:  # one cell must not end the grid
            return self._outcome(cell, key, "", error=f"{type(error).__name__}: {error}")

    def _outcome(self, cell: Cell, key: str, command: str, **found: Any) -> Outcome:
        return Outcome(
            **cell.model_dump(),
            key=key,
            command=command,
            machine=machine_info(),
            commit=_commit(),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **found,
        )

    def _measured(self, cell: Cell, key: str, command: str, right: BoolArray, **found: Any) -> Outcome:
        """Return the outcome of a model that got these evaluation rows (n,) right."""
        accuracy = float(right.mean())
        return self._outcome(
            cell, key, command, accuracy=accuracy, right=pack_answers(right), n_eval=len(right), **found
        )

    def _run_own(self, cell: Cell, home: Path, key: str) -> Outcome:
        """Run a method of ours, then measure the saved model on all evaluation rows."""
        home.mkdir(parents=True, exist_ok=True)
        settings = encoder_alone(self.rows[cell.data].settings | cell.settings)
        settings |= {"method": cell.method, "seed": cell.seed}
        settings.setdefault("watched", False)
        settings.setdefault("keep", "last")
        sections = group_by_section(settings)
        make_config(sections)
        # What was given and no more: what is written counts as wished for, and a plan may decide the rest.
        given = {
            name: {key: value for key, value in values.items() if value is not None}
            for name, values in sections.items()
            if values
        }
        write_atomic(home / "config.toml", tomli_w.dumps(given))
        arguments = ["finetune", "--config", str(home / "config.toml"), "--out", str(home / "run")]
        done, wall_s = self._process("edgetune", [*arguments, "--overwrite", "--quiet"], home)
        command = "edgetune " + shlex.join([*self._relative(arguments[:-1]), "again"])
        if done.returncode not in (0, WORSE_THAN_MAJORITY):
            return self._outcome(cell, key, command, error=_last_line(done.stderr), wall_s=wall_s)
        summary = json.loads((home / "run" / "summary.json").read_text(encoding="utf-8"))
        right = self._right(home / "run", self.rows[cell.data])
        evaluated_s = summary["time_split_s"].get("evaluate", 0.0)
        return self._measured(
            cell,
            key,
            command,
            right,
            seconds=summary["elapsed_s"] - evaluated_s,
            wall_s=wall_s,
            time_split_s=summary["time_split_s"],
            counts={name: summary[name] for name in _COUNTS} | _largest_class(self.rows[cell.data]),
            energy_j=summary["energy_j"],
            energy_source=summary["energy_source"],
            stages=_stage_times(home / "run"),
            notes=_notes(summary),
            versions=summary["versions"],
        )

    def _right(self, run_dir: Path, rows: SharedRows) -> BoolArray:
        from edgetune.inference.saved_run import load_run

        predicted, labels = load_run(run_dir).answers(rows.settings["eval"], cache_dir=self._cache_dir)
        return np.equal(predicted, labels)

    def _run_outside(self, cell: Cell, home: Path, key: str) -> Outcome:
        """Run an outside program on the same rows; compare its predictions with the labels."""
        home.mkdir(parents=True, exist_ok=True)
        task = self._task(cell, home)
        write_atomic(home / "task.json", json.dumps(task, indent=2) + "\n")
        arguments = [cell.method, str(home / "task.json")]
        done, wall_s = self._process("edgetune.compare.baselines", arguments, home)
        command = "python -m edgetune.compare.baselines " + shlex.join(self._relative(arguments))
        if done.returncode:
            return self._outcome(cell, key, command, error=_last_line(done.stderr), wall_s=wall_s)
        result = json.loads((home / "run" / "result.json").read_text(encoding="utf-8"))
        predicted = json.loads((home / "run" / "predicted.json").read_text(encoding="utf-8"))
        right = np.array(predicted) == np.array(self.rows[cell.data].eval_labels())
        return self._measured(
            cell,
            key,
            command,
            right,
            seconds=result["elapsed_s"],
            wall_s=wall_s,
            time_split_s=result["time_split_s"],
            counts={"n_trained": result["n_trained"]},
            notes=result["notes"],
            versions=result["versions"],
        )

    def _task(self, cell: Cell, home: Path) -> dict[str, Any]:
        settings = cell.settings
        rows = self.rows[cell.data].settings
        task: dict[str, Any] = {
            "data": rows,
            "eval": rows["eval"],
            "seed": cell.seed,
            "out": str((home / "run").resolve()),
        }
        for name in ("deadline_s", "epochs", "batch_size", "max_length", "model", "device"):
            if name in settings:
                task[name] = settings[name]
        if task.get("model"):  # outside programs are offline; a run of ours, or the plan, has fetched it
            task["model"] = str(task["model"]).removeprefix(HUB_PREFIX)
        return task

    def _process(
        self, module: str, arguments: Sequence[str], home: Path
    ) -> tuple[subprocess.CompletedProcess[str], float]:
        """Run a module as a fresh process; keep what it says in `log.txt`."""
        started = time.perf_counter()
        command = module_command(module, *arguments)
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"EDGETUNE_CACHE": str(self._cache_dir)},
        )
        try:
            out, err = child.communicate()
        except BaseException:  # stopped: nothing may go on computing behind the user's back
            child.terminate()
            try:
                child.wait(LAST_WORDS_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            raise
        wall_s = time.perf_counter() - started
        write_atomic(home / "log.txt", err)
        return subprocess.CompletedProcess(command, child.returncode, out, err), wall_s

    def _relative(self, arguments: Sequence[str]) -> list[str]:
        """Return arguments with paths as seen from the comparison's folder."""
        return [item.removeprefix(f"{self.folder}{os.sep}") for item in arguments]


_COUNTS = (
    "n_train",
    "n_seen",
    "n_scored",
    "n_trained",
    "n_steps",
    "skipped_backward_rate",
    "skipped_both_rate",
    "t_norm_modelled",
    "t_norm_measured",
    "peak_memory_mb",
    "frozen_depth",
)


def _largest_class(rows: SharedRows) -> dict[str, float]:
    """Return the accuracy of always saying the largest class: what there is without finetuning."""
    counts = np.unique(rows.eval_labels(), return_counts=True)[1]
    return {"largest_class_rate": float(counts.max() / counts.sum())}


def _notes(summary: dict[str, Any]) -> list[str]:
    selection = summary["selection"]
    notes = [
        f"{summary['backend']} in {summary['precision']}, {counted(summary['frozen_depth'], 'layer')} frozen"
    ]
    if selection.get("why"):
        notes.append(str(selection["why"]))
    precision, recall = (selection.get(f"predictor_{name}") for name in ("precision", "recall"))
    if precision is not None and recall is not None:
        notes.append(
            f"in the last stage, hard rows were predicted with precision {precision:.0%} and recall "
            f"{recall:.0%}"
        )
    if selection.get("overlap_rate") is not None:
        notes.append(f"{selection['overlap_rate']:.0%} of the rows predicted easy were below the threshold")
    return notes


def _stage_times(run_dir: Path) -> list[tuple[str, float]]:
    from edgetune.run_files.history import read_history

    lines = read_history(run_dir / "history.jsonl")
    return [(str(line["stage"]), float(line["t_s"])) for line in lines if line["kind"] == "stage"]


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return "The process ended without an error message."
    return lines[-1].removeprefix("edgetune: ").removeprefix("edgetune.compare.baselines: ")[:500]


@lru_cache(maxsize=1)
def _commit() -> str:
    """Return the commit of a checkout that edgetune runs from, `+` where it was changed since; else ""."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()
