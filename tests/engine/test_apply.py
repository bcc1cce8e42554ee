"""`udaseg predict`: a run folder and images in, label maps at the images' size out; nothing silent, nothing half."""

import shutil

import numpy as np
import pytest
from PIL import Image
from support.tiny import CPU, objects_spec

from udaseg.data.datasets.classes import colourise
from udaseg.data.datasets.objects import NAMES
from udaseg.data.sets.read import PreparedSet
from udaseg.engine.apply import predict_files
from udaseg.engine.predict import PLAIN, load_predictor, predictions
from udaseg.engine.train import Training
from udaseg.errors import UserError
from udaseg.methods import METHODS
from udaseg.runs.files import read_json, write_json, write_yaml
from udaseg.runs.folder import publish


def trained(spec, root):
    Training(spec, METHODS[spec.method], root / "state", CPU).run()
    write_yaml(root / "state" / "build" / "spec.yaml", spec.model_dump(mode="json"))
    publish(root / "state" / "build", root / "run", spec.folder, "train")
    return root / "run"


@pytest.fixture(scope="module")
def run(source, target, tmp_path_factory):
    changes = {"iterations": 12, "monitor_every": 4, "checkpoint_every": 12}
    spec = objects_spec(source, target, train=changes, optim={"lr": 5e-3})
    return trained(spec, tmp_path_factory.mktemp("run"))


@pytest.fixture
def images(tmp_path):
    """Two pictures of different sizes."""
    random = np.random.default_rng(0)
    paths = []
    for name, shape in (("one.png", (30, 50, 3)), ("two.jpg", (61, 47, 3))):
        paths.append(tmp_path / "images" / name)
        paths[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(paths[-1])
    return paths


def predict(run, images, output, weights="last", scores=False, ids=None):
    predict_files(run, images, output, weights, scores, ids)
    return {path.name: path for path in output.iterdir()}


def pixels(path):
    return np.asarray(Image.open(path))


def test_label_maps_and_overlays_have_the_images_size(run, images, tmp_path):
    files = predict(run, images, tmp_path / "deep" / "output")
    assert sorted(files) == ["one.png", "one_overlay.png", "two.png", "two_overlay.png"]
    for path in images:
        labels, overlay = pixels(files[f"{path.stem}.png"]), pixels(files[f"{path.stem}_overlay.png"])
        image = np.asarray(Image.open(path).convert("RGB"))
        assert labels.dtype == np.uint8 and labels.shape == image.shape[:2] and labels.max() < len(NAMES)
        blended = (image.astype(float) + colourise(labels, NAMES)) / 2
        assert np.abs(overlay - blended).max() < 1


@pytest.mark.parametrize("weights", ["last", "best"])
def test_an_evaluated_image_is_predicted_as_it_was_scored(weights, run, target, tmp_path):
    # The image at native size, as its data set gives it, goes in here; evaluation reads what was resized by `prepare`.
    prepared = PreparedSet(target)
    items = type_of(prepared.spec).open().items("test")
    paths = []
    for item in items:
        paths.append(tmp_path / f"{item.name}.png")
        Image.fromarray(item.image()).save(paths[-1])
    files = predict(run, paths, tmp_path / "output", weights)
    file = {"last": "model.safetensors", "best": "best.safetensors"}[weights]
    net = load_predictor(objects_spec(target, target).network, len(NAMES), run / file, CPU)
    for name, found, _ in predictions(net, prepared, "test", PLAIN, CPU):
        np.testing.assert_array_equal(pixels(files[f"{name}.png"]), found)


def type_of(content):
    from udaseg.data.datasets.objects import ObjectsData
    from udaseg.validation import validate

    return validate(ObjectsData, content)


def test_the_run_folder_alone_is_enough_wherever_it_lies(run, images, tmp_path):
    shutil.copytree(run, tmp_path / "moved")
    spec = (tmp_path / "moved" / "spec.yaml").read_text()
    assert "objects-2" in spec  # the prepared set, of which nothing is read
    here = predict(run, images, tmp_path / "here")
    marker = read_json(tmp_path / "moved" / "run.json")
    (tmp_path / "moved" / "spec.yaml").write_text(spec.replace("objects-2", "gone"))
    del marker["files"]["spec.yaml"]
    write_json(tmp_path / "moved" / "run.json", marker)
    there = predict(tmp_path / "moved", images, tmp_path / "there")
    assert {name: path.read_bytes() for name, path in here.items()} == {
        name: path.read_bytes() for name, path in there.items()
    }


def test_scores_are_probabilities_at_native_size_of_which_the_label_is_the_largest(run, images, tmp_path):
    files = predict(run, images, tmp_path / "output", scores=True)
    for path in images:
        scores = np.load(files[f"{path.stem}_scores.npy"], allow_pickle=False)
        labels = pixels(files[f"{path.stem}.png"])
        assert scores.dtype == np.float16 and scores.shape == (len(NAMES), *labels.shape)
        np.testing.assert_allclose(scores.astype(np.float64).sum(0), 1, atol=5e-3)
        chosen = np.take_along_axis(scores, labels[None].astype(np.int64), 0)[0]
        assert (chosen >= scores.max(0) - 1e-3).all()


class TestIds:
    @pytest.mark.parametrize(("offset", "dtype", "mode"), [(7, np.uint8, "L"), (1000, np.uint16, "I;16")])
    def test_label_maps_have_the_users_ids_in_as_many_bits_as_they_need(
        self, offset, dtype, mode, run, images, tmp_path
    ):
        plain = predict(run, images, tmp_path / "plain")
        write_yaml(tmp_path / "ids.yaml", {name: offset + 3 * index for index, name in enumerate(NAMES)})
        files = predict(run, images, tmp_path / "output", ids=tmp_path / "ids.yaml")
        for name in ("one.png", "two.png"):
            assert Image.open(files[name]).mode == mode
            found = pixels(files[name])
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, offset + 3 * pixels(plain[name]).astype(int))
        assert files["one_overlay.png"].read_bytes() == plain["one_overlay.png"].read_bytes()

    def test_all_that_is_wrong_with_them_is_said_at_once(self, run, images, tmp_path):
        ids = {name: index for index, name in enumerate(NAMES)} | {"disc": 65536, "star": True, "heart": "4", "hart": 3}
        del ids["arrow"]
        write_yaml(tmp_path / "ids.yaml", ids)
        with pytest.raises(UserError) as caught:
            predict(run, images, tmp_path / "output", ids=tmp_path / "ids.yaml")
        for part in (
            "ids.yaml: 'disc' has the id 65536, expected a whole number from 0 to 65535", "'star' has the id True",
            "'heart' has the id '4'", "'hart' is not a class of this run; did you mean 'heart'?", "no id for arrow",
        ):  # fmt: skip
            assert part in str(caught.value)
        assert not (tmp_path / "output").exists()

    @pytest.mark.parametrize(("text", "message"), [("- road", "expected lines .* found list"), ("a: [", "as YAML")])
    def test_a_file_of_another_form(self, text, message, run, images, tmp_path):
        (tmp_path / "ids.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            predict(run, images, tmp_path / "output", ids=tmp_path / "ids.yaml")


class TestRefused:
    def test_all_unreadable_images_are_named_and_the_others_done(self, run, images, tmp_path):
        broken = tmp_path / "images" / "broken.png"
        broken.write_bytes(images[0].read_bytes()[:200])
        missing = tmp_path / "images" / "missing.png"
        with pytest.raises(UserError) as caught:
            predict(run, [broken, images[0], missing, images[1]], tmp_path / "output")
        message = str(caught.value)
        assert message.startswith("2 of 4 images could not be read; all others are predicted:")
        assert f"{broken}: cannot be read" in message and f"{missing}: there is no such file" in message
        names = sorted(path.name for path in (tmp_path / "output").iterdir())
        assert names == ["one.png", "one_overlay.png", "two.png", "two_overlay.png"]

    def test_two_images_whose_outputs_would_have_one_name(self, run, images, tmp_path):
        twin, covered = tmp_path / "one.jpg", tmp_path / "two_overlay.png"
        for path in (twin, covered):
            shutil.copy(images[1], path)
        with pytest.raises(UserError) as caught:
            predict(run, [*images, twin, covered], tmp_path / "output")
        assert f"{images[0]} and {twin} would both be written to {tmp_path / 'output' / 'one.png'}" in str(caught.value)
        assert f"{images[1]} and {covered} would both be written" in str(caught.value)
        assert not (tmp_path / "output").exists()

    def test_an_output_that_would_replace_an_image(self, run, images):
        before = images[0].read_bytes()
        with pytest.raises(UserError, match=r"one\.png would replace an input image; choose another --output"):
            predict(run, images, images[0].parent)
        assert images[0].read_bytes() == before

    def test_a_run_that_is_not_finished_or_no_run_of_training(self, run, images, tmp_path):
        with pytest.raises(UserError, match="nothing: not a finished run"):
            predict(tmp_path / "nothing", images, tmp_path / "output")
        shutil.copytree(run, tmp_path / "run")
        (tmp_path / "run" / "model.safetensors").write_bytes(b"damaged")
        with pytest.raises(UserError, match=r"run: not a finished run: .*a file differs"):
            predict(tmp_path / "run", images, tmp_path / "output")

    def test_best_weights_that_are_not_there(self, source, images, tmp_path):
        run = trained(objects_spec(source, None, train={"iterations": 1}), tmp_path)
        with pytest.raises(UserError, match=r"run: holds no best weights, .*use --weights last"):
            predict(run, images, tmp_path / "output", weights="best")
        assert sorted(predict(run, images, tmp_path / "output"))  # a run without a target predicts too

    def test_nothing_half_written_is_left(self, run, images, tmp_path, monkeypatch):
        def full(descriptor):
            raise OSError("no space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(UserError, match=r"\.png: cannot be written \(no space left on device\)"):
            predict(run, images, tmp_path / "output")
        assert list((tmp_path / "output").iterdir()) == []
