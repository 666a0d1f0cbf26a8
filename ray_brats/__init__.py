"""Brain tumour segmentation on BraTS-style MRI, as a distributed job on Ray.

Nothing but the version lives here: every Ray worker imports this module.
"""

__version__ = "0.1.0"
