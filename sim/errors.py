"""Errors that a user can do something about, with fields: where, what is wrong, and what to do about it."""

from __future__ import annotations


class UserError(ValueError):
    """Something that cannot be done as asked: the parent of all errors that are shown to a user without a traceback.

    Errors survive pickling, so that they reach the user from another process, too.

    Args:
        where: the file, store, scene, run or setting that the error is about; empty where ``what`` names it.
        what: what is wrong there.
        fix: what to do about it; may be empty.
    """

    def __init__(self, where: str, what: str, fix: str = "") -> None:
        super().__init__(where, what, fix)
        self.where, self.what, self.fix = where, what, fix

    def __str__(self) -> str:
        """``where: what; fix``, in one line."""
        placed = ": ".join(part for part in (self.where, self.what) if part)
        return "; ".join(part for part in (placed, self.fix) if part).replace("\n", " ")
