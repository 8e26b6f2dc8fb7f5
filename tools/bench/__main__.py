"""Benchmarks: every figure is a ratio, or a median with its spread, made in one run on one machine.

    python tools/bench loop                                  # the loop against bare calls; cost of selection
    python tools/bench trainer --data ../shared/data/sst2/train.tsv --rows 16000
    python tools/bench startup                               # command to first step, without and with caches
    python tools/bench memory                                # peak memory at 10,000 and 1,000,000 rows
    python tools/bench multi_label --data TRAIN --eval TEST    # several labels a row
    python tools/bench plans                     # 12 runs with deadlines: planned against real
    python tools/bench timeline                  # draws what `plans` left
    python tools/bench busy --repeats 20         # deadlines beside a neighbour that starts to compute
    python tools/bench equal --repeats 3         # a deadline against a plain loop, same wall clock
    python tools/bench freezing --rows 2000      # half the layers frozen, with and without the cache
    python tools/bench cost --profile NAME       # predicted against real, off the profile's grid
    python tools/bench large --data TRAIN --eval TEST --rows 1000000    # a file too large for its deadline
    python tools/bench frontier --shared ../shared/data --sets r8 sst2 --python autogluon=AG/bin/python
    python tools/bench prediction --data TRAIN --eval TEST    # ms a text: encoder, whole answer, int8
    python tools/bench serve                     # requests a second, latency and memory of the server
    python tools/bench label_errors --rows 3000 --seeds 0 1 2 --python cleanlab=CL/bin/python  # of `inspect`
    python tools/bench checkpoint                # what checkpoints cost, how soon a resumed run goes on

Nothing else may compute meanwhile. Without --data they run on rows that the project generates.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import checkpoints
import cost_function
import deadlines
import freezing
import frontier
import label_errors
import large_file
import loop_cost
import memory
import multi_label
import prediction
import serving
import startup
import timeline
import trainer
from common import machine_line

from edgetune.utils.errors import EdgetuneError

BENCHES = {
    "loop": loop_cost.main,
    "trainer": trainer.main,
    "startup": startup.main,
    "memory": memory.main,
    "multi_label": multi_label.main,
    "plans": deadlines.plans,
    "timeline": timeline.main,
    "busy": deadlines.busy,
    "equal": deadlines.equal,
    "freezing": freezing.main,
    "frontier": frontier.main,
    "label_errors": label_errors.main,
    "large": large_file.main,
    "prediction": prediction.main,
    "serve": serving.main,
    "cost": cost_function.main,
    "checkpoint": checkpoints.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("--data", help="labelled text to train on (default: generated)")
    parser.add_argument("--eval", help="labelled text to evaluate on")
    parser.add_argument("--rows", type=int, default=4000, help="rows of the data to use")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--deadlines", type=int, nargs="+", help="of plans, equal and large: seconds")
    parser.add_argument(
        "--shared", default="../shared/data", help="of frontier and label_errors: folder of data sets"
    )
    parser.add_argument(
        "--sets", nargs="+", choices=frontier.SETS, help="of frontier (default: all) and label_errors"
    )
    parser.add_argument("--systems", nargs="+", choices=frontier.SYSTEMS, help="of frontier (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of frontier and label_errors")
    parser.add_argument("--train-rows", type=int, help="of frontier: a random sample of so many rows")
    parser.add_argument("--most-test", type=int, default=10_000, help="of frontier: test rows at most")
    parser.add_argument(
        "--python",
        nargs="+",
        default=[],
        metavar="SYSTEM=PATH",
        help="of frontier and label_errors: a system's own interpreter",
    )
    parser.add_argument("--pair", help="of prediction: two text columns, as --text of `edgetune finetune`")
    parser.add_argument("--run", type=Path, help="of serve: a finished run (default: one of a few steps)")
    parser.add_argument("--profile", help="device profile (default: the one that fits this machine)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    print(machine_line())
    try:
        BENCHES[arguments.bench](arguments)
    except EdgetuneError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
