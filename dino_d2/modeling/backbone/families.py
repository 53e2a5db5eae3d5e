# SPDX-License-Identifier: Apache-2.0
"""The timm families that work as backbones, by the timm module that defines them."""

from fnmatch import fnmatchcase

from timm.models import is_model_in_modules, list_modules


class BackboneError(RuntimeError):
    """timm cannot create the requested backbone, or a detector cannot use it; the message names the alternatives."""


#: Their maps cover images of any size: each has ⌈size / stride⌉ rows and columns.
ANY_SIZE = (
    "byobnet",
    "davit",
    "dpn",
    "efficientnet",
    "fastvit",
    "ghostnet",
    "hgnet",
    "mambaout",
    "nfnet",
    "pvt_v2",
    "regnet",
    "repghost",
    "repvit",
    "res2net",
    "resnest",
    "resnet",
    "resnetv2",
    "rexnet",
    "selecsls",
    "sknet",
    "starnet",
    "swiftformer",
    "swin_transformer",
    "tiny_vit",
)

#: Images are first padded to a multiple of the largest stride. Otherwise these models drop the remaining rows and
#: columns, return maps of inconsistent sizes, or fail.
WHOLE_CELLS = (
    "convnext",
    "cspnet",
    "densenet",
    "dla",
    "edgenext",
    "efficientvit_mit",
    "focalnet",
    "hrnet",
    "inception_next",
    "metaformer",
    "mobilenetv3",
    "mobilevit",
    "nextvit",
    "rdnet",
    "senet",
    "swin_transformer_v2",
    "tresnet",
    "vgg",
    "vovnet",
)

#: Members of the families of ``ANY_SIZE`` that need such padding too, because their pooling rounds down.
WHOLE_CELL_MEMBERS = ("resnet*_clip*", "resnet50_mlp", "resnetaa*", "seresnetaa*", "seresnextaa*")

#: Members of these families that fail even with padding, or have no map of stride 32.
UNSUITABLE_MEMBERS = ("bat_resnext26ts", "sedarknet21")


def pixel_multiple(name: str) -> int:
    """Pixels that the height and width of an image must be a multiple of, for maps that cover the image.

    Args:
        name: a timm model, with or without its weights tag. Models that are not timm's own are assumed to take images
            of any size.

    Raises:
        BackboneError: timm has the model, but it does not work as a backbone.
    """
    model = name.rpartition("/")[2].partition(".")[0]  # "hf-hub:timm/resnet50.tv_in1k" -> "resnet50"
    if not is_model_in_modules(model, list_modules()):
        return 1
    if model in UNSUITABLE_MEMBERS or not is_model_in_modules(model, ANY_SIZE + WHOLE_CELLS):
        raise BackboneError(
            f"timm model {name!r} does not work as a backbone: it has no maps of strides 4, 8, 16 and 32 for images of "
            "any size, or its family has not been tested. Choose a model of one of these modules of timm.models: "
            + ", ".join(sorted(ANY_SIZE + WHOLE_CELLS))
        )
    padded_member = any(fnmatchcase(model, pattern) for pattern in WHOLE_CELL_MEMBERS)
    return 32 if padded_member or is_model_in_modules(model, WHOLE_CELLS) else 1
