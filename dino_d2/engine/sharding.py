# SPDX-License-Identifier: Apache-2.0
"""Weights, gradients and optimizer state divided among the ranks, by PyTorch's FSDP2 (``fully_shard``).

Every rank keeps 1/ranks of each tensor, as a ``DTensor``. The weights of one unit, such as an encoder layer, are
gathered when it computes and dropped afterwards. Checkpoints hold undivided tensors, so that any number of ranks can
load them.
"""

import contextlib
import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError

logger = logging.getLogger(__name__)


def check_sharding(cfg: DictConfig) -> None:
    """
    Raises:
        UserError: ``train.fsdp`` is set together with a setting that does not work with it.
    """
    if not cfg.train.fsdp:
        return
    unsupported = {
        "train.compile=True": (cfg.train.compile, "the compiled graph cannot gather weights. Leave train.compile out"),
        "train.amp.dtype=float16": (
            cfg.train.amp.enabled and cfg.train.amp.dtype == "float16",
            "ranks would have to agree on the scale of the loss. Use train.amp.dtype=bfloat16",
        ),
        f"train.panels.period={cfg.train.panels.period}": (
            cfg.train.panels.period,
            "rank 0 alone draws them, and it has only its share of the weights. Set train.panels.period=0",
        ),
        "train.ddp.fp16_compression=True": (
            cfg.train.ddp.fp16_compression,
            "gradients are exchanged in float32. Leave train.ddp.fp16_compression out",
        ),
    }
    for setting, (is_set, reason) in unsupported.items():
        if is_set:
            raise UserError(f"{setting} does not work with train.fsdp=True: {reason}")


def shard(model: nn.Module) -> Callable[[], nn.Module]:
    """Divide the parameters of a :class:`~dino_d2.meta_arch.DETR` among all ranks, in place.

    All ranks must have equal weights (``share_weights``) and call this together, before the optimizer is made.
    Afterwards ``load_state_dict`` takes undivided tensors; each rank keeps its share.

    Returns:
        makes an undivided copy with the weights of that moment, for evaluation; all ranks must call it together.

    Raises:
        UserError: units share a parameter, or PyTorch cannot divide one.
    """
    parts = units(model)
    _refuse_shared_parameters(model, parts)
    skeleton = copy.deepcopy(model, _on_meta(model))
    device = next(model.parameters()).device
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP takes no other layout
    mesh = init_device_mesh(device.type, (comm.get_world_size(),))
    try:
        for part in parts:
            fully_shard(part, mesh=mesh)
        root = fully_shard(model, mesh=mesh)
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"train.fsdp: the model cannot be divided among ranks: {error}") from error
    if hasattr(root, "set_reduce_scatter_unused_params"):  # PyTorch 2.11 does not have it
        # A parameter that one rank alone uses in an iteration has zero gradients on the others, which would otherwise
        # exchange fewer numbers than it. In the models of this project every rank uses all parameters.
        root.set_reduce_scatter_unused_params(True)
    model.register_load_state_dict_pre_hook(_divide_weights)
    logger.info(
        "Divided the model into %d units; this rank keeps %.2f of %.2f M parameters",
        len(parts) + 1,
        sum(own_part(p).numel() for p in model.parameters()) / 1e6,
        sum(p.numel() for p in model.parameters()) / 1e6,
    )
    return lambda: _undivided_copy(model, skeleton, device)


def units(model: nn.Module) -> list[nn.Module]:
    """Parts whose weights are gathered one after the other; the model's other weights are gathered together.

    These are the layers of encoder and decoder, and the blocks of the backbone (Swin, ConvNeXt, ViT) or else its
    stages (ResNet).
    """
    detector = model.get_submodule("detector")
    layers = [layer for name in ("encoder", "decoder") for layer in _entries(detector.get_submodule(name), "layers")]
    backbone = detector.get_submodule("backbone")
    blocks = [block for module in backbone.modules() for block in _entries(module, "blocks")]
    body = backbone.get_submodule("body") if hasattr(backbone, "body") else backbone
    stages = [child for child in body.children() if isinstance(child, nn.Sequential)]
    return [part for part in (*(blocks or stages), *layers) if any(True for _ in part.parameters())]


def _entries(module: nn.Module, name: str) -> list[nn.Module]:
    container = getattr(module, name, None)
    return list(container) if isinstance(container, nn.ModuleList | nn.Sequential) else []


def _refuse_shared_parameters(model: nn.Module, parts: list[nn.Module]) -> None:
    """
    Raises:
        UserError: a parameter belongs to a unit and to something outside of it.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    places = _places(model)
    for part in parts:
        for parameter, count in _places(part).items():
            if count != places[parameter]:
                raise UserError(
                    f"train.fsdp: the parameter {names[parameter]} also belongs to another part of the model, so that "
                    "it cannot be divided among ranks with one of them. Train without train.fsdp"
                )


def _places(module: nn.Module) -> Counter[int]:
    """In how many places each parameter, by its ``id``, is found."""
    return Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))


def _on_meta(model: nn.Module) -> dict[int, Tensor]:
    """Memo for ``copy.deepcopy``: the copy has tensors of the same shape and layout without data."""
    memo: dict[int, Tensor] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return memo


def _undivided_copy(model: nn.Module, skeleton: nn.Module, device: torch.device) -> nn.Module:
    made = copy.deepcopy(skeleton).to_empty(device=device)
    targets, sources = (dict(_named_tensors(some)) for some in (made, model))
    with torch.no_grad():
        for name, tensor in targets.items():
            tensor.copy_(undivided(sources[name]))
    return made


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` has divided the model."""
    return isinstance(model, FSDPModule)


def own_part(tensor: Tensor) -> Tensor:
    """This rank's share of a divided tensor, which shares its memory; other tensors as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def undivided(tensor: Tensor) -> Tensor:
    """The full tensor, gathered from all ranks, which must call this together; undivided tensors as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(state: Any) -> Any:
    """A state, of nested dicts and lists, with full tensors in host memory; all ranks must call this together.

    Only rank 0 gets the values of divided tensors; on other ranks these are None.
    """
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if comm.is_main_process() else None
    if isinstance(state, Mapping):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list):
        return [gathered(value) for value in state]
    return state


def load_undivided_state(optimizer: torch.optim.Optimizer) -> None:
    """Let ``load_state_dict`` of an optimizer with divided parameters take undivided tensors."""
    optimizer.register_load_state_dict_pre_hook(_divide_optimizer_state)


def _divide_weights(model: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    for name, parameter in model.named_parameters(remove_duplicate=False):
        value = state.get(prefix + name)
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            state[prefix + name] = _divided_like(value, parameter)


def _divide_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    indices = [index for group in saved["param_groups"] for index in group["params"]]
    states = {}
    for index, parameter in zip(indices, parameters, strict=True):
        if index in saved["state"]:
            states[index] = {
                key: _divided_like(value, parameter)
                if isinstance(value, Tensor) and value.shape == parameter.shape
                else value
                for key, value in saved["state"][index].items()
            }
    return {**saved, "state": states}


def _divided_like(value: Tensor, parameter: Tensor) -> Tensor:
    """This rank's share of a full tensor that all ranks have; nothing is exchanged."""
    if isinstance(value, DTensor) or not isinstance(parameter, DTensor):
        return value
    divided = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return divided.clone()  # otherwise the share would keep the memory of the full tensor


@contextlib.contextmanager
def gradients_stay_undivided(model: FSDPModule) -> Iterator[None]:
    """Inside this context ranks keep the gradients of their own batch, undivided, and exchange nothing."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)
