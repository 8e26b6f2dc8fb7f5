"""Runs the cells of a grid in turn, each in a process of its own; what is finished is kept.

folder/grid.json  plans.json  data/NAME/{train,eval}.jsonl
folder/cells/NAME/{config.toml | task.json, run/, cell.json}
folder/results.jsonl  table.md  *.png  *.svg

All methods of a data set and a deadline have one plan, that of training everything, so that they differ in
what they select alone. Planned one by one, a filter may get one layer more frozen than training everything,
and what is then measured is the layer.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from edgetune.compare.grid import MATCHED, Cell, Grid, cells_of, encoder_alone
from edgetune.compare.outcome import FILE, Outcome, pack_answers, read_outcome, write_lines
from edgetune.compare.shared_rows import SharedRows, draw_shared_rows
from edgetune.config.toml_config import group_by_section, make_config
from edgetune.inference.saved_run import load_run
from edgetune.run_files.history import read_history
from edgetune.run_files.run_folder import disk_errors, exclusive_lock
from edgetune.run_files.summary import read_summary
from edgetune.runs.dry_run import dry_run
from edgetune.utils.errors import WORSE_THAN_MAJORITY, EdgetuneError, ResourceError
from edgetune.utils.files import write_atomic
from edgetune.utils.formatting import counted
from edgetune.utils.hub import HUB_PREFIX
from edgetune.utils.isolation import module_command
from edgetune.utils.machine import machine_info
from edgetune.utils.parsing import read_json_file
from edgetune.utils.types import BoolArray, Say

_EXPORTED = ("model", "backend", "freeze", "max_length", "precision")
"""What decides which tokens and artifacts a run finds in the caches."""
_PLANNED = ("backend", "precision", "batch_size", "max_length", "threads")
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
LAST_WORDS_S = 20.0
"""What a child gets to save and leave when the comparison is stopped."""
LEAST_CELL = 1_000_000
ROOM_FACTOR = 3  # a model is written beside the one before it, and checkpoints beside both


@dataclass(frozen=True)
class CellDone:
    """A cell that was dealt with: which one, from 1, and whether it had been finished before."""

    number: int
    n_cells: int
    outcome: Outcome
    kept: bool


class Comparison:
    """A grid in its folder."""

    def __init__(self, grid: Grid, folder: Path, cache_dir: Path, say: Say) -> None:
        """Check that no two cells have one name, and read earlier plans; nothing is written yet.

        Raises:
            UsageError: the grid cannot be used.
        """
        self.grid, self.folder, self._cache_dir, self._say = grid, folder, cache_dir, say
        self.cells = cells_of(grid)
        self.rows: dict[str, SharedRows] = {}
        self._plans: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):  # none yet, or damaged: plan again
            self._plans = dict(read_json_file(folder / "plans.json"))

    def run(self) -> Iterator[CellDone]:
        """Run every cell that is not finished, in order; keep `results.jsonl` in step.

        Raises:
            EdgetuneError: the data cannot be used.
            RunError: another process runs this comparison.
            ResourceError: the disk has no room for another cell, or the folder cannot be written.
        """
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with exclusive_lock(self.folder):
                for entry in self.grid.data:
                    self._say(f"Sampling the rows of {entry.name}")
                    rows = draw_shared_rows(entry, self.grid, self.folder / "data" / entry.name)
                    self.rows[entry.name] = rows
                    if rows.n_bad:
                        self._say(f"{entry.name}: {counted(rows.n_bad, 'unusable row')} left out")
                write_atomic(self.folder / "grid.json", self.grid.model_dump_json(indent=2) + "\n")
                yield from self._run()

    def _run(self) -> Iterator[CellDone]:
        cells = {cell.name: self._planned(cell) for cell in self.cells}
        outcomes = {  # what earlier runs left of these very cells, also of those that are still to come
            one.name: one
            for one in self.finished()
            if cells[one.name].method == MATCHED or one.key == self._key(cells[one.name])
        }
        warm: set[str] = set()
        largest = max([LEAST_CELL, *map(_n_bytes, (self.folder / "cells").glob("*"))])
        for number, asked in enumerate(self.cells, 1):
            matched = self._matched(asked, outcomes)
            cell = self._planned(matched)
            home = self.folder / "cells" / cell.name
            outcome = read_outcome(home / FILE)
            kept = outcome is not None and outcome.ok and outcome.key == self._key(cell)
            if outcome is None or not kept:
                self._check_room(largest)
                self._plan(matched)
                cell = self._planned(matched)
                self._warm_up(cell, warm)
                if home.is_file() or home.is_symlink():
                    home.unlink()
                shutil.rmtree(home, ignore_errors=True)  # nothing of an earlier try is taken for this one's
                outcome = self._outcome(cell, home)
                largest = max(largest, _n_bytes(home))  # before its models are dropped
                for name in () if self.grid.models else ("model", "onnx"):
                    shutil.rmtree(home / "run" / name, ignore_errors=True)
                write_atomic(home / FILE, outcome.model_dump_json(indent=2) + "\n")
            outcomes[cell.name] = outcome
            known = [outcomes[one.name] for one in self.cells if one.name in outcomes]
            write_atomic(self.folder / "results.jsonl", write_lines(known))
            yield CellDone(number, len(self.cells), outcome, kept)

    def _key(self, cell: Cell) -> str:
        return cell.result_key(self.rows[cell.data].key)

    def _check_room(self, largest: int) -> None:
        """See that the disk has room for another cell, by the bytes of the largest of those before it."""
        needed = ROOM_FACTOR * largest
        if (free := shutil.disk_usage(self.folder).free) < needed:
            raise ResourceError(
                f"The disk of {self.folder} has {free / 1e6:,.0f} MB left, but a run may need "
                f"{needed / 1e6:,.0f} MB. Free some space and run the same command again; finished runs are "
                "kept."
            )

    def finished(self) -> list[Outcome]:
        """Return the outcomes that lie in the folder, in the order of the cells."""
        found = [read_outcome(self.folder / "cells" / cell.name / FILE) for cell in self.cells]
        return [one for one in found if one is not None]

    def _matched(self, cell: Cell, outcomes: dict[str, Outcome]) -> Cell:
        """Fill in the share of rows that `random-matched` keeps, if it is known by now."""
        if cell.method != MATCHED:
            return cell
        like = cell.model_copy(update={"variant": "three-stage", "method": "three-stage"})
        found = outcomes.get(like.name)
        if found is None or not found.ok:
            return cell
        share = max(1e-6, float(found.counts["n_trained"] or 0) / float(found.counts["n_seen"] or 1))
        settings = cell.settings | {"keep_rate": round(share, 6)}
        return cell.model_copy(update={"method": "random", "settings": settings})

    def _planned(self, cell: Cell) -> Cell:
        """Return the cell with the settings of its plan, if there is one; its own come first."""
        plan = {} if cell.outside else self._plans.get(self._plan_key(cell), {})
        return cell.model_copy(update={"settings": plan | cell.settings})

    def _plan(self, cell: Cell) -> None:
        """Plan for a cell, if none like it was planned; where no training fits, its run decides."""
        key, asked = self._plan_key(cell), cell.other_settings
        if cell.outside or "deadline_s" not in asked or key in self._plans:
            return
        self._say(f"Planning {asked['deadline_s']:g} s on {cell.data}, once for all methods")
        try:
            plans = dry_run(encoder_alone(self.rows[cell.data].settings | asked), self._cache_dir).ranked
        except EdgetuneError:  # each method then says itself what is wrong
            plans = ()
        found: dict[str, Any] = {}
        if (best := next((plan for plan in plans if plan.trains), None)) is not None:
            found = {name: value for name in _PLANNED if (value := getattr(best, name)) is not None}
            # Else each cell would plan by the runs of those before it.
            found |= {"freeze": str(best.depth), "use_earlier_runs": False}
        self._plans[key] = found
        write_atomic(self.folder / "plans.json", json.dumps(self._plans, indent=2) + "\n")

    def _plan_key(self, cell: Cell) -> str:
        return json.dumps([cell.data, self.rows[cell.data].key, cell.other_settings], sort_keys=True)

    def _warm_up(self, cell: Cell, warm: set[str]) -> None:
        """Fill the caches of tokens and artifacts, so that the first method does not pay for all."""
        kind = json.dumps([cell.data, *(cell.settings.get(name) for name in _EXPORTED)])
        if kind in warm or cell.outside:
            return
        warm.add(kind)
        self._say(f"Tokenizing {cell.data} and exporting the model, once for all methods")
        settings = {k: v for k, v in cell.settings.items() if k not in ("deadline_s", "epochs")}
        first = {"method": "train-all", "variant": "warm-up", "settings": settings | {"max_steps": 2}}
        self._outcome(cell.model_copy(update=first), self.folder / ".warm-up")
        shutil.rmtree(self.folder / ".warm-up", ignore_errors=True)

    def _outcome(self, cell: Cell, home: Path) -> Outcome:
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
        return Outcome(**cell.model_dump(), key=self._key(cell), **(made | found))

    def _run_own(self, cell: Cell, home: Path) -> dict[str, Any]:
        """Run a method of ours, then measure the saved model on all evaluation rows."""
        rows = self.rows[cell.data]
        settings = {"watched": False, "keep": "last"} | encoder_alone(rows.settings | cell.settings)
        settings |= {"method": cell.method, "seed": cell.seed}
        sections = group_by_section({name: value for name, value in settings.items() if value is not None})
        make_config(sections)
        # What was given and no more: what is written counts as wished for, and a plan may decide the rest.
        given = {name: values for name, values in sections.items() if values}
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


def _n_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


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
