"""What is compared: data × methods × seeds × settings, as cells that have a name each.

    [[data]]  methods  seeds  [settings]  [[vary]]  curve  ─→  Grid  ─→  cells, methods in turn

A grid is a TOML file or comes from the command line. Every cell is one run that can be made again alone.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgetune.compare.baselines import all_baselines
from edgetune.config.settings import MAX_SEED, LabelledText
from edgetune.config.toml_config import group_by_section, make_config
from edgetune.selection import METHODS, SelectionSettings
from edgetune.utils.errors import UsageError, did_you_mean
from edgetune.utils.limits import MAX_CELLS, MAX_NAME
from edgetune.utils.parsing import TomlError, read_toml
from edgetune.utils.sanitize import brief

MATCHED = "random-matched"
"""`random` that keeps the share of rows which `three-stage` trained in the cell of the same data and seed."""
CURVE_TIMES = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Times of the reference curve, as factors of the deadline."""
CURVE_SHARES = (0.1, 0.2, 0.35, 0.6, 1.0)
"""The same without a deadline: shares of the rows that `random` keeps."""
DEFAULT_METHODS = ("train-all", "random", "auto-threshold", "three-stage", "info-batch", "tfidf-logreg")
_NAME = r"^\w[\w. +-]*$"  # it becomes a folder
_STRICT = ConfigDict(extra="forbid", frozen=True)
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_SEED)], ...], Field(min_length=1)]


def encoder_alone(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a cell with what a comparison takes for granted, unless a grid says otherwise.

    Methods are ways of training the encoder: other learners take no part, and without a limit of time one
    pass is made.
    """
    is_limited = any(settings.get(name) for name in ("deadline_s", "energy_j", "battery_rate"))
    defaults = {"ngrams": False} if is_limited else {"ngrams": False, "epochs": 1}
    return defaults | settings


class DataEntry(LabelledText):
    """One data set: where it lies, how it is read, and what it has of its own instead of the grid's."""

    name: str = Field(pattern=_NAME, max_length=MAX_NAME)
    rows: int | None = Field(None, ge=2)
    eval_rows: int | None = Field(None, ge=2)
    seeds: Seeds | None = None


class Variant(BaseModel):
    """A method with settings of its own, under a name of its own."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(pattern=_NAME, max_length=MAX_NAME)
    method: str

    @property
    def settings(self) -> dict[str, Any]:
        """What differs from the grid's settings, flat."""
        return dict(self.model_extra or {})


class Grid(BaseModel):
    """Everything that is compared.

    Attributes:
        methods: names of methods and outside programs, or `all`.
        vary: methods with other settings.
        settings: of every cell, flat, as `edgetune finetune` has them (`epochs`, `deadline_s`, `lr` …).
        curve: whether the reference curve (train-all, or random, with decay) is measured, which turns an
            accuracy into the time that random needs for it.
        models: whether each cell keeps its model; without them, every other file stays.
        rows, eval_rows: of each set at most, drawn once; None: all.
        holdout: share of the rows held out, once, where a set has no evaluation file.
    """

    model_config = _STRICT
    name: str = Field("compare", pattern=_NAME)
    data: tuple[DataEntry, ...] = Field(min_length=1)
    methods: tuple[str, ...] = DEFAULT_METHODS
    vary: tuple[Variant, ...] = ()
    seeds: Seeds = (0,)
    settings: dict[str, Any] = {}
    curve: bool = True
    models: bool = True
    rows: int | None = Field(None, ge=2)
    eval_rows: int | None = Field(None, ge=2)
    holdout: float = Field(0.1, gt=0, lt=1)


class Cell(BaseModel):
    """One run that is to be made.

    Attributes:
        variant: the method in the table: its own name, or one of its own.
        method: of `selection.METHODS`, `baselines.all_baselines()`, or `random-matched`.
        curve: whether it is a point of the reference curve.
    """

    model_config = _STRICT
    data: str
    variant: str
    method: str
    seed: int
    settings: dict[str, Any]
    curve: bool = False

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.data}--{self.variant}--seed{self.seed}"

    @property
    def outside(self) -> bool:
        """Whether another program does it."""
        return self.method in all_baselines()

    @property
    def other_settings(self) -> dict[str, Any]:
        """Its settings but for how rows are selected."""
        return {k: v for k, v in self.settings.items() if k not in SelectionSettings.model_fields}

    def result_key(self, data_key: str) -> str:
        """Return a hash of what decides its result; `data_key` is that of its rows."""
        parts = [self.method, self.seed, sorted(self.settings.items()), data_key]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def load_grid(path: Path) -> Grid:
    """Read a grid from TOML.

    Raises:
        UsageError: no such file, not TOML, or an unknown key (the nearest is named).
    """
    try:
        raw = read_toml(path)
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.") from error
    except TomlError as error:
        raise UsageError(f"{path} is not valid TOML: {error}.") from error
    raw.setdefault("name", path.stem[:MAX_NAME])
    return make_grid(raw, str(path))


def make_grid(raw: dict[str, Any], where: str) -> Grid:
    """Validate a grid; `where` names it in complaints.

    Raises:
        UsageError: what is wrong, in a sentence.
    """
    try:
        grid = Grid.model_validate(raw)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_problem(error, Grid, DataEntry)}") from error
    every = (*METHODS, *all_baselines())
    methods = every if grid.methods == ("all",) else grid.methods
    wanted = [*methods, *(variant.method for variant in grid.vary)]
    if not wanted:
        raise UsageError(f"{where}: no method is given; `edgetune methods` lists them.")
    if unknown := [name for name in wanted if name not in (*every, MATCHED)]:
        hint = did_you_mean(unknown[0], [*every, MATCHED])
        raise UsageError(
            f'{where}: there is no method "{brief(unknown[0])}".{hint} `edgetune methods` lists them.'
        )
    try:
        for settings in [grid.settings, *(variant.settings for variant in grid.vary)]:
            _check_settings(settings)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    return grid.model_copy(update={"methods": methods})


def first_problem(error: ValidationError, outer: type[BaseModel], inner: type[BaseModel]) -> str:
    """Say what is wrong with one setting; an unknown one first, since it may be why another is missing.

    The nearest known one is named, out of the fields of `outer`, or of `inner` within one of these.
    """
    found = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    where = ".".join(map(str, found["loc"])) or "(all of it)"
    if found["type"] == "extra_forbidden":
        known = (inner if len(found["loc"]) > 1 else outer).model_fields
        return f'there is no setting "{brief(where)}".{did_you_mean(str(found["loc"][-1]), known)}'
    given = found["input"]
    shown = "" if isinstance(given, dict | list) else f" (given: {brief(repr(given))})"
    words = found["msg"].lower().replace("tuple", "list")
    words = words.replace("dictionary or instance of dataentry", "table")
    return f"setting {brief(where)}: {words}{shown}."


def _check_settings(settings: dict[str, Any]) -> None:
    """Refuse settings that no run has, before hours are spent."""
    sections = group_by_section(settings)
    own = {"method", "seed", *sections["data"]} - {"max_length"}
    for name in own & set(settings):
        raise UsageError(f'"{name}" is set by the comparison; remove it from the settings.')
    sections["data"].setdefault("train", "x")
    make_config(sections)


def cells_of(grid: Grid) -> list[Cell]:
    """Return every cell, in the order in which they are run: a slow hour hits all methods.

    Rounds of (seed, data), the lowest seed first; in each the methods, shuffled by a generator that the round
    seeds; what depends on another cell of its round comes last.

    Raises:
        UsageError: two cells have one name, or there are too many.
    """
    n_variants = len(grid.methods) + len(grid.vary) + 1 + len(CURVE_TIMES)
    n_cells = sum(len(entry.seeds or grid.seeds) for entry in grid.data) * n_variants
    if n_cells > MAX_CELLS:
        raise UsageError(
            f"{grid.name} would take about {n_cells:,} runs, but at most {MAX_CELLS:,} are allowed; use "
            "fewer seeds, methods or data sets."
        )
    cells: dict[str, Cell] = {}
    rounds = sorted((seed, at) for at, entry in enumerate(grid.data) for seed in entry.seeds or grid.seeds)
    for seed, at in rounds:
        found = _round(grid, grid.data[at].name, seed)
        order = np.random.default_rng([seed, at]).permutation(len(found))
        for cell in sorted((found[i] for i in order), key=lambda cell: cell.method == MATCHED):
            if cell.name in cells:
                raise UsageError(f"Two cells are named {cell.name}; give one of them another name.")
            cells[cell.name] = cell
    return list(cells.values())


def _round(grid: Grid, data: str, seed: int) -> list[Cell]:
    def cell(variant: str, method: str, settings: dict[str, Any], curve: bool = False) -> Cell:
        every = grid.settings | settings
        return Cell(data=data, variant=variant, method=method, seed=seed, settings=every, curve=curve)

    cells = [cell(method, method, {}) for method in grid.methods]
    cells += [cell(variant.name, variant.method, variant.settings) for variant in grid.vary]
    variants = {one.variant for one in cells}
    if MATCHED in {one.method for one in cells} and "three-stage" not in variants:
        cells.append(cell("three-stage", "three-stage", {}))
    if not grid.curve:
        return cells
    deadline_s = grid.settings.get("deadline_s")
    if deadline_s is not None:
        for factor in CURVE_TIMES:
            at_s = round(factor * float(deadline_s), 1)
            cells.append(cell(f"curve-{at_s:g}s", "train-all", {"deadline_s": at_s}, curve=True))
    else:
        for share in CURVE_SHARES:
            method = "random" if share < 1 else "train-all"
            cells.append(cell(f"curve-{share:g}", method, {"keep_rate": share}, curve=True))
    return cells
