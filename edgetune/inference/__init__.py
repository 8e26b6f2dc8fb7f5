"""A finished run, opened again: scorers, predictions, evaluation, and inspection of its training rows.

Tables and pages belong in `report`. May import every folder from `utils` to `planning`.
"""
