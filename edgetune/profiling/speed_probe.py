"""How fast this machine is, measured at the start of a run.

Costs are predicted from the nearest profile, times what the measurement gives:

    a profile of this machine and model    forward passes through two layers, for one second of 40 or more
    a tenth of the time is 20 s or more    a few steps of every backend (another kind of processor alone)
    else                                   forward passes through two layers as wide as the model's, up to 3 s

Two layers tell nearly what the whole encoder does, and are open in half a second on ONNX Runtime. Backward
passes are taken to be as slow as forward passes; the first steps of the run correct that. The result is kept
for each model and machine, unless other processes kept the machine busy. With a profile of this machine and
model it says how fast the machine is at the moment (a shared one took 0.6 to 0.8 of the profiled time days
later). It is averaged with the profile, since small batches do not tell everything, and not kept.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgetune.backends.openers import traits_of
from edgetune.backends.ort.bert_graph import FEATURES, HEAD_BIAS, HEAD_WEIGHT, INPUTS, write_graph
from edgetune.backends.ort.ort_runtime import import_ort, session_options
from edgetune.devices.cost_function import CostFunction
from edgetune.devices.device_profile import ModelShape
from edgetune.devices.profile_store import Match
from edgetune.models.mean_pooling import pooling_weights
from edgetune.planning.device_costs import Scales, is_own, profile_key, speeds_key
from edgetune.profiling.sampling import BusyWatch, median_interval
from edgetune.utils.cache import read_cached_json, write_cached_json
from edgetune.utils.errors import EdgetuneError
from edgetune.utils.formatting import duration
from edgetune.utils.types import FloatArray, Say

FILE = "probes.json"
PROBE_RATE, OWN_RATE = 0.1, 0.25
"""Share of the time left that may be spent on measuring; share of that if this machine was profiled."""
OWN_TRUST = 0.5
"""Weight of the measurement against the profile of this machine, in logarithms. In hours in which it gave 0.6
to 0.75, the train steps of six runs took 0.67 to 0.82 of the profiled time."""
BACKENDS_S, LAYERS_S, LEAST_S = 20.0, 3.0, 1.0
LAYERS, RUNTIME = 2, "onnxruntime"
SHAPES = ((4, 32), (8, 64))
"""Rows and tokens of the passes through the layers, in turn."""
FEWEST_PASSES, CLOSE_ENOUGH = 12, 0.04


def probe_speeds(
    match: Match, shape: ModelShape, *, limit_s: float, every_backend: bool, cache_dir: Path, say: Say
) -> Scales:
    """Return how many times as long as profiled operations take here, by backend; {} if that is not known.

    If the nearest profile is of this machine and model, the speed is measured in every run, else the cache
    has earlier answers. In less than a second nothing is measured. `every_backend`: any of them may train.
    """
    if is_own(match, shape):
        found = _layer_scales(match, shape, min(LEAST_S, OWN_RATE * limit_s))
        return {name: scale**OWN_TRUST for name, scale in found.items()}
    path = cache_dir / FILE
    known = read_cached_json(path, dict[str, Scales])
    key = profile_key(match.profile)
    if key not in known and every_backend and match.fit == "other" and limit_s >= BACKENDS_S:
        say(f"This machine was not profiled: timing a few steps of each backend for {BACKENDS_S:.0f} s")
        if scales := _probe_backends(match, cache_dir):
            known[key] = scales
            write_cached_json(path, known)
    if key not in known:
        key = speeds_key(match.profile, shape)
    if key in known or limit_s < LEAST_S:
        return known.get(key, {})
    watch, started = BusyWatch([]), time.perf_counter()
    scales = _layer_scales(match, shape, limit_s)
    if not scales:
        return {}
    what = "This machine" if match.fit != "same" else "This model"
    say(f"{what} was not profiled: measured for {duration(time.perf_counter() - started)}")
    if not watch.others()[1]:
        write_cached_json(path, known | {key: scales})
    return scales


def _layer_scales(match: Match, shape: ModelShape, limit_s: float) -> Scales:
    """Time forward passes through a few layers; {} if there is too little time, or no runtime that works."""
    if limit_s < LEAST_S:
        return {}
    try:
        return _probe_layers(match, shape, time.perf_counter() + min(limit_s, LAYERS_S))
    except Exception:  # a runtime that is missing or broken: the run goes on with the profile as it is
        return {}


def _probe_backends(match: Match, cache_dir: Path) -> Scales:
    """Time a few train steps of each backend, with the model that was profiled."""
    from edgetune.profiling.measure import check_drift

    try:
        drift = check_drift(match.profile, None, cache_dir, lambda text, share: None, BACKENDS_S)
    except EdgetuneError:
        return {}
    return {ratio.key: ratio.mean for ratio in drift.ratios if ratio.op == "train"}


def _probe_layers(match: Match, shape: ModelShape, end_s: float) -> Scales:
    """Time forward passes through a few layers against what a backend's profile says of them."""
    profile = match.profile
    backends = [item for item in profile.backends if (item.precision, item.device) == ("fp32", "cpu")]
    if not backends:
        return {}
    like = min(backends, key=lambda item: traits_of(item.backend).runtime != RUNTIME)
    cost = CostFunction(like, profile.model, shape)
    ratios = []
    for batch, length, seconds in _timed_passes(shape):
        ratios.append(seconds / cost.seconds("score", batch, length, max(0, shape.n_layers - LAYERS)))
        low, high = median_interval(ratios)
        sure = len(ratios) >= FEWEST_PASSES and high - low < 2 * CLOSE_ENOUGH * low
        if sure or time.perf_counter() > end_s:
            break
    return {item.key: statistics.median(ratios) for item in backends}


def _timed_passes(shape: ModelShape) -> Iterator[tuple[int, int, float]]:
    """Yield rows, tokens and seconds of one forward pass after the other, without end."""
    width, n_layers = shape.hidden_size, min(LAYERS, shape.n_layers)
    tables = {"word": 2, "position": max(length for _, length in SHAPES), "token_type": 1}
    weights: dict[str, FloatArray] = {
        f"embeddings.{name}_embeddings.weight": np.zeros((n_rows, width), np.float32)
        for name, n_rows in tables.items()
    }
    for name in ("weight", "bias"):
        weights[f"embeddings.LayerNorm.{name}"] = np.ones(width, np.float32)
    for number in range(n_layers):
        weights |= pooling_weights(number, width, shape.intermediate_size)
    weights |= {HEAD_WEIGHT: np.zeros((2, width), np.float32), HEAD_BIAS: np.zeros(2, np.float32)}
    config = {"hidden_size": width, "num_hidden_layers": n_layers, "num_attention_heads": math.gcd(width, 12)}
    graph = write_graph(config, weights).SerializeToString()
    session = import_ort().InferenceSession(
        graph, session_options("cpu", None), providers=["CPUExecutionProvider"]
    )
    batches = [
        {name: np.full(rows, name == "attention_mask", np.int64) for name in INPUTS} for rows in SHAPES
    ]
    session.run([FEATURES], batches[0])  # the first pass is slow
    while True:
        for (batch, length), rows in zip(SHAPES, batches, strict=True):
            started = time.perf_counter()
            session.run([FEATURES], rows)
            yield batch, length, time.perf_counter() - started
