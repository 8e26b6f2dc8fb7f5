"""Care of the installation: what this machine has and lacks (`edgetune doctor`), and what lies in the caches.

Measuring the machine belongs in `profiling`. May import every folder from `utils` to `runs`.
"""
