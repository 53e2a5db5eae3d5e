"""Any known checkpoint into a model, with an account of every tensor."""

import logging
import re
from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor, nn

from .classes import fit_classes, num_classes
from .files import read_tensors
from .formats import FORMATS, Format
from .layout import to_model
from .rules import rename

logger = logging.getLogger(__name__)

PREFIX = "detector."  # the meta-architecture's name for the tensor core


@dataclass
class LoadReport:
    """What became of every tensor of the checkpoint and of the model."""

    path: str
    format: str
    loaded: list[str] = field(default_factory=list)  # the model's names
    missing: list[str] = field(default_factory=list)  # the model's names, left as they were
    misshapen: dict[str, str] = field(default_factory=dict)  # {the model's name: both shapes}, left as they were
    unused: dict[str, str] = field(default_factory=dict)  # {the checkpoint's name: why}
    classes: str = ""  # what was done about another class count

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.format}, {len(self.loaded)} tensors loaded"]
        if self.classes:
            lines.append(f"  {self.classes}")
        if self.missing:
            lines.append(f"  not in the checkpoint: {summary(self.missing)}")
        lines += [f"  other shape: {name}: {shapes}" for name, shapes in self.misshapen.items()]
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.unused.items():
            by_reason.setdefault(reason, []).append(name)
        lines += [f"  not used ({reason}): {summary(names)}" for reason, names in by_reason.items()]
        return "\n".join(lines)


def load_checkpoint(model: nn.Module, path: str) -> LoadReport:
    """Load a checkpoint of any format in `formats`, recognised by its tensors, or one of our own.

    Tensors that the checkpoint does not have, or has in another shape, stay as they are in the model. The report,
    which is also logged, names each of them.

    Args:
        model: a ``DETR`` or its ``Detector``, on any device.
        path: file, as for `files.read_tensors`.

    Raises:
        ValueError: the file is of no known format, or not one tensor of it fits the model.
    """
    report = load_tensors(model, read_tensors(path), path)
    level = logging.WARNING if report.misshapen else logging.INFO
    logger.log(level, "%s", report)
    return report


def load_tensors(model: nn.Module, tensors: dict[str, Tensor], path: str = "checkpoint") -> LoadReport:
    """The same for tensors by name that have been read already; ``path`` names them in the report."""
    own = {name.removeprefix(PREFIX): tensor for name, tensor in model.state_dict().items()}
    prefix = PREFIX if any(name.startswith(PREFIX) for name in model.state_dict()) else ""
    checkpoint_format = recognise(tensors, own, path)
    report = LoadReport(path, checkpoint_format.name)
    renamed, names, report.unused = convert(tensors, checkpoint_format)
    placed, differing = to_model(renamed, own)
    report.unused |= {names[name]: why for name, why in differing.items()}

    found, wanted = num_classes(placed), num_classes(own)
    if found and wanted:
        embedding = placed.get("label_embedding.weight")
        if embedding is not None and len(embedding) > found:  # the authors keep a row more, which nothing uses
            placed["label_embedding.weight"] = embedding[:found]
        if found != wanted:
            placed, report.classes = fit_classes(placed, wanted)

    fitting = {}
    for name, tensor in placed.items():
        if name not in own:
            report.unused[names.get(name, name)] = "the model has nothing of this name"
        elif tensor.shape != own[name].shape:
            report.misshapen[prefix + name] = f"{tuple(tensor.shape)} there, {tuple(own[name].shape)} here"
        else:
            fitting[prefix + name] = tensor
    if not fitting:
        raise ValueError(f"{path}: recognised as {checkpoint_format.name}, but not one tensor fits the model")
    model.load_state_dict(fitting, strict=False)
    report.loaded = list(fitting)
    report.missing = [prefix + n for n in own if prefix + n not in fitting and prefix + n not in report.misshapen]
    return report


def convert(tensors: dict[str, Tensor], checkpoint_format: Format) -> tuple[dict[str, Tensor], dict, dict[str, str]]:
    """Rename: tensors by the formats' names, {that name: the checkpoint's}, and {the checkpoint's: why not used}."""
    renamed: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    unused: dict[str, str] = {}
    for name, tensor in tensors.items():
        reasons = [why for pattern, why in checkpoint_format.not_needed.items() if re.fullmatch(pattern, name)]
        target = None if reasons else rename(name, checkpoint_format.rules)
        if target is None:
            unused[name] = reasons[0] if reasons else "no rule for this name"
        elif target in renamed and not tensor.equal(renamed[target]):
            unused[name] = f"differs from {names[target]}, which should be the same tensor"
        else:
            renamed[target] = tensor
            names.setdefault(target, name)
    return renamed, names, unused


def recognise(tensors: dict[str, Tensor], own: dict[str, Tensor], path: str) -> Format:
    """The format whose signature the tensors have.

    Raises:
        ValueError: none has.
    """
    if any(name.removeprefix(PREFIX) in own for name in tensors):
        return Format(name="dino_d2", signature=(), rules=tuple((PREFIX + name, name) for name in own), not_needed={})
    for checkpoint_format in FORMATS:
        if all(name in tensors for name in checkpoint_format.signature):
            return checkpoint_format
    known = ", ".join(f.name for f in FORMATS)
    raise ValueError(
        f"{path}: this is no checkpoint of a known format. Its first tensors are {', '.join(list(tensors)[:5])}; "
        f"known formats are dino_d2's own, {known}."
    )


def summary(names: list[str], at_most: int = 8) -> str:
    """Names, or how many there are of each part where there are too many to read."""
    if len(names) <= at_most:
        return ", ".join(names)
    parts = Counter(".".join(name.removeprefix(PREFIX).split(".")[:2]) for name in names)
    return ", ".join(f"{part} ({number})" for part, number in parts.items())
