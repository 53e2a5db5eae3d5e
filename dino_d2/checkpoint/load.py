# SPDX-License-Identifier: Apache-2.0
"""Loads any known checkpoint into a model and reports every tensor."""

import logging
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from dino_d2.errors import UserError

from .classes import fit_classes, num_classes
from .files import read_tensors
from .formats import FORMATS, REFUSED, Format
from .layout import to_model
from .report import LoadReport
from .rules import rename

if TYPE_CHECKING:
    from dino_d2.modeling import Detector

logger = logging.getLogger(__name__)

PREFIX = "detector."  # the meta-architecture's name for the tensor core
OWN = Format("dino_d2", signature=(), rules=(), not_needed={}, settings={})


def load_checkpoint(model: nn.Module, path: str) -> LoadReport:
    """Load a checkpoint of our own or of any format in `formats`, recognised by its tensors.

    Tensors that the checkpoint lacks, or has in another shape, keep their values in the model. The report, which is
    also logged, names each of them.

    Args:
        model: a ``DETR`` or its ``Detector``, on any device.
        path: file, as for `files.read_tensors`.

    Raises:
        UserError: the file cannot be read, has no known format, has NaN or infinity, or none of its tensors fits the
            model.
    """
    report = load_tensors(model, read_tensors(path), path)
    logger.log(logging.WARNING if report.doubtful else logging.INFO, "%s", report)
    return report


def load_tensors(model: nn.Module, tensors: dict[str, Tensor], source: str = "checkpoint") -> LoadReport:
    """Load tensors that have already been read, as `load_checkpoint` does; ``source`` names them in the report."""
    state = model.state_dict()
    prefix = PREFIX if any(name.startswith(PREFIX) for name in state) else ""
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    checkpoint_format = recognise(tensors, source)
    report = LoadReport(source, checkpoint_format.name)
    renamed, names, report.unused = to_our_names(tensors, checkpoint_format)
    placed, differing = to_model(renamed, own)
    report.unused |= {names[name]: why for name, why in differing.items()}
    report.separate_heads = bool(differing)
    detector = cast("Detector", model.get_submodule("detector") if prefix else model)
    report.settings = differing_settings(detector, checkpoint_format)

    found, wanted = num_classes(placed), num_classes(own)
    if found and wanted:
        unknown = len(own.get("label_embedding.weight", ())) - wanted  # 1 where it has a row for the unknown class
        trim_label_embedding(placed, found + max(0, unknown))
        if found != wanted:
            before = placed
            placed, report.classes = fit_classes(placed, wanted, no_object=wanted > detector.num_classes)
            report.remade = [prefix + name for name in own if name in before and name not in placed]

    fitting = {}
    for name, tensor in placed.items():
        if name not in own:
            report.unused[names.get(name, name)] = "the model has no such tensor"
        elif tensor.shape != own[name].shape:
            report.misshapen[prefix + name] = f"{tuple(tensor.shape)} there, {tuple(own[name].shape)} here"
        elif tensor.is_floating_point() != own[name].is_floating_point():
            report.misshapen[prefix + name] = f"{tensor.dtype} there, {own[name].dtype} here"
        else:
            fitting[prefix + name] = tensor
    if not fitting:
        raise UserError(f"{source}: recognised as {checkpoint_format.name}, but none of its tensors fits the model")
    _refuse_non_finite(fitting, source)
    model.load_state_dict(fitting, strict=False)
    report.loaded = list(fitting)
    accounted = {*fitting, *report.misshapen, *report.remade}
    report.missing = [name for name in state if name not in accounted]
    return report


def _refuse_non_finite(tensors: dict[str, Tensor], source: str) -> None:
    """
    Raises:
        UserError: a tensor has NaN or infinity, with which every result would be meaningless.
    """
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not t.double().isfinite().all()]
    if bad:
        raise UserError(
            f"{source}: {len(bad)} tensors have NaN or infinity; the first is {bad[0]}. The file is damaged, or of a "
            "training that diverged: use an earlier checkpoint."
        )


def recognise(tensors: Collection[str], source: str) -> Format:
    """The format whose signature the tensors have.

    Raises:
        UserError: no format fits.
    """
    for checkpoint_format in FORMATS:
        if all(name in tensors for name in checkpoint_format.signature):
            return checkpoint_format
    if any(name.startswith((PREFIX, "backbone.body.")) for name in tensors):
        return OWN
    for name, reason in REFUSED.items():
        if name in tensors:
            raise UserError(f"{source}: this is {reason}.")
    known = ", ".join(f.name for f in FORMATS)
    raise UserError(
        f"{source}: no checkpoint of a known format. Its first tensors are {', '.join(list(tensors)[:5])}; "
        f"known are this project's own checkpoints and those of: {known}."
    )


def to_our_names(
    tensors: dict[str, Tensor], checkpoint_format: Format
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """Rename the tensors of a checkpoint.

    Returns:
        tensors by the names of `formats`, {that name: the checkpoint's name}, and {the checkpoint's name: why} of
        those that are not used.
    """
    if checkpoint_format is OWN:
        own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        return own, {name.removeprefix(PREFIX): name for name in tensors}, {}
    renamed: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    unused: dict[str, str] = {}
    for name, tensor in tensors.items():
        reasons = [why for pattern, why in checkpoint_format.not_needed.items() if re.fullmatch(pattern, name)]
        target = None if reasons else rename(name, checkpoint_format.rules)
        if target is None:
            unused[name] = reasons[0] if reasons else "no rule for this name"
        elif target in renamed and not tensor.equal(renamed[target]):
            unused[name] = f"differs from {names[target]}, of which it should be a copy"
        elif target not in renamed:
            renamed[target], names[target] = tensor, name
    return renamed, names, unused


def trim_label_embedding(placed: dict[str, Tensor], rows: int) -> None:
    """Drop rows beyond these, in place: DINO's label embedding has one more than classes, which nothing uses."""
    embedding = placed.get("label_embedding.weight")
    if embedding is not None and embedding.dim() > 0 and len(embedding) > rows:
        placed["label_embedding.weight"] = embedding[:rows]


def differing_settings(detector: nn.Module, checkpoint_format: Format) -> dict[str, tuple[float, float]]:
    """{setting: (trained with, the detector's)} of settings that differ from those of the training."""
    differing = {}
    for name, wanted in checkpoint_format.settings.items():
        part, _, attribute = name.rpartition(".")
        actual = getattr(getattr(detector, part, None), attribute, wanted)
        if actual != wanted:
            differing[name] = (wanted, actual)
    return differing
