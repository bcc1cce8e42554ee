"""Translations of some source images, for people to look at. Nothing that trains reads the result."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from udaseg.data.sets.images import write_png
from udaseg.data.sets.read import PreparedSet
from udaseg.engine.checkpoint import load_tensors
from udaseg.engine.predict import to_tensor
from udaseg.engine.sets import require_finished
from udaseg.machine.environment import make_exact
from udaseg.methods.diga.translation import ROLE, Translator, TranslatorKnobs
from udaseg.runs.files import write_json
from udaseg.runs.spec import TranslateSpec
from udaseg.seeding import seed_for


def translate(spec: TranslateSpec, build: Path, device: torch.device) -> None:
    """Write source-<i>.png, target-<i>.png, translated-<i>.png and translate.json into `build`.

    The images are whole training images at the training input's size, without augmentation: source images evenly spaced
    over their set, each with a random target image, whose look it takes if the translator uses single target images.
    All translators of a seed are shown on the same pairs. A set with fewer images than requested is shown whole.

    Raises:
        UserError: the translator's run is not finished, saw other data than are there now, or trained no translator.
    """
    make_exact(spec)
    sets = {"source": PreparedSet(Path(spec.source)), "target": PreparedSet(Path(spec.target))}
    initial = {}
    if spec.run is not None:
        require_finished(Path(spec.run), sets.values())
        initial[ROLE] = (spec.run, load_tensors(Path(spec.run) / "model.safetensors"))
    translator = Translator(TranslatorKnobs.model_validate(spec.knobs), initial).to(device)
    pairs = drawn_pairs(sets["source"].names("train"), sets["target"].names("train"), spec.pictures, spec.seed)
    sums: dict[str, list[np.ndarray]] = {"source": [], "target": [], "translated": []}
    for index, (source, target) in enumerate(pairs):
        images = {
            stream: sets[stream].image("train", name) for stream, name in (("source", source), ("target", target))
        }
        inputs = [to_tensor(images[stream]).to(device) for stream in ("source", "target")]
        images["translated"] = _picture(translator(*inputs))
        for kind, image in images.items():
            write_png(build / f"{kind}-{index}.png", image)
            sums[kind].append(image.mean((0, 1)))
    content = {
        "translator": spec.translator,
        "knobs": spec.knobs,
        "pairs": [{"source": source, "target": target} for source, target in pairs],
        "mean_colour": {kind: np.mean(means, axis=0).tolist() for kind, means in sums.items()},  # RGB, 0 to 255
        "data": {stream: prepared.fingerprint for stream, prepared in sets.items()},
    }
    write_json(build / "translate.json", content)


def drawn_pairs(sources: list[str], targets: list[str], count: int, seed: int) -> list[tuple[str, str]]:
    """`count` source names (or all), evenly spaced from the first, each with a target name drawn by (seed, index)."""
    count = min(count, len(sources))
    pairs = []
    for index in range(count):
        generator = torch.Generator().manual_seed(seed_for(seed, "translate", index))
        drawn = int(torch.randint(len(targets), (), generator=generator))
        pairs.append((sources[index * len(sources) // count], targets[drawn]))
    return pairs


def _picture(image: Tensor) -> np.ndarray:
    """An image (1, 3, H, W) in [0, 1] as (H, W, 3) uint8."""
    found: np.ndarray = (255 * image[0]).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return found
