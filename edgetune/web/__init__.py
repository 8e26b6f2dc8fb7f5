"""A local page for people who do not use a terminal: `edgetune ui`.

It computes nothing of its own: its tabs call what the command line calls, and training is a child process.
May import every folder but `cli`.
"""
