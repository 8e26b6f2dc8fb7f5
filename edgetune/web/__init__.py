"""A local page for people who do not use a terminal: `edgetune ui`.

It computes nothing of its own: every tab calls what the command line calls, and training is a child process.
"""
