"""From measured costs, text lengths and a budget to ranked, explained plans; and the clock.

Measuring belongs in `profiling`; the device profiles that it makes are read here. May import `core` to
`learners`.
"""
