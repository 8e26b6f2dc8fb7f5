"""A finished run, opened again: scorers, predictions, evaluation, inspection of training rows, and a server.

Tables and pages belong in `report`. May import every folder from `utils` to `planning`.
"""
