"""Measures what operations cost on this machine, in worker processes, and makes a device profile of it.

Reading stored profiles and predicting costs from them belong in `devices`. May import every folder from
`utils` to `report`.
"""
