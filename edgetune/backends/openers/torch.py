"""`--backend torch`: PyTorch and transformers."""

from __future__ import annotations

from edgetune.backends.backend_contract import Backend
from edgetune.backends.openers import Opening
from edgetune.config.settings import RunConfig


def check(config: RunConfig) -> None:
    """Accept all settings."""


def open_backend(asked: Opening) -> Backend:
    """Open the model with torch."""
    from edgetune.backends.torch.torch_backend import TorchBackend

    settings, loader = asked.config.model, asked.loader
    return TorchBackend(
        loader.source,
        asked.n_labels,
        settings.freeze,
        asked.config.train.seed,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
        onnx=settings.onnx,
        tokenizer_folder=loader.tokenizer_file.parent,
        cache=asked.cache,
        multi_label=asked.multi_label,
    )
