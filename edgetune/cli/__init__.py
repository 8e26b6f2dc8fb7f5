"""The command line: one file per group of commands, each of which parses, makes one library call and prints.

No computation belongs here, and nothing heavy is imported before a command runs. May import every other
folder; none imports this one.
"""
