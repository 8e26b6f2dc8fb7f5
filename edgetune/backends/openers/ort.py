"""`--backend ort`: ONNX Runtime's training build, with exported or carried artifacts."""

from __future__ import annotations

from edgetune.backends.backend_contract import Backend
from edgetune.backends.openers import Opener, Opening, Traits
from edgetune.backends.ort.ort_runtime import has_training_build, import_training
from edgetune.config.settings import RunConfig
from edgetune.devices.device_profile import FixedCosts
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


class OrtOpener(Opener):
    """Opens artifacts; whether a model can be exported is found out by its export."""

    TRAITS = Traits(
        FixedCosts(import_s=0.5, open_s=0.6, open_depth_s=1.0, export_s=19, save_s=2, save_model_s=2),
        exports=True,
        imports_early=True,
        runtime="onnxruntime",
    )

    def missing(self) -> str:
        if has_training_build():
            return ""
        return 'its training build is not installed (`pip install "edgetune[cpu]"`)'

    def import_runtime(self) -> None:
        import edgetune.backends.ort.ort_backend  # noqa: F401  # as a run does

        import_training()

    def check(self, config: RunConfig) -> None:
        require_onnx_graphs(config, "ort")

    def open_backend(self, asked: Opening) -> Backend:
        from edgetune.backends.ort.ort_backend import OrtBackend

        settings = asked.settings
        backend = OrtBackend(
            asked.artifacts(),
            asked.seed,
            device=settings.device,
            threads=settings.threads,
            cache=asked.cache,
        )
        if asked.weights is not None:
            backend.load_weights(weight_files(asked.weights))
        return backend
