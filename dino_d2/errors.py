# SPDX-License-Identifier: Apache-2.0
"""Errors that the user can correct; commands show them without a traceback."""


class UserError(ValueError):
    """A mistake of the user. The message states the fault, its place and the remedy."""
