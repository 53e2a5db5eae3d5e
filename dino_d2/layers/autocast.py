# SPDX-License-Identifier: Apache-2.0
"""The state of PyTorch's autocast."""

import torch


def autocast_is_on(device_type: str) -> bool:
    """Whether autocast is enabled for a device type; False for devices without autocast, such as "meta"."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
