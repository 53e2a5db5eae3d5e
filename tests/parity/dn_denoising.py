# SPDX-License-Identifier: Apache-2.0
"""DN-DETR's denoising queries, fed with the random draws of the authors' run."""

import torch

from dino_d2.denoising import Denoising, DenoisingQueries, NoiseDraws
from dino_d2.layers import inverse_sigmoid

from .compare import Comparison
from .vectors import Vector


class RecordedDenoising(Denoising):
    """Takes the stored draws, which the authors make for all objects in a row, to the slots they belong to."""

    vector: Vector

    def draw(self, shape, device, generator):
        vector = self.vector
        slots = (vector["dn.flat_image"].long(), vector["dn.flat_slot"].long())
        flip, label = torch.ones(shape), torch.zeros(shape, dtype=torch.int64)
        sign, size = torch.ones(*shape, 4), torch.zeros(*shape, 4)
        if "dn.draw_label_p" in vector:
            chance = vector["dn.draw_label_p"]
            flat_label = torch.zeros(len(chance), dtype=torch.int64)
            flat_label[chance < self.label_flip_probability] = vector["dn.draw_new_label"].long()
            flip[slots], label[slots] = chance, flat_label
        if "dn.draw_box" in vector:
            signed = vector["dn.draw_box"] * 2 - 1
            sign[slots], size[slots] = signed.sign(), signed.abs()
        return NoiseDraws(flip, label, sign, size)


def make_denoising(vector: Vector, maker: Denoising) -> DenoisingQueries:
    """Queries of the configured maker from the stored draws."""
    recorded = RecordedDenoising(
        maker.num_classes,
        maker.groups,
        maker.label_flip_probability,
        maker.centre_noise_scale,
        maker.size_noise_scale,
    )
    recorded.vector = vector
    return recorded(*vector.targets)


def compare_denoising(comparison: Comparison, vector: Vector, made: DenoisingQueries, num_matching: int) -> None:
    """What each slot holds and whom it sees."""
    padding = made.target < 0
    comparison.equal("dn.slot_gt", made.target, vector["dn.slot_gt"].long())
    comparison.equal("dn.slot_group", made.group, vector["dn.slot_group"].long())
    comparison.equal("dn.slot_label", made.labels, vector["dn.slot_label"].long())
    comparison.close("dn.slot_box", made.boxes.masked_fill(padding[..., None], 0), vector["dn.slot_box"], 1e-6)
    # The logit is steep where a box touches the image's border.
    comparison.close("dn.query_box_logit", inverse_sigmoid(made.boxes), vector["dn.query_box_logit"], 1e-4)
    comparison.equal("dn.attn_mask", made.attention_mask(num_matching), vector["dn.attn_mask"].bool())
    assert made.num_positives == sum(vector.meta["target_counts"]) * vector.meta["dn_num_group"]
