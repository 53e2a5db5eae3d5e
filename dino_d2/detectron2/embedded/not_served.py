# SPDX-License-Identifier: Apache-2.0
"""The error for what Detectron2 has and the embedded engine has not."""

from dino_d2.errors import UserError


class NeedsDetectron2(UserError, NotImplementedError):
    """A call asks for something that Detectron2 alone can do."""

    def __init__(self, what: str) -> None:
        """
        Args:
            what: the missing part, as the subject of a sentence: "Evaluation of masks".
        """
        super().__init__(
            f"{what} needs Detectron2 itself; the embedded engine of dino_d2 does not have it. docs/detectron2.md "
            "says how to install Detectron2."
        )
