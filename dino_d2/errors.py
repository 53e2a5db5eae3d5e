# SPDX-License-Identifier: Apache-2.0
"""The kind of error that is the user's to mend; train_net.py shows it without a traceback."""


class UserError(ValueError):
    """Says what was wrong, where, and what to do."""
