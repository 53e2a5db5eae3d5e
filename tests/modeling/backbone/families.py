# SPDX-License-Identifier: Apache-2.0
"""One small member of each timm family that is tested as a backbone."""

from typing import NamedTuple


class Member(NamedTuple):
    family: str
    name: str
    channels: tuple[int, int, int, int]  # of res2, res3, res4, res5
    slow: bool = False


MEMBERS = (
    Member("ResNet", "resnet10t", (64, 128, 256, 512)),
    Member("ResNet, anti-aliased", "resnetaa34d", (64, 128, 256, 512), slow=True),
    Member("ResNetV2", "resnetv2_18", (64, 128, 256, 512)),
    Member("ResNeSt", "resnest14d", (256, 512, 1024, 2048)),
    Member("Res2Net", "res2net50_14w_8s", (256, 512, 1024, 2048), slow=True),
    Member("SKNet", "skresnet18", (64, 128, 256, 512)),
    Member("SENet", "legacy_seresnet18", (64, 128, 256, 512)),
    Member("RegNet", "regnetx_002", (24, 56, 152, 368)),
    Member("RepVGG", "repvgg_a0", (48, 96, 192, 1280)),
    Member("MobileOne", "mobileone_s0", (48, 128, 256, 1024)),
    Member("NFNet", "nfnet_l0", (256, 512, 1536, 2304), slow=True),
    Member("DPN", "dpn48b", (144, 320, 512, 832)),
    Member("EfficientNet", "efficientnet_b0", (24, 40, 112, 320)),
    Member("EfficientNetV2", "tf_efficientnetv2_b0", (32, 48, 112, 192)),
    Member("MobileNetV2", "mobilenetv2_035", (8, 16, 32, 112)),
    Member("MnasNet", "mnasnet_small", (16, 16, 32, 144)),
    Member("MobileNetV3", "mobilenetv3_small_050", (8, 16, 24, 288)),
    Member("MobileNetV4", "mobilenetv4_conv_small_035", (16, 24, 32, 336)),
    Member("LCNet", "lcnet_035", (24, 48, 88, 176)),
    Member("GhostNet", "ghostnet_050", (12, 20, 40, 80)),
    Member("RepGhost", "repghostnet_050", (12, 20, 40, 80)),
    Member("ReXNet", "rexnet_100", (38, 61, 128, 185)),
    Member("HRNet", "hrnet_w18_small", (128, 256, 512, 1024)),
    Member("VGG", "vgg11_bn", (256, 512, 512, 512)),
    Member("DarkNet", "darknet17", (128, 256, 512, 1024)),
    Member("CSPDarkNet", "cs3darknet_s", (64, 128, 256, 512)),
    Member("DenseNet", "densenet121", (256, 512, 1024, 1024), slow=True),
    Member("DLA", "dla46_c", (64, 64, 128, 256)),
    Member("VoVNet", "ese_vovnet19b_dw", (256, 512, 768, 1024)),
    Member("SelecSLS", "selecsls42", (128, 288, 480, 1024)),
    Member("TResNet", "tresnet_m", (64, 128, 1024, 2048), slow=True),
    Member("HGNet", "hgnetv2_b0", (64, 256, 512, 1024)),
    Member("ConvNeXt", "convnext_atto", (40, 80, 160, 320)),
    Member("InceptionNeXt", "inception_next_atto", (40, 80, 160, 320)),
    Member("RDNet", "rdnet_tiny", (256, 440, 744, 1040), slow=True),
    Member("FocalNet", "focalnet_tiny_srf", (96, 192, 384, 768), slow=True),
    Member("MetaFormer", "poolformer_s12", (64, 128, 320, 512)),
    Member("MambaOut", "mambaout_femto", (48, 96, 192, 288)),
    Member("PVTv2", "pvt_v2_b0", (32, 64, 160, 256)),
    Member("EdgeNeXt", "edgenext_xx_small", (24, 48, 88, 168)),
    Member("FastViT", "fastvit_t8", (48, 96, 192, 384)),
    Member("RepViT", "repvit_m0_9", (48, 96, 192, 384)),
    Member("StarNet", "starnet_s050", (16, 32, 64, 128)),
    Member("SwiftFormer", "swiftformer_xs", (48, 56, 112, 220)),
    Member("TinyViT", "tiny_vit_5m_224", (64, 128, 160, 320)),
    Member("DaViT", "davit_tiny", (96, 192, 384, 768), slow=True),
    Member("EfficientViT", "efficientvit_b0", (16, 32, 64, 128)),
    Member("MobileViT", "mobilevit_xxs", (24, 48, 64, 320)),
    Member("MobileViTV2", "mobilevitv2_050", (64, 128, 192, 256)),
    Member("NextViT", "nextvit_small", (96, 256, 512, 1024), slow=True),
    Member("Swin", "swin_tiny_patch4_window7_224", (96, 192, 384, 768), slow=True),
    Member("Swin V2", "swinv2_tiny_window8_256", (96, 192, 384, 768), slow=True),
)

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


def table() -> str:
    """The families as the table of docs/configs.md."""
    rows = [
        "| family | member tested | strides | channels of res2 to res5 | `freeze_stages` |",
        "|---|---|---|---|---|",
    ]
    for member in MEMBERS:
        strides, channels = ", ".join(map(str, STRIDES.values())), ", ".join(map(str, member.channels))
        rows.append(f"| {member.family} | `{member.name}` | {strides} | {channels} | 0 to 4 |")
    return "\n".join(rows)
