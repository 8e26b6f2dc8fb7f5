"""Compute the last encoder layer of a torch classifier for the first token only, exactly.

Heads of the BERT family read `hidden[:, 0]`. The last layer's keys and values need every token; its query,
attention output, LayerNorms and feed-forward need only the first, and give (B, 1, D) instead of (B, T, D).
The same rewrite of an ONNX graph is in `onnx_first_token`.

Only the `forward` of one module instance is replaced: parameters, names and state dict stay.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from edgetune.backends.probe_batch import torch_probe

TOLERANCE = 1e-5  # of logits, beside the largest one or 1
BERT_PARTS = (
    ("", {"attention", "intermediate", "output"}),
    ("attention", {"self", "output"}),
    ("attention.self", {"query", "key", "value", "dropout"}),
    ("output", {"dense", "LayerNorm", "dropout"}),
)
DISTILBERT_PARTS = (
    ("", {"attention", "sa_layer_norm", "ffn", "output_layer_norm"}),
    ("attention", {"q_lin", "k_lin", "v_lin", "out_lin", "dropout"}),
)


def first_token_only(model: Any) -> bool:
    """Let the last layer compute the first token only, where the head is seen to read no other.

    Args:
        model: a sequence classifier in fp32 and eval mode.

    Returns:
        Whether it does so now. If not, the model is as it was: its last layer is built in another way,
        or the logits of a probe differ (a head that pools over all tokens).
    """
    layer = _last_layer(model)
    forward = _forward_for(layer)
    if layer is None or forward is None:
        return False
    before = _logits(model)
    layer.forward = MethodType(forward, layer)
    try:
        difference = float((_logits(model) - before).abs().max())
    except (AttributeError, IndexError, RuntimeError, TypeError):  # layer or head is used in another way
        difference = float("inf")
    if difference <= TOLERANCE * max(1.0, float(before.abs().max())):
        return True
    every_token(model)
    return False


def every_token(model: Any) -> None:
    """Undo `first_token_only`: the last layer's own forward again."""
    layer = _last_layer(model)
    if layer is not None:
        vars(layer).pop("forward", None)


def _last_layer(model: Any) -> Any | None:
    for holder in ("encoder", "transformer"):
        layers = getattr(getattr(model.base_model, holder, None), "layer", None)
        if layers is not None and len(layers) > 0:
            return layers[-1]
    return None


def _forward_for(layer: Any) -> Any | None:
    """Return the forward that fits how a layer is built, or None."""
    if layer is None:
        return None
    if _has(layer, BERT_PARTS) and not getattr(layer, "is_decoder", False):
        return _bert_forward
    return _distilbert_forward if _has(layer, DISTILBERT_PARTS) else None


def _has(layer: Any, parts: tuple[tuple[str, set[str]], ...]) -> bool:
    """Return whether submodules have exactly these children: one more could take part in the layer."""
    modules = dict(layer.named_modules())
    return all(
        path in modules and {name for name, _ in modules[path].named_children()} == children
        for path, children in parts
    )


def _logits(model: Any) -> Any:
    """Return the logits (2, C) of two rows, one of them padded."""
    import torch

    with torch.inference_mode():
        return model(**torch_probe(model)).logits


def _bert_forward(
    self: Any, hidden_states: Any, attention_mask: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Stand in for `BertLayer.forward` of (B, T, D); returns ((B, 1, D),)."""
    if _asks_more(args, kwargs):
        return type(self).forward(self, hidden_states, attention_mask, *args, **kwargs)
    own = self.attention.self
    parts = (own.query, own.key, own.value)
    context = _attend(parts, hidden_states, attention_mask, own.num_attention_heads, _rate(own))
    attended = self.attention.output(context, hidden_states[:, :1])
    return (self.output(self.intermediate(attended), attended),)


def _distilbert_forward(self: Any, x: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Stand in for DistilBERT's `TransformerBlock.forward` of (B, T, D); returns ((B, 1, D),)."""
    if _asks_more(args, kwargs):
        return type(self).forward(self, x, attn_mask, *args, **kwargs)
    own = self.attention
    context = _attend((own.q_lin, own.k_lin, own.v_lin), x, attn_mask, own.n_heads, _rate(own))
    attended = self.sa_layer_norm(own.out_lin(context) + x[:, :1])
    return (self.output_layer_norm(self.ffn(attended) + attended),)


def _asks_more(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a layer is called with a head mask, a cache, or for its attention weights."""
    return any(value is not None and value is not False for value in (*args, *kwargs.values()))


def _rate(attention: Any) -> float:
    return float(attention.dropout.p) if attention.training else 0.0


def _attend(parts: tuple[Any, Any, Any], hidden: Any, mask: Any, n_heads: int, dropout: float) -> Any:
    """Return the first token's attention output (B, 1, D).

    Args:
        parts: the query, key and value projections.
        hidden: (B, T, D).
        mask: None, added to the scores as (B, 1, 1 or T, T), or (B, T) with 0 at padding.
        n_heads: attention heads.
        dropout: of the attention weights.
    """
    import torch

    if mask is not None:
        mask = mask[:, :, :1] if mask.dim() == 4 else (mask != 0)[:, None, None, :]
    query, key, value = (
        part(states).unflatten(-1, (n_heads, -1)).transpose(1, 2)
        for part, states in zip(parts, (hidden[:, :1], hidden, hidden), strict=True)
    )
    context = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout
    )
    return context.transpose(1, 2).flatten(2)
