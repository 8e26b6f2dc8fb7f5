"""Settings, grids, device profiles, histories and run folders to start from."""

from __future__ import annotations

import io
import json
from random import Random
from typing import Any

import numpy as np
import tomli_w
from seeds import LABELS, TEXTS

from edgetune.config.settings import RunConfig
from edgetune.config.toml_config import dump_config, make_config
from edgetune.devices.profile_store import load_profile, profile_files, to_toml
from edgetune.run_files.example_stats import ExampleStats
from edgetune.selection import METHODS

ODD: tuple[Any, ...] = (
    0,
    -1,
    1,
    2**63,
    10**400,
    0.5,
    float("inf"),
    float("nan"),
    1e308,
    "",
    "x",
    True,
    [],
    {},
    [[]],
    {"a": {"b": 1}},
    *TEXTS[:8],
)
"""Values of the wrong type, or too large."""


def spoil(rng: Random, value: Any, odd: tuple[Any, ...] = ODD) -> Any:
    """Return plain values with one of them replaced, taken out, or put where none was."""
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {name: inner for name, inner in value.items() if name != key}
        if rng.random() < 0.1:
            return {**value, rng.choice(("new", "", "tex", *TEXTS[:4])): rng.choice(odd)}
        return {**value, key: spoil(rng, value[key], odd)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], spoil(rng, value[at], odd), *value[at + 1 :]]
    return rng.choice(odd)


def spoiled(rng: Random, value: Any) -> Any:
    """Return plain values, spoiled at none, one or several places."""
    for _ in range(rng.choice((0, 1, 1, 1, 3))):
        value = spoil(rng, value)
    return value


def _toml(value: Any) -> bytes:
    try:
        return tomli_w.dumps(value).encode("utf-8", "replace")
    except (TypeError, ValueError, AttributeError):
        return b"[data]\n"


def config(rng: Random) -> bytes:
    """Return settings of a run."""
    made: RunConfig = make_config({"data": {"train": rng.choice(("x.csv", *TEXTS[:4])) or "x"}})
    if rng.random() < 0.2:
        return dump_config(made).encode("utf-8", "replace")
    return _toml(spoiled(rng, made.model_dump(mode="json", exclude_none=True)))


def grid(rng: Random) -> bytes:
    """Return a grid of runs."""
    made = {
        "name": "g",
        "data": [{"name": "a", "train": "a.csv", "rows": 100}, {"name": "b", "train": "b.csv"}],
        "methods": rng.sample(METHODS, 3),
        "vary": [{"name": "slow", "method": "random", "keep_rate": 0.2}],
        "seeds": [0, 1],
        "settings": {"deadline_s": 20.0, "lr": 1e-4},
        "curve": True,
    }
    return _toml(spoiled(rng, made))


_PROFILE: dict[str, Any] = {}


def profile(rng: Random) -> bytes:
    """Return a device profile with few points."""
    if not _PROFILE:
        shipped = load_profile(next(iter(profile_files().values())))
        _PROFILE.update(shipped.model_dump(mode="json", exclude_none=True))
        for backend in _PROFILE["backends"]:
            whole = [point for point in backend["points"] if point["depth"] == 0]
            backend["points"] = [
                point for op in ("score", "train") for point in [one for one in whole if one["op"] == op][:4]
            ]
        assert to_toml(shipped)
    return _toml(spoiled(rng, json.loads(json.dumps(_PROFILE))))


def history(rng: Random) -> bytes:
    """Return the history of a run."""
    lines: list[dict[str, Any]] = [
        {"kind": "stage", "t_s": 0.0, "stage": "all", "n_seen": 0, "reason": "start"}
    ]
    for i in range(rng.randrange(40)):
        counts = {"n_seen": 32 * i, "n_scored": 32 * i, "n_trained": 16 * i}
        lines.append(
            {"kind": "step", "t_s": i / 10, "step": i, "epoch": 1, "stage": "all", "lr": 1e-4, "loss": 0.7}
            | counts
        )
    lines.append(
        {"kind": "eval", "t_s": 9.0, "epoch": 1, "accuracy": 0.5, "macro_f1": 0.5, "loss": 1.0, "n": 9}
    )
    if rng.random() < 0.8:
        at = rng.randrange(len(lines))
        lines[at] = spoil(rng, lines[at])
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def summary(rng: Random) -> dict[str, Any]:
    """Return a summary."""
    labels = rng.sample(LABELS, 2)
    return {
        "schema_version": 1,
        "method": "three-stage",
        "preset": "default",
        "backend": "ort",
        "model": "built-in",
        "dataset": rng.choice(TEXTS),
        "label_names": labels,
        "accuracy": 0.9,
        "accuracy_interval": [0.8, 0.95],
        "macro_f1": 0.9,
        "n_eval": 100,
        "eval_source": rng.choice(TEXTS),
        "elapsed_s": 12.5,
        "time_split_s": {"train": 8.0, "score": 2.0},
        "n_train": 1000,
        "n_seen": 1000,
        "n_scored": 900,
        "n_trained": 500,
        "n_steps": 32,
        "stages": [
            {"stage": "warmup", "n_seen": 0, "reason": "x"},
            {"stage": "all", "n_seen": 9, "reason": ""},
        ],
        "selection": {"why": "none", "reached_last_stage": False},
        "planned": {"lines": [{"line": "train", "planned_s": 1.0, "real_s": 2.0}], "n_rows": 9, "n_steps": 3}
        | {"energy_j": 1.0},
        "deadline_s": 60.0,
        "deadline_used_rate": 0.5,
        "energy_j": 100.0,
        "energy_source": "estimate",
        "energy_eq6_kwh": 0.1,
        "co2e_lb": 0.1,
        "cache": {"n_hits": 1, "n_misses": 2, "memory_mb": 1.0, "file_mb": 0},
        "per_class": [
            {"label": name, "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 5} for name in labels
        ],
        "confusion": [[4, 1], [2, 3]],
        "warnings": [rng.choice(TEXTS)],
        "machine": {"cpu": "a cpu", "cores": 2},
        "run_dir": "runs/x",
    }


def row_record(rng: Random) -> bytes:
    """Return a `rows.npz`, now and then compressed."""
    out = io.BytesIO()
    fields = ExampleStats.empty(rng.randrange(200)).__dict__
    (np.savez_compressed if rng.random() < 0.3 else np.savez)(out, **fields)
    return out.getvalue()
