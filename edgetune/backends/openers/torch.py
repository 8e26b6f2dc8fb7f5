"""`--backend torch`: PyTorch and transformers."""

from __future__ import annotations

import importlib
import importlib.util

from edgetune.backends.backend_contract import Backend
from edgetune.backends.openers import Opener, Opening, Traits
from edgetune.devices.device_profile import FixedCosts

MOST_TOKENS = 1024
"""All 4,096 tokens of 32 long rows at once would take as long, and 0.5 GB more for their activations
(docs/log.md, thirtieth session)."""


class TorchOpener(Opener):
    """Accepts all settings, and every model that edgetune accepts."""

    TRAITS = Traits(
        FixedCosts(import_s=9, open_s=1.3, open_depth_s=0.3, export_s=0, save_s=1.9, save_model_s=0.3),
        runtime="torch",
        precisions=("fp32", "bf16"),
        devices=("cpu", "cuda"),
        most_tokens=MOST_TOKENS,
    )

    def missing(self) -> str:
        if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
            return 'PyTorch and transformers are not installed (`pip install "edgetune[cpu]"`)'
        return ""

    def import_runtime(self) -> None:
        for name in ("edgetune.backends.torch.torch_backend", "torch"):
            importlib.import_module(name)
        transformers = importlib.import_module("transformers")
        transformers.AutoModelForSequenceClassification  # noqa: B018  # imports what loads a model

    def open_backend(self, asked: Opening) -> Backend:
        from edgetune.backends.torch.torch_backend import TorchBackend

        settings = asked.settings
        return TorchBackend(
            asked.source,
            asked.n_labels,
            settings.freeze,
            asked.seed,
            device=settings.device,
            precision=settings.precision,
            threads=settings.threads,
            onnx=settings.onnx,
            tokenizer_folder=asked.tokenizer_folder,
            cache=asked.cache,
            multi_label=asked.multi_label,
            most_tokens=MOST_TOKENS if settings.device == "cpu" else None,
        )
