"""What people look at: the page of an evaluation, its charts, and pictures of cases.

Doors: page, figures, worst_cases.
Never here: a score that `metrics` does not give.
"""
