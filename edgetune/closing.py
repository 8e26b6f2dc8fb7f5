"""The end of a run as it lies in its folder: model card, picture, summary; and what its user is warned of."""

from __future__ import annotations

from collections.abc import Callable

from edgetune.errors import RunError
from edgetune.faults import place
from edgetune.history import read_history
from edgetune.meter import Meter
from edgetune.report.live import View
from edgetune.result import RunResult
from edgetune.runfolder import INTERRUPTED, RunFolder
from edgetune.timed import Timed


def write_receipt(
    receipt: Callable[[], RunResult],
    folder: RunFolder,
    meter: Meter,
    view: View,
    timed: Timed | None,
    limit_mb: float | None,
) -> RunResult:
    """Write the summary and the model card, and draw the picture if there is time for it.

    Args:
        receipt: makes the receipt of what has happened up to its call.
        folder: where the run lies.
        meter: is charged.
        view: is told what went wrong.
        timed: plan and clock of a run with a deadline.
        limit_mb: memory that was planned for.
    """
    with meter.phase("save"):
        draft = receipt()
        _write_card(draft, folder)
        if timed is None or timed.clock.picture_fits():
            _draw(draft, folder, view)
        else:
            view.warn("There was no time left to draw run.png.")
    if timed is not None:
        timed.mark("report")
    result = receipt()
    folder.write_json("summary.json", result.to_dict())
    place("summary-written")
    if result.deadline_s is not None and result.elapsed_s > result.deadline_s:
        late_s = result.elapsed_s - result.deadline_s
        view.warn(f"The deadline was passed by {late_s:.1f} s: the machine was slower than planned.")
    used_mb = result.peak_memory_mb or 0.0
    if limit_mb is not None and used_mb > limit_mb:
        view.warn(f"{used_mb:,.0f} MB of memory were used, {limit_mb:,.0f} planned for.")
    return result


def _write_card(draft: RunResult, folder: RunFolder) -> None:
    """Write the model card beside each model that the run left."""
    from edgetune.report.model_card import model_card

    card = model_card(draft.to_dict())
    for home in (folder.path, folder.path / INTERRUPTED):
        if (home / "model").is_dir():
            (home / "model" / "README.md").write_text(card, encoding="utf-8")


def _draw(draft: RunResult, folder: RunFolder, view: View) -> None:
    """Draw the picture of the run; a picture is no reason to lose the receipt."""
    from edgetune.report.plots import draw_run

    try:
        draw_run(read_history(folder.path / "history.jsonl"), draft.to_dict(), folder.path / "run.png")
    except RunError as error:
        view.warn(f"run.png was not drawn: {error}.")
