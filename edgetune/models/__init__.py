"""Where an encoder comes from (built-in, folder, hub), and the checks before its files are opened.

Running or exporting a model belongs in `backends`. May import `utils` and `config`.
"""
