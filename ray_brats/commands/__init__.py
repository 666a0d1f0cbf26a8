"""The commands, one function each: files in, files out, a summary back.

They join the stages, which do not know each other. Their arguments and docstrings are the
command line's options and help. Every summary is plain JSON with `failures`, rows of
`case_id, status, reason, file`, and `counts` of cases by status where there are cases.
"""
