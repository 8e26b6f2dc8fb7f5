"""`edgetune init`: a commented config for a file, with what was detected in it, to edit and to train with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import tomli_w

from edgetune.config.settings import DataSettings
from edgetune.data.examples import column_reference, find_columns, open_labelled, read_examples
from edgetune.data.labels import label_order
from edgetune.data.splits import data_options
from edgetune.utils.formatting import counted, duration
from edgetune.utils.sanitize import brief

MOST_ROWS = 200_000
"""Rows that are counted."""
SHOWN_LABELS = 20
ROW_S, LEAST_S, MOST_S = 0.05, 60, 1800
"""Seconds of deadline for a row, and the least and the most: a few passes of a small encoder on two cores."""

RARE_CLASSES = '# metric = "macro-f1"  # if rare classes matter as much as frequent ones'


def draft_config(data: DataSettings) -> str:
    """Return a config as TOML, with what was detected in labelled text and what the user said of it.

    Raises:
        DataError: the file is missing or cannot be read as rows.
        UsageError: the text or label column cannot be found.
    """
    options = data_options(data)
    table = open_labelled(data.train, options)
    chosen = find_columns(table, options)
    found: dict[str, Any] = {"train": data.train, "text": [], "label": data.label}
    found["text"] = [column_reference(table.columns, at) for at in chosen.text]
    if not chosen.flags and chosen.label is not None:
        found["label"] = column_reference(table.columns, chosen.label)
    if table.dialect is not None:
        found |= {"header": table.has_names, "delimiter": table.dialect.delimiter}
        found |= {"escape": True} if table.dialect.escaped else {}
    if table.encoding:
        found["encoding"] = table.encoding.removesuffix("-sig")
    found |= {name: True for name in ("pair", "merge_labels") if getattr(data, name)}
    n_rows, counts = 0, Counter[str]()
    for example in islice(read_examples(data.train, options, lambda row: None), MOST_ROWS):
        n_rows += 1
        counts.update(example.labels)
        found["multi_label"] = example.several is not None
    deadline_s = 60 * round(min(MOST_S, max(LEAST_S, ROW_S * n_rows)) / 60)
    return "\n".join(
        [
            f"# Settings for {brief(data.train)}, as detected. Check them, then run:",
            "#   edgetune finetune --config THIS_FILE",
            "# All other settings have their defaults; `edgetune finetune --help` lists them.",
            "",
            "[data]",
            *(f"# {line}" for line in _described(counts, n_rows)),
            *(["# The columns were guessed."] if chosen.guessed else []),
            tomli_w.dumps(found).rstrip(),
            '# eval = "test.csv"  # rows to evaluate on; by default, a tenth of the rows is held out',
            "",
            "[train]",
            *(() if found.get("multi_label") else (RARE_CLASSES,)),
            "seed = 0",
            "",
            "[budget]",
            f"# {duration(deadline_s)}, start-up and saving included. More time gives a more accurate model.",
            f"deadline_s = {deadline_s}",
            "",
        ]
    )


def _described(counts: Counter[str], n_rows: int) -> Iterator[str]:
    """Yield lines that say how many rows each label has."""
    more = " or more" if n_rows == MOST_ROWS else ""
    yield f"{counted(n_rows, 'usable row')}{more}, {counted(len(counts), 'class', 'classes')}:"
    names = label_order(counts)
    yield from (f"  {brief(name)}: {counted(counts[name], 'row')}" for name in names[:SHOWN_LABELS])
    if len(names) > SHOWN_LABELS:
        yield f"  and {len(names) - SHOWN_LABELS} more"
