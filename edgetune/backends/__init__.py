"""What runs a model: one contract, a folder per runtime (`torch`, `ort`), and what they share.

How examples are chosen and when training ends belong elsewhere (`selection`, `learners`). May import `utils`
to `run_files`.
"""
