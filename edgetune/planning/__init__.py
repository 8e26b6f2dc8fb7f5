"""From measured costs, text lengths and a budget to ranked, explained plans; and the clock.

Measuring belongs in `profiling`, device profiles and the cost function in `devices`. May import `utils` to
`learners`.
"""
