"""What a user fixed stays fixed; what was left open is the planner's, and goes into the settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgetune.config.settings import RunConfig, freeze_of, frozen_depth
from edgetune.config.toml_config import make_config
from edgetune.planning.decision import constraints_of, decide, plan_summary
from edgetune.planning.plan import DataLengths, Plan
from tests.fakes import FakeCost, fake_costs, fake_device

DEVICE = fake_device(
    fake_costs("ort-fp32"),
    fake_costs("torch-fp32", FakeCost(3e-4)),
    fake_costs("torch-bf16", FakeCost(1e-4)),
)


def config(**sections: dict[str, Any]) -> RunConfig:
    return make_config({"data": {"train": "x.csv"}, **sections})


def shape(n_rows: int = 3000) -> DataLengths:
    rng = np.random.default_rng(0)
    return DataLengths(rng.integers(3, 60, n_rows), rng.integers(3, 60, 300), 128)


def planned(settings: RunConfig, n_rows: int = 3000) -> tuple[RunConfig, Plan]:
    decision = decide(settings, DEVICE, shape(n_rows), lambda key, depth: True)
    assert decision.plan is not None
    return decision.config, decision.plan


def test_depth_and_freeze() -> None:
    assert [frozen_depth(word) for word in ("auto", "none", "embeddings", "0", "3")] == [0, 0, 0, 0, 3]
    assert [freeze_of(depth) for depth in (0, 2)] == ["embeddings", "2"]
    given = [config(model={"freeze": word}).model.freeze for word in ("0", "00", "03", "none", "auto")]
    assert given == ["embeddings", "embeddings", "3", "none", "auto"]


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, dict.fromkeys(("backend", "precision", "depth", "max_length", "passes")) | {"batch_size": 32}),
        ({"model": {"backend": "ort"}}, {"backend": "ort", "precision": "fp32"}),
        ({"model": {"backend": "torch"}}, {"backend": "torch", "precision": None}),
        ({"model": {"precision": "bf16"}}, {"backend": "torch", "precision": "bf16"}),
        ({"model": {"precision": "fp32"}}, {"backend": None, "precision": "fp32"}),
        ({"model": {"onnx": False}}, {"backend": "torch"}),
        ({"model": {"freeze": "none"}}, {"depth": 0}),
        ({"model": {"freeze": "2"}}, {"depth": 2}),
        ({"model": {"cache_mb": 5.0}}, {"cache_mb": 5.0}),
        ({"data": {"train": "x.csv", "max_length": 128}}, {"max_length": 128}),
        ({"train": {"epochs": 2}}, {"passes": 2}),
        ({"train": {"batch_size": 16}}, {"batch_size": 16}),
        ({"train": {"max_steps": 9}}, {"max_steps": 9}),
    ],
)
def test_what_is_given_is_a_wish(sections: dict[str, Any], expected: dict[str, Any]) -> None:
    constraints = constraints_of(config(budget={"deadline_s": 60.0}, **sections), lambda key, depth: True)
    assert {name: getattr(constraints, name) for name in expected} == expected


def test_the_plan_goes_into_the_settings_and_comes_out_of_them_again() -> None:
    settings, plan = planned(config(budget={"deadline_s": 60.0}))
    assert (settings.model.backend, settings.model.precision) == ("torch", "bf16")
    assert settings.model.freeze == freeze_of(plan.depth)
    assert settings.data.max_length == plan.max_length
    again, same = planned(make_config(settings.model_dump(exclude_none=True)))
    assert again == settings
    assert (same.key, same.depth, same.n_rows) == (plan.key, plan.depth, plan.n_rows)


def test_without_a_budget_only_the_backend_is_chosen() -> None:
    settings, plan = planned(config(train={"epochs": 2}))
    assert plan.key == "torch-bf16"
    assert plan.n_rows == 6000
    assert settings.train.epochs == 2
    assert (settings.model.freeze, settings.data.max_length) == ("embeddings", 128)


def test_what_memory_leaves_bounds_the_cache() -> None:
    sections: dict[str, dict[str, Any]] = {
        "model": {"cache_mb": 2000.0, "freeze": "3"},
        "train": {"epochs": 3},
    }
    settings, plan = planned(config(budget={"memory_mb": 900.0}, **sections))
    assert settings.model.cache_mb == plan.cache_mb < 900
    free, _ = planned(config(**sections))
    assert free.model.cache_mb == 2000


def test_the_summary_has_the_numbers() -> None:
    _, plan = planned(config(budget={"deadline_s": 60.0}))
    words = plan_summary(plan)
    assert f"{plan.n_rows:,} examples in {plan.n_steps:,} steps" in words
    assert plan.key in words
