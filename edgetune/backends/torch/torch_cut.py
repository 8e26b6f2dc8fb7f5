"""Run a torch encoder's lowest layers apart from the rest, without touching its modules.

    below:  embeddings ─→ layers 0 … N-1 ─→ stop, and take what layer N-1 gives
    above:  (nothing)  ─→ layers that hand on a given hidden state ─→ layers N … ─→ head

Only the `forward` of module instances is replaced, and only while a pass runs: parameters, names, hooks
and the state dict stay. Whether both passes together give the model's own logits is tried once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from edgetune.backends.probe_batch import torch_probe
from edgetune.models.source import layer_number

TOLERANCE = 1e-4  # of logits, beside the largest one
BF16_TOLERANCE = 0.05


class _Reached(Exception):
    """Carries the hidden state out of a pass that stops half-way."""

    def __init__(self, output: Any) -> None:
        self.output = output


class LayerCut:
    """A model whose layers below `depth` can be run apart.

    Attributes:
        depth: layers below the cut.
    """

    def __init__(self, model: Any, depth: int) -> None:
        """Find the layers.

        Raises:
            LookupError: the model has no list of so many layers.
        """
        self.depth = depth
        self._layers = encoder_layers(model)[:depth]
        if len(self._layers) < depth or depth < 1:
            raise LookupError(f"the model does not have {depth} encoder layers")
        self._last_output: Any = None
        table = model.get_input_embeddings()
        self._embeddings = next(
            (part for part in model.base_model.children() if part is not table and table in part.modules()),
            None,
        )
        if self._embeddings is not None and self._layers[0] in self._embeddings.modules():
            self._embeddings = None
        self._embedded: Any = None

    def below(self, run: Callable[[], Any]) -> Any:
        """Return the hidden state (B, T, D) above the layers below the cut.

        Args:
            run: calls the model.
        """

        def stop(*args: Any, **kwargs: Any) -> None:
            # The class's own forward: an instance's may compute the first token only.
            raise _Reached(type(last).forward(last, *args, **kwargs))

        last = self._layers[-1]
        with _forwards({last: stop}):
            try:
                run()
            except _Reached as reached:
                return first_of(reached.output)
        raise LookupError("the model did not run its layers")

    @contextlib.contextmanager
    def above(self, hidden: Any) -> Iterator[None]:
        """Let the model start from a hidden state (B, T, D): a call inside gives its logits."""
        given = hidden.to(first_of(self._last_output).dtype)
        output: Any = given
        if isinstance(self._last_output, tuple):
            output = (given, *(None for _ in self._last_output[1:]))
        stands = {layer: lambda *args, **kwargs: output for layer in self._layers}
        if self._embeddings is not None:
            nothing = self._embedded.new_zeros(()).expand(*hidden.shape[:2], self._embedded.shape[2])
            stands[self._embeddings] = lambda *args, **kwargs: nothing
        with _forwards(stands):
            yield

    def learn(self, run: Callable[[], Any]) -> None:
        """Note what the embeddings and the layer below the cut give, in one pass of the whole model."""
        seen: dict[str, Any] = {}
        hooks = [self._layers[-1].register_forward_hook(lambda *args: seen.update(last=args[2]))]
        if self._embeddings is not None:
            hooks.append(self._embeddings.register_forward_hook(lambda *args: seen.update(first=args[2])))
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
        self._last_output = seen["last"]
        self._embedded = seen.get("first")
        if getattr(self._embedded, "ndim", 0) != 3:
            self._embeddings = None


def encoder_layers(model: Any) -> list[Any]:
    """Return the modules whose parameters `models.layer_number` numbers, in order."""
    found: dict[int, Any] = {}
    for path, module in model.named_modules():
        number = layer_number(f"{path}.")
        if number is not None and path.endswith(f".{number}") and number not in found:
            found[number] = module
    return [found[number] for number in range(len(found)) if number in found]


def first_of(output: Any) -> Any:
    """Return the hidden state in what a layer gives."""
    return output[0] if isinstance(output, tuple) else output


@contextlib.contextmanager
def _forwards(forwards: dict[Any, Any]) -> Iterator[None]:
    """Replace some modules' forward for a while."""
    before = {module: vars(module).get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def find_cut(model: Any, depth: int, bf16: bool) -> LayerCut | None:
    """Cut a model, if that can be done.

    Args:
        model: a sequence classifier on the device where it will run.
        depth: layers below the cut.
        bf16: whether it runs under autocast.

    Returns:
        The cut, or None where the two passes do not give the model's logits.
    """
    import torch

    inputs = torch_probe(model)

    def run() -> Any:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            return model(**inputs).logits.float()

    try:
        with torch.no_grad():
            cut = LayerCut(model, depth)
            expected = run()
            cut.learn(run)
            hidden = cut.below(run) * inputs["attention_mask"][..., None]
            with cut.above(hidden):
                found = run()
    except (LookupError, TypeError, RuntimeError, AttributeError, ValueError):
        return None
    limit = (BF16_TOLERANCE if bf16 else TOLERANCE) * float(expected.abs().max())
    return cut if float((found - expected).abs().max()) <= limit else None


def shared_below(model: Any, cut: LayerCut) -> set[str]:
    """Return the parameters to be trained that the layers below the cut use too."""
    import torch

    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    inputs = torch_probe(model)
    with torch.enable_grad():
        hidden = cut.below(lambda: model(**inputs))
    if not hidden.requires_grad:
        return set()
    found = torch.autograd.grad(hidden.sum(), list(trained.values()), allow_unused=True)
    return {name for name, gradient in zip(trained, found, strict=True) if gradient is not None}
