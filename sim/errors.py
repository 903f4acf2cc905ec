"""Errors that a user can do something about: where, what is wrong, and what to do."""

from __future__ import annotations


class UserError(ValueError):
    """A thing that cannot be done as asked, told in one sentence; the parent of all foreseen errors.

    Args:
        where: the file, store, run or setting that it is about; may be empty.
        what: what is wrong there.
        fix: what to do about it; may be empty where ``what`` says it.
    """

    def __init__(self, where: str, what: str = "", fix: str = "") -> None:
        super().__init__(where, what, fix)
        self.where, self.what, self.fix = where, what, fix

    def __str__(self) -> str:
        """``where: what; fix``, in one line."""
        placed = ": ".join(part for part in (self.where, self.what) if part)
        return "; ".join(part for part in (placed, self.fix) if part).replace("\n", " ")
