"""Initial weights of a segmentation network: torchvision's ImageNet weights, or a safetensors file. Never a pickle."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from udaseg.errors import UserError
from udaseg.nets.base import SegmentationNet

if TYPE_CHECKING:
    from udaseg.config.training import Network

NEEDED = 0.99  # share of the backbone's tensors that must be found


def load_weights(net: SegmentationNet, tensors: Mapping[str, Tensor], origin: str) -> float:
    """Copy what fits into `net`; return the share of the backbone's tensors that was found, by name and shape.

    Backbone tensors (parameters and BatchNorm statistics) are named as in our checkpoints ("backbone.layer1.…") or as
    in torchvision ("layer1.…"). A head is loaded if all of it fits, the BatchNorm before it included, and keeps its
    initial weights otherwise, as it must where the number of classes differs; heads are not counted.

    Args:
        net: is changed.
        tensors: name -> tensor.
        origin: where they are from, for messages.

    Raises:
        UserError: less than 99 % of the backbone was found; `net` is then as before.
    """
    own = net.state_dict()
    prefix = "backbone."
    # Counters of seen batches are absent from old files, and nothing here reads them.
    wanted = [name for name in own if name.startswith(prefix) and not name.endswith("num_batches_tracked")]
    found: dict[str, Tensor] = {}
    mismatches = []
    for name in wanted:
        tensor = tensors.get(name, tensors.get(name.removeprefix(prefix)))
        if tensor is not None and tensor.shape == own[name].shape:
            found[name] = tensor
        else:
            there = "absent" if tensor is None else f"of shape {tuple(tensor.shape)}"
            mismatches.append(f"{name.removeprefix(prefix)} {tuple(own[name].shape)} is {there}")
    share = len(found) / len(wanted)
    if share < NEEDED:
        raise UserError(
            f"{origin}: holds {share:.0%} of the backbone's {len(wanted)} tensors, at least {NEEDED:.0%} are needed: "
            f"{'; '.join(mismatches[:5])}{'; …' if mismatches[5:] else ''}. Give the weights of this network "
            f"(check network.name and network.depth), or start from other initial weights"
        )
    for head in (("head.", "feature_norm."), ("aux_head.",)):
        members = {name: tensor for name, tensor in tensors.items() if name.startswith(head)}
        shapes = {name: tensor.shape for name, tensor in own.items() if name.startswith(head)}
        if members and {name: tensor.shape for name, tensor in members.items()} == shapes:
            found |= members
    net.load_state_dict(found, strict=False)
    return share


def imagenet_weights(spec: "Network") -> dict[str, Tensor]:
    """torchvision's ImageNet weights (V1, as the field uses them) of a DeepLabv2 backbone, named as torchvision does.

    Raises:
        UserError: the network has none, or they can be neither downloaded nor read.
    """
    if spec.name != "deeplabv2":
        raise UserError(
            f"network.name: there are no ImageNet weights for '{spec.name}'; use init: pretrain, scratch or file:PATH"
        )
    # Here, because it takes two seconds, which a plan need not wait for.
    from torchvision.models import ResNet50_Weights, ResNet101_Weights

    weights = {50: ResNet50_Weights.IMAGENET1K_V1, 101: ResNet101_Weights.IMAGENET1K_V1}[spec.depth]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        # weights_only: torchvision hands out pickled files, and this refuses to run any code in them.
        tensors: dict[str, Tensor] = weights.get_state_dict(
            check_hash=True, weights_only=True, map_location="cpu", progress=False
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{weights.url}: could not be downloaded and read ({reason}). Put this file into {folder} (or replace "
            f"the one there), or give initial weights as init: file:PATH to a .safetensors file"
        ) from error
    return tensors


def file_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU.

    Raises:
        UserError: the file is absent, of another format, or damaged.
    """
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path}: initial weights are read from .safetensors files only (a pickle can run code); convert it"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a .safetensors file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); write it again") from error
