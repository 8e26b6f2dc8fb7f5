"""How large what a stranger sends may be: every limit of the readers, in one place.

A file beyond one of them is refused in a sentence, or the row is counted among the unusable ones; nothing
is cut in silence. Within all of them, opening and reading one file takes at most `MEMORY_MB` more memory
than the process had before; `python tools/fuzz` measures that.

    a cell of 10 MB         works: `MAX_LINE_CHARS` is 16 Mi characters; the tokenizer sees its beginning
    a compressed file       may be `MAX_UNPACKED_RATE` times its size when unpacked; so may Parquet and Arrow
    a folder                is read inside its root alone: no `..`, no link that leads out of it
"""

from __future__ import annotations

MEMORY_MB = 1_000
"""What reading a file may add to the process's memory at most (10^6 bytes)."""

# Lines and rows
MAX_LINE_CHARS = 1 << 24
"""Characters of a line, a quoted record, a JSON value or a cell; bytes of a file that is one text."""
MAX_RECORD_LINES = 1_000
"""Physical lines of a quoted field; one that goes on for longer was never closed."""
FEW_RECORD_LINES = 10
"""The same, once too much was read ahead in vain for quotes that are never closed (`records.LookAhead`)."""
MAX_COLUMNS = 10_000
"""Columns of a table, or different keys of the first JSON rows."""
MAX_JSON_DEPTH = 64
"""Lists and objects within each other."""
MAX_JSON_VALUES = 1 << 20
"""Commas in one JSON value: 3 characters of JSON can become 72 bytes in memory."""
MAX_COLUMN_FILE_CHARS = 1 << 26
"""Of a JSON file that holds columns instead of rows: it is read whole."""

# Compressed files, Parquet, Arrow
MAX_UNPACKED_RATE = 200
"""Bytes unpacked per byte of the file; text packs 3 to 20 times, the same row over and over 200 and more."""
UNPACKED_FREE_BYTES = 1 << 20
"""So much may come out of a file whatever its size; less than is looked at before a file is read."""
MAX_UNPACKED_BYTES = 1 << 35
"""Out of one file in all; rows stream by, so this bounds time and the token cache, not memory."""
MAX_WINDOW_BYTES = 1 << 27
"""What an .xz or .zst file may ask its unpacker to remember."""
MAX_BATCH_BYTES = 1 << 29
"""Of a part of a Parquet or Arrow file that is unpacked at once."""

# Labels and folders
MAX_LABELS = 2_000
"""Different labels; the confusion matrix holds the square of that."""
MAX_MULTI_HOT = 1 << 28
"""Rows times labels, where rows may have several: 4 bytes each."""
MAX_LABEL_CHARS = 1_000
MAX_FOLDER_FILES = 1_000_000
"""Entries of a folder that are looked at."""

# Settings, grids, device profiles
MAX_TOML_BYTES = 1 << 18
MAX_TOML_LINE_CHARS = 1 << 12
"""A line of 100,000 dotted keys keeps the TOML reader busy for minutes."""
MAX_CELLS = 10_000
"""Runs of a grid."""
MAX_NAME = 60
"""Characters of the name of a data set or a method in it; together they name a folder."""

# Run folders
MAX_SUMMARY_BYTES = 1 << 26
"""Of `summary.json`, and of other JSON files that are read whole."""
MAX_SUMMARY_COMMAS = 1 << 23
"""Commas in the same: the confusion matrix of `MAX_LABELS` fits."""
MAX_SUMMARY_VALUES = 500_000
"""In a summary beside the confusion matrix; 16 characters of text count as one."""
MAX_HISTORY_BYTES = 1 << 26
MAX_HISTORY_LINES = 1_000_000
MAX_HISTORY_LINE_BYTES = 1 << 16
