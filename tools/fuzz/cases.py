"""One case: which format, what it started from, what was done to it; its number and seed make it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import seeds
import settings
from extremes import EXTREMES
from mutations import mutated, scratched

EXTREME_RATE = 0.02
PACKED_RATE = 0.2
WRONG_NAME_RATE = 0.05

Make = Callable[[Random], bytes]
DATA: dict[str, Make] = {
    "csv": lambda rng: seeds.delimited(rng, rng.choice(",,;|")) if rng.random() < 0.9 else seeds.flags(rng),
    "tsv": lambda rng: seeds.delimited(rng, "\t"),
    "jsonl": seeds.json_lines,
    "json": seeds.json_whole,
    "txt": lambda rng: seeds.lines_of_text(rng) if rng.random() < 0.5 else seeds.fasttext(rng),
    "parquet": seeds.parquet,
    "arrow": seeds.arrow,
}
"""Formats of data that are one file, by extension; the first five may be packed."""
SETTINGS: dict[str, Make] = {
    "config": settings.config,
    "grid": settings.grid,
    "profile": settings.profile,
    "history": settings.history,
}
FAMILIES = (*DATA, "folder", "saved", *SETTINGS, "run")


@dataclass(frozen=True)
class Case:
    """A file or folder on disk, and what it is fed to.

    Attributes:
        family: of `FAMILIES`, with the packing, or `extreme`; what the table of results counts by.
        feed: which loader, of `feeds.FEEDS`.
        path: of the file or folder.
        seed: of what the feed chooses.
    """

    family: str
    feed: str
    path: Path
    seed: int


def make_case(seed: int, number: int, place: Path) -> Case:
    """Write the case of a number into an empty folder."""
    rng = Random(f"{seed}:{number}")
    if rng.random() < EXTREME_RATE:
        path = rng.choice(EXTREMES)(rng, place)
        feed = rng.choice(("config", "grid", "profile")) if path.suffix == ".toml" else "data"
        return Case("extreme", feed, path, rng.randrange(2**32))
    family = FAMILIES[number % len(FAMILIES)]
    if family in DATA:
        path, family = _data_file(rng, family, place)
        return Case(family, "data", path, rng.randrange(2**32))
    made = {"folder": _folder, "saved": _saved, "run": _run}.get(family)
    if made is not None:
        feed = "run" if family == "run" else "data"
        return Case(family, feed, made(rng, place), rng.randrange(2**32))
    path = place / ("history.jsonl" if family == "history" else f"{family}.toml")
    content = SETTINGS[family](rng)
    path.write_bytes(mutated(rng, content) if rng.random() < 0.4 else content)
    return Case(family, family, path, rng.randrange(2**32))


def _data_file(rng: Random, family: str, place: Path) -> tuple[Path, str]:
    binary = family in ("parquet", "arrow")
    content = (scratched if binary else mutated)(rng, DATA[family](rng))
    name = family
    if rng.random() < PACKED_RATE and not binary:
        kind = rng.choice(list(seeds.PACKERS))
        content = seeds.PACKERS[kind](content)
        content = mutated(rng, content) if rng.random() < 0.5 else content
        name += kind
        family = f"packed {kind}"
    if rng.random() < WRONG_NAME_RATE:
        name = rng.choice((*DATA, "unknown", "csv.gz", "json.xz", "tsv.bz2", "jsonl.zst", "parquet.gz"))
    path = place / f"data.{name}"
    path.write_bytes(content)
    return path, family


def _folder(rng: Random, place: Path) -> Path:
    folder = place / "texts"
    for label in rng.sample(("pos", "neg", " ", ".hidden", "a\nb", "\x1b[1m"), rng.randrange(4)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(rng.choice((0, 1, 3, 10))):
            text = seeds.text_of(rng).encode("utf-8", "replace")
            text = text if rng.random() < 0.8 else mutated(rng, text)
            (folder / label / f"{number}{rng.choice(('.txt', '.txt', '.TXT', '.md'))}").write_bytes(text)
    folder.mkdir(exist_ok=True)
    return folder


def _saved(rng: Random, place: Path) -> Path:
    folder = place / "saved"
    folder.mkdir()
    names = [f"data-{i}.arrow" for i in range(rng.choice((0, 1, 2)))]
    for name in names:
        (folder / name).write_bytes(scratched(rng, seeds.arrow(rng)))
    listed = names if rng.random() < 0.7 else [*names, rng.choice(("../x", "gone", "", "/etc/passwd"))]
    state = json.dumps({"_data_files": [{"filename": name} for name in listed]}).encode()
    (folder / "state.json").write_bytes(state if rng.random() < 0.7 else mutated(rng, state))
    if rng.random() < 0.1:
        splits = settings.spoiled(rng, {"splits": ["train", "test"]})
        (folder / "dataset_dict.json").write_text(json.dumps(splits))
    return folder


def _run(rng: Random, place: Path) -> Path:
    folder = place / "run"
    folder.mkdir()
    summary = json.dumps(settings.spoiled(rng, settings.summary(rng))).encode()
    (folder / "summary.json").write_bytes(summary if rng.random() < 0.8 else mutated(rng, summary))
    (folder / "config.toml").write_bytes(mutated(rng, settings.config(rng)))
    (folder / "history.jsonl").write_bytes(settings.history(rng))
    record = settings.row_record(rng)
    (folder / "rows.npz").write_bytes(scratched(rng, record))
    if rng.random() < 0.3:
        (place / "cell.json").write_bytes(mutated(rng, json.dumps({"date": "2026-11-18"}).encode()))
    if rng.random() < 0.2:
        (folder / "run.png").write_bytes(mutated(rng, b"\x89PNG\r\n\x1a\n" + b"\0" * 100))
    return folder
