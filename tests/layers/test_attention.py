# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from dino_d2.layers import SelfAttention


@pytest.mark.parametrize("masked", [False, True])
def test_agrees_with_multihead_attention(masked):
    torch.manual_seed(0)
    ours = SelfAttention(32, 4)
    theirs = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x, position = torch.rand(2, 9, 32), torch.rand(2, 9, 32)
    mask = (torch.rand(9, 9) > 0.6) & ~torch.eye(9, dtype=torch.bool) if masked else None
    expected, _ = theirs(x + position, x + position, x, attn_mask=mask)
    assert torch.allclose(ours(x, position, mask), expected, atol=1e-6)


def test_a_mask_may_differ_from_image_to_image():
    torch.manual_seed(0)
    attention = SelfAttention(32, 4)
    x, position = torch.rand(2, 9, 32), torch.rand(2, 9, 32)
    masks = (torch.rand(2, 9, 9) > 0.6) & ~torch.eye(9, dtype=torch.bool)
    together = attention(x, position, masks)
    for i in range(2):
        assert torch.allclose(together[i : i + 1], attention(x[i : i + 1], position[i : i + 1], masks[i]), atol=1e-6)
