"""Run folders and compare folders → typed values, for the report page and its tables.

    runs/a, runs/b, compare/ ─→ the run folders in them ─→ one `RunRecord` each, under names that differ

A folder that was named is refused when it cannot be read, with a sentence that says why; a cell of a compare
folder that cannot be read is left out, and the same sentence says so on the page.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from edgetune.report.result_tables import summary_sections
from edgetune.run_files.run_folder import MARKERS
from edgetune.utils.errors import RunError
from edgetune.utils.formatting import counted
from edgetune.utils.limits import MAX_LABELS, MAX_SUMMARY_VALUES
from edgetune.utils.parsing import FINITE, decode_json, read_json_file
from edgetune.utils.sanitize import brief
from edgetune.utils.tables import Section

SUMMARY_VERSION = 2
PNG_HEAD = b"\x89PNG\r\n\x1a\n"
MOST_CONFIG_BYTES = 1 << 16
MOST_CELL_BYTES = 1 << 24
MOST_PICTURE_BYTES = 1 << 23
MAX_ERROR_CHARS = 200


class _Told(BaseModel):
    """Base of what a summary tells: anything may be missing or unknown, wrong types are refused."""

    model_config = ConfigDict(
        frozen=True, protected_namespaces=(), coerce_numbers_to_str=True, allow_inf_nan=False
    )


class ClassFigures(_Told):
    """How one class fared; shares are in [0, 1]."""

    label: str
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    support: int | None = None


class RunMachine(_Told):
    """Where a run was trained."""

    cpu: str | None = None
    cores: int | None = None

    @property
    def describe(self) -> str:
        """Processor and cores: times are comparable only where these agree."""
        if self.cpu is None:
            return "unknown machine"
        return self.cpu if self.cores is None else f"{self.cpu}, {counted(self.cores, 'core')}"


class RunFigures(_Told):
    """What a report reads of a `summary.json`; the fields are those of `result.RunResult`, None: unknown."""

    method: str | None = None
    preset: str | None = None
    backend: str | None = None
    model: str | None = None
    dataset: str | None = None
    label_names: list[str] = []
    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    macro_f1: float | None = None
    micro_f1: float | None = None
    mcc: float | None = None
    n_eval: int | None = None
    eval_source: str | None = None
    elapsed_s: float | None = None
    time_split_s: dict[str, float] = {}
    deadline_s: float | None = None
    n_train: int | None = None
    n_seen: int | None = None
    n_scored: int | None = None
    n_trained: int | None = None
    n_steps: int | None = None
    skipped_backward_rate: float | None = None
    skipped_both_rate: float | None = None
    t_norm_measured: float | None = None
    t_norm_modelled: float | None = None
    energy_j: float | None = None
    energy_measured: bool | None = None
    energy_source: str | None = None
    peak_memory_mb: float | None = None
    seed: int | None = None
    interrupted: bool = False
    per_class: list[ClassFigures] = []
    confusion: list[list[int]] = Field([], max_length=MAX_LABELS)
    warnings: list[str] = []
    machine: RunMachine = RunMachine()

    @field_validator("confusion")
    @classmethod
    def _has_so_many_columns(cls, confusion: list[list[int]]) -> list[list[int]]:
        if any(len(row) > MAX_LABELS for row in confusion):
            raise ValueError(f"a row has more than {MAX_LABELS:,} classes")
        return confusion


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run, read.

    Attributes:
        name: short, and unlike that of any other run of the report.
        sections: the closing table of the run.
        date: when its summary or a compare folder says it was made, else when the summary was last written
            (UTC).
        config: text of `config.toml`, None when there is none.
        picture: bytes of `run.png`, None when there is none.
    """

    name: str
    folder: Path
    figures: RunFigures
    sections: tuple[Section, ...]
    date: datetime
    config: str | None
    picture: bytes | None


@dataclass(frozen=True, slots=True)
class CollectedRuns:
    """The runs of a report, in the order given, and sentences on what was left out."""

    runs: tuple[RunRecord, ...]
    left_out: tuple[str, ...] = ()


def collect(folders: Sequence[Path]) -> CollectedRuns:
    """Read every run that the folders are or hold.

    Raises:
        RunError: a named folder is no run or its summary cannot be read, or there is no run at all.
    """
    found: dict[Path, bool] = {}  # whether it was named itself
    for folder in folders:
        cells = sorted(path.parent / "run" for path in folder.glob("cells/*/cell.json"))
        if cells and not (folder / "summary.json").is_file():
            for cell in cells:
                found.setdefault(cell.resolve(), False)
        else:
            _check_is_run(folder)
            found[folder.resolve()] = True
    # The run of a cell is named after the cell: all of them are called `run`.
    shown = [path.parent if (path.parent / "cell.json").is_file() else path for path in found]
    read = [_read(path, name, found[path]) for path, name in zip(found, unique_names(shown), strict=True)]
    records = tuple(_with_labels([one for one in read if isinstance(one, RunRecord)]))
    left_out = tuple(one for one in read if isinstance(one, str))
    if not records:
        where = ", ".join(map(str, folders))
        raise RunError(" ".join([f"There is no finished run in {where}.", *left_out[:3]]))
    return CollectedRuns(records, left_out)


def _read(folder: Path, name: str, was_named: bool) -> RunRecord | str:
    """Read a run; say why it is left out when it is a cell that cannot be read."""
    try:
        if (folder / "result.json").is_file():
            return _read_baseline(folder, name)
        if not (folder / "summary.json").is_file():
            raise _failed(folder)
        return read_run(folder, name)
    except RunError as error:
        if was_named:
            raise
        return str(error)


def _failed(folder: Path) -> RunError:
    """Say why a cell of a compare folder has no run of edgetune."""
    error = _cell(folder).get("error")
    why = f"the run failed: {error}" if error else "the run did not finish."
    return RunError(f"{folder} has no summary.json: {why}")


def _read_baseline(folder: Path, name: str) -> RunRecord:
    """Read the run of a baseline, which writes no summary: the comparison measured it."""
    cell, task = _cell(folder), _json(folder.parent / "task.json")
    if cell.get("accuracy") is None:
        raise _failed(folder)
    data = task.get("data")
    kept = ("accuracy", "n_eval", "time_split_s", "seed", "energy_j", "machine")
    said = {name: cell.get(name) for name in kept} | {
        "energy_source": cell.get("energy_source") or None,
        "method": cell.get("variant"),
        "elapsed_s": cell.get("seconds"),
        "eval_source": task.get("eval"),
        "dataset": data.get("train") if isinstance(data, dict) else cell.get("data"),
    }
    try:
        figures = RunFigures.model_validate({key: value for key, value in said.items() if value is not None})
        shown = figures.model_dump(exclude_none=True, exclude={"energy_j"})
        sections = tuple(summary_sections({**shown, "run_dir": None}, details=True))
    except (LookupError, TypeError, ValueError) as error:
        path = folder.parent / "cell.json"
        raise RunError(f"{path} is not the outcome of a run of a comparison.") from error
    date = _date(folder / "result.json", cell.get("date"))
    return RunRecord(name, folder, figures, sections, date, None, None)


def _with_labels(records: Sequence[RunRecord]) -> Iterator[RunRecord]:
    """Give baselines, which do not tell their labels, those of other runs on the same data."""
    known = {one.figures.dataset: one.figures.label_names for one in records if one.figures.label_names}
    for one in records:
        names = one.figures.label_names or known.get(one.figures.dataset, [])
        yield replace(one, figures=one.figures.model_copy(update={"label_names": names}))


def _cell(folder: Path) -> dict[str, Any]:
    return _json(folder.parent / "cell.json")


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a file of a compare folder, {} where there is none."""
    try:
        found = decode_json((_bytes(path, MOST_CELL_BYTES) or b"{}").decode("utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _check_is_run(folder: Path) -> None:
    """Refuse a folder that holds no finished run; say what it is instead."""
    if (folder / "summary.json").is_file():
        return
    if not folder.is_dir():
        missing = "is a file, not a run folder" if folder.exists() else "does not exist"
        raise RunError(f"{folder} {missing}; give folders that `edgetune finetune` wrote, such as runs/NAME.")
    if any((folder / name).exists() for name in MARKERS):
        raise RunError(f"{folder} has no summary.json: the run did not finish; train again.")
    inside = sorted(path.parent.name for path in folder.glob("*/summary.json"))
    hint = (
        f"it contains run folders: give these, as in `edgetune report {folder / inside[0]} …`"
        if inside
        else "give folders that `edgetune finetune` wrote, such as runs/NAME"
    )
    raise RunError(f"{folder} is not a run folder (it has no summary.json); {hint}.")


def read_run(folder: Path, name: str) -> RunRecord:
    """Read one run folder.

    Raises:
        RunError: its summary is damaged, or from a newer edgetune.
    """
    path = folder / "summary.json"
    summary = _read_summary(path)
    try:
        figures = RunFigures.model_validate(summary)
        sections = tuple(summary_sections(summary, details=True))
    except ValidationError as error:
        problem = error.errors()[0]
        where = brief(".".join(str(part) for part in problem["loc"]))
        raise RunError(f"{path} is not an edgetune summary: {where}: {problem['msg'].lower()}.") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = brief(f"{type(error).__name__}: {error}", MAX_ERROR_CHARS)
        raise RunError(f"{path} is not a complete summary ({what}).") from error
    date = _date(path, summary.get("date") or _cell(folder).get("date"))
    config = _bytes(folder / "config.toml", MOST_CONFIG_BYTES)
    picture = _bytes(folder / "run.png", MOST_PICTURE_BYTES)
    text = None if config is None else config.decode("utf-8", errors="replace").replace("\r\n", "\n")
    png = picture if picture is not None and picture.startswith(PNG_HEAD) else None
    return RunRecord(name, folder, figures, sections, date, text, png)


def _date(summary: Path, said: Any) -> datetime:
    """Return when a run was made: as its summary or its cell says, else when the summary was last written."""
    with contextlib.suppress(TypeError, ValueError):
        date = datetime.fromisoformat(said)
        if date.tzinfo is not None:
            return date.astimezone(timezone.utc)
    return datetime.fromtimestamp(summary.stat().st_mtime, timezone.utc)


def _read_summary(path: Path) -> dict[str, Any]:
    """Read a summary; a number that is not finite is None."""
    try:
        summary = read_json_file(path, FINITE)
    except OSError as error:
        raise RunError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); copy the run folder again, or leave it out.") from error
    if not isinstance(summary, dict):
        raise RunError(f"{path} is not an edgetune summary: it does not contain a JSON object.")
    if _size(summary | {"confusion": None}) > MAX_SUMMARY_VALUES:
        raise RunError(f"{path} is not an edgetune summary: it contains far more values than a run writes.")
    version = summary.get("schema_version", SUMMARY_VERSION)
    if isinstance(version, int) and version > SUMMARY_VERSION:
        raise RunError(f"{path} was written by a newer edgetune (schema {version}); update edgetune.")
    if version != SUMMARY_VERSION:
        older = f"{path} was written by an older edgetune (schema {version!r})"
        raise RunError(f"{older}; train again to report it.")
    return summary


def _size(value: Any) -> int:
    """Count the values in a value; 16 characters of text are one."""
    if isinstance(value, dict):
        return 1 + sum(_size(key) + _size(inner) for key, inner in value.items())
    if isinstance(value, list):
        return 1 + sum(map(_size, value))
    return 1 + (len(value) // 16 if isinstance(value, str) else 0)


def _bytes(path: Path, most: int) -> bytes | None:
    """Return a file's content; None when there is none, it cannot be read, or it is no file of ours."""
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= most else None
    except OSError:
        return None


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Name each path by as few of its last parts as tell it from the others."""
    names: dict[Path, str] = {}
    for n in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        counts = Counter(path.parts[-n:] for path in paths)
        for path in paths:
            if path not in names and counts[end := path.parts[-n:]] == 1:
                names[path] = "/".join(end)
    return [names.get(path, str(path)) for path in paths]
