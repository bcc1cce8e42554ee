"""The pictures of a translator: which images they show, what lies beside them, and runs that are none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import CPU, EXACT, translator

from udaseg.data.sets.images import read_image
from udaseg.data.sets.read import PreparedSet
from udaseg.engine.checkpoint import save_tensors
from udaseg.errors import UserError
from udaseg.nets.translator import Generator
from udaseg.offline.translate import drawn_pairs, translate
from udaseg.ops.maps import resize
from udaseg.ops.translation import lab_transfer
from udaseg.runs.files import read_json, write_json, write_yaml
from udaseg.runs.folder import publish
from udaseg.runs.spec import TranslateSpec
from udaseg.validation import validate


def spec_of(source, target, kind="lab", run=None, pictures=2, seed=0, share=0.05):
    knobs = {"translator": kind, "fourier_share": share}
    return validate(TranslateSpec, {
        "kind": "translate", "folder": "results/a-b/translation-0", "translator": kind, "knobs": knobs,
        "run": str(run) if run else None, "source": str(source), "target": str(target), "pictures": pictures,
        **EXACT, "seed": seed, "code": "0",
    })  # fmt: skip


def shown(spec, build):
    build.mkdir(parents=True)
    translate(spec, build, CPU)
    return read_json(build / "translate.json")


def trained(folder, source, target, tensors):
    """A finished run in which these tensors lie."""
    save_tensors(folder / "build" / "model.safetensors", tensors)
    seen = {"source": PreparedSet(source).fingerprint, "target": PreparedSet(target).fingerprint}
    write_json(folder / "build" / "result.json", {"data": seen})
    write_yaml(folder / "build" / "spec.yaml", {"source": str(source), "target": str(target)})
    publish(folder / "build", folder / "run", "run", "train")
    return folder / "run"


def tensor(picture):
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def pictures_in(build, kind):
    return [read_image(path) for path in sorted(build.glob(f"{kind}-*.png"))]


@pytest.mark.parametrize("kind", ["lab", "fourier", "identity", "cyclegan"])
def test_pictures_and_what_lies_beside_them(source, target, tmp_path, kind):
    run = trained(tmp_path / "job", source, target, translator()) if kind == "cyclegan" else None
    spec = spec_of(source, target, kind, run)
    content = shown(spec, tmp_path / "build")
    names = {f"{what}-{index}.png" for what in ("source", "target", "translated") for index in (0, 1)}
    assert {path.name for path in (tmp_path / "build").iterdir()} == {*names, "translate.json"}
    sets = {"source": PreparedSet(source), "target": PreparedSet(target)}
    for index, pair in enumerate(content["pairs"]):
        for stream, name in pair.items():
            assert np.array_equal(pictures_in(tmp_path / "build", stream)[index], sets[stream].image("train", name))
    for what in ("source", "target", "translated"):
        found = np.mean([picture.mean((0, 1)) for picture in pictures_in(tmp_path / "build", what)], axis=0)
        assert content["mean_colour"][what] == pytest.approx(found.tolist(), abs=1e-9)
    assert content["translator"] == kind and content["knobs"] == spec.knobs
    assert content["data"] == {stream: prepared.fingerprint for stream, prepared in sets.items()}


def test_translated_pictures_are_the_translators(source, target, tmp_path):
    shown(spec_of(source, target), tmp_path / "lab")
    trios = zip(*(pictures_in(tmp_path / "lab", what) for what in ("source", "target", "translated")), strict=True)
    for first, second, found in trios:
        expected = lab_transfer(tensor(first), resize(tensor(second), first.shape[:2]))
        assert np.abs(found.astype(int) - (255 * expected[0].permute(1, 2, 0)).numpy()).max() <= 0.51

    run = trained(tmp_path / "job", source, target, translator())
    shown(spec_of(source, target, "cyclegan", run), tmp_path / "gan")
    made = Generator.from_tensors(translator(), "here")
    for first, found in zip(*(pictures_in(tmp_path / "gan", what) for what in ("source", "translated")), strict=True):
        with torch.no_grad():
            expected = made(tensor(first))[0].permute(1, 2, 0)
        assert np.abs(found.astype(int) - (255 * expected).numpy()).max() <= 0.51


def test_without_translation_the_source_is_shown_as_it_is(source, target, tmp_path):
    content = shown(spec_of(source, target, "identity"), tmp_path / "build")
    for first, found in zip(*(pictures_in(tmp_path / "build", w) for w in ("source", "translated")), strict=True):
        assert np.array_equal(first, found)
    assert content["mean_colour"]["translated"] == content["mean_colour"]["source"]


def test_equal_specs_give_equal_bytes_and_translators_of_a_seed_the_same_pairs(source, target, tmp_path):
    first = shown(spec_of(source, target), tmp_path / "first")
    again = shown(spec_of(source, target), tmp_path / "again")
    other = shown(spec_of(source, target, "fourier"), tmp_path / "other")
    assert first == again and first["pairs"] == other["pairs"]
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_set_of_fewer_images_is_shown_whole(source, target, tmp_path):
    content = shown(spec_of(source, target, pictures=9), tmp_path / "build")
    assert [pair["source"] for pair in content["pairs"]] == PreparedSet(source).names("train")


def test_sources_are_evenly_spaced_and_targets_drawn():
    sources, targets = [f"s{index}" for index in range(10)], [f"t{index}" for index in range(50)]
    pairs = drawn_pairs(sources, targets, 4, seed=0)
    assert [source for source, _ in pairs] == ["s0", "s2", "s5", "s7"]
    assert {target for _, target in pairs} <= set(targets) and len({target for _, target in pairs}) > 1
    assert pairs == drawn_pairs(sources, targets, 4, seed=0) != drawn_pairs(sources, targets, 4, seed=1)
    assert [target for _, target in drawn_pairs(sources, targets, 9, seed=0)][:4] == [target for _, target in pairs]
    assert [source for source, _ in drawn_pairs(sources[:3], targets, 4, seed=0)] == sources[:3]


def test_a_run_that_trained_no_translator_is_refused(source, target, run, tmp_path):
    with pytest.raises(UserError, match=rf"init\.translator: {run}: these are not the weights of an image translator"):
        shown(spec_of(source, target, "cyclegan", run), tmp_path / "build")


def test_a_run_that_saw_other_data_is_refused(source, target, tmp_path):
    made = trained(tmp_path / "job", source, target, translator())
    path = Path(target) / "set.json"
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | {"fingerprint": "another"}))
    try:
        with pytest.raises(UserError, match="saw other content in"):
            shown(spec_of(source, target, "cyclegan", made), tmp_path / "build")
    finally:
        path.write_text(kept)


def test_a_cyclegan_without_a_run_is_refused(source, target, tmp_path):
    with pytest.raises(UserError, match=r"init\.translator: has no weights"):
        shown(spec_of(source, target, "cyclegan"), tmp_path / "build")
