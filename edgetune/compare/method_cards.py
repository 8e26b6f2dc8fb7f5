"""Method cards: what each way of choosing examples does, when to use it, what it costs, when it loses.

A card is read off what stands beside the code, so it cannot tell of another method than the one that runs:

    module docstring (What, Use when, Costs, …)  ─┐
    first line of the class's docstring          ─┼─→ Card ─→ terminal, JSON, Markdown
    fields of its settings                       ─┘

Outside programs that `edgetune.compare.baselines` runs have cards of the same form, without settings.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from edgetune.selection import SelectionSettings
from edgetune.utils.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from edgetune.selection.selector_contract import Method
    from edgetune.utils.tables import Section


SECTIONS = ("What", "Use when", "Costs", "Loses when", "Source")
_HEAD = re.compile(rf"^({'|'.join(SECTIONS)}):(?: +(.*))?$")


class Setting(NamedTuple):
    """A setting that a method reads.

    Attributes:
        name: as in a config's `[selection]`; the option is the same with dashes.
        default: as JSON knows it.
        meaning: one clause.
    """

    name: str
    default: Any
    meaning: str


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """What there is to know of a method before choosing it; a text is empty where nothing is written.

    Attributes:
        name: as `--method` has it.
        line: one line.
        settings: those it reads, in their order.
        source: paper, section and equation.
        needs: what an outside program needs installed; None for edgetune's own methods.
    """

    name: str
    line: str
    what: str = ""
    use_when: str = ""
    costs: str = ""
    loses_when: str = ""
    settings: tuple[Setting, ...] = ()
    source: str = ""
    needs: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        plain = dataclasses.asdict(self)
        return plain | {"settings": [setting._asdict() for setting in self.settings]}


def sections_of(docstring: str | None) -> dict[str, str]:
    """Read `Name: text` sections off a docstring; continuation lines are indented.

    Returns:
        The text of each of `SECTIONS` that is there, on one line.
    """
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in inspect.cleandoc(docstring or "").splitlines():
        head = _HEAD.match(line)
        if head is not None:
            lines = found.setdefault(head[1], [])
            lines.append(head[2] or "")
        elif line.startswith("    "):
            lines.append(line.strip())
        elif line:
            lines = []  # plain text belongs to no section
    return {name: " ".join(part for part in parts if part) for name, parts in found.items()}


def first_line(docstring: str | None) -> str:
    """Return the first line of a docstring, "" where there is none."""
    return inspect.cleandoc(docstring or "").partition("\n")[0]


def card_of(kind: type[Method]) -> Card:
    """Make the card of a selector from its class and its module."""
    fields = dict(kind.Settings.model_fields)
    if kind.scores_first:
        fields["watched"] = SelectionSettings.model_fields["watched"]
    settings = tuple(Setting(name, field.default, field.description or "") for name, field in fields.items())
    module = sys.modules.get(kind.__module__)
    texts = _texts(module.__doc__ if module is not None else None)
    return Card(kind.name, first_line(kind.__doc__), settings=settings, **texts)


def _texts(docstring: str | None) -> dict[str, str]:
    """Return the fields of a card that a module's docstring tells."""
    told = sections_of(docstring)
    return {name.lower().replace(" ", "_"): told.get(name, "") for name in SECTIONS}


def method_cards() -> dict[str, Card]:
    """Return the cards of all selection methods, by name, in the order of `SELECTORS`."""
    from edgetune.selection import SELECTORS

    return {name: card_of(kind) for name, kind in SELECTORS.items()}


def baseline_cards() -> dict[str, Card]:
    """Return the cards of the outside programs that edgetune can be compared with, by name."""
    from edgetune.compare.baselines import BASELINES

    return {
        name: Card(
            name,
            _sentence(baseline.summary),
            settings=(),
            needs=", ".join(baseline.packages) or "no additional packages",
            **_texts(importlib.import_module(baseline.module).__doc__),
        )
        for name, baseline in BASELINES.items()
    }


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def find_card(name: str) -> Card:
    """Return the card of a method or an outside program.

    Raises:
        UsageError: there is none of that name.
    """
    cards = method_cards()
    if name not in cards:
        cards |= baseline_cards()
    if name in cards:
        return cards[name]
    near = did_you_mean(name.lower().replace("_", "-").replace(" ", "-"), cards)
    raise UsageError(f'There is no method "{name}".{near} `edgetune methods` lists all {len(cards)}.')


def list_sections(methods: dict[str, Card], baselines: dict[str, Card]) -> list[Section]:
    """Return the list of methods as tables, one line each."""
    from edgetune.utils.tables import Section

    blocks = [
        Section("Methods (`edgetune finetune FILE --method NAME`)", _lines(methods)),
        Section("Baselines for comparison", _lines(baselines)),
    ]
    return [block for block in blocks if block.rows]


def _lines(cards: dict[str, Card]) -> list[tuple[str, ...]]:
    return [(name, card.line) for name, card in cards.items()]


def card_sections(card: Card) -> list[Section]:
    """Return a card as tables; what it does not tell is left out."""
    from edgetune.utils.tables import Section

    texts: list[tuple[str, ...]] = [(title, text) for title, text in _told(card)]
    settings: list[tuple[str, ...]] = [
        (setting.name, describe_default(setting.default), setting.meaning) for setting in card.settings
    ]
    blocks = [
        Section(f"{card.name}: {card.line}", texts),
        Section("Settings", settings, ("setting", "default", "meaning")),
    ]
    return [block for block in blocks if block.rows]


def _told(card: Card) -> list[tuple[str, str]]:
    pairs = [
        ("what", card.what),
        ("use when", card.use_when),
        ("costs", card.costs),
        ("loses when", card.loses_when),
        ("needs", card.needs or ""),
        ("source", card.source),
    ]
    return [(title, text) for title, text in pairs if text]


def describe_default(default: Any) -> str:
    """Say a default as it is written on the command line or in TOML."""
    if default is None:
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


MARKDOWN_HEAD = """# Method cards

Generated from the docstrings in the code by `edgetune.compare.method_cards.cards_markdown()`; edit them
there. `edgetune methods` lists the methods, and `edgetune methods NAME` prints one card. Settings belong in
the `[selection]` section of a config; those that `edgetune finetune --help` lists are also command-line
options, with dashes instead of underscores.

## Methods
"""


def cards_markdown() -> str:
    """Return the whole text of `docs/method-cards.md`."""
    blocks = [MARKDOWN_HEAD, *map(_card_markdown, method_cards().values())]
    baselines = baseline_cards()
    if baselines:
        blocks += ["## Baselines\n", *map(_card_markdown, baselines.values())]
    return "\n".join(blocks)


def _card_markdown(card: Card) -> str:
    lines = [f"### {card.name}", "", card.line, ""]
    lines += [f"- **{title[0].upper()}{title[1:]}:** {text}" for title, text in _told(card)]
    if card.settings:
        lines += ["", "| setting | default | meaning |", "|---|---|---|"]
        lines += [
            f"| `{setting.name}` | `{describe_default(setting.default)}` | {_cell(setting.meaning)} |"
            for setting in card.settings
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
