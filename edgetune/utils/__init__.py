"""Small tools for every other folder: errors, types, atomic files, limits, metrics, time, machine.

Nothing here knows about models, data sets or runs. Imports no other folder of edgetune.
"""
