"""The last linear layer of a torch classifier, and what it sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def find_linear(model: Any, run: Callable[[], Any]) -> Any | None:
    """Return the `nn.Linear` (with a bias) whose output is the logits, or None.

    Args:
        model: a classifier.
        run: calls it and returns its logits (B, C).
    """
    import torch

    last: list[tuple[Any, Any]] = []
    linears = [part for part in model.modules() if isinstance(part, torch.nn.Linear)]
    hooks = [
        part.register_forward_hook(lambda module, _, output: last.append((module, output)))
        for part in linears
    ]
    try:
        with torch.no_grad():
            logits = run()
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        return None
    linear, output = last[-1]
    same = output.shape == logits.shape and bool(torch.equal(output.float(), logits.float()))
    return linear if same and linear.bias is not None else None


def seen_by(linear: Any, run: Callable[[], Any]) -> Any:
    """Return what a linear layer sees (B, F) while a model runs."""
    seen: list[Any] = []
    hook = linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        run()
    finally:
        hook.remove()
    return seen[-1]
