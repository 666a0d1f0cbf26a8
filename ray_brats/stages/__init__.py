"""The stages of the pipeline on Ray, one module and one function each.

Doors: the function of each stage.
Never here: another stage; what joins two of them is in `commands`.
"""
