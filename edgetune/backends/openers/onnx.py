"""`--backend onnx`: a forward pass alone by ONNX Runtime, for a linear probe; nothing is trained."""

from __future__ import annotations

from edgetune.backends.backend_contract import Backend
from edgetune.backends.openers import Opening
from edgetune.backends.openers.ort import require_onnx_graphs
from edgetune.config.settings import RunConfig
from edgetune.utils.errors import UsageError


def check(config: RunConfig) -> None:
    """Refuse a run without a time limit, bf16 and `--no-onnx`.

    Raises:
        UsageError: they were asked for.
    """
    if not config.budget.limits_time:
        raise UsageError(
            "--backend onnx fits a linear probe and trains nothing, for which it needs a time limit; add "
            "--deadline, or use another backend."
        )
    require_onnx_graphs(config, "onnx")


def open_backend(asked: Opening) -> Backend:
    """Write the encoder's graph and open it."""
    from edgetune.backends.ort.forward_only import ForwardOnly

    return ForwardOnly(
        asked.loader.source,
        asked.n_labels,
        pair=asked.config.data.pair,
        threads=asked.config.model.threads,
        tokenizer_folder=asked.loader.tokenizer_file.parent,
        multi_label=asked.multi_label,
    )
