"""How well a profile predicts operations that are not in its grid: lengths, batches and depths between."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetune.errors import EdgetuneError
from edgetune.machine import cache_folder
from edgetune.models import resolve_model
from edgetune.profiles.check import open_subject
from edgetune.profiles.child import ChildLost
from edgetune.profiles.cost import CostFunction
from edgetune.profiles.device_profile import BackendProfile, DeviceProfile
from edgetune.profiles.here import this_machine
from edgetune.profiles.match import find_for_this_machine
from edgetune.profiles.sampling import Sampler, Spot, spots
from edgetune.profiles.store import load
from edgetune.profiles.subject import Subject

LENGTHS, BATCHES, DEPTHS = (24, 48, 96), (8, 16, 24), (0, 1, 2, 4)
PER_BACKEND, CONTROLS = 40, 8
GOAL = "goal: median ≤ 5 %, 90th percentile ≤ 12 %"
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "cost-function.png"
COLOURS = {"score": "#1F77B4", "train": "#D62728", "prefix": "#2CA02C"}


@dataclass(frozen=True)
class Trial:
    """One operation, predicted and measured.

    Attributes:
        spot: which.
        predicted_s, low_s, high_s: by the cost function.
        real_s: median of the visits.
        control: whether it is a point of the grid, measured again.
    """

    spot: Spot
    predicted_s: float
    low_s: float
    high_s: float
    real_s: float
    control: bool

    @property
    def error(self) -> float:
        """Predicted over real, less 1."""
        return self.predicted_s / self.real_s - 1.0


def main(arguments: argparse.Namespace) -> None:
    profile = _profile(arguments.profile)
    rng = np.random.default_rng(0)
    print(f"# profile {profile.name} of {profile.date}, {arguments.repeats} visits of each operation")
    trials = _measure(profile, arguments.repeats, rng)
    _print(trials)
    _draw(trials, PICTURE)
    print(f"picture: {PICTURE}")


def _profile(name: str | None) -> DeviceProfile:
    if name is not None:
        return load(name)
    found = find_for_this_machine(None, this_machine())
    if found is None:
        raise SystemExit("no device profile: run `edgetune profile` first")
    print(f"# fit: {found.fit} {'; '.join(found.reasons)}")
    return found.profile


def _depths(profile: DeviceProfile) -> tuple[int, ...]:
    measured = {point.depth for backend in profile.backends for point in backend.points}
    return tuple(d for d in DEPTHS if d == 0 or (d < profile.model.n_layers and d not in measured))


def _choose(
    backend: BackendProfile, depths: Sequence[int], rng: np.random.Generator
) -> tuple[list[Spot], list[Spot]]:
    """Draw operations off the grid, and some points of it that tell the machine's drift since then."""
    off = spots([backend.key], LENGTHS, BATCHES, depths)
    on = [Spot(backend.key, p.op, p.batch, p.length, 0) for p in backend.points if p.depth == 0]
    drawn = [off[i] for i in rng.choice(len(off), min(PER_BACKEND, len(off)), replace=False)]
    return drawn, [on[i] for i in rng.choice(len(on), min(CONTROLS, len(on)), replace=False)]


def _measure(profile: DeviceProfile, n_visits: int, rng: np.random.Generator) -> list[Trial]:
    depths, source = _depths(profile), resolve_model(profile.model.name)
    sampler = Sampler(profile.model.n_layers, rng)
    controls: set[Spot] = set()
    subjects: dict[str, Subject] = {}
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        for backend in profile.backends:
            try:
                subject = open_subject(stack, source, backend, depths, cache_folder(), scratch)
            except (ChildLost, EdgetuneError) as error:
                print(f"# {backend.key} left out: {error}")
                continue
            subjects[backend.key] = subject
            drawn, again = _choose(backend, depths, rng)
            sampler.take([*drawn, *again])
            controls.update(again)
        for _ in range(n_visits):
            for i in rng.permutation(len(sampler.samples)):
                spot = list(sampler.samples)[i]
                n_calls, warm = sampler.calls(spot)
                seconds = subjects[spot.key].visit(spot, n_calls, warm, sampler.call_s(spot))
                sampler.add(spot, seconds)
    return _compare(profile, sampler, controls)


def _compare(profile: DeviceProfile, sampler: Sampler, controls: set[Spot]) -> list[Trial]:
    costs = {backend.key: CostFunction(backend, profile.model) for backend in profile.backends}
    trials = []
    for spot, samples in sampler.samples.items():
        found = costs[spot.key].estimate(spot.op, spot.batch, spot.length, spot.depth)
        real_s = statistics.median(samples.medians)
        trials.append(Trial(spot, found.s, found.low_s, found.high_s, real_s, spot in controls))
    return trials


def _print(trials: Sequence[Trial]) -> None:
    heads = f"{'n':>4} {'median':>8} {'90 %':>8} {'bias':>8} {'in interval':>12}"
    print(f"\n{'backend':<12} {'operation':<9} {heads}")
    off = [trial for trial in trials if not trial.control]
    for key in dict.fromkeys(trial.spot.key for trial in trials):
        for op in COLOURS:
            _line(key, op, [t for t in off if (t.spot.key, t.spot.op) == (key, op)])
        again = [trial for trial in trials if trial.control and trial.spot.key == key]
        drift = statistics.median(trial.real_s / trial.predicted_s for trial in again) if again else 1.0
        print(f"{key:<12} points of the grid, measured again: now over then {drift:.3f}")
        mine = [trial.error for trial in off if trial.spot.key == key]
        corrected = [(1.0 + error) * drift - 1.0 for error in mine]
        print(f"{key:<12} all {len(mine):>9} {_figures(mine)}   less that drift: {_figures(corrected)}")
    _line("all", "", off)
    print(GOAL)


def _line(key: str, op: str, trials: Sequence[Trial]) -> None:
    if trials:
        inside = sum(trial.low_s <= trial.real_s <= trial.high_s for trial in trials) / len(trials)
        figures = _figures([trial.error for trial in trials])
        print(f"{key:<12} {op:<9} {len(trials):>4} {figures} {inside:>11.0%}")


def _figures(errors: Sequence[float]) -> str:
    sizes = np.abs(errors)
    return (
        f"{100 * np.median(sizes):>6.1f} % {100 * np.quantile(sizes, 0.9):>6.1f} % "
        f"{100 * np.median(errors):>+6.1f} %"
    )


def _draw(trials: Sequence[Trial], path: Path) -> None:
    """Draw predicted against real, and the error by real seconds; a column per backend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    keys = list(dict.fromkeys(trial.spot.key for trial in trials))
    figure = Figure(figsize=(4.2 * len(keys), 7), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(2, len(keys), squeeze=False, height_ratios=[3, 2], sharex="col")
    figure.suptitle("Operations that are not in the device profile's grid: predicted against real")
    for column, key in enumerate(keys):
        above, below = rows[0][column], rows[1][column]
        mine = [trial for trial in trials if trial.spot.key == key and not trial.control]
        for op, colour in COLOURS.items():
            found = [trial for trial in mine if trial.spot.op == op]
            real_ms = [1e3 * trial.real_s for trial in found]
            above.scatter(real_ms, [1e3 * t.predicted_s for t in found], s=16, color=colour, label=op)
            below.scatter(real_ms, [100 * trial.error for trial in found], s=16, color=colour)
        ends = [1e3 * min(t.real_s for t in mine) / 1.3, 1e3 * max(t.real_s for t in mine) * 1.3]
        above.plot(ends, ends, color="#888888", linewidth=0.8, zorder=0)
        above.set(xscale="log", yscale="log", title=key)
        below.axhspan(-5, 5, color="#EEEEEE", zorder=0)
        below.axhline(0, color="#888888", linewidth=0.8, zorder=0)
        below.set(xscale="log", xlabel="real (ms)")
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
    rows[0][0].set_ylabel("predicted (ms)")
    rows[1][0].set_ylabel("predicted over real (%), band: ± 5")
    rows[0][0].legend(frameon=False, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
