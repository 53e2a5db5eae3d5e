# SPDX-License-Identifier: Apache-2.0
"""Swin blocks that pad before they shift; the published detector's numbers are in tests/parity."""

import timm
import torch

from dino_d2.modeling import TimmBackbone
from dino_d2.modeling.backbone.swin import PaddedSwinBlock, admit_any_size

OPTIONS = {"strict_img_size": False, "always_partition": True}


def test_timms_numbers_where_windows_fit():
    torch.manual_seed(0)
    plain = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, features_only=True, **OPTIONS).eval()
    padded = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, features_only=True, **OPTIONS).eval()
    padded.load_state_dict(plain.state_dict())
    admit_any_size(padded)
    assert sum(isinstance(m, PaddedSwinBlock) for m in padded.modules()) == 12
    assert padded.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        image = torch.rand(1, 3, 224, 224)
        for got, want in zip(padded(image), plain(image), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_wrapped_rows_see_only_one_another():
    block = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, **OPTIONS).layers[0].blocks[1]
    blocked = PaddedSwinBlock(block).shift_mask(14, 7, torch.device("cpu")) < 0  # two windows, shifted by 3
    assert blocked.shape == (2, 49, 49)
    # In the first window columns 4..6 have come round the edge, in the second rows 4..6 too.
    assert not blocked[0, 0, 3]
    assert blocked[0, 0, 4]
    assert not blocked[0, 0, 7 * 6]
    assert blocked[1, 0, 7 * 4]
    assert not blocked[1, 7 * 4, 7 * 5]
    assert blocked[1, 7 * 4, 7 * 4 + 4]


def test_any_image_size_and_gradients():
    backbone = TimmBackbone(
        "swin_tiny_patch4_window7_224",
        out_features=("res2", "res5"),
        pretrained=False,
        freeze_stages=0,
        freeze_batch_norm=False,
        norm_outputs=True,
        options=OPTIONS,
    )
    maps = backbone(torch.rand(1, 3, 61, 75))
    assert {name: tuple(x.shape) for name, x in maps.items()} == {"res2": (1, 96, 16, 19), "res5": (1, 768, 2, 3)}
    sum(x.square().sum() for x in maps.values()).backward()
    assert all(p.grad is not None for p in backbone.parameters())
