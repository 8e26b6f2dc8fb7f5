"""How numbers of a run are said: the same words in tables, pictures and model cards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from edgetune.utils.sanitize import brief

STAGE_WORDS = {
    "warmup": "warm-up",
    "filter_backward": "filter backward",
    "filter_forward": "filter forward",
    "all": "one stage",
}

Summary = Mapping[str, Any]


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun: 1 row, 1,200 rows."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def percent(share: float, digits: int = 1) -> str:
    """Say a share in [0, 1] as per cent."""
    return f"{100 * share:.{digits}f} %"


def duration(seconds: float) -> str:
    """Say a time: 0.42 s, 12.3 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def is_probe(summary: Summary) -> bool:
    """Return whether the encoder of a run was not trained: a linear probe on it was kept."""
    learners = {one["name"] for one in (summary.get("ensemble") or {}).get("learners", [])}
    only_probe = "linear probe" in learners and "encoder" not in learners
    return summary.get("method") == "linear-probe" or only_probe


def describe_accuracy(summary: Summary) -> str | None:
    """Say the accuracy with its 95 % interval, where both are known."""
    value, interval = summary.get("accuracy"), summary.get("accuracy_interval")
    if value is None:
        return None
    if not interval:
        return percent(value)
    return f"{percent(value)} (95 % interval {100 * interval[0]:.1f}–{100 * interval[1]:.1f} %)"


def accuracy_name(summary: Summary) -> str:
    """Name the share of rows that are right; where rows may have several labels, all must be."""
    return "accuracy" if summary.get("micro_f1") is None else "subset accuracy"


def describe_counts(counts: Mapping[str, int], most: int = 5) -> str:
    """Say labels with their rows, the first ones of many."""
    shown = [f'"{brief(name)}" ({counted(count, "row")})' for name, count in counts.items()]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def describe_unknown(counts: Mapping[str, int], n_rows: int) -> str:
    """Say which evaluation rows have labels that the model does not have, and what becomes of them.

    Args:
        counts: rows of each such label; there must be one.
        n_rows: all evaluation rows.
    """
    return (
        f"{sum(counts.values()):,} of {n_rows:,} evaluation rows have labels that no training row has, and "
        f"count as wrong: {describe_counts(counts)}."
    )


def describe_macro_f1(summary: Summary) -> str | None:
    """Say the macro-F1, and how many classes count as 0 in it only because no evaluated row has them."""
    if summary.get("macro_f1") is None:
        return None
    per_class = summary.get("per_class") or []
    n_absent = sum(not one["support"] for one in per_class)
    absent = (
        f" ({n_absent} of {len(per_class)} classes have no evaluation rows and count as 0)"
        if n_absent
        else ""
    )
    return f"{summary['macro_f1']:.4f}{absent}"


def dataset_name(summary: Summary) -> str | None:
    """Return the name of the data without its folders."""
    value = summary.get("dataset")
    return PurePath(str(value)).name or str(value) if value is not None else None


def describe_stage(stage: str) -> str:
    """Say the name of a stage."""
    return STAGE_WORDS.get(stage, stage.replace("_", " "))


def time_split(summary: Summary) -> list[tuple[str, float]]:
    """Return the parts of the time in order; what they leave of the elapsed time goes to `other`."""
    parts = {str(name): float(value) for name, value in (summary.get("time_split_s") or {}).items()}
    elapsed = summary.get("elapsed_s")
    if parts and elapsed is not None:
        parts["other"] = max(elapsed - sum(value for name, value in parts.items() if name != "other"), 0.0)
    return list(parts.items())
