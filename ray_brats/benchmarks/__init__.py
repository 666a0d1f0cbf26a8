"""Benchmarks: side by side with peers and floors, in one run; peers come with the `bench` extra.

A benchmark is a function that returns one JSON object with `ratios`, keyed by what they compare,
as the manual has them (None where a peer is not installed); `command.BENCHMARKS` names them.
"""
