"""`--backend onnx`: a forward pass alone by ONNX Runtime, for a linear probe; nothing is trained."""

from __future__ import annotations

import importlib.util

from edgetune.backends.backend_contract import Backend
from edgetune.backends.openers import Opener, Opening, Traits
from edgetune.backends.openers.ort import require_onnx_graphs
from edgetune.config.settings import RunConfig
from edgetune.devices.device_profile import FixedCosts
from edgetune.models.source import ModelSource
from edgetune.utils.errors import UsageError


class OnnxOpener(Opener):
    """Writes the encoder's graph, where that can be done without an export, and opens it."""

    TRAITS = Traits(  # Zen 3, 2 cores, the built-in model (2026-11-29)
        FixedCosts(import_s=0.5, open_s=1.4, open_depth_s=1.4, export_s=0, save_s=1.2, save_model_s=1.2),
        trains=False,
        runtime="onnxruntime",
    )

    def missing(self) -> str:
        if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")):
            return 'onnx and ONNX Runtime are not installed (`pip install "edgetune[cpu]"`)'
        return ""

    def fits(self, source: ModelSource) -> bool:
        from edgetune.backends.ort.bert_graph import can_write

        return can_write(source.config, source.pools_mean, source.folder)

    def check(self, config: RunConfig) -> None:
        if not config.budget.limits_time:
            raise UsageError(
                "--backend onnx fits a linear probe and trains nothing, for which it needs a time limit; add "
                "--deadline, or use another backend."
            )
        require_onnx_graphs(config, "onnx")

    def open_backend(self, asked: Opening) -> Backend:
        from edgetune.backends.ort.forward_only import ForwardOnly

        return ForwardOnly(
            asked.source,
            asked.n_labels,
            pair=asked.pair,
            threads=asked.settings.threads,
            tokenizer_folder=asked.tokenizer_folder,
            multi_label=asked.multi_label,
        )
