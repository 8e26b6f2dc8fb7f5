"""Labelled support tickets that edgetune makes itself, for `edgetune demo` and for tests.

A small grammar: a ticket is one to five sentences around one main complaint, which is its label. Words alone
do not give the label away: other topics are mentioned as fine, long solved or less important; words such as
charge, card, order and account belong to several topics; some tickets are ambiguous, and some are labelled
wrong, as in real files.

The same seed gives the same file, bit for bit, on every platform: only `random.Random.random` is used.
"""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Sequence
from pathlib import Path

from edgetune.utils.files import write_atomic

LABELS = ("billing", "defect", "delivery", "login")

MIXED_RATE = 0.45
NOISE_RATE = 0.03
AMBIGUOUS_RATE = 0.05

# A line `name: a|b` gives words for a slot; a line `[name]` starts a list of patterns, one a line. Every
# clause of what is wrong can open a sentence or follow "but". W: the main complaint. V: a complaint of
# another topic. F: another topic is fine. N: name of another topic.
_GRAMMAR = """
item: kettle|headphones|desk lamp|keyboard|vacuum cleaner|phone case|coffee maker|router|backpack|blender
item: watch|monitor|drill|speaker|camera|heater|printer|toaster|bike light|hair dryer|tablet|doorbell
part: handle|hinge|cable|lid|zip|on switch|display|left button|plug|strap
day: Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday|the 3rd|the 21st
month: January|March|April|June|August|October|December
span: two days|a week|ten days|three weeks|a month|12 days|almost a fortnight
amount: $19|49.90 EUR|12 pounds|$240|8.99|130 euros|$64.50|27 dollars|$5
city: Leeds|Porto|Graz|Lyon|Denver|Ghent|Malmo|Austin|Turin
count: three|five|two|a dozen|4|several
billing: the invoice|the refund|the payment|my card|the price
delivery: the delivery|the parcel|the courier|shipping|the tracking page
login: my password|the login|my account|the code by text|signing in
defect: the {item} itself|the broken {part}|the repair|the battery|the noise it makes
greeting: Hi,|Hello,|Dear support,|Hi there,|Good morning,|Hey|Dear team,|To whom it may concern,
[wrong billing]
I was charged twice for the {item}
the invoice says {amount} although we agreed on {amount}
you took {amount} from my card and I never ordered a {item}
my money for the {item} I sent back is still with you after {span}
the discount code did nothing at the checkout
there are {count} payments of {amount} on my statement
I keep paying for a plan that I ended in {month}
the total is higher than the price on the page
somebody debited {amount} and I have no idea what for
the refund you promised in {month} never showed up
the monthly price went up to {amount} without a word
the receipt has the wrong company name on it
I paid by card and the order still counts as unpaid
you added {amount} for express shipping that I did not pick
[wrong delivery]
the {item} has not arrived after {span}
the parcel has been stuck in {city} since {day}
tracking claims it was handed over and nothing is here
the courier left the box with somebody I do not know
the {item} went to my old address
the package was sent to {city} instead of {city}
it was promised for {day} and I am still waiting
the driver never rang and took my order back with him
only half of the order came
the shipment has not moved for {span}
I stayed at home all {day} and nobody came
{item} and {item} were ordered together, only one was in the box
my order still says preparing after {span}
I paid for express and it takes longer than the slow post
[wrong login]
I cannot sign in since {day}
the mail for a new password never comes
my account was locked after {count} tries
the code you text me is refused every time
it throws me out each time I open the app
the form says that it does not know my address
the link you sent had expired when I clicked on it
it wants a code from a phone I no longer have
the page just sends me back to where I typed my name
someone changed my password and it was not me
I see an empty account that is not mine after I type my name
my card reader code is not accepted on the start page
I am told to wait {span} until I may try my password again
I cannot get to my orders because the app does not recognise me
[wrong defect]
the {item} stopped working after {span}
the {item} does not turn on
it will not charge any more
the {part} of the {item} is broken
it makes a loud noise and smells burnt
the {item} had a crack in it when I took it out of the box
it switches itself off every few minutes
the {item} gets so hot that I cannot touch it
the {part} came off on {day}
the {item} resets itself and forgets everything
the battery is empty after {count} minutes
the {part} was loose right from the start
the {item} locks up and I have to pull the plug
the {item} that came is scratched all over
[fine billing]
the payment went through at once
the invoice is correct
I was not charged twice this time
I got my refund for the {item}
the price was fair
the discount code did what it should
you took the right amount from my card
I have no complaint about the total
[fine delivery]
the parcel came on {day} as promised
shipping was quick
the courier was friendly and rang twice
I am not waiting for any package
the {item} arrived after {count} days
the whole order was in the box
tracking worked to the minute
it did not get stuck in {city} this time
[fine login]
I can sign in
the login works fine
my password is accepted
my account is not locked any more
the code came by text at once
the app lets me in
changing my password was easy
the page knows who I am
[fine defect]
the {item} works well
nothing is wrong with the {item}
the {item} is not broken
the {item} does what it should
the battery of the {item} lasts for days
the {part} feels solid
I like the {item} very much
it does not get hot or loud
[single]
{W}
{W}
{W}
unfortunately {W}
since {day} I have this: {W}
{W}, what now?
hello? {W}
[mixed]
{F}, but {W}
{F}. however, {W}
{W}, although {F}
{F} and {F2}, only {W}
this is not about {N}: {W}
it is not {N} that bothers me, {W}
in {month} I told you that {V}. that is solved, now {W}
you already fixed that {V}. today {W}
first I thought that {V}. I was wrong, {W}
{W}. that {V} is a small thing next to it
{W}. {V} too, that can wait
never mind that {V}, what I need solved is this: {W}
my neighbour writes that {V}. with me it is different: {W}
{V}, I can live with that. what I cannot accept: {W}
your chat keeps telling me about {N}. again: {W}
forget {N}. {W}
[ambiguous]
nothing works and nobody answers
I have a problem with my order of {day}
I have written {count} mails about the {item}
{W} and {V}
{V} and {W}
{W}, also {V}. both are equally bad
I am very unhappy with the {item} and with you
please look into my account and the {item}, it is all wrong
[orders]
order {number}
my order number is {number}
this is about order {number}
ref. {number}, bought in {month}
I ordered a {item} in {month}
customer {number} here
[asides]
I have been a customer for {count} years
it is a present for my sister and her birthday is on {day}
I wrote on {day} already and got a standard reply
I live in {city}, if that matters
I bought the {item} because a friend told me to
the hotline let me wait for {count} minutes
we moved from {city} to {city} in {month}
I use the app on an old tablet
I have the receipt, the box and all the mails here
your web page looks nice, by the way
I pay you {amount} a month and expect better
my old {item} from you lasted for years
[requests]
please fix this
can you look into it?
what should I do now?
please call me back on {day}
I want my money back
please send me a new one
I expect an answer within {span}
otherwise I will cancel everything
thanks for your help
kind regards
please tell me who can sort this out
"""


def _read_grammar(text: str) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    section = ""
    for line in text.strip().splitlines():
        name, colon, words = line.partition(": ")
        if line.startswith("["):
            section = line.strip("[]")
        elif colon and not section:
            lists.setdefault(name, []).extend(words.split("|"))
        else:
            lists.setdefault(section, []).append(line)
    return lists


_LISTS = _read_grammar(_GRAMMAR)
_SLOT = re.compile(r"\{(\w+)\}")


class _Dice:
    """Draws from `random.random` alone, the one method whose values Python promises to keep."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def chance(self, rate: float) -> bool:
        return self._random.random() < rate

    def below(self, n: int) -> int:
        return int(self._random.random() * n)

    def pick(self, options: Sequence[str]) -> str:
        return options[self.below(len(options))]


def _fill(dice: _Dice, pattern: str) -> str:
    """Replace every slot of a pattern with words; every slot is drawn anew."""

    def word(slot: re.Match[str]) -> str:
        name = slot.group(1)
        return str(10000 + dice.below(90000)) if name == "number" else _fill(dice, dice.pick(_LISTS[name]))

    return _SLOT.sub(word, pattern)


def _complaint(dice: _Dice, label: str) -> str:
    """Return the sentences that carry the label, with other topics mixed in or not."""
    frames = "mixed" if dice.chance(MIXED_RATE) else "single"
    frame = dice.pick(_LISTS["ambiguous" if dice.chance(AMBIGUOUS_RATE) else frames])
    others = [name for name in LABELS if name != label]
    other = dice.pick(others)
    parts = {
        "{W}": dice.pick(_LISTS[f"wrong {label}"]),
        "{V}": dice.pick(_LISTS[f"wrong {other}"]),
        "{F}": dice.pick(_LISTS[f"fine {other}"]),
        "{F2}": dice.pick(_LISTS[f"fine {dice.pick(others)}"]),
        "{N}": "{" + other + "}",
    }
    for name, part in parts.items():
        frame = frame.replace(name, part)
    return _fill(dice, frame)


def _sentence(text: str) -> str:
    text = re.sub(r"(^|[.?!] )([a-z])", lambda m: m.group(1) + m.group(2).upper(), text)
    return text if text[-1] in ".?!" else text + "."


def _typos(dice: _Dice, text: str) -> str:
    """Swap, drop or double a letter in some of the longer words."""
    words = text.split(" ")
    for i, word in enumerate(words):
        if len(word) < 4 or not word.isalpha() or not dice.chance(0.07):
            continue
        at, kind = 1 + dice.below(len(word) - 2), dice.below(3)
        middle = (word[at + 1] + word[at], word[at + 1], word[at] * 2 + word[at + 1])[kind]
        words[i] = word[:at] + middle + word[at + 2 :]
    return " ".join(words)


def _casing(dice: _Dice, text: str) -> str:
    kind = dice.below(20)
    if kind == 0:
        return text.upper()
    if kind <= 3:
        return text.lower()
    if kind == 4:
        return text.lower().replace(".", "").replace(",", "")
    return text.replace(".", "!!") if kind == 5 else text


def _ticket(dice: _Dice, label: str) -> str:
    sentences = [_sentence(_complaint(dice, label))]
    if dice.chance(0.35):
        sentences.insert(0, _sentence(_fill(dice, dice.pick(_LISTS["orders"]))))
    if dice.chance(0.35):
        sentences.insert(dice.below(len(sentences) + 1), _sentence(_fill(dice, dice.pick(_LISTS["asides"]))))
    if dice.chance(0.45):
        sentences.append(_sentence(_fill(dice, dice.pick(_LISTS["requests"]))))
    if dice.chance(0.3):
        sentences.insert(0, _fill(dice, "{greeting}"))
    text = " ".join(sentences)
    return _casing(dice, _typos(dice, text) if dice.chance(0.5) else text)


def demo_rows(n_rows: int = 4000, seed: int = 0) -> list[tuple[str, str]]:
    """Return tickets and their labels; texts are distinct as long as the grammar yields new ones."""
    dice = _Dice(seed)
    rows: dict[str, str] = {}
    repeats: list[tuple[str, str]] = []
    while len(rows) + len(repeats) < n_rows:
        label = dice.pick(LABELS)
        text = next((t for t in (_ticket(dice, label) for _ in range(8)) if t not in rows), None)
        shown = dice.pick([other for other in LABELS if other != label]) if dice.chance(NOISE_RATE) else label
        if text is None:
            repeats.append((_ticket(dice, label), shown))
        else:
            rows[text] = shown
    return [*rows.items(), *repeats]


def write_demo(path: Path, n_rows: int = 4000, seed: int = 0) -> None:
    """Write a CSV with the header `text,label`; the file appears whole or not at all."""
    write_atomic(path, _demo_csv(n_rows, seed))


def is_demo(path: Path, n_rows: int = 4000, seed: int = 0) -> bool:
    """Return whether a file is what `write_demo` would write there."""
    return path.is_file() and path.read_bytes() == _demo_csv(n_rows, seed).encode()


def _demo_csv(n_rows: int, seed: int) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("text", "label"))
    writer.writerows(demo_rows(n_rows, seed))
    return out.getvalue()


def demo_texts() -> list[str]:
    """Return three tickets without labels, for `edgetune demo` to predict."""
    return [
        "The login works fine, but I was charged twice for the kettle.",
        "The price was fair and shipping was quick, only the lamp does not turn on. Please send a new one.",
        "Hi, order 48210. It is not the invoice that bothers me, I am still waiting for the parcel!!",
    ]
