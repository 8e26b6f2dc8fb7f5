"""Learners that are fitted on texts, one file each; `learners.text_learner` has the contract.

Another learner is one file here and nothing else: a subclass of `TextLearner`. The file's name is what
`--learners` takes, with dashes for underscores. A run fits it in its share of the time, fits its weight
on held-out rows, shows it in the summary, keeps it in `ensemble/NAME/` for a resume, and predicts with it if
the weight is above 0. This module imports nothing, since the command line reads the names of the files; the
files may import what `learners` may.
"""
