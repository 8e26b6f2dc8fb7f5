"""Fuzz what reads files with coverage to go by: inputs that reach new code are kept and changed further.

    pip install atheris
    python tools/fuzz/guided.py --seconds 300

An input is a byte for the format, a byte for how it is read, and the file. It starts from whole files, and
ends with the first fault (a traceback, an unclear sentence, 5 s on one file, too much memory): the input is
left in --keep, beside the corpus, and the exit code is not 0. `python tools/fuzz` covers folders and runs
too; this looks deeper into single files.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

try:
    import atheris
except ImportError:
    raise SystemExit("Guided fuzzing needs atheris: pip install atheris") from None

with atheris.instrument_imports(include=["edgetune"]):
    import feeds

    from edgetune import compare, data, profiling
    from edgetune.utils.errors import EdgetuneError
    from edgetune.utils.limits import MEMORY_MB

    for room in (data, profiling, compare):  # what is imported only when it is needed, too
        for found in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            importlib.import_module(found.name)

from cases import DATA, SETTINGS, Case
from harness import is_clear
from seeds import PACKERS

FORMATS = (*DATA, "csv.gz", "json.xz", "tsv.bz2", "jsonl.zst", *SETTINGS)
FILE_LIMIT_S = 5
CORPUS_FILES = 20  # of each format, to start from


def case_of(data: bytes, place: Path) -> Case:
    """Write an input as a file."""
    family = FORMATS[data[0] % len(FORMATS)]
    name = f"data.{family}" if family not in SETTINGS else f"{family}.toml"
    path = place / ("history.jsonl" if family == "history" else name)
    path.write_bytes(data[2:])
    return Case(family, family if family in SETTINGS else "data", path, data[1])


def try_one(data: bytes) -> None:
    """Feed an input.

    Raises:
        Exception: what no loader may raise.
        RuntimeError: it was refused without a clear sentence.
    """
    if len(data) < 2:
        return
    with tempfile.TemporaryDirectory(prefix="edgetune-fuzz-") as place:
        case = case_of(data, Path(place))
        try:
            with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
                feeds.feed(case.path, case.feed, case.seed)
        except EdgetuneError as error:
            if not is_clear(str(error), case):
                raise RuntimeError(f"{case} was refused unclearly: {error}") from error


def write_corpus(folder: Path, seed: int) -> None:
    """Write whole files of every format to start from."""
    for number, family in enumerate(FORMATS):
        rng = Random(f"{seed}:{family}")
        plain, *packed = family.split(".")
        for i in range(CORPUS_FILES):
            content = (DATA | SETTINGS)[plain](rng)
            for kind in packed:
                content = PACKERS[f".{kind}"](content)
            (folder / f"{family}-{i}").write_bytes(bytes([number, rng.randrange(256)]) + content)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="where a bad input is put")
    given = parser.parse_args()
    corpus = given.keep / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    write_corpus(corpus, given.seed)
    feeds.warm_up()
    options = (
        f"-max_total_time={given.seconds}",
        f"-seed={given.seed}",
        f"-timeout={FILE_LIMIT_S}",
        f"-rss_limit_mb={MEMORY_MB + 1000}",  # what the libraries take, and what a file may
        f"-artifact_prefix={given.keep}/guided-",
        "-max_len=100000",
        "-print_final_stats=1",
        "-verbosity=1",
    )
    atheris.Setup([sys.argv[0], *options, str(corpus)], try_one)
    atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    main()
