"""Initial weights of a segmentation network: reading them from a safetensors file, and copying what fits."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from udaseg.errors import UserError
from udaseg.nets.base import SegmentationNet

NEEDED = 0.99  # share of the backbone's tensors that must be found


def load_weights(net: SegmentationNet, tensors: Mapping[str, Tensor], origin: str) -> float:
    """Copy what fits into `net` and return the share of the backbone's tensors that was found, by name and shape.

    Backbone tensors (parameters and BatchNorm statistics) have the names of our checkpoints ("backbone.layer1.…") or
    those of torchvision ("layer1.…"). A head is loaded if all of it fits, including the BatchNorm before it; otherwise
    it keeps its initial weights, for example because the number of classes differs. Heads do not count in the share.

    Args:
        net: is changed in place.
        tensors: name -> tensor.
        origin: where the tensors come from, for messages.

    Raises:
        UserError: less than 99 % of the backbone was found; `net` is then unchanged.
    """
    own = net.state_dict()
    prefix = "backbone."
    # Old files lack the counters of seen batches, and nothing here reads them.
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


def file_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU.

    Raises:
        UserError: the file is absent, of another format, or damaged.
    """
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path}: initial weights are read from .safetensors files only (a pickle can run code); convert the file"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a .safetensors file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); write it again") from error
