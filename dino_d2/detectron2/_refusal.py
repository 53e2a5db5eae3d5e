# SPDX-License-Identifier: Apache-2.0
"""Error messages of the embedded engine for parts of Detectron2 that it lacks."""

EMBEDDED = "dino_d2.detectron2.embedded"


def needs_detectron2(what: str) -> str:
    """The message for `what`, a quoted name or a short description of a part that only Detectron2 has."""
    return (
        f"The embedded engine does not have {what}. This needs Detectron2 itself: install it and leave "
        "DINO_D2_ENGINE unset (docs/detectron2.md explains this and lists the names of the embedded engine)."
    )


def detectron2_name(name: str) -> str:
    """Detectron2's name of an object called `name` in the embedded engine or in `dino_d2.detectron2`."""
    return name.replace(EMBEDDED, "detectron2", 1).removeprefix("dino_d2.")
