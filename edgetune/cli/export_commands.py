"""`edgetune export`: a run's classifier for other programs, or training artifacts for another device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgetune.cli.options import CacheDir, choice_option, console
from edgetune.config.choices import Pooling
from edgetune.utils.errors import UsageError


def export(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a finished run, to export its classifier.")
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Also write the classifier with an 8-bit encoder; measure accuracy and speed."
        ),
    ] = False,
    file: Annotated[
        str | None,
        typer.Option(help="Labelled text to measure int8 on.", show_default="the run's evaluation rows"),
    ] = None,
    labels: Annotated[
        int | None,
        typer.Option(help="Export training artifacts for this number of labels, in place of a run."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model of the artifacts: folder or hub:NAME.", show_default="built-in"),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(
            help="Layers that the artifacts freeze: none, embeddings, or a number of lowest layers.",
            show_default="embeddings",
        ),
    ] = None,
    pooling: Annotated[
        Pooling | None,
        choice_option(
            Pooling, "Input of the artifacts' classifier head, where cls is the first token", "auto"
        ),
    ] = None,
    multi_label: Annotated[
        bool,
        typer.Option("--multi-label", help="Artifacts for rows that may have several labels, or none."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in that folder.")
    ] = False,
    cache_dir: CacheDir = None,
) -> None:
    """Export a run's classifier to ONNX, or training artifacts.

    Examples:
        edgetune export runs/reviews --out classifier/
        edgetune export runs/reviews --out classifier/ --int8 --file test.csv
        edgetune export --labels 2 --out artifacts/
    """
    if (run is None) == (labels is None):
        raise UsageError(
            "Give either a run folder, to export its classifier, or --labels N, to export training artifacts."
        )
    if run is None:
        assert labels is not None
        if int8 or file is not None:
            raise UsageError("--int8 and --file need a run folder; leave them out with --labels.")
        _export_artifacts(labels, out, model, freeze, pooling, multi_label, overwrite, cache_dir)
        return
    given = {"--model": model, "--freeze": freeze, "--pooling": pooling, "--multi-label": multi_label or None}
    if useless := [name for name, value in given.items() if value is not None]:
        raise UsageError(
            f"{', '.join(useless)}: only training artifacts (--labels) have that; a run is exported as it is."
        )
    _export_run(run, out, int8, file, overwrite, cache_dir)


def _export_run(
    folder: Path, out: Path, int8: bool, file: str | None, overwrite: bool, cache_dir: Path | None
) -> None:
    from edgetune.inference.classifier_export import CHECKED_TEXTS, export_classifier
    from edgetune.inference.saved_run import load_run
    from edgetune.report.result_tables import int8_sections
    from edgetune.utils.tables import print_sections

    run = load_run(folder)
    done = export_classifier(run, out, int8=int8, file=file, overwrite=overwrite, cache_dir=cache_dir)
    print(
        f"Wrote the classifier of {folder} ({' and '.join(done.learners)}, {len(run.label_names)} labels) to "
        f"{out}.\n"
        f"Checked against the run on {CHECKED_TEXTS} texts: probabilities differ by {done.difference:.1e}.\n"
        f"Use it with: python {out / 'predict.py'} TEXT"
    )
    if done.int8 is not None:
        report = done.int8.to_dict()
        print_sections(int8_sections(report), console())
        for warning in done.int8.warnings:
            print(f"Warning: {warning}", file=sys.stderr)


def _export_artifacts(
    labels: int,
    out: Path,
    model: str | None,
    freeze: str | None,
    pooling: Pooling | None,
    multi_label: bool,
    overwrite: bool,
    cache_dir: Path | None,
) -> None:
    from edgetune.backends.ort.artifacts import export_artifacts
    from edgetune.backends.ort.ort_runtime import import_training

    import_training()
    frozen = "embeddings" if freeze is None else freeze
    done = export_artifacts(
        model,
        labels,
        out,
        freeze=frozen,
        pooling=pooling or "auto",
        multi_label=multi_label,
        overwrite=overwrite,
        cache_dir=cache_dir,
    )
    check = done.manifest.check
    print(
        f"Wrote training artifacts of {done.manifest.model} ({labels} labels, frozen: {frozen}) to {out}.\n"
        f"Checked against torch: logits differ by {check.logits:.1e}, gradients by {check.gradients:.1e}.\n"
        f"Train from them with: edgetune finetune FILE --artifacts {out}"
    )
