# SPDX-License-Identifier: Apache-2.0
"""The report on a loaded checkpoint."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class LoadReport:
    """What happened to every tensor of a checkpoint and of a model; tensors of the model have the model's names."""

    source: str
    format: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # not in the checkpoint, kept as initialized
    misshapen: dict[str, str] = field(default_factory=dict)  # {name: both shapes}, kept as initialized
    unused: dict[str, str] = field(default_factory=dict)  # {the checkpoint's name: why}
    classes: str = ""  # how a different class count was handled
    remade: list[str] = field(default_factory=list)  # kept as initialized, because the checkpoint has other classes
    separate_heads: bool = False  # the checkpoint's heads differ between layers, the model shares one
    settings: dict[str, tuple[float, float]] = field(default_factory=dict)  # {name: (trained with, the model's)}

    @property
    def doubtful(self) -> bool:
        """Whether the report has something that can make the model less accurate."""
        return bool(self.misshapen or self.separate_heads or self.settings)

    @property
    def lacking(self) -> list[str]:
        """Missing tensors that every trained model of this kind has; with any, the checkpoint is of another model."""
        return [name for name in self.missing if ".decoder.layers." in name or "class_head" in name]

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.format}, {len(self.loaded)} tensors loaded"]
        if self.classes:
            lines.append(self.classes)
        if self.missing:
            lines.append(f"not in the checkpoint: {summary(self.missing)}")
        lines += [f"other shape: {name}, {shapes}" for name, shapes in self.misshapen.items()]
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.unused.items():
            by_reason.setdefault(reason, []).append(name)
        lines += [f"not used: {summary(names)}: {reason}" for reason, names in by_reason.items()]
        lines += [
            f"these weights were trained with {name}={trained:g}, the model has {own:g}: "
            f"set model.detector.{name}={trained:g} to get their accuracy"
            for name, (trained, own) in self.settings.items()
        ]
        if self.separate_heads:
            lines.append(
                "these weights have a separate head for each layer; a model that shares one head is less accurate"
            )
        return "\n  ".join(lines)


def summary(names: list[str], at_most: int = 6) -> str:
    """The names; where there are too many, the number of names of each part of the model."""
    if len(names) <= at_most:
        return ", ".join(names)
    parts = Counter(".".join(name.split(".")[:3]) for name in names)
    if len(parts) > at_most:
        parts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{part} ({number})" for part, number in parts.items())
