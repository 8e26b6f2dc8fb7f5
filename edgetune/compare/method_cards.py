"""Method cards: what each way of choosing examples does, when to use it, what it costs, when it loses.

A card is read off what stands beside the code, so it cannot tell of another method than the one that runs:

    module docstring (What, Use when, Costs, …)  ─┐
    class docstring: first line, own entries     ─┼─→ Card ─→ terminal, JSON, Markdown
    fields of its settings                       ─┘

Outside programs that `edgetune.compare.baselines` runs have cards of the same form, without settings.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from typing import Any

from edgetune.compare.baselines import all_baselines
from edgetune.selection import SELECTORS, SelectionSettings, Selector
from edgetune.utils.errors import UsageError, did_you_mean
from edgetune.utils.tables import Section

SECTIONS = ("What", "Use when", "Costs", "Loses when", "Source")
_ENTRY = re.compile(r"^(\w[\w ]*):(.*(?:\n+    .*)*)", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """A setting that a method reads: its name in `[selection]`, its default, and its meaning in a clause."""

    name: str
    default: Any
    meaning: str

    @property
    def default_text(self) -> str:
        """The default as it is written on the command line or in TOML."""
        words = str(self.default)
        return words.lower() if self.default is None or isinstance(self.default, bool) else words


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """What there is to know of a method before choosing it; a text is empty where nothing is written.

    Attributes:
        source: paper, section and equation.
        needs: what an outside program needs installed; None for edgetune's own methods.
    """

    name: str
    line: str
    what: str = ""
    use_when: str = ""
    costs: str = ""
    loses_when: str = ""
    settings: list[Setting] = dataclasses.field(default_factory=list)
    source: str = ""
    needs: str | None = None

    @property
    def told(self) -> list[tuple[str, ...]]:
        """Its texts, each with its heading."""
        fields = ("what", "use_when", "costs", "loses_when", "needs", "source")
        return [(name.replace("_", " "), text) for name in fields if (text := getattr(self, name))]


def entries(text: str | None) -> dict[str, str]:
    """Read `Name: text` off a docstring, each on one line; continuation lines are indented."""
    return {name: " ".join(told.split()) for name, told in _ENTRY.findall(inspect.cleandoc(text or ""))}


def card_of(kind: type[Selector]) -> Card:
    """Make the card of a selector from its class and its module."""
    fields = dict(kind.Settings.model_fields)
    if kind.is_filter:
        fields["watched"] = SelectionSettings.model_fields["watched"]
    settings = [Setting(name, field.default, field.description or "") for name, field in fields.items()]
    line = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]
    told = _texts(sys.modules[kind.__module__].__doc__, kind.__doc__)
    return Card(kind.name, line, settings=settings, **told)


def _texts(*docstrings: str | None) -> dict[str, Any]:
    """Return the fields of a card that docstrings tell; of entries of one name the last."""
    told = {name: text for docstring in docstrings for name, text in entries(docstring).items()}
    return {name.lower().replace(" ", "_"): told.get(name, "") for name in SECTIONS}


def method_cards() -> dict[str, Card]:
    """Return the cards of all selection methods, by name, in the order of `SELECTORS`."""
    return {name: card_of(kind) for name, kind in SELECTORS.items()}


def baseline_cards() -> dict[str, Card]:
    """Return the cards of the outside programs that edgetune can be compared with, by name."""
    return {
        name: Card(
            name,
            f"{one.summary[:1].upper()}{one.summary[1:].rstrip('.')}.",
            needs=", ".join(one.packages),
            **_texts(sys.modules[one.fit.__module__].__doc__),
        )
        for name, one in all_baselines().items()
    }


def find_card(name: str) -> Card:
    """Return the card of a method or an outside program.

    Raises:
        UsageError: there is none of that name.
    """
    cards = method_cards() | baseline_cards()
    if name in cards:
        return cards[name]
    near = did_you_mean(name.lower().replace("_", "-").replace(" ", "-"), cards)
    raise UsageError(f'There is no method "{name}".{near} `edgetune methods` lists all {len(cards)}.')


def list_sections() -> list[Section]:
    """Return the list of methods as tables, one line each."""
    own = "Methods (`edgetune finetune FILE --method NAME`)"
    every = {own: method_cards(), "Baselines for comparison": baseline_cards()}
    return [
        Section(title, [(one.name, one.line) for one in cards.values()]) for title, cards in every.items()
    ]


def card_sections(card: Card) -> list[Section]:
    """Return a card as tables; what it does not tell is left out."""
    settings = [(one.name, one.default_text, one.meaning) for one in card.settings]
    blocks = [
        Section(f"{card.name}: {card.line}", card.told),
        Section("Settings", settings, ("setting", "default", "meaning")),
    ]
    return [block for block in blocks if block.rows]


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
    return "\n".join([*blocks, "## Baselines\n", *map(_card_markdown, baseline_cards().values())])


def _card_markdown(card: Card) -> str:
    lines = [f"### {card.name}", "", card.line, ""]
    lines += [f"- **{title.capitalize()}:** {text}" for title, text in card.told]
    if card.settings:
        lines += ["", "| setting | default | meaning |", "|---|---|---|"]
        lines += [
            f"| `{one.name}` | `{one.default_text}` | {one.meaning.replace('|', chr(92) + '|')} |"
            for one in card.settings
        ]
    return "\n".join(lines) + "\n"
