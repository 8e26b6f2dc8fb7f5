"""Options that several commands share, the panels of `--help`, and what commands do with options."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from inspect import cleandoc
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


def choice_option(literal: Any, help_text: str, default: str) -> Any:
    """Return an option whose choices, a Literal, are part of its help text; a column would be too wide."""
    return typer.Option(
        metavar="NAME",
        help=f"{help_text}: {', '.join(get_args(literal))}.",
        show_default=default,
        autocompletion=completion_of(*get_args(literal)),
    )


Data = Annotated[str, typer.Argument(help="Labelled text: a file, a folder, or hub:NAME.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors and the result.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output file that already exists.")]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        help="Cache folder for tokens and artifacts (default: $EDGETUNE_CACHE, else the user's cache)."
    ),
]
Eval = Annotated[
    str | None,
    typer.Option(
        "--eval", help="Labelled text to evaluate on.", show_default="rows held out of the training data"
    ),
]
Text = Annotated[
    str | None, typer.Option(help="Text column, or several with commas: question,sentence (or numbers: 2,3).")
]
Label = Annotated[
    str | None, typer.Option(help="Label column, or a column for each label with commas: bad,good.")
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="The first row holds (or does not hold) column names.",
        show_default="detected",
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(help="Encoding of text files, or auto: detected from the content.", show_default="utf-8"),
]
Delimiter = Annotated[str | None, typer.Option(help="Column delimiter.", show_default="detected")]
Escape = Annotated[
    bool | None,
    typer.Option(
        "--escape/--no-escape",
        help="A backslash escapes (or does not escape) quotes in delimited files.",
        show_default="detected",
    ),
]
Pair = Annotated[
    bool | None, typer.Option("--pair/--no-pair", help="Treat two text columns as a sentence pair.")
]
MergeLabels = Annotated[
    bool | None,
    typer.Option(
        "--merge-labels/--keep-labels",
        help="Treat labels that differ only in letter case, a final full stop, or _, - and blanks as one.",
        show_default="False",
    ),
]
MultiLabel = Annotated[
    bool | None,
    typer.Option(
        "--multi-label/--single-label",
        help="A row may have several labels, or none: lists, a;b, or --label a,b with columns of 0 and 1.",
        show_default="detected from lists of labels",
    ),
]
MaxBadRows = Annotated[
    float | None,
    typer.Option(help="Largest share of unusable rows that is accepted.", show_default="0.01"),
]
MaxLength = Annotated[int | None, typer.Option(help="Maximum number of tokens per text.", show_default="128")]
Model = Annotated[
    str | None, typer.Option(help="Model to finetune: model folder or hub:NAME.", show_default="built-in")
]
Deadline = Annotated[
    str | None,
    typer.Option(help="Finish within this time, start-up and saving included: 90s, 10m, 1h30m, or by 18:30."),
]
Energy = Annotated[str | None, typer.Option(help="Energy limit: 20kJ, 5Wh.")]
BatteryShare = Annotated[
    str | None, typer.Option("--battery", help="Largest share of the battery to use: 5%.")
]
Memory = Annotated[str | None, typer.Option(help="Memory limit for batch size and cache: 2GB, 800MB.")]
Watts = Annotated[
    float | None,
    typer.Option(help="Power draw of this machine (W), to estimate energy where there is no sensor."),
]
CacheSize = Annotated[
    str | None,
    typer.Option(
        help="Cache size for the output of frozen layers: 500MB, or 0 for no cache.",
        show_default="planned, 1GB at most",
    ),
]

Backend = Annotated[choices.Backend | None, choice_option(choices.Backend, "Training backend", "auto")]
Precision = Annotated[
    choices.Precision | None,
    choice_option(choices.Precision, "Floating-point precision of the torch backend", "auto"),
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Method of choosing which examples to train (see `edgetune methods`).",
        show_default="train-all",
        autocompletion=complete_methods,
    ),
]
BatchSize = Annotated[int | None, typer.Option(help="Examples per optimizer step.", show_default="32")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Set any other setting (see `edgetune methods NAME`): --set beta=2 --set lr=1e-4."
    ),
]


PANELS = {
    "Data": "eval_ file text label pair header encoding delimiter escape merge_labels multi_label holdout "
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
        text, _, examples = cleandoc(kwargs["help"] or "").partition("Examples:\n")
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
            if before in take_value or _OPTION.fullmatch(word) is not None:
                kept.append(word)
            elif texts or word.startswith("-"):
                texts.append(word)
            else:
                kept.append(word)
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


def given_options(values: dict[str, Any], *without: str) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in values.items() if value is not None and name not in without}


def given_settings(values: dict[str, Any], *without: str) -> dict[str, Any]:
    """Return the options that were given as settings of a run: `eval_` is `eval`, `data` is `train`."""
    settings = given_options(values, *without)
    for option, name in (("data", "train"), ("eval_", "eval")):
        if option in settings:
            settings[name] = settings.pop(option)
    if "text" in settings:
        settings["text"] = split_columns(settings["text"])
    return settings


def split_columns(text: str) -> tuple[str, ...]:
    """Split `a,b` into column names."""
    from edgetune.config.toml_config import column_names

    return column_names(text)


def console() -> Any:
    """Return a rich console on stdout."""
    from rich.console import Console

    return Console()
