"""Predicting a user's own images with a finished run: label maps, overlays and scores at the images' native size."""

import difflib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from udaseg.data.datasets.classes import colourise
from udaseg.data.sets.images import read_image
from udaseg.engine.predict import PLAIN, load_predictor, predict_scores, to_tensor
from udaseg.errors import UserError
from udaseg.machine.devices import take_device
from udaseg.machine.environment import make_exact
from udaseg.nets.base import SegmentationNet
from udaseg.runs.files import read_json, read_yaml, write_bytes
from udaseg.runs.folder import require_whole
from udaseg.runs.spec import TrainSpec, read_spec

FILES = {"last": "model.safetensors", "best": "best.safetensors"}
LARGEST_ID = 65535  # of a 16-bit label map


def predict_files(
    run: Path, images: Sequence[Path], output: Path, weights: Literal["last", "best"], scores: bool, ids: Path | None
) -> None:
    """Write `<stem>.png` (label map), `<stem>_overlay.png` and, with `scores`, `<stem>_scores.npy` for each image.

    Images are resized like the run's target images and predicted whole, in one pass. Only the run's folder is needed:
    the prepared sets may be gone.

    Args:
        run: folder of a finished run.
        images: files of any size.
        output: folder, created if missing. Files in it are replaced atomically.
        weights: network weights of the last iteration, or those with the best score on the monitored split.
        scores: also write class probabilities (C, H, W) float16.
        ids: YAML file `class name: id` for the label maps, 0 to 65535 (8 bits where that is enough); None: train ids.

    Raises:
        UserError: the run is not finished or has no best weights, the ids do not fit its classes, or two outputs would
            have one name; then nothing is written. Or some images cannot be read: these are named, all others are
            predicted.
    """
    require_whole(run)
    spec = read_spec(TrainSpec, run / "spec.yaml")
    if not (run / FILES[weights]).is_file():
        raise UserError(f"{run}: holds no best weights, because no split was monitored; use --weights last")
    table = _id_table(ids, spec.classes)
    _require_distinct(images, output)
    device = torch.device(take_device().kind)
    make_exact(spec.train)
    height, width = read_json(run / "result.json")["input"]
    net = load_predictor(spec.network, len(spec.classes), run / FILES[weights], device)
    problems = []
    for path in tqdm(images, disable=not sys.stderr.isatty()):
        try:
            image = read_image(path)
        except UserError as error:
            problems.append(str(error))
            continue
        probs = _probabilities(net, image, (height, width), device)
        labels = probs.argmax(0)
        overlay = (image.astype(np.uint16) + colourise(labels.astype(np.uint8), spec.classes)) // 2
        if scores:
            write_bytes(output / f"{path.stem}_scores.npy", _npy(probs.astype(np.float16)))
        write_bytes(output / f"{path.stem}_overlay.png", _png(overlay.astype(np.uint8)))
        write_bytes(output / f"{path.stem}.png", _png(table[labels]))
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(
            f"{len(problems)} of {len(images)} images could not be read; all others are predicted:\n{listing}"
        )


def _probabilities(net: SegmentationNet, image: np.ndarray, size: tuple[int, int], device: torch.device) -> np.ndarray:
    """Class probabilities (C, H, W) float32 of an image (H, W, 3) uint8 that the network sees at `size`."""
    # Resized as in `data.sets.build`: an evaluated image gets the prediction that its score was computed from.
    seen = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
    native = (image.shape[0], image.shape[1])
    return predict_scores(net, to_tensor(seen).to(device), native, PLAIN).softmax(1)[0].cpu().numpy()


def _id_table(path: Path | None, classes: list[str]) -> np.ndarray:
    """Train id -> id in the label map, uint8 or, where an id needs it, uint16."""
    if path is None:
        return np.arange(len(classes), dtype=np.uint8)
    given = read_yaml(path)
    if not isinstance(given, dict):
        raise UserError(f"{path}: expected lines `class name: id`, found {type(given).__name__}")
    problems = []
    for name, value in given.items():
        if name not in classes:
            near = difflib.get_close_matches(str(name), classes, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"its classes: {', '.join(classes)}"
            problems.append(f"'{name}' is not a class of this run; {hint}")
        elif type(value) is not int or not 0 <= value <= LARGEST_ID:
            problems.append(f"'{name}' has the id {value!r}, expected a whole number from 0 to {LARGEST_ID}")
    missing = [name for name in classes if name not in given]
    if missing:
        problems.append(f"no id for {', '.join(missing)}; every class of the run needs one")
    if problems:
        raise UserError("\n".join(f"{path}: {problem}" for problem in problems))
    values = [given[name] for name in classes]
    return np.array(values, dtype=np.uint8 if max(values) <= 255 else np.uint16)


def _require_distinct(images: Sequence[Path], output: Path) -> None:
    """UserError if two outputs would have one name, or an output would replace an input image."""
    sources = {path.resolve() for path in images}
    owner: dict[str, Path] = {}
    problems = []
    for path in images:
        for name in (f"{path.stem}.png", f"{path.stem}_overlay.png", f"{path.stem}_scores.npy"):
            if name in owner:
                problems.append(f"{owner[name]} and {path} would both be written to {output / name}; rename one")
                break
            owner[name] = path
            if (output / name).resolve() in sources:
                problems.append(f"{output / name} would replace an input image; choose another --output")
                break
    if problems:
        raise UserError("\n".join(problems))


def _png(pixels: np.ndarray) -> bytes:
    """Pixels (H, W, 3) uint8, or (H, W) uint8 or uint16, as a PNG of the same bit depth."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
