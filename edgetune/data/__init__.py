"""Labelled text in, token batches out: readers, checked examples, splits, the token cache, batches, queues.

    path ─→ readers ─→ table ─→ columns ─→ examples ─→ tokens (memory-mapped cache) ─→ splits ─→ batches

Models and training belong elsewhere. May import `utils` and `config`.
"""
