"""The run folder and the files in it: settings, history, checkpoints, summary, statistics of every example.

What a run does, and how results are shown, belong in `runs` and `report`. May import `utils`, `config`,
`data`, `models` and `energy`.
"""
