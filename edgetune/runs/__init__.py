"""One run from settings to summary: set-up, training, deadline, saves, recovery, resuming, and its end.

The training loop itself is in `learners`, decisions about the budget in `planning`. May import every
folder from `utils` to `profiling`.
"""
