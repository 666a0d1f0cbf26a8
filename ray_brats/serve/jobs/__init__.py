"""Work that outlives its request: the queue of jobs, its store, and jobs over cohorts.

Doors: queue, store.
Never here: HTTP, or Ray.
"""
