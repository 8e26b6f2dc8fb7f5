"""Device profiles (measured costs of one machine), which of them fits this one, and the cost function.

Measuring a profile belongs in `profiling`, spending a budget by it in `planning`. May import `utils`,
`config`, `models` and `energy`.
"""
