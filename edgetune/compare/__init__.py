"""Methods side by side on the same rows: grids of runs, outcomes, statistics, speed-ups, tables and pictures.

The methods themselves lie in `selection`, outside programs in `compare.baselines`. May import every folder
but `maintenance` and `cli`.
"""
