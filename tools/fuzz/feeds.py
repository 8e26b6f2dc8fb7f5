"""What a file is fed to: all that edgetune does with one before it trains, and with a run afterwards."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from edgetune.compare.grid import cells_of, load_grid
from edgetune.config.toml_config import dump_config, load_config, make_config, merge_sections, sections
from edgetune.data.examples import DataOptions, find_parts, open_texts, read_examples
from edgetune.data.table import BadRow
from edgetune.data.token_format import TokenizerSpec
from edgetune.data.tokens import open_tokens
from edgetune.devices.device_profile import DeviceProfile
from edgetune.devices.profile_store import match_profile, read_profile, to_toml
from edgetune.inference.saved_run import load_run
from edgetune.profiling.profile_tables import profile_sections
from edgetune.report.collect import collect
from edgetune.report.page import page
from edgetune.report.result_tables import summary_sections
from edgetune.report.run_plot import trace
from edgetune.report.run_table import to_csv, to_json, to_markdown
from edgetune.run_files.example_stats import load_example_stats
from edgetune.run_files.history import read_history
from edgetune.utils.errors import EdgetuneError
from edgetune.utils.tables import sections_text

PARTS_RATE = 0.1
TEXTS_RATE = 0.2
TOKENS_RATE = 0.3
PAGE_RATE = 0.1
MADE = datetime(2026, 11, 18, tzinfo=timezone.utc)

WAYS = (
    DataOptions(),
    DataOptions(),
    DataOptions(),
    DataOptions(text=("1",), label="2"),
    DataOptions(text=("1",), label="2"),
    DataOptions(text=("1",), label="2"),
    DataOptions(text=("1", "2"), label="2", pair=True),
    DataOptions(text=("text",), label="label", header=True),
    DataOptions(header=False),
    DataOptions(merge_labels=True),
    DataOptions(delimiter=","),
    DataOptions(encoding="latin-1"),
    DataOptions(encoding="utf-16"),
    DataOptions(encoding="auto"),
    DataOptions(escape=True),
    DataOptions(text=("data.text",), label="annotations.label"),
    DataOptions(label="pos,neg"),
)


@lru_cache(maxsize=1)
def _tokenizer() -> TokenizerSpec:
    words = {word: i for i, word in enumerate(("[UNK]", "word", "film", "good", "a", "the"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = Path(tempfile.mkdtemp(prefix="edgetune-fuzz-")) / "tokenizer.json"
    tokenizer.save(str(path))
    return TokenizerSpec(path, max_length=16, pad_id=0)


def data(path: Path, rng: Random) -> None:
    """Read a file as labelled rows, as texts to predict, or into a token cache: one of the three."""
    options, bad = rng.choice(WAYS), list[BadRow]()
    drawn = rng.random()
    if drawn < PARTS_RATE:
        find_parts(str(path), options)
    if drawn < TEXTS_RATE:
        for _ in open_texts(str(path), options).rows:
            pass
    elif drawn < TEXTS_RATE + TOKENS_RATE:
        with tempfile.TemporaryDirectory(prefix="edgetune-fuzz-") as cache:
            open_tokens(str(path), options, _tokenizer(), Path(cache), max_bad_rows=0.5).findings()
    else:
        for _ in read_examples(str(path), options, bad.append):
            del bad[100:]


def config(path: Path, rng: Random) -> None:
    """Read settings, put options over them, and write them out again."""
    given: dict[str, dict[str, Any]] = {name: {} for name in sections()}
    given |= {"data": {"train": "rows.csv"} if rng.random() < 0.5 else {}}
    dump_config(merge_sections(load_config(path), given))


def grid(path: Path, rng: Random) -> None:
    """Read a grid and list its runs."""
    for cell in cells_of(load_grid(path)):
        cell.result_key("rows")


def profile(path: Path, rng: Random) -> None:
    """Read a device profile, match it with a machine, and show it."""
    read: DeviceProfile = read_profile(path)
    match_profile(read, read.machine, {})
    sections_text(profile_sections(read))
    to_toml(read)


def history(path: Path, rng: Random) -> None:
    """Read a history, and what its picture shows."""
    trace(read_history(path))


def run(path: Path, rng: Random) -> None:
    """Put a run into the tables and on the page; read its rows and its settings."""
    with contextlib.suppress(EdgetuneError):
        load_example_stats(path)
    with contextlib.suppress(EdgetuneError):
        make_config(load_config(path / "config.toml"))
    with contextlib.suppress(EdgetuneError):
        history(path / "history.jsonl", rng)
    with contextlib.suppress(EdgetuneError):
        load_run(path)
    found = collect([path])
    for write in (to_csv, to_json, to_markdown):
        write(found).encode()
    for record in found.runs:
        sections_text(list(record.sections)).encode()
    if rng.random() < PAGE_RATE:
        page(found, MADE).encode()


FEEDS: dict[str, Callable[[Path, Random], None]] = {
    "data": data,
    "config": config,
    "grid": grid,
    "profile": profile,
    "history": history,
    "run": run,
}


def feed(path: Path, kind: str, seed: int) -> None:
    """Feed a file to its loader.

    Raises:
        EdgetuneError: it was refused, as it may be.
    """
    FEEDS[kind](path, Random(seed))


def warm_up() -> None:
    """Import and start everything, so that no file pays for that."""
    import matplotlib.backends.backend_svg
    import pyarrow.parquet

    _tokenizer()
    del matplotlib, pyarrow
    assert sections_text(summary_sections({})) == ""
