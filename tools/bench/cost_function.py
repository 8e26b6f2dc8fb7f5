"""How well a cost function predicts operations that are not in its grid: lengths, batches and depths between.

The grid and the operations between are measured in the same rounds, so that what is seen is the function
and not how the machine has changed since its profile was made; that is printed beside it. So is how far two
halves of the visits to one operation lie apart, as measured and freed of slow moments (profiles/slowness.py):
no error can be seen that is much smaller than that.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetune.devices.cost_function import CostFunction
from edgetune.devices.device_profile import BackendProfile, DeviceProfile, this_machine
from edgetune.devices.profile_store import find_for_this_machine, load_profile
from edgetune.models.source import resolve_model
from edgetune.profiling.sampling import GridPoint, Sampler, grid_points
from edgetune.profiling.session import BackendSession, open_session
from edgetune.profiling.worker import WorkerLost
from edgetune.utils.errors import EdgetuneError
from edgetune.utils.machine import cache_folder

LENGTHS, BATCHES, DEPTHS = (24, 48, 96), (8, 16, 24), (0, 1, 2, 4)
PER_BACKEND = 40
GOAL = "goal: median ≤ 5 %, 90th percentile ≤ 12 %"
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "cost-function.png"
COLOURS = {"score": "#1F77B4", "train": "#D62728", "prefix": "#2CA02C"}


@dataclass(frozen=True)
class Trial:
    """One operation, predicted and measured.

    Attributes:
        spot: which.
        predicted_s: by the cost function.
        real_s: median of the visits.
    """

    spot: GridPoint
    predicted_s: float
    real_s: float

    @property
    def error(self) -> float:
        """Predicted over real, less 1."""
        return self.predicted_s / self.real_s - 1.0


def main(arguments: argparse.Namespace) -> None:
    profile = _profile(arguments.profile)
    rng = np.random.default_rng(0)
    print(f"# grid of profile {profile.name}, {arguments.repeats} visits of each operation")
    sampler = _measure(profile, arguments.repeats, rng)
    trials: list[Trial] = []
    for backend in profile.backends:
        found = _compare(backend, profile, sampler)
        trials += found
        _print(backend, found, sampler)
    _line("all", "", trials)
    print(GOAL)
    _draw(trials, PICTURE)
    print(f"picture: {PICTURE}")


def _profile(name: str | None) -> DeviceProfile:
    if name is not None:
        return load_profile(name)
    found = find_for_this_machine(None, this_machine())
    if found is None:
        raise SystemExit("no device profile: run `edgetune profile` first")
    print(f"# fit: {found.fit} {'; '.join(found.reasons)}")
    return found.profile


def _grid_of(backend: BackendProfile) -> dict[GridPoint, float]:
    """Return seconds of each operation that the profile has measured."""
    return {GridPoint(backend.key, *point.place): point.s for point in backend.points}


def _off_grid(profile: DeviceProfile, backend: BackendProfile, rng: np.random.Generator) -> list[GridPoint]:
    depths = [depth for depth in DEPTHS if depth < profile.model.n_layers]
    grid = _grid_of(backend)
    off = [spot for spot in grid_points([backend.key], LENGTHS, BATCHES, depths) if spot not in grid]
    return [off[i] for i in rng.choice(len(off), min(PER_BACKEND, len(off)), replace=False)]


def _measure(profile: DeviceProfile, n_visits: int, rng: np.random.Generator) -> Sampler:
    source = resolve_model(profile.model.name)
    sampler = Sampler(profile.model.n_layers, rng)
    subjects: dict[str, BackendSession] = {}
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        for backend in profile.backends:
            chosen = [*_off_grid(profile, backend, rng), *sorted(_grid_of(backend))]
            depths = tuple(sorted({spot.depth for spot in chosen}))
            try:
                subject = open_session(stack, source, backend, depths, cache_folder(), scratch)
            except (WorkerLost, EdgetuneError) as error:
                print(f"# {backend.key} left out: {error}")
                continue
            subjects[backend.key] = subject
            sampler.take(chosen)
        for _ in range(n_visits):
            for i in rng.permutation(len(sampler.samples)):
                spot = list(sampler.samples)[i]
                n_calls, warm = sampler.calls(spot)
                seconds = subjects[spot.key].visit(spot, n_calls, warm, sampler.call_s(spot))
                sampler.add(spot, seconds)
    return sampler


def _compare(backend: BackendProfile, profile: DeviceProfile, sampler: Sampler) -> list[Trial]:
    """Predict what lies between from the grid as it was measured now."""
    grid = _grid_of(backend)
    points = [point for point in sampler.points(backend.key) if GridPoint(backend.key, *point.place) in grid]
    if not points:
        return []
    cost = CostFunction(backend.model_copy(update={"points": points}), profile.model)
    trials = []
    for spot, seconds in sampler.calm().items():
        if spot.key == backend.key and spot not in grid:
            predicted_s = cost.seconds(spot.op, spot.batch, spot.length, spot.depth)
            trials.append(Trial(spot, predicted_s, statistics.median(seconds)))
    return trials


def _print(backend: BackendProfile, trials: Sequence[Trial], sampler: Sampler) -> None:
    heads = f"{'n':>4} {'median':>8} {'90 %':>8} {'bias':>8}"
    print(f"\n{'backend':<12} {'operation':<9} {heads}")
    for op in COLOURS:
        _line(backend.key, op, [trial for trial in trials if trial.spot.op == op])
    _line(backend.key, "all", trials)
    mine = {spot: found for spot, found in sampler.calm().items() if spot.key == backend.key}
    for what, visited in (
        ("as measured", {spot: sampler.samples[spot].medians for spot in mine}),
        ("calm", mine),
    ):
        halves = [statistics.median(s[::2]) / statistics.median(s[1::2]) - 1.0 for s in visited.values()]
        print(f"{backend.key:<12} every other visit over the rest, {what:<12} {_figures(halves)}")
    stored = _grid_of(backend)
    drift = [stored[spot] / statistics.median(mine[spot]) - 1.0 for spot in mine if spot in stored]
    print(f"{backend.key:<12} stored profile over the grid now   {_figures(drift)}")


def _line(key: str, op: str, trials: Sequence[Trial]) -> None:
    if trials:
        print(f"{key:<12} {op:<9} {len(trials):>4} {_figures([trial.error for trial in trials])}")


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
        mine = [trial for trial in trials if trial.spot.key == key]
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
    rows[1][0].set_ylabel("off by (%), band: ± 5")
    rows[0][0].legend(frameon=False, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
