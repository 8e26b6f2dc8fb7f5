"""What a notebook shows of a run, without Jupyter."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from edgetune.report.live_view import NotebookView, PlainView, in_notebook, make_view
from edgetune.run_files.counters import Counters
from edgetune.utils.multi_label import evaluate_answers


def test_one_output_that_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    handle = SimpleNamespace(update=lambda view: drawn.append(repr(view)))

    def display(view: object, display_id: bool) -> SimpleNamespace:
        drawn.append(repr(view))
        return handle

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))  # type: ignore[arg-type]
    view = make_view(quiet=False)
    assert isinstance(view, NotebookView)
    view.say("Tokenizing <b>")
    view.warn("few rows")
    view.progress(0.5, Counters(), 0.7, "all", 3.0)
    assert drawn[-1].splitlines() == ["Tokenizing <b>", "warning: few rows"]
    assert "&lt;b&gt;" in view._repr_html_()


def test_a_terminal_is_no_notebook() -> None:
    assert not in_notebook()


@pytest.mark.parametrize(("epoch", "named"), [(0, "linear probe"), (2, "encoder after epoch 2")])
def test_an_evaluation_names_what_was_evaluated(
    epoch: int, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate_answers(np.log(np.array([[0.9, 0.1], [0.4, 0.6]])), np.array([0, 1]), ("a", "b"))
    PlainView().evaluated(epoch, found)
    assert capsys.readouterr().err.startswith(f"{named}: accuracy 1.0000")
