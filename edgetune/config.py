"""All settings of a run: typed, validated, read from and written to TOML.

A run folder's `config.toml` holds every setting resolved, so that running it again repeats the run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgetune.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEMA_VERSION = 1

Method = Literal["train-all", "random", "fixed-threshold", "auto-threshold", "three-stage"]
METHODS: tuple[Method, ...] = ("train-all", "random", "fixed-threshold", "auto-threshold", "three-stage")


class Settings(BaseModel):
    """Base of all settings: unknown names are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SelectionSettings(Settings):
    """How examples are chosen. Defaults are the preset `default`; see method.md's table in the docs.

    Attributes:
        method: which selector.
        preset: which column of the table filled the other values.
        keep_rate: `random` keeps an example with this probability.
        threshold: `fixed-threshold` trains examples whose loss (nats) is above it.
        warmup_fraction: stage 0 lasts this share of one epoch.
        threshold_window: L_low is the mean of this many last example losses.
        moving_threshold: whether L_low follows the window after stage 0.
        features: what the meta predictor sees: `tokens`, or hashed tokens with length and label.
        calibrated: whether the predictor's log odds are scaled to be probabilities.
        alt: stage 1 ends when the predictor's mean log loss (nats) is at most this.
        alt_window: over how many scored batches that mean is taken (W).
        alt_after_fit: compare the loss on a batch after fitting it (else before: test, then train).
        explore_rate: share of predicted-easy examples that are scored anyway.
    """

    method: Method = "train-all"
    preset: Literal["default", "paper"] = "default"
    keep_rate: float = Field(0.5, gt=0, le=1)
    threshold: float = Field(0.3, ge=0)
    warmup_fraction: float = Field(0.1, gt=0, le=1)
    threshold_window: int = Field(128, ge=1)
    moving_threshold: bool = False
    features: Literal["tokens", "hashed"] = "hashed"
    calibrated: bool = True
    alt: float = Field(0.69, gt=0)
    alt_window: int = Field(16, ge=1)
    alt_after_fit: bool = False
    explore_rate: float = Field(0.05, ge=0, le=1)


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "preset": "paper",
        "features": "tokens",
        "calibrated": False,
        "alt": 0.5,
        "alt_window": 8,
        "alt_after_fit": True,
        "explore_rate": 0.0,
    },
}
