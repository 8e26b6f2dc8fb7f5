"""FTFT: cartography with a cheaper reference, and a main model that stops early.

What: `cartography-ambiguous` whose reference gets a quarter of the run instead of a half. The paper's
    reference is a smaller model; here it is the same encoder for fewer steps, so that no second model is
    needed. The main model starts again on the chosen third and is to be stopped aggressively: that is a
    setting of the run. Use with --patience 1.
Use when: as cartography, where half of the time is too much to measure with.
Costs: the reference's share of the run, which trains nothing that is kept; 20 bytes per row until then.
Loses when: a quarter of the run is less than a pass: rows that the reference never visited cannot be
    ranked and are skipped. Otherwise as cartography.
Source: Du, Gatt, Nguyen, FTFT: Efficient and Robust Fine-Tuning by Transferring Training Dynamics,
    arXiv 2310.06588.
"""

from __future__ import annotations

from typing import ClassVar

from edgetune.selection.cartography import CartographyAmbiguous


class Ftft(CartographyAmbiguous):
    """Ambiguous cartography with a quarter of the run for the reference; use with --patience 1."""

    name: ClassVar[str] = "ftft"
    default_reference_rate: ClassVar[float] = 0.25
