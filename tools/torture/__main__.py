"""Kill real runs at random moments and at every step of a save, resume them, compare with the unbroken run.

    python tools/torture --kills 100 --seed 7
    python tools/torture --kills 6 --settings 2         # two settings alone, for the test suite

Runs are forked from this process, which has imported everything, so that a kill costs a second and not ten.
Every killed run is resumed (and often killed again) until it is whole; then its weights, its history without
the times, its evaluation and its record of rows must be those of the run that nobody killed, byte for byte.
Once a model has been there, `predict` must work on what a kill left. Exit code 1 on any difference.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from edgetune.utils.errors import WORSE_THAN_MAJORITY  # noqa: E402
from edgetune.utils.failpoints import FAILPOINTS, SWITCH  # noqa: E402

METHODS = ("train-all", "three-stage", "info-batch", "cartography-ambiguous", "rho-loss", "svp")
TEXT = "my parcel never came"
LONGEST_RUN_S = 120.0
IMPORTED = (  # by every run, so that a forked one need not
    "onnxruntime.training.api",
    "torch",
    "transformers",
    "sklearn.linear_model",
    "matplotlib.backends.backend_agg",
    "edgetune.cli.app",
    "edgetune.runs.recovery",
    "edgetune.report.run_plot",
    "edgetune.inference.saved_run",
    "edgetune.backends.ort.ort_backend",
    "edgetune.backends.torch.torch_backend",
)


@dataclass(frozen=True)
class Setting:
    """What is trained."""

    backend: str
    method: str
    freeze: str
    few_rows: bool = False
    """Whether the head is fitted on all rows before and after training."""

    @property
    def name(self) -> str:
        return f"{self.backend}, {self.method}, freeze {self.freeze}" + ", few rows" * self.few_rows


@dataclass
class Found:
    """What the torture found so far."""

    n_kills: int = 0
    n_runs: int = 0
    n_resumed: int = 0
    n_restarted: int = 0
    at: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    resume_s: list[float] = field(default_factory=list)


def in_child(work: Callable[[], None], kill_after_s: float | None = None) -> tuple[int, str]:
    """Do something in a forked process; return its exit status (negative: the signal) and what it said."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.close(reading)
        os.dup2(writing, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 70
        try:
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    limit = time.monotonic() + (kill_after_s if kill_after_s is not None else LONGEST_RUN_S)
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > limit:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    with os.fdopen(reading, errors="replace") as said:
        text = said.read()
    return os.waitstatus_to_exitcode(status), text


def edgetune(*arguments: object, fault: str | None = None) -> Callable[[], None]:
    """Return what runs a command in a child."""

    def work() -> None:
        os.environ.pop(SWITCH, None)
        if fault is not None:
            os.environ[SWITCH] = fault
        sys.argv = ["edgetune", *map(str, arguments)]
        from edgetune.cli.app import main

        main()

    return work


def predicts(folder: Path) -> tuple[int, str]:
    """Predict with what lies in a run's folder."""

    def work() -> None:
        from edgetune.inference.saved_run import load_run

        assert load_run(folder).predict([TEXT])[0].label

    return in_child(work)


def contents(folder: Path) -> dict[str, object]:
    """Return everything of a finished run that must not depend on whether it was broken off."""
    import numpy as np

    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    with np.load(folder / "rows.npz") as rows:
        record = {name: rows[name].tobytes() for name in rows.files}
    counted = (
        "n_seen",
        "n_scored",
        "n_trained",
        "n_steps",
        "accuracy",
        "eval_loss",
        "best_epoch",
        "threshold",
    )
    return {
        "weights": (folder / "model" / "model.safetensors").read_bytes(),
        "history": [{k: v for k, v in line.items() if k not in ("t_s", "train_s")} for line in lines],
        "evaluation": (folder / "metrics.json").read_bytes(),
        "rows": record,
        "ensemble": {path.name: path.read_bytes() for path in (folder / "ensemble").iterdir()},
        "summary": {name: summary[name] for name in counted},
    }


class Torture:
    """Kills runs of a tiny model."""

    def __init__(self, home: Path, seed: int) -> None:
        from edgetune.data.demo import write_demo
        from tests.conftest import says_mean, write_tiny_model

        self.home, self.random, self.found = home, random.Random(seed), Found()
        self.model = write_tiny_model(home)
        (home / "mean").mkdir()
        self.mean_model = says_mean(write_tiny_model(home / "mean"))
        self.data = home / "tickets.csv"
        write_demo(self.data, n_rows=900, seed=0)
        self.whole: dict[Setting, tuple[dict[str, object], float]] = {}

    def start(self, setting: Setting, out: Path, *, again: bool = False) -> list[object]:
        """Return the command that begins a run."""
        return [
            *("finetune", self.data, "--model", self.mean_model if setting.few_rows else self.model),
            *("--out", out, "--quiet", "--epochs", 3),
            *("--backend", setting.backend, "--method", setting.method, "--freeze", setting.freeze),
            *("--precision", "fp32", "--threads", 1, "--checkpoint-every", "0.15s", "--batch-size", 8),
            *("--cache-dir", self.home / "cache", *(["--overwrite"] if again else [])),
            *("--set", "warmup_gain=0"),
        ]

    def reference(self, setting: Setting) -> tuple[dict[str, object], float]:
        """Return what the unbroken run leaves, and its seconds; two of them must be equal."""
        if setting not in self.whole:
            left = []
            for name in ("warm", "one", "two"):
                out = self.home / f"whole-{len(self.whole)}-{name}"
                started_s = time.monotonic()
                code, said = in_child(edgetune(*self.start(setting, out)))
                if code not in (0, WORSE_THAN_MAJORITY):
                    raise SystemExit(f"the unbroken run ({setting.name}) failed ({code}): {said}")
                left.append(contents(out))
                took_s = time.monotonic() - started_s
                shutil.rmtree(out)
            if left[1] != left[2]:
                raise SystemExit(f"two unbroken runs differ ({setting.name}): nothing to compare with")
            self.whole[setting] = left[2], took_s
        return self.whole[setting]

    def kill(self, setting: Setting, n_kills: int) -> int:
        """Kill one run so often, at most; resume it to its end, compare; return how often it was killed."""
        expected, took_s = self.reference(setting)
        out = self.home / "run"
        shutil.rmtree(out, ignore_errors=True)
        self.found.n_runs += 1
        command: list[object] = self.start(setting, out)
        n_done, had_model = 0, False
        while True:
            fault, after_s = self.death(took_s) if n_done < n_kills else (None, None)
            started_s = time.monotonic()
            code, said = in_child(edgetune(*command, fault=fault), after_s)
            if code == -signal.SIGKILL:
                n_done += 1
                self.found.at[fault.split(":")[0] if fault else "at random"] += 1
                had_model = self.still_usable(setting, out, had_model, fault)
                command = self.next_command(setting, out)
                continue
            if code not in (0, WORSE_THAN_MAJORITY):
                self.fault(setting, f"exit {code} after {n_done} kills ({fault}): {said.strip()[-600:]}")
                return n_done
            if command[1] == "--resume":
                self.found.resume_s.append(time.monotonic() - started_s)
            break
        self.compare(setting, out, expected)
        return n_done

    def death(self, took_s: float) -> tuple[str | None, float | None]:
        """Draw how the next process dies: at a named place, or at some moment."""
        if self.random.random() < 0.5:
            return None, self.random.uniform(0.02, 1.1) * took_s
        place = self.random.choice(FAILPOINTS)
        most = {"step": 250}.get(place, 4 if place.startswith("checkpoint-") else 2)
        return f"{place}:{self.random.randint(1, most)}:kill", None

    def still_usable(self, setting: Setting, out: Path, had_model: bool, fault: str | None) -> bool:
        """Predict with what a kill left, once there was a model; return whether there is one."""
        has_model = (out / "model").is_dir() or (out / ".ready" / "model").is_dir()
        if had_model and not has_model:
            self.fault(setting, f"the model is gone after {fault}")
        if has_model:
            code, said = predicts(out)
            if code:
                self.fault(setting, f"the model cannot be used after {fault}: {said.strip()[-400:]}")
        return has_model

    def next_command(self, setting: Setting, out: Path) -> list[object]:
        """Resume where there is something to go on from; else begin again, as the program says."""
        resume: list[object] = ["finetune", "--resume", out, "--quiet", "--cache-dir", self.home / "cache"]
        if not out.exists():
            self.found.n_restarted += 1
            return self.start(setting, out)
        if (out / "summary.json").is_file():  # killed after the last word: it is whole, or was resumed before
            summary = json.loads((out / "summary.json").read_text())
            if not summary["interrupted"]:
                return ["predict", out, TEXT]
        if not list((out / "checkpoints").glob("*.ckpt")):
            self.found.n_restarted += 1
            return self.start(setting, out, again=True)
        self.found.n_resumed += 1
        return resume

    def compare(self, setting: Setting, out: Path, expected: dict[str, object]) -> None:
        """Compare a run that was killed and came to its end with the unbroken one."""
        found = contents(out)
        for name, value in expected.items():
            if found[name] != value:
                self.fault(setting, f"{name} differ from the unbroken run's")

    def fault(self, setting: Setting, text: str) -> None:
        self.found.faults.append(f"{setting.name}: {text}")
        print(f"  FAULT {self.found.faults[-1]}", flush=True)

    def run(self, n_kills: int, n_settings: int | None) -> Found:
        """Kill so many processes, over some or all settings in turn."""
        settings = [
            Setting(backend, method, freeze)
            for method, freeze in itertools.product(METHODS, ("embeddings", "1"))
            for backend in ("ort", "torch")
        ]
        settings += [Setting(backend, "train-all", "1", few_rows=True) for backend in ("ort", "torch")]
        self.random.shuffle(settings)
        for setting in itertools.cycle(settings[:n_settings]):
            left = n_kills - self.found.n_kills
            if left <= 0 or len(self.found.faults) > 10:
                break
            done = self.kill(setting, min(left, self.random.choice((1, 1, 2, 3, 5))))
            self.found.n_kills += done
            print(f"{self.found.n_kills:4d}/{n_kills} kills; {setting.name}: {done}", flush=True)
        return self.found


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools/torture", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--settings", type=int, help="so many of the settings (default: all)")
    given = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
    for name in IMPORTED:
        importlib.import_module(name)

    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        found = Torture(Path(folder), given.seed).run(given.kills, given.settings)
    places = ", ".join(f"{name} {n}" for name, n in sorted(found.at.items()))
    print(f"{found.n_kills} kills of {found.n_runs} runs ({places})")
    print(f"{found.n_resumed} times resumed, {found.n_restarted} times begun again (no checkpoint yet)")
    print(f"{len(found.faults)} differences or unusable folders; {time.monotonic() - started_s:.0f} s")
    sys.exit(1 if found.faults else 0)


if __name__ == "__main__":
    main()
