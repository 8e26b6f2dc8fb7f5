"""The commands that use a finished run: predict, evaluate, inspect, export, serve; and `ui`, for all of it.

Registered by `app.py`.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetune.cli.options import (
    READING,
    CacheDir,
    Data,
    FinishedRun,
    Json,
    Overwrite,
    choice,
    console,
    option,
    takes,
    tell,
)
from edgetune.config.choices import Pooling
from edgetune.utils.errors import UsageError, requires_extra
from edgetune.utils.formatting import counted
from edgetune.utils.sanitize import json_text
from edgetune.utils.tables import print_sections


@takes(
    *READING,
    file=option(str, "File of texts: one per line, or a table (see --text)."),
    out=option(Path, "Write predictions to this .csv or .jsonl file."),
    unsure=option(float, 'Predict "unsure" where the probability is below this, such as 0.6.', "never"),
    all_=option(
        bool, "Also write a column with the probability of each class to a .csv file.", None, "--all"
    ),
    as_json=option(bool, "Print one JSON object per text.", None, "--json"),
)
def predict(
    run: FinishedRun,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts to classify.", show_default="one per line from stdin")
    ] = None,
    file: str | None = None,
    out: Path | None = None,
    overwrite: Overwrite = False,
    unsure: float | None = None,
    all_: bool = False,
    as_json: bool = False,
    **reading: Any,
) -> None:
    """Classify texts with a trained model.

    Examples:
        edgetune predict runs/reviews "the battery died in a day"
        edgetune predict runs/reviews --file new.csv --out predictions.csv --all
        cat texts.txt | edgetune predict runs/reviews --unsure 0.6
    """
    from edgetune.data.examples import DataOptions
    from edgetune.inference.predictions import (
        predict_file,
        predict_lines,
        print_predictions,
        stdin_lines,
        write_predictions,
    )
    from edgetune.inference.saved_run import load_run
    from edgetune.run_files.outputs import check_outputs

    if file is not None and texts:
        raise UsageError("Give texts or --file, not both.")
    if all_ and out is None and not as_json:
        raise UsageError("--all writes columns: add --out FILE.csv, or print the probabilities with --json.")
    check_outputs({"--out": out}, reads=[file], runs=[run], overwrite=overwrite)
    opened = load_run(run)
    if file is not None:
        predictions = predict_file(opened, file, DataOptions(**reading), unsure)
    else:
        predictions = predict_lines(opened, texts if texts else stdin_lines(), unsure)
    if out is not None:
        write_predictions(predictions, out, all_)
        n_predicted = predictions.n_rows - predictions.n_empty
        print(f"Wrote {counted(n_predicted, 'prediction')} to {out}.", file=sys.stderr)
    else:
        print_predictions(predictions, as_json)
    for note in predictions.notes():
        print(note, file=sys.stderr)


@takes(*READING, "label", "merge_labels", "max_bad_rows")
def evaluate(
    run: FinishedRun, data: Data, cache_dir: CacheDir = None, as_json: Json = False, **reading: Any
) -> None:
    """Evaluate a trained model on labelled text.

    Examples:
        edgetune evaluate runs/reviews test.csv
        edgetune evaluate runs/reviews test.tsv --text sentence --label class
    """
    from edgetune.inference.saved_run import load_run
    from edgetune.report.result_tables import evaluation_sections

    opened = load_run(run)
    share = reading.pop("max_bad_rows", 0.01)
    options = dataclasses.replace(opened.data_options(), **reading)
    found = opened.evaluate(data, options, cache_dir=cache_dir, max_bad_rows=share, say=tell)
    if as_json:
        print(json_text(found.to_dict()))
    else:
        print_sections(evaluation_sections(found))


def inspect(
    run: FinishedRun,
    rows: Annotated[int, typer.Option(help="Number of rows to list.", min=1)] = 10,
    limit: Annotated[
        int, typer.Option(help="Number of rows to check at most; of more, a random sample.", min=1)
    ] = 20_000,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the training file with a suggested label for each row to this CSV file."),
    ] = None,
    map_: Annotated[
        Path | None,
        typer.Option("--map", help="Plot the data map of the training rows to this file (.png or .svg)."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """List training rows whose label is probably wrong.

    Examples:
        edgetune inspect runs/reviews
        edgetune inspect runs/reviews --out corrected.csv --map map.png
    """
    from edgetune.inference.inspection import corrected_table, inspect_run
    from edgetune.report.result_tables import inspection_object, print_inspection, write_corrected
    from edgetune.run_files.example_stats import load_example_stats
    from edgetune.run_files.outputs import check_outputs
    from edgetune.run_files.run_folder import disk_errors

    check_outputs({"--out": out, "--map": map_}, runs=[run], overwrite=overwrite)
    if map_ is not None:
        from edgetune.report.charts import picture_kind

        try:
            picture_kind(map_)
        except ValueError as error:
            raise UsageError(f"--map {map_}: {error}.") from error
    found = inspect_run(run, rows, limit, tell)
    if out is not None:
        bad: list[str] = []
        write_corrected(out, corrected_table(found, bad.append))
        if bad:
            print(
                f"Rows left out because they cannot be read: {len(bad):,}, the first is {bad[0]}.",
                file=sys.stderr,
            )
    if map_ is not None:
        from edgetune.report.charts import draw_map

        record = load_example_stats(run)
        with disk_errors(map_):
            draw_map(record.confidence(), record.variability(), record.correctness(), map_)
    if as_json:
        print(json_text(inspection_object(found, rows)))
    else:
        print_inspection(found, rows, console())
    for path in (out, map_):
        if path is not None:
            print(f"Wrote {path}.", file=sys.stderr)


@takes(
    labels=option(int, "Export training artifacts for this number of labels, in place of a run."),
    model=option(str, "Model of the artifacts: folder or hub:NAME.", "built-in"),
    freeze=option(
        str, "Layers that the artifacts freeze: none, embeddings, or a number of lowest layers.", "embeddings"
    ),
    pooling=choice(Pooling, "Input of the artifacts' classifier head, where cls is the first token", "auto"),
    multi_label=option(
        bool, "Artifacts for rows that may have several labels, or none.", None, "--multi-label"
    ),
    int8=option(
        bool, "Also write the classifier with an 8-bit encoder; measure accuracy and speed.", None, "--int8"
    ),
    file=option(str, "Labelled text to measure int8 on.", "the run's evaluation rows"),
    overwrite=option(bool, "Replace an earlier export in that folder.", None, "--overwrite"),
)
def export(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a finished run, to export its classifier.")
    ] = None,
    int8: bool = False,
    file: str | None = None,
    overwrite: bool = False,
    cache_dir: CacheDir = None,
    **of_artifacts: Any,
) -> None:
    """Export a run's classifier to ONNX, or training artifacts.

    Examples:
        edgetune export runs/reviews --out classifier/
        edgetune export runs/reviews --out classifier/ --int8 --file test.csv
        edgetune export --labels 2 --out artifacts/
    """
    if (run is None) == ("labels" not in of_artifacts):
        raise UsageError(
            "Give either a run folder, to export its classifier, or --labels N, to export training artifacts."
        )
    if run is None:
        if int8 or file is not None:
            raise UsageError("--int8 and --file need a run folder; leave them out with --labels.")
        _export_artifacts(out, overwrite=overwrite, cache_dir=cache_dir, **of_artifacts)
        return
    if of_artifacts:
        useless = ", ".join(f"--{name.replace('_', '-')}" for name in of_artifacts)
        raise UsageError(
            f"{useless}: only training artifacts (--labels) have that; a run is exported as it is."
        )
    from edgetune.inference.classifier_export import CHECKED_TEXTS, export_classifier
    from edgetune.inference.saved_run import load_run
    from edgetune.report.result_tables import int8_sections

    opened = load_run(run)
    done = export_classifier(opened, out, int8=int8, file=file, overwrite=overwrite, cache_dir=cache_dir)
    print(
        f"Wrote the classifier of {run} ({' and '.join(done.learners)}, {len(opened.label_names)} labels) to "
        f"{out}.\n"
        f"Checked against the run on {CHECKED_TEXTS} texts: probabilities differ by {done.difference:.1e}.\n"
        f"Use it with: python {out / 'predict.py'} TEXT"
    )
    if done.int8 is not None:
        print_sections(int8_sections(done.int8.to_dict()))
        for warning in done.int8.warnings:
            print(f"Warning: {warning}", file=sys.stderr)


def _export_artifacts(out: Path, labels: int, model: str | None = None, **more: Any) -> None:
    from edgetune.backends.ort.artifacts import export_artifacts
    from edgetune.backends.ort.ort_runtime import import_training

    import_training()
    options = {"freeze": "embeddings"} | more
    done = export_artifacts(model, labels, out, **options)
    check = done.manifest.check
    frozen = options["freeze"]
    print(
        f"Wrote training artifacts of {done.manifest.model} ({labels} labels, frozen: {frozen}) to {out}.\n"
        f"Checked against torch: logits differ by {check.logits:.1e}, gradients by {check.gradients:.1e}.\n"
        f"Train from them with: edgetune finetune FILE --artifacts {out}"
    )


def serve(
    run: FinishedRun,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that other machines reach needs --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="EDGETUNE_TOKEN",
            help="Token that clients must send as `Authorization: Bearer TOKEN`.",
            show_default="none",
        ),
    ] = None,
    queue: Annotated[
        int,
        typer.Option(
            min=1, help="Texts that may wait; more are refused with status 503 until there is room."
        ),
    ] = 256,
) -> None:
    """Answer predictions over HTTP.

    Examples:
        edgetune serve runs/reviews --port 8000
        edgetune serve runs/reviews --host 0.0.0.0 --token SECRET
    """
    with requires_extra("serve", "serving"):
        from edgetune.inference.server import serve as serve_run
    serve_run(run, host, port, token, queue)


def ui(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 7860,
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("runs"),
    cache_dir: CacheDir = None,
) -> None:
    """Serve a local page: check data, train, mend labels, try a model.

    Examples:
        edgetune ui
        edgetune ui --port 8080 --runs experiments
    """
    with requires_extra("ui", "the page"):
        from edgetune.web.ui_server import run_page
    run_page(runs, port, cache_dir)
