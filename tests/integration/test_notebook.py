"""Progress in a notebook, executed as Jupyter does."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ipykernel")
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

pytestmark = pytest.mark.filterwarnings("default")

CELL = """
from edgetune import finetune
result = finetune({data!r}, eval={evaluation!r}, model={model!r}, max_steps=3, backend="ort", out={out!r})
"""


def test_a_run_leaves_a_short_summary(
    tiny_model: Path, demo_csv: Path, demo_eval_csv: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    cell = CELL.format(data=str(demo_csv), evaluation=str(demo_eval_csv), model=str(tiny_model), out=str(out))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    (shown,) = notebook.cells[0].outputs
    assert shown.output_type == "display_data"
    assert "Accuracy" in shown.data["text/plain"]
    assert str(out) in shown.data["text/plain"]
    assert "<progress" not in shown.data["text/html"]
    assert len(shown.data["text/plain"].splitlines()) < 8
