# SPDX-License-Identifier: Apache-2.0
"""Swin blocks for images of any size, as detectors use them (Swin Transformer, arXiv 2103.14030, section 3.2)."""

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.swin_transformer import SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, nn

BLOCKED = -100.0  # added to attention logits; the value that the published weights were trained with


class PaddedSwinBlock(nn.Module):
    """A timm Swin block that pads its map to a multiple of the window size before shifting.

    timm shifts first. Both orders agree at the pretraining size, where windows fit the map exactly. At other sizes
    timm's wrapped rows get different neighbours than in the published detectors, and features differ from theirs.
    Padding is zero and takes part in the attention, as in those detectors.

    Args:
        block: its submodules are reused under the same names.
    """

    def __init__(self, block: SwinTransformerBlock):
        super().__init__()
        self.window_size: tuple[int, int] = block.window_size
        self.shift: tuple[int, int] = block.shift_size
        self.norm1 = block.norm1
        self.attn = block.attn
        self.drop_path1 = block.drop_path1
        self.norm2 = block.norm2
        self.mlp = block.mlp
        self.drop_path2 = block.drop_path2

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        x = x + self.drop_path1(self.attend(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor) -> Tensor:
        """Attention within (shifted) windows; [B, H, W, C] -> [B, H, W, C]."""
        height, width, channels = x.shape[1:]
        x = F.pad(x, (0, 0, 0, -width % self.window_size[1], 0, -height % self.window_size[0]))
        padded_height, padded_width = x.shape[1:3]
        mask = None
        if any(self.shift):
            x = x.roll((-self.shift[0], -self.shift[1]), dims=(1, 2))
            mask = self.shift_mask(padded_height, padded_width, x.device)
        windows = window_partition(x, self.window_size).flatten(1, 2)  # [B * windows, tokens, C]
        windows = self.attn(windows, mask=mask).view(-1, *self.window_size, channels)
        x = window_reverse(windows, self.window_size, padded_height, padded_width)
        if any(self.shift):
            x = x.roll(self.shift, dims=(1, 2))
        return x[:, :height, :width]

    def shift_mask(self, height: int, width: int, device: torch.device) -> Tensor:
        """[windows, tokens, tokens] to add to the logits, so that wrapped parts attend only to each other."""
        wrapped_rows = torch.arange(height, device=device) >= height - self.shift[0]
        wrapped_columns = torch.arange(width, device=device) >= width - self.shift[1]
        region = 2 * wrapped_rows[:, None].float() + wrapped_columns.float()  # [H, W]
        region = window_partition(region[None, ..., None], self.window_size).flatten(1)  # [windows, tokens]
        weight = self.norm1.weight
        assert isinstance(weight, Tensor)
        return BLOCKED * (region[:, :, None] != region[:, None]).to(weight.dtype)


def admit_any_size(body: nn.Module) -> None:
    """Let a timm Swin take images of any size, in place; other models are left unchanged."""
    blocks = [
        (parent, name)
        for parent in body.modules()
        for name, child in parent.named_children()
        if isinstance(child, SwinTransformerBlock)
    ]
    for parent, name in blocks:
        setattr(parent, name, PaddedSwinBlock(getattr(parent, name)))
    if blocks:
        patch_embed = body.get_submodule("patch_embed")
        assert isinstance(patch_embed, PatchEmbed)
        patch_embed.dynamic_img_pad = True  # type: ignore[misc]  # timm declares it final
