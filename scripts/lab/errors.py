# SPDX-License-Identifier: LGPL-2.1-or-later

"""What can go wrong in the lab."""

from __future__ import annotations

__all__ = ("BootError", "EditError", "GuestError", "LabError", "MissingToolError")


class LabError(Exception):
    """Something the lab needs is not there or did not work; the message is one line."""


class MissingToolError(LabError):
    """Programs are missing and cannot be installed from here."""


class EditError(LabError):
    """A source edit did not find the place it changes."""


class GuestError(LabError):
    """A guest did not boot, stopped early or reported a failure."""


class BootError(GuestError):
    """A guest ended before its program ran."""
