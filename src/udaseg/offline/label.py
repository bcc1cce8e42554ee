"""Pseudo-labels of a target's training images by a finished run, from which a later stage learns.

There are five rules: classes with a high enough probability (`threshold`: ProDA's distillation), the most confident
share of each class (`class_balanced`: CBST; as soft labels `entropy`: CRST), all probabilities (`soft`: ProDA and CPSL)
and the most probable class (`argmax`: DiGA), the last two with prototypes.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from udaseg.config.evaluation import Labels, Protocol
from udaseg.data.sets.images import write_png
from udaseg.data.sets.pseudo_labels import SOFT, WITH_PROTOTYPES, class_counts, hardened, quartered
from udaseg.data.sets.read import PreparedSet
from udaseg.engine.checkpoint import save_tensors
from udaseg.engine.predict import load_predictor, predict_scores, to_tensor
from udaseg.engine.sets import require_classes, require_finished
from udaseg.machine.environment import make_exact
from udaseg.nets.base import SegmentationNet
from udaseg.ops.maps import resize
from udaseg.ops.prototypes import class_means, cumulative_update
from udaseg.ops.selection import ClassPools, class_balanced_labels, entropy_labels, mined_classes, rare_classes
from udaseg.runs.files import write_json
from udaseg.runs.spec import LabelSpec
from udaseg.types import IGNORE


def label(spec: LabelSpec, build: Path, device: torch.device) -> None:
    """Write labels/*.png or soft/*.safetensors, labels.json and, with prototypes, artifacts.safetensors into `build`.

    The network weights are the run's last ones. The counts in labels.json are at the labels' own resolution.

    Raises:
        UserError: the run is not finished, saw other data than are there now, or has other classes than the set.
    """
    make_exact(spec)
    run, prepared = Path(spec.run), _opened(Path(spec.set), spec)
    net = load_predictor(spec.network, len(spec.classes), run / "model.safetensors", device)
    rule = spec.labels.rule
    thresholds = _class_thresholds(spec, net, prepared, device) if rule in ("class_balanced", "entropy") else None
    quarter = (prepared.size[0] // 4, prepared.size[1] // 4)
    predicted, selected = np.zeros((2, len(spec.classes)), dtype=np.int64)
    for name, probs in _probabilities(net, prepared, spec.labels.protocol, device):
        if rule in SOFT:
            probs = resize(probs, quarter)
            soft = _soft_label(probs, spec.labels, thresholds)
            save_tensors(build / "soft" / f"{name}.safetensors", {"soft": soft})
            found = hardened(soft)
        else:
            found = _hard_label(probs, spec.labels, thresholds)
            write_png(build / "labels" / f"{name}.png", found)
        predicted += class_counts(probs.argmax(1).cpu().numpy(), len(spec.classes))
        selected += class_counts(found, len(spec.classes))
    if rule in WITH_PROTOTYPES:
        shown = prepared if spec.source is None else _opened(Path(spec.source), spec)
        tensors = _prototypes(net, shown, spec.labels, device)
        tensors["prior"] = torch.from_numpy(predicted / max(1, predicted.sum())).float()
        save_tensors(build / "artifacts.safetensors", tensors)
    _describe(spec, prepared, thresholds, predicted, selected, build)


def _opened(folder: Path, spec: LabelSpec) -> PreparedSet:
    prepared = PreparedSet(folder)
    require_finished(Path(spec.run), [prepared])
    require_classes(prepared.folder, prepared.classes, spec.classes)
    return prepared


def _class_thresholds(spec: LabelSpec, net: SegmentationNet, prepared: PreparedSet, device: torch.device) -> Tensor:
    """(C,) lowest confidence in the most confident share of each class's pixels, at the training input's size.

    Each image is predicted twice here and a third time for its labels. That takes time, but never holds or stores more
    than one image's probabilities, which take 160 MB for an image of Cityscapes.
    """
    pools = ClassPools(len(spec.classes), spec.labels.portion, spec.labels.every)
    while not pools.complete:
        for _, probs in _probabilities(net, prepared, spec.labels.protocol, device):
            pools.feed(probs[0])
        pools.end_pass()
    return pools.thresholds()


def _probabilities(
    net: SegmentationNet, prepared: PreparedSet, protocol: Protocol, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Name and class probabilities (1, C, H, W) at the training input's size of each training image."""
    # If so, the scores are probabilities, otherwise logits.
    averaged = protocol.fusion == "mean" and (protocol.flip or len(protocol.scales) > 1)
    for name, image in _images(prepared, device):
        scores = predict_scores(net, image, prepared.size, protocol)
        yield name, scores if averaged else scores.softmax(1)


def _images(prepared: PreparedSet, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Name and (1, 3, H, W) float32 in [0, 1] of each training image."""
    for name in prepared.names("train"):
        yield name, to_tensor(prepared.image("train", name)).to(device)


def _hard_label(probs: Tensor, labels: Labels, thresholds: Tensor | None) -> np.ndarray:
    """Train ids (H, W) uint8, 255 where there is no label, from probabilities (1, C, H, W)."""
    if thresholds is None:
        highest, found = probs.max(1)
        if labels.rule == "threshold":
            found = torch.where(highest > labels.threshold, found, IGNORE)
    else:
        found = class_balanced_labels(probs, thresholds)
    return found[0].to(torch.uint8).cpu().numpy()


def _soft_label(probs: Tensor, labels: Labels, thresholds: Tensor | None) -> Tensor:
    """255 times the soft label, (C, h, w) uint8, from probabilities (1, C, h, w); 0 in all classes if there is none.

    Rounding changes a probability by 1/510 at most. It leaves no pixel without a class: even with 255 classes, the most
    there can be, the highest probability is at least 1/255.
    """
    if thresholds is not None:
        found = entropy_labels(probs, thresholds, labels.sharpness)
        probs = found.soft * (found.hard != IGNORE)[:, None]
    return (255 * probs[0]).round().to(torch.uint8).cpu()


@torch.no_grad()
def _prototypes(net: SegmentationNet, prepared: PreparedSet, labels: Labels, device: torch.device) -> dict[str, Tensor]:
    """ProDA's initial prototypes (C, D) and the number of images that show each class (C,), float32.

    One pass over whole images without augmentation, at a quarter of their size. A pixel's class is the network's
    prediction; in source images, only correctly predicted pixels count.
    """
    size = (prepared.size[0] // 4, prepared.size[1] // 4)
    # One epoch. The release's four see the same images without augmentation four times, which gives the same mean up to
    # the cap of 3000 image means. Beyond it, later images enter a moving mean with 1/3001, here as there.
    prototypes = torch.zeros(len(prepared.classes), net.feature_channels["embedding"], device=device)
    counts = torch.zeros(len(prepared.classes), device=device)
    for name, image in _images(prepared, device):
        outputs = net(image)
        features, logits = resize(outputs.features["embedding"], size), resize(outputs.logits, size)
        if labels.prototypes == "source":
            label = torch.from_numpy(quartered(prepared.label("train", name))).to(device)
            right = logits.argmax(1)[0] == label
            # As a single row of pixels, without the wrong ones.
            features, logits = features[:, :, None, right], logits[:, :, None, right]
        means = class_means(features, logits, labels.min_pixels)
        prototypes, counts = cumulative_update(prototypes, counts, means)
    return {"prototypes": prototypes, "counts": counts}


def _describe(
    spec: LabelSpec,
    prepared: PreparedSet,
    thresholds: Tensor | None,
    predicted: np.ndarray,
    selected: np.ndarray,
    build: Path,
) -> None:
    """Write labels.json."""
    pixels = torch.from_numpy(predicted)

    def named(values: np.ndarray | Tensor) -> dict[str, float]:
        return dict(zip(spec.classes, values.tolist(), strict=True))

    content = {
        "rule": spec.labels.rule,
        "classes": spec.classes,
        "thresholds": None if thresholds is None else named(thresholds),
        "rare": [spec.classes[index] for index in rare_classes(pixels)],
        "mine": [spec.classes[index] for index in mined_classes(pixels, spec.labels.mine_below)],
        "predicted": named(predicted),
        "selected": named(selected),
        "images": len(prepared.names("train")),
        "data": prepared.fingerprint,
    }
    write_json(build / "labels.json", content)
