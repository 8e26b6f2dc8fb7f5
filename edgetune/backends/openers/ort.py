"""`--backend ort`: ONNX Runtime's training build, with exported or carried artifacts."""

from __future__ import annotations

from edgetune.backends.backend_contract import Backend
from edgetune.backends.openers import Opening
from edgetune.backends.ort.artifacts import load_artifacts
from edgetune.config.settings import RunConfig
from edgetune.models.checks import weight_files
from edgetune.utils.errors import UsageError


def require_onnx_graphs(config: RunConfig, name: str) -> None:
    """Refuse what a backend that runs ONNX graphs in fp32 cannot do; `name` is the backend's.

    Raises:
        UsageError: bf16 or no ONNX file was asked for.
    """
    if config.model.precision == "bf16" or not config.model.onnx:
        raise UsageError(
            f"--precision bf16 and --no-onnx require --backend torch; the {name} backend runs ONNX graphs "
            "in fp32."
        )


def check(config: RunConfig) -> None:
    """Refuse bf16 and `--no-onnx`.

    Raises:
        UsageError: they were asked for.
    """
    require_onnx_graphs(config, "ort")


def open_backend(asked: Opening) -> Backend:
    """Open the artifacts, which are exported first where none are cached."""
    from edgetune.backends.ort.ort_backend import OrtBackend

    loader, settings, multi_label = asked.loader, asked.config.model, asked.multi_label
    if loader.carried is not None:
        artifacts = load_artifacts(loader.carried.folder, asked.n_labels, multi_label=multi_label)
    else:
        assert loader.builder is not None
        if loader.builder.cached(asked.n_labels, settings.freeze, multi_label) is None:
            asked.say(f"Exporting training artifacts of {loader.source.name} (once per model and setting)")
        with asked.meter.phase("export"):
            artifacts = loader.builder.get(asked.n_labels, settings.freeze, multi_label)
    for note in artifacts.manifest.notes:
        asked.say(note)
    backend = OrtBackend(
        artifacts,
        asked.config.train.seed,
        device=settings.device,
        threads=settings.threads,
        cache=asked.cache,
    )
    if loader.weights is not None:
        backend.load_weights(weight_files(loader.weights.folder))
    return backend
