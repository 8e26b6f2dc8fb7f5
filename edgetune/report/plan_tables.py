"""Plans as a table: the best few, how the first spends its time, and why it is first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetune.planning.plan import LINEAR_PROBE, NGRAMS_ALONE, Plan, Plans
from edgetune.utils.formatting import counted, duration
from edgetune.utils.sanitize import one_line
from edgetune.utils.tables import Section, print_sections

if TYPE_CHECKING:
    from rich.console import Console


SHOWN = 6
HEADER = ("", "backend", "frozen", "tokens", "batch", "rows", "passes", "steps", "memory", "energy", "loss")


def distinct(plans: Plans) -> list[Plan]:
    """Return the best plans that differ in more than a batch size or a length limit, best first."""
    seen: dict[tuple[str, int, str], Plan] = {}
    for plan in plans.ranked:
        seen.setdefault((plan.key, plan.depth, plan.method), plan)
    return list(seen.values())


def plan_sections(plans: Plans, *, explain: bool) -> list[Section]:
    """Return the tables of plans.

    Args:
        plans: best first.
        explain: add why, and what was refused.
    """
    best = plans.best
    rows: list[tuple[str, ...]] = [
        _row(number, plan) for number, plan in enumerate(distinct(plans)[:SHOWN], start=1)
    ]
    spent: list[tuple[str, ...]] = [
        (name, duration(seconds)) for name, seconds in best.lines.items() if seconds >= 0.005
    ]
    spent.append(("total", duration(best.total_s)))
    if best.n_rows:
        low, high = best.rows_interval
        spent.append(("rows trained", f"{best.n_rows:,} ({low:,} to {high:,})"))
    sections = [
        Section("Plans, best first", rows, HEADER, right=True),
        Section("Planned time of the best plan", spent, right=True),
    ]
    if explain:
        sections.append(Section("Why this plan", [(reason,) for reason in plans.reasons]))
        refused: list[tuple[str, ...]] = [(f"{what}: {why}",) for what, why in dict.fromkeys(plans.refused)]
        sections.append(Section("Rejected", refused[:12]))
    return [section for section in sections if section.rows]


def _row(number: int, plan: Plan) -> tuple[str, ...]:
    if plan.method == NGRAMS_ALONE:
        return (str(number), plan.key, *[""] * 7, f"{plan.energy_j / 1e3:.1f} kJ", "")
    frozen = counted(plan.depth, "layer") if plan.depth else "embeddings"
    if plan.method == LINEAR_PROBE:
        frozen = "all but the head"
    return (
        *(str(number), plan.key, frozen, str(plan.max_length), str(plan.batch_size), f"{plan.n_rows:,}"),
        *(f"{plan.passes:.2f}", f"{plan.n_steps:,}", f"{plan.memory_mb:,.0f} MB"),
        *(f"{plan.energy_j / 1e3:.1f} kJ", f"{-plan.expected_points:.1f}"),
    )


def print_plans(plans: Plans, console: Console, *, explain: bool) -> None:
    """Print plans; `loss` is the expected distance, in points of accuracy, to training for ever."""
    print_sections(plan_sections(plans, explain=explain), console)
    if plans.device is not None:
        hint = "" if explain else " Use `--explain` for the reasons."
        source = one_line(plans.device.power_source)
        console.print(
            f"Costs: device profile {one_line(plans.device.name)}; energy: {source}. "
            f"loss: expected accuracy below that of unlimited training, in percentage points.{hint}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
