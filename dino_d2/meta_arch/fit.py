# SPDX-License-Identifier: Apache-2.0
"""Checks at build time that the parts of a detector and its denoising fit together."""

import torch
from torch import Tensor, nn

from dino_d2.denoising import Denoising
from dino_d2.modeling import Detector
from dino_d2.modeling.contracts import DenoisedQuerySource
from dino_d2.modeling.levels import Levels, make_levels
from dino_d2.modeling.queries.embedded import DenoisedEmbeddedQueries


def check_fit(detector: Detector, denoising: Denoising | None) -> None:
    """Compare the sizes of matching queries of an empty memory, of a denoising query and of the decoder.

    Raises:
        ValueError: the detector cannot take denoising queries, or the content or the anchors of its queries have
            another size than the decoder expects. The message names the setting to change.
    """
    if denoising is not None:
        check_takes_denoising(detector)
        check_classes(detector, denoising)
    embed_dim = decoder_width(detector)
    if embed_dim is None:
        return
    if detector.label_embedding is None:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            channels = detector.queries(*empty_memory(detector, embed_dim)).content.shape[-1]
        if channels != embed_dim:
            raise ValueError(
                f"{type(detector.queries).__name__} makes queries of {channels} channels, and the decoder has "
                f"{embed_dim}. Set model.detector.label_embedding, which completes them, or their embed_dim"
            )
        return
    name = type(detector.label_embedding).__name__
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        queries = detector.queries(*empty_memory(detector, embed_dim))
        try:
            content = detector.label_embedding.matching(queries.content)
        except RuntimeError as error:
            raise ValueError(
                f"model.detector.label_embedding: {name} cannot take the content of "
                f"{type(detector.queries).__name__}, which has {queries.content.shape[-1]} channels ({error}). Set its "
                f"embed_dim to the {embed_dim} of model.detector.embed_dim"
            ) from error
        if content.shape[-1] != embed_dim:
            raise ValueError(
                f"model.detector.label_embedding: {name} makes queries of {content.shape[-1]} channels from the "
                f"{queries.content.shape[-1]} of {type(detector.queries).__name__}, and the decoder has {embed_dim}. "
                "IndicatedLabelEmbedding adds one channel and needs queries of one less; LabelEmbedding adds none"
            )
        if denoising is None:
            return
        labels = torch.zeros(1, 1, dtype=torch.int64, device=content.device)
        denoised = detector.label_embedding.denoising(labels)
        if denoised.shape[-1] != embed_dim:
            raise ValueError(
                f"model.detector.label_embedding: {name} makes denoising queries of {denoised.shape[-1]} channels, and "
                f"the decoder has {embed_dim}. Set its embed_dim to model.detector.embed_dim"
            )
        assert isinstance(detector.queries, DenoisedQuerySource)  # check_takes_denoising
        anchors = detector.queries.denoising_anchors(content.new_full((1, 1, 4), 0.5))
        if anchors.shape[-1] != queries.anchors.shape[-1]:
            raise ValueError(
                f"{type(detector.queries).__name__} makes anchors of {anchors.shape[-1]} numbers for denoising queries "
                f"and of {queries.anchors.shape[-1]} for matching queries. Set model.denoising=null"
            )


def freeze_denoising_parts(detector: Detector) -> None:
    """Freeze parameters that only denoising queries use, for training without denoising.

    DistributedDataParallel waits for a gradient of every trained parameter.
    """
    if detector.label_embedding is not None and not detector.label_embedding.serves_matching:
        detector.get_submodule("label_embedding").requires_grad_(False)
    if isinstance(detector.queries, DenoisedEmbeddedQueries):
        detector.queries.box_embedding.requires_grad_(False)


def decoder_width(detector: Detector) -> int | None:
    """D of the decoder's layers, read from its first layer norm; None if it has none."""
    norms = (module for module in detector.get_submodule("decoder").modules() if isinstance(module, nn.LayerNorm))
    return next((norm.normalized_shape[-1] for norm in norms), None)


def empty_memory(detector: Detector, embed_dim: int) -> tuple[Tensor, Levels]:
    """Memory [1, S, D] of zeros and its levels, 2 by 2 tokens each."""
    device = next(detector.get_submodule("decoder").parameters()).device
    count = 1 if detector.level_embedding is None else detector.level_embedding.num_embeddings
    levels = make_levels([torch.zeros(1, embed_dim, 2, 2, device=device)] * count, None)
    return torch.zeros(1, 4 * count, embed_dim, device=device), levels


def check_takes_denoising(detector: Detector) -> None:
    """Raise ValueError if a detector does not support denoising queries; the message names the setting to change."""
    if detector.label_embedding is None:
        raise ValueError(
            "model.denoising needs model.detector.label_embedding, which makes the content of denoising queries: "
            "LabelEmbedding, IndicatedLabelEmbedding or UnknownLabelEmbedding (dino_d2.modeling)"
        )
    if not isinstance(detector.queries, DenoisedQuerySource):
        raise ValueError(
            f"{type(detector.queries).__name__} has no anchors for denoising queries: set model.denoising=null, or use "
            "a query source with boxes (StaticQueries, MixedQuerySelection, AnchorBoxQueries, ...) in "
            "model.detector.queries"
        )


def check_classes(detector: Detector, denoising: Denoising) -> None:
    """Raise ValueError if denoising draws labels that the label embedding or the detector does not have."""
    embedding = detector.label_embedding
    if embedding is None or not isinstance(embedding, nn.Embedding):
        return
    rows = embedding.num_embeddings - bool(embedding.serves_matching)  # one row is the unknown class
    counts = {"model.denoising.num_classes": denoising.num_classes, "model.detector.num_classes": detector.num_classes}
    for key, count in counts.items():
        if count > rows:
            raise ValueError(
                f"{key} is {count}, and model.detector.label_embedding has {rows} classes; all three must be the same"
            )
