"""What can be said of labelled text before anything is trained: `edgetune check`.

    path ─→ examples ─┬─→ counts, repeats, overlap (all rows)
                      └─→ lengths, near-duplicates, scripts, n-grams by cross-validation (a sample of them)

May import every folder from `utils` to `learners`.
"""
