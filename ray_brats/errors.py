"""Every error that ray-brats raises on purpose, drawn as one tree.

    RayBratsError
    ├── UsageError       the call itself is wrong: nothing was done, exit status 2
    ├── CaseError        one case cannot be used: a row in the ledger, exit status 1
    │   ├── CaseRejected     the files are at fault; trying again changes nothing
    │   ├── CaseFiltered     the recipe's own rule leaves the case out; not a failure
    │   └── CaseFailed       something outside the files went wrong; may pass next time
    │       └── CaseGivenUp      and trying again at once is of no use
    ├── ArtefactError    a dataset, run, bundle or report does not match its own description
    └── StageFailed      a stage stopped before its end; what it finished stays

Each message says what happened, what was expected and how to mend it. Errors cross process
boundaries, so each must survive pickling: constructors take positional arguments that
`BaseException.args` keeps.
"""

from __future__ import annotations


class RayBratsError(Exception):
    """Base of all errors that ray-brats raises on purpose."""


class UsageError(RayBratsError):
    """The call itself is wrong; nothing was done."""


class CaseError(RayBratsError):
    """One case cannot be used.

    Args:
        reason: what is wrong, in a sentence that names what was expected.
        file: URI or name of the file at fault, or "" where no single file is.
    """

    status = "error"

    def __init__(self, reason: str, file: str = "") -> None:
        super().__init__(reason, file)
        self.reason = reason
        self.file = file

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}" if self.file else self.reason


class CaseRejected(CaseError):
    """The files of the case are at fault; trying again changes nothing."""

    status = "rejected"


class CaseFiltered(CaseError):
    """The recipe's own rule leaves the case out; not a failure."""

    status = "filtered"


class CaseFailed(CaseError):
    """Something outside the files went wrong; the case is tried again next time."""


class CaseGivenUp(CaseFailed):
    """The same, where this command has been patient already and does not try once more."""


class ArtefactError(RayBratsError):
    """A dataset, run, bundle or report does not match its own description."""


class StageFailed(RayBratsError):
    """A stage stopped before its end; what it finished stays and is not redone."""
