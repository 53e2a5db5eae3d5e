# SPDX-License-Identifier: Apache-2.0
"""What the embedded engine says where it lacks something that Detectron2 has."""

EMBEDDED = "dino_d2.detectron2.embedded"


def needs_detectron2(what: str) -> str:
    """The message for `what` (a quoted name, or a few words) that only Detectron2 itself has."""
    return (
        f"The embedded engine does not serve {what}. This needs Detectron2 itself: install it and leave "
        "DINO_D2_ENGINE unset (docs/detectron2.md says how, and lists what the embedded engine serves)."
    )


def detectron2_name(name: str) -> str:
    """Detectron2's name of what is called `name` in the embedded engine or through the door."""
    return name.replace(EMBEDDED, "detectron2", 1).removeprefix("dino_d2.")
