"""What learns from the rows: the encoder's training loop, the linear probe, n-grams; and their ensemble.

A learner gets batches, a backend, a selector and its progress; it never sees the planner or the run
folder's layout. May import `utils` to `run_files`, `selection` and `backends`.
"""
