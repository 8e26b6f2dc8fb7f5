"""Run parts of a torch encoder alone, without touching its modules: its lowest layers, or its first token.

    below:  embeddings ─→ layers 0 … N-1 ─→ stop, and take what layer N-1 gives
    above:  (nothing)  ─→ layers that hand on a given hidden state ─→ layers N … ─→ head

Heads of the BERT family read `hidden[:, 0]`. The last layer's keys and values need every token; its query,
attention output, LayerNorms and feed-forward need only the first, and give (B, 1, D) instead of (B, T, D).
The same rewrite of an ONNX graph is in `onnx_first_token`.

Only the `forward` of module instances is replaced (of those cut off, only while a pass runs): parameters,
names, hooks and the state dict stay. Whether the logits are still the model's own is tried once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

from edgetune.backends.onnx_export import torch_probe
from edgetune.models.source import layer_number

TOLERANCE = 1e-4  # of logits, beside the largest one
BF16_TOLERANCE = 0.05
FIRST_TOKEN_TOLERANCE = 1e-5  # of logits, beside the largest one or 1


class _Reached(Exception):
    """Carries the hidden state out of a pass that stops half-way."""

    def __init__(self, output: Any) -> None:
        self.output = output


class LayerCut:
    """A model whose lowest layers can be run apart."""

    def __init__(self, model: Any, depth: int, run: Callable[[], Any]) -> None:
        """Find the layers; note what embeddings and the layer below the cut give while `run` calls the model.

        Raises:
            LookupError: the model has no list of so many layers.
        """
        self._layers = encoder_layers(model)[:depth]
        if len(self._layers) < depth:
            raise LookupError(f"the model does not have {depth} encoder layers")
        table = model.get_input_embeddings()
        self._embeddings = next(
            (part for part in model.base_model.children() if part is not table and table in part.modules()),
            None,
        )
        if self._embeddings is not None and self._layers[0] in self._embeddings.modules():
            self._embeddings = None
        seen: dict[Any, Any] = {}

        def note(part: Any, inputs: Any, output: Any) -> None:
            seen[part] = output

        with contextlib.ExitStack() as hooks:
            for part in (self._layers[-1], self._embeddings):
                if part is not None:
                    hooks.enter_context(part.register_forward_hook(note))
            run()
        self._last_output: Any = seen[self._layers[-1]]
        self._embedded: Any = seen.get(self._embeddings)
        if getattr(self._embedded, "ndim", 0) != 3:
            self._embeddings = None

    def below(self, run: Callable[[], Any]) -> Any:
        """Return the hidden state (B, T, D) above the layers below the cut; `run` calls the model."""

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


def encoder_layers(model: Any) -> list[Any]:
    """Return the modules whose parameters `models.layer_number` numbers, in order."""
    found: dict[int, Any] = {}
    for path, module in model.named_modules():
        number = layer_number(f"{path}.")
        if number is not None and path.endswith(f".{number}"):
            found.setdefault(number, module)
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
    """Cut a classifier, on the device where it will run, above its `depth` lowest layers.

    Returns:
        The cut, or None where the two passes (under autocast if `bf16`) do not give the model's logits.
    """
    import torch

    inputs = torch_probe(model)

    def run() -> Any:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            return model(**inputs).logits.float()

    try:
        with torch.no_grad():
            expected = run()
            cut = LayerCut(model, depth, run)
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


def first_token_only(model: Any) -> bool:
    """Let the last layer of a classifier in fp32 and eval mode compute the first token only.

    Returns:
        Whether it does so now. If not, the model is as it was: its last layer is built in another way,
        or the logits of a probe differ (a head that pools over all tokens).
    """
    import torch

    layer = _last_layer(model)
    kind = next((forward for forward, parts in _FIRST_TOKEN.items() if _has(layer, parts)), None)
    if kind is None or getattr(layer, "is_decoder", False):
        return False
    with torch.inference_mode():
        before = model(**torch_probe(model)).logits
        layer.forward = MethodType(kind, layer)
        try:
            difference = float((model(**torch_probe(model)).logits - before).abs().max())
        except (AttributeError, IndexError, RuntimeError, TypeError):  # layer or head is used in another way
            difference = float("inf")
    if difference <= FIRST_TOKEN_TOLERANCE * max(1.0, float(before.abs().max())):
        return True
    every_token(model)
    return False


def every_token(model: Any) -> None:
    """Undo `first_token_only`: the last layer's own forward again."""
    vars(_last_layer(model)).pop("forward", None)


def _last_layer(model: Any) -> Any:
    """Return the last layer of a BERT or DistilBERT, or None."""
    for holder in ("encoder", "transformer"):
        layers = getattr(getattr(model.base_model, holder, None), "layer", None)
        if layers is not None and len(layers) > 0:
            return layers[-1]
    return None


def _has(layer: Any, parts: dict[str, set[str]]) -> bool:
    """Return whether submodules have exactly these children: one more could take part in the layer."""
    modules = {} if layer is None else dict(layer.named_modules())
    return all(
        path in modules and {name for name, _ in modules[path].named_children()} == children
        for path, children in parts.items()
    )


def _bert_forward(
    self: Any, hidden_states: Any, attention_mask: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Stand in for `BertLayer.forward` of (B, T, D); returns ((B, 1, D),)."""
    if _asks_more(args, kwargs):
        return type(self).forward(self, hidden_states, attention_mask, *args, **kwargs)
    own = self.attention.self
    parts = (own.query, own.key, own.value)
    context = _attend(own, parts, hidden_states, attention_mask, own.num_attention_heads)
    attended = self.attention.output(context, hidden_states[:, :1])
    return (self.output(self.intermediate(attended), attended),)


def _distilbert_forward(self: Any, x: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Stand in for DistilBERT's `TransformerBlock.forward` of (B, T, D); returns ((B, 1, D),)."""
    if _asks_more(args, kwargs):
        return type(self).forward(self, x, attn_mask, *args, **kwargs)
    own = self.attention
    context = _attend(own, (own.q_lin, own.k_lin, own.v_lin), x, attn_mask, own.n_heads)
    attended = self.sa_layer_norm(own.out_lin(context) + x[:, :1])
    return (self.output_layer_norm(self.ffn(attended) + attended),)


_FIRST_TOKEN: dict[Callable[..., Any], dict[str, set[str]]] = {
    _bert_forward: {
        "": {"attention", "intermediate", "output"},
        "attention": {"self", "output"},
        "attention.self": {"query", "key", "value", "dropout"},
        "output": {"dense", "LayerNorm", "dropout"},
    },
    _distilbert_forward: {
        "": {"attention", "sa_layer_norm", "ffn", "output_layer_norm"},
        "attention": {"q_lin", "k_lin", "v_lin", "out_lin", "dropout"},
    },
}
"""What a last layer may compute instead, and the children of the submodules that it must have."""


def _asks_more(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a layer is called with a head mask, a cache, or for its attention weights."""
    return any(value is not None and value is not False for value in (*args, *kwargs.values()))


def _attend(attention: Any, parts: tuple[Any, ...], hidden: Any, mask: Any, n_heads: int) -> Any:
    """Return the first token's attention output (B, 1, D).

    `parts` are the query, key and value projections of `hidden` (B, T, D); `mask` is None, added to the
    scores as (B, 1, 1 or T, T), or (B, T) with 0 at padding.
    """
    import torch

    if mask is not None:
        mask = mask[:, :, :1] if mask.dim() == 4 else (mask != 0)[:, None, None, :]
    query, key, value = (
        part(states).unflatten(-1, (n_heads, -1)).transpose(1, 2)
        for part, states in zip(parts, (hidden[:, :1], hidden, hidden), strict=True)
    )
    dropout = float(attention.dropout.p) if attention.training else 0.0
    context = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout
    )
    return context.transpose(1, 2).flatten(2)
