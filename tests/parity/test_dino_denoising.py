# SPDX-License-Identifier: Apache-2.0
"""Contrastive denoising, fed with the random draws of the authors' run."""

import torch

from dino_d2.denoising import ContrastiveDenoising, NoiseDraws
from dino_d2.layers import inverse_sigmoid

from .dino_model import group_rule

KIND = "DINO prepare_for_cdn"


def test_denoising(vector, comparison):
    args = vector.args
    scale = args["dn_box_noise_scale"]
    maker = RecordedDenoising(
        num_classes=args["num_classes"],
        groups=group_rule(args["dn_number"]),
        label_flip_probability=args["dn_label_noise_ratio"] / 2,
        positive_noise_scale=scale,
        negative_noise_scale=2 * scale,
    )
    maker.vector = vector
    made = maker(*vector.targets)
    padding = made.target < 0
    comparison.equal("slot_gt", made.target, vector["dn.slot_gt"].long())
    comparison.equal("slot_group", made.group, vector["dn.slot_group"].long())
    comparison.equal("slot_positive", made.positive, vector["dn.slot_positive"] == 1)
    comparison.equal("slot_label", made.labels, vector["dn.slot_label"].long())
    comparison.close("slot_box", made.boxes.masked_fill(padding[..., None], 0), vector["dn.slot_box"], 1e-6)
    # The logit is steep where a box touches the image's border.
    comparison.close("query_box_logit", inverse_sigmoid(made.boxes), vector["dn.query_box_logit"], 1e-4)
    comparison.equal("attn_mask", made.attention_mask(args["num_queries"]), vector["dn.attn_mask"].bool())
    embedding = vector.state_dict["label_enc.weight"]
    embedded = embedding[made.labels.clamp(min=0)] * ~padding[..., None]
    comparison.equal("query_label", embedded, vector["dn.query_label"])
    assert made.num_positives == int((vector["dn.slot_positive"] == 1).sum())
    comparison.finish()


class RecordedDenoising(ContrastiveDenoising):
    """Takes the stored draws, which the authors make for all objects in a row, to the slots they belong to."""

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
            sign[slots] = 2 * vector["dn.draw_box_sign01"] - 1
            size[slots] = vector["dn.draw_box_part"]
        return NoiseDraws(flip, label, sign, size)
