"""Run folders written by hand, for tests of the report, and a strict reader of its page."""

from __future__ import annotations

import json
import os
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

WRITTEN = 1_795_000_000  # 2026-11-18 11:06:40 UTC
CONFIG = 'schema_version = 1\n\n[data]\ntrain = "reviews.csv"\n'
SPLIT = {"load": 1.0, "tokenize": 0.5, "export": 4.0, "score": 20.0, "train": 70.0, "evaluate": 3.0}
SPLIT |= {"save": 1.0, "other": 0.5}
SUMMARY: dict[str, Any] = {
    "schema_version": 2,
    "method": "three-stage",
    "preset": "default",
    "backend": "ort",
    "model": "all-MiniLM-L6-v2",
    "dataset": "data/reviews.csv",
    "label_names": ["bad", "good"],
    "accuracy": 0.893,
    "accuracy_interval": [0.871, 0.912],
    "macro_f1": 0.8891,
    "mcc": 0.7812,
    "eval_loss": 0.31,
    "n_eval": 872,
    "eval_source": "872 rows held out of reviews.csv",
    "elapsed_s": 100.0,
    "time_split_s": SPLIT,
    "n_train": 12000,
    "n_bad_rows": 0,
    "n_seen": 24000,
    "n_scored": 12000,
    "n_trained": 8000,
    "n_steps": 250,
    "skipped_backward_rate": 0.215,
    "skipped_both_rate": 0.438,
    "stages": [
        {"stage": "warmup", "n_seen": 0, "reason": "start"},
        {"stage": "filter_forward", "n_seen": 1200, "reason": "predictor's loss 0.48 <= ALT 0.5"},
    ],
    "threshold": 0.312,
    "selection": {"predictor_loss": 0.4812},
    "t_norm_modelled": 0.41,
    "t_norm_measured": 0.62,
    "score_ms_per_example": 1.7,
    "train_ms_per_example": 8.7,
    "first_step_s": 6.0,
    "deadline_s": None,
    "deadline_used_rate": None,
    "planned": None,
    "n_left": 0,
    "energy_j": 1500.0,
    "energy_measured": False,
    "energy_source": "estimated: 15 W while busy",
    "energy_eq6_kwh": 0.0007,
    "co2e_lb": 0.0006,
    "cache": None,
    "peak_memory_mb": 812.4,
    "run_dir": "runs/reviews",
    "epochs": 2,
    "best_epoch": 2,
    "best_epoch_chosen_on_eval": False,
    "batch_size": 32,
    "lr": 1e-4,
    "seed": 0,
    "precision": "fp32",
    "freeze": "embeddings",
    "frozen_depth": 0,
    "max_length": 128,
    "n_parameters_trained": 10_000_000,
    "interrupted": False,
    "per_class": [
        {"label": "bad", "precision": 0.9, "recall": 0.88, "f1": 0.89, "support": 400},
        {"label": "good", "precision": 0.88, "recall": 0.9, "f1": 0.89, "support": 472},
    ],
    "confusion": [[352, 48], [45, 427]],
    "warnings": ["3 duplicate texts"],
    "machine": {"cpu": "AMD EPYC", "cores": 2},
    "versions": {"edgetune": "0.1.0"},
}
VOID = frozenset(
    {"meta", "img", "br", "hr", "link", "input", "base", "area", "col", "embed", "source", "wbr"}
)
LOADS = frozenset(
    {"src", "href", "xlink:href", "srcset", "action", "formaction", "data", "poster", "background", "ping"}
)


def png(width: int = 4, height: int = 3) -> bytes:
    """A grey picture, whole enough for any reader."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def write_run(
    folder: Path, *, picture: bytes | None = None, config: str | None = CONFIG, **changes: Any
) -> Path:
    """Write a run folder whose summary is `SUMMARY` with changes."""
    folder.mkdir(parents=True)
    path = folder / "summary.json"
    path.write_text(json.dumps({**SUMMARY, "run_dir": str(folder), **changes}), encoding="utf-8")
    os.utime(path, (WRITTEN, WRITTEN))
    if config is not None:
        (folder / "config.toml").write_text(config, encoding="utf-8", errors="replace")
    if picture is not None:
        (folder / "run.png").write_bytes(picture)
    return folder


def write_compare(folder: Path, **cells: dict[str, Any] | None) -> Path:
    """Write a compare folder; a cell that is None failed."""
    for name, changes in cells.items():
        cell = folder / "cells" / name
        cell.mkdir(parents=True)
        outcome = {"error": "" if changes is not None else "no room.", "date": "2026-11-20T09:00:00+00:00"}
        (cell / "cell.json").write_text(json.dumps(outcome), encoding="utf-8")
        if changes is not None:
            write_run(cell / "run", **changes)
    return folder


class PageReader(HTMLParser):
    """Reads a page and keeps what is wrong with it: tags that do not nest, anything from outside the page.

    Also ids and headings in order, what links name inside the page, rows of cell texts by the caption of
    their table, the text that is shown, and the names of all elements.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.wrong: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[int] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self.names: set[str] = set()
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(page)
        self.close()
        self.wrong += [f"<{name}> is not closed" for name in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        for name, value in attrs:
            self._attribute(tag, name, value or "")
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self.headings.append(int(tag[1]))
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if "svg" not in self._open:
            self.wrong.append(f"<{tag}/> outside a picture")
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            self._urls("style", data)
            if "@import" in data:
                self.wrong.append("@import")
            return
        self.text += data
        if "caption" in self._open:
            self._caption += data
        elif "td" in self._open or "th" in self._open:
            self._rows[-1][-1] += data

    def _attribute(self, tag: str, name: str, value: str) -> None:
        if name == "id":
            self.ids.append(value)
        if name.startswith("on"):
            self.wrong.append(f"<{tag} {name}>")
        if name in LOADS and not value.startswith(("#", "data:image/png;base64,")):
            self.wrong.append(f"<{tag} {name}={value[:60]}>")
        if name in LOADS and value.startswith("#"):
            self.links.append(value[1:])
        self._urls(tag, value)

    def _urls(self, where: str, text: str) -> None:
        for part in text.split("url(")[1:]:
            if not part.startswith("#"):
                self.wrong.append(f"{where}: url({part[:40]}")
            self.links.append(part[1:].partition(")")[0])
