"""Settings of a run: typed, with defaults, limits and presets; TOML in and out; budgets as users write them.

Reading labelled text and deciding what is left open belong elsewhere (`data`, `planning`).
May import `utils`.
"""
