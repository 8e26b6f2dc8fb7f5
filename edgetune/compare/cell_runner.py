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
from edgetune.inference.saved_run import load_run
from edgetune.run_files.history import read_history
from edgetune.run_files.summary import read_summary
from edgetune.utils.errors import WORSE_THAN_MAJORITY, EdgetuneError
from edgetune.utils.files import write_atomic
from edgetune.utils.formatting import counted
from edgetune.utils.hub import HUB_PREFIX
from edgetune.utils.isolation import module_command
from edgetune.utils.machine import machine_info
from edgetune.utils.types import BoolArray

LAST_WORDS_S = 20.0
"""What a child gets to save and leave when the comparison is stopped."""


class CellRunner:
    """Makes an outcome of a cell, by a method of ours or an outside program."""

    def __init__(self, folder: Path, rows: Mapping[str, SharedRows], cache_dir: Path) -> None:
        """Run cells in a comparison's folder, on rows by name of the data."""
        self.folder, self.rows, self._cache_dir = folder, rows, cache_dir

    def run(self, cell: Cell, home: Path, key: str) -> Outcome:
        """Run a cell; what goes wrong in it is its outcome."""
        try:
            if cell.method == MATCHED:
                raise EdgetuneError(
                    "The three-stage run on this data and seed failed, so there is no share of rows to match."
                )
            home.mkdir(parents=True, exist_ok=True)
            found = (self._run_outside if cell.outside else self._run_own)(cell, home)
        except EdgetuneError as error:
            found = {"error": str(error)}
        except (OSError, ValueError, LookupError) as error:  # one cell must not end the grid
            found = {"error": f"{type(error).__name__}: {error}"}
        made = {
            "command": "",
            "machine": machine_info(),
            "commit": _commit(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        return Outcome(**cell.model_dump(), key=key, **(made | found))

    def _run_own(self, cell: Cell, home: Path) -> dict[str, Any]:
        """Run a method of ours, then measure the saved model on all evaluation rows."""
        rows = self.rows[cell.data]
        settings = {"watched": False, "keep": "last"} | encoder_alone(rows.settings | cell.settings)
        sections = group_by_section(settings | {"method": cell.method, "seed": cell.seed})
        make_config(sections)
        # What was given and no more: what is written counts as wished for, and a plan may decide the rest.
        given = {
            name: {key: value for key, value in values.items() if value is not None}
            for name, values in sections.items()
            if values
        }
        write_atomic(home / "config.toml", tomli_w.dumps(given))
        given_file = ["finetune", "--config", str(home / "config.toml"), "--out"]
        arguments = [*given_file, str(home / "run"), "--overwrite", "--quiet"]
        found = self._process("edgetune", arguments, home, (0, WORSE_THAN_MAJORITY))
        found["command"] = f"edgetune {self._shown(given_file)} again"
        if "error" in found:
            return found
        summary = read_summary(home / "run")
        predicted, labels = load_run(home / "run").answers(rows.settings["eval"], cache_dir=self._cache_dir)
        largest = np.unique(rows.eval_labels(), return_counts=True)[1].max() / len(labels)
        lines = read_history(home / "run" / "history.jsonl")
        return found | {
            **_measured(np.equal(predicted, labels)),
            "seconds": summary["elapsed_s"] - summary["time_split_s"].get("evaluate", 0.0),
            "counts": {name: summary[name] for name in _COUNTS} | {"largest_class_rate": float(largest)},
            "stages": [(str(one["stage"]), float(one["t_s"])) for one in lines if one["kind"] == "stage"],
            "notes": _notes(summary),
            **{name: summary[name] for name in ("time_split_s", "energy_j", "energy_source", "versions")},
        }

    def _run_outside(self, cell: Cell, home: Path) -> dict[str, Any]:
        """Run an outside program on the same rows; compare its predictions with the labels."""
        rows = self.rows[cell.data].settings
        out = str((home / "run").resolve())
        task = {"data": rows, "eval": rows["eval"], "seed": cell.seed, "out": out}
        wanted = ("deadline_s", "epochs", "batch_size", "max_length", "model", "device")
        task |= {name: cell.settings[name] for name in wanted if name in cell.settings}
        if task.get("model"):  # outside programs are offline; a run of ours, or the plan, has fetched it
            task["model"] = str(task["model"]).removeprefix(HUB_PREFIX)
        write_atomic(home / "task.json", json.dumps(task, indent=2) + "\n")
        arguments = [cell.method, str(home / "task.json")]
        found = self._process("edgetune.compare.baselines", arguments, home, (0,))
        found["command"] = f"python -m edgetune.compare.baselines {self._shown(arguments)}"
        if "error" in found:
            return found
        result, predicted = (
            json.loads((home / "run" / name).read_text(encoding="utf-8"))
            for name in ("result.json", "predicted.json")
        )
        return found | {
            **_measured(np.array(predicted) == np.array(self.rows[cell.data].eval_labels())),
            "seconds": result["elapsed_s"],
            "counts": {"n_trained": result["n_trained"]},
            **{name: result[name] for name in ("time_split_s", "notes", "versions")},
        }

    def _process(
        self, module: str, arguments: Sequence[str], home: Path, fine: Sequence[int]
    ) -> dict[str, Any]:
        """Run a module as a fresh process, log in `log.txt`; return its seconds, and what went wrong."""
        started = time.perf_counter()
        child = subprocess.Popen(
            module_command(module, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"EDGETUNE_CACHE": str(self._cache_dir)},
        )
        try:
            _, said = child.communicate()
        except BaseException:  # stopped: nothing may go on computing behind the user's back
            child.terminate()
            try:
                child.wait(LAST_WORDS_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            raise
        found: dict[str, Any] = {"wall_s": time.perf_counter() - started}
        write_atomic(home / "log.txt", said)
        return found if child.returncode in fine else found | {"error": _last_line(said)}

    def _shown(self, arguments: Sequence[str]) -> str:
        """Return arguments as a shell takes them, with paths as seen from the comparison's folder."""
        return shlex.join(item.removeprefix(f"{self.folder}{os.sep}") for item in arguments)


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


def _measured(right: BoolArray) -> dict[str, Any]:
    """Return what an outcome says of a model that got these evaluation rows (n,) right."""
    return {"accuracy": float(right.mean()), "right": pack_answers(right), "n_eval": len(right)}


def _notes(summary: dict[str, Any]) -> list[str]:
    selection, frozen = summary["selection"], counted(summary["frozen_depth"], "layer")
    notes = [f"{summary['backend']} in {summary['precision']}, {frozen} frozen"]
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


def _last_line(text: str) -> str:
    line = text.strip().rpartition("\n")[2] or "The process ended without an error message."
    return line.removeprefix("edgetune: ").removeprefix("edgetune.compare.baselines: ")[:500]


@lru_cache(maxsize=1)
def _commit() -> str:
    """Return the commit of a checkout that edgetune runs from, `+` where it was changed since; else ""."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()
