"""Options of commands: the settings of a run, what several share, the panels of `--help`."""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from edgetune.config import choices
from edgetune.utils.errors import UsageError
from edgetune.utils.sanitize import on_terminal

_OPTION = re.compile(r"--?[A-Za-z][\w-]*(=.*)?", re.DOTALL)


def completion_of(*names: str) -> Callable[[str], list[str]]:
    """Return a function that completes names in the shell, also several separated by commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names if name.startswith(last)]

    return complete


def complete_methods(incomplete: str) -> list[str]:
    """Complete names of methods in the shell."""
    from edgetune.selection import METHODS  # the classes, which would slow `--help`

    return completion_of(*METHODS)(incomplete)


def option(kind: Any, help_text: str, default: str | None = None, *flags: str, **more: Any) -> Any:
    """Return the annotation of an option of a type, which is None unless it is given.

    `default` says in words what is done without it; without `flags`, it is named after its parameter.
    """
    return Annotated[kind | None, typer.Option(*flags, help=help_text, show_default=default or True, **more)]


def choice(literal: Any, help_text: str, default: str, kind: Any = None) -> Any:
    """Return an option whose choices, a Literal, are part of its help text; a column would be too wide."""
    names = get_args(literal)
    more = {"metavar": "NAME", "autocompletion": completion_of(*names)}
    return option(kind or literal, f"{help_text}: {', '.join(names)}.", default, **more)


Data = Annotated[str, typer.Argument(help="Labelled text: a file, a folder, or hub:NAME.")]
FinishedRun = Annotated[Path, typer.Argument(help="Folder of a finished run.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors and the result.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output file that already exists.")]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        help="Cache folder for tokens and artifacts (default: $EDGETUNE_CACHE, else the user's cache)."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Set any other setting (see `edgetune methods NAME`): --set beta=2 --set lr=1e-4."
    ),
]

READING = ("text", "pair", "header", "encoding", "delimiter", "escape")
"""Settings by which a file of text is read."""
LABELS = ("label", "merge_labels", "multi_label")
"""The same of its labels."""
SETTINGS: dict[str, Any] = {
    "eval": option(str, "Labelled text to evaluate on.", "rows held out of the training data"),
    "text": option(str, "Text column, or several with commas: question,sentence (or numbers: 2,3)."),
    "label": option(str, "Label column, or a column for each label with commas: bad,good."),
    "pair": option(bool, "Treat two text columns as a sentence pair."),
    "header": option(bool, "The first row holds (or does not hold) column names.", "detected"),
    "encoding": option(str, "Encoding of text files, or auto: detected from the content.", "utf-8"),
    "delimiter": option(str, "Column delimiter.", "detected"),
    "escape": option(bool, "A backslash escapes (or does not escape) quotes in delimited files.", "detected"),
    "merge_labels": option(
        bool,
        "Treat labels that differ only in letter case, a final full stop, or _, - and blanks as one.",
        "False",
        "--merge-labels/--keep-labels",
    ),
    "multi_label": option(
        bool,
        "A row may have several labels, or none: lists, a;b, or --label a,b with columns of 0 and 1.",
        "detected from lists of labels",
        "--multi-label/--single-label",
    ),
    "holdout": option(
        float,
        "Share of rows to hold out for evaluation if --eval is not given.",
        "0.1, at most 10,000 rows",
    ),
    "max_bad_rows": option(float, "Largest share of unusable rows that is accepted.", "0.01"),
    "max_length": option(int, "Maximum number of tokens per text.", "128"),
    "model": option(str, "Model to finetune: model folder or hub:NAME.", "built-in"),
    "artifacts": option(str, "Train from artifacts made by `edgetune export`."),
    "pooling": choice(
        choices.Pooling,
        "Input of a new classifier head, where cls is the first token",
        "auto: the mean where the encoder was trained with it",
    ),
    "freeze": option(
        str,
        "Layers to freeze: none, embeddings, a number of lowest layers, or auto.",
        "auto: embeddings, and more layers for a deadline or few rows",
    ),
    "cache_size": option(
        str,
        "Cache size for the output of frozen layers: 500MB, or 0 for no cache.",
        "planned, 1GB at most",
    ),
    "backend": choice(choices.Backend, "Training backend", "auto"),
    "device": choice(choices.Device, "Device to train on", "cpu"),
    "precision": choice(choices.Precision, "Floating-point precision of the torch backend", "auto"),
    "threads": option(int, "Number of threads.", "all cores"),
    "onnx": option(bool, "Export (or do not export) an ONNX model from the torch backend."),
    "method": option(
        str,
        "Method of choosing which examples to train (see `edgetune methods`).",
        "train-all",
        metavar="NAME",
        autocompletion=complete_methods,
    ),
    "preset": choice(choices.Preset, "Hyperparameters of the three-stage filter", "default"),
    "keep_rate": option(float, "random: share of examples to keep.", "0.5"),
    "threshold": option(float, "fixed-threshold: train examples with a loss (nats) above this.", "0.3"),
    "warmup_fraction": option(float, "Length of the warm-up (stage 0), as a share of one epoch.", "0.1"),
    "moving_threshold": option(
        bool,
        "Update the loss threshold L_low after stage 0, or keep it fixed.",
        None,
        "--moving-threshold/--frozen-threshold",
    ),
    "alt": option(float, "Predictor loss (nats) at which stage 1 ends.", "by preset"),
    "alt_window": option(int, "Number of batches (W) over which that loss is averaged.", "by preset"),
    "explore_rate": option(float, "Share of examples predicted easy that are scored anyway.", "by preset"),
    "epochs": option(
        int,
        "Number of passes over the training rows.",
        "by the number of rows, 1 to 10, with early stopping",
    ),
    "batch_size": option(int, "Examples per optimizer step.", "32"),
    "lr": option(
        float, "Peak learning rate.", "from model size and number of steps", "--lr", "--learning-rate"
    ),
    "max_steps": option(int, "Stop after this many optimizer steps."),
    "seed": option(int, "Random seed.", "0"),
    "deadline": option(
        str, "Finish within this time, start-up and saving included: 90s, 10m, 1h30m, or by 18:30."
    ),
    "energy": option(str, "Energy limit: 20kJ, 5Wh."),
    "battery": option(str, "Largest share of the battery to use: 5%."),
    "memory": option(str, "Memory limit for batch size and cache: 2GB, 800MB."),
    "watts": option(float, "Power draw of this machine (W), to estimate energy where there is no sensor."),
    "ngrams": option(bool, "Also fit an n-gram classifier and combine it with the encoder.", "True"),
    "learners": option(
        str,
        "Learners that take part, with commas: ngrams, probe (a linear probe on the untouched encoder, "
        f"within a deadline), {', '.join(['encoder (trained)', *choices.TEXT_LEARNERS])}.",
        ",".join(choices.USUAL_LEARNERS),
        autocompletion=completion_of(*choices.LEARNERS),
    ),
    "single": option(
        bool,
        "Predict with the best learner alone, or with all learners combined.",
        "False",
        "--single/--combined",
    ),
    "metric": choice(choices.Metric, "Metric by which learners are compared", "accuracy"),
    "class_weight": choice(
        choices.ClassWeight,
        "Correction for unequal class frequencies",
        "auto: as far as it improves --metric",
    ),
    "patience": option(int, "Stop after this many passes without improvement.", "never"),
    "checkpoint_every": option(str, "Time between checkpoints (0: only when stopped).", "60s"),
    "log_to": choice(
        choices.LogTo, "Also write the figures of the run for another program", "none", kind=list[str]
    ),
}
"""Settings of a run that are options, by name."""


def takes(*names: str, **others: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command some of `SETTINGS`, and other options, beside those that its signature annotates.

    It gets those that the user gave, by name: what is not given must not overrule a config file.
    """
    taken = {name: SETTINGS[name] for name in names} | others

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in taken
        ]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in taken.items()
        ]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = {name: values.pop(name) for name in taken}
            given = {name: value for name, value in given.items() if value is not None}
            if "text" in given:
                from edgetune.config.toml_config import column_names

                given["text"] = column_names(given["text"])
            command(**values, **given)

        run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *added)}
        return run

    return decorate


PANELS = {
    "Data": "eval file text label pair header encoding delimiter escape merge_labels multi_label holdout "
    "max_bad_rows max_length rows eval_rows",
    "Server": "host port token queue",
    "Model": "model artifacts labels pooling freeze onnx backend device precision threads",
    "Training": "epochs batch_size lr max_steps seed seeds learners ngrams single metric "
    "class_weight patience",
    "Budget": "deadline energy battery memory cache_size watts quick",
    "Selection": "method methods curve preset keep_rate threshold warmup_fraction moving_threshold alt "
    "alt_window explore_rate",
    "Output": "out limit name map_ format_ int8 models unsure all_ explain details log_to overwrite quiet "
    "as_json",
    "Advanced": "set_ config resume checkpoint_every cache_dir help",
}
"""Parameters by their panel in `--help`, in the order in which they are shown."""

_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names.split()}
_ORDER = list(_PANEL_OF)


class _Panels:
    """Shows options in panels, and the examples of a docstring at the end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        text, _, examples = inspect.cleandoc(kwargs["help"] or "").partition("Examples:\n")
        if examples:
            lines = ["Examples:", *map(str.strip, examples.splitlines())]
            kwargs |= {"help": text.strip(), "epilog": "\n\n".join(lines)}
        super().__init__(*args, **kwargs)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return arguments, options without a panel, and those of the panels."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        options = [param for param in params if param.param_type_name == "option"]
        for option in options:
            option.rich_help_panel = _PANEL_OF.get(option.name)
        options.sort(key=lambda option: _ORDER.index(option.name) if option.name in _PANEL_OF else -1)
        return [param for param in params if param.param_type_name != "option"] + options


class PanelCommand(_Panels, TyperCommand):
    """A command with its options in panels."""


class PanelGroup(_Panels, TyperGroup):
    """A group of commands with its own options in panels."""


class TextsCommand(PanelCommand):
    """A command that takes texts: a word that begins with a dash and cannot be an option is one of them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move such texts, and the arguments after them, behind `--`, where nothing is an option."""
        end = args.index("--") if "--" in args else len(args)
        options = [param for param in self.params if param.param_type_name == "option"]
        take_value = {
            name for param in options if not getattr(param, "is_flag", False) for name in param.opts
        }
        kept: list[str] = []
        texts: list[str] = []
        for word, before in zip(args[:end], ["", *args[:end]], strict=False):
            is_option = before in take_value or _OPTION.fullmatch(word) is not None
            is_text = not is_option and (texts or word.startswith("-"))
            (texts if is_text else kept).append(word)
        behind = [*texts, *args[end + 1 :]]
        return list(super().parse_args(ctx, [*kept, "--", *behind] if behind else kept))


def tell(text: str) -> None:
    """Print a progress message on stderr."""
    print(on_terminal(text), file=sys.stderr)


def parse_set_options(items: list[str]) -> dict[str, Any]:
    """Return the settings of `--set NAME=VALUE`; a value is parsed as JSON, or else taken as a word."""
    settings: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {item}: write it as NAME=VALUE.")
        try:
            settings[name.strip().replace("-", "_")] = json.loads(value)
        except (ValueError, RecursionError):
            settings[name.strip().replace("-", "_")] = value.strip()
    return settings


def console() -> Any:
    """Return a rich console on stdout."""
    from rich.console import Console

    return Console()
