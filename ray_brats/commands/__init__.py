"""The commands, one function each: files in, files out, a summary back.

Each takes one frozen dataclass, whose fields and the docstrings under them are the options of the
command line and their help; `registry` is the table of them all. They join the stages, which do
not know each other. A summary is plain JSON with `failures`, rows of `case_id, status, reason,
file`, and `counts` of cases by status where there are cases.

Doors: registry, parser, arguments, output, and the module of each command.
Never here: an import at the top of a module that takes long (Ray, TensorFlow, pandas, matplotlib).
"""
