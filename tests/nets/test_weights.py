import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import ResNet50_Weights, resnet50

from udaseg.config.training import Network
from udaseg.engine.checkpoint import save_tensors
from udaseg.engine.predict import load_predictor
from udaseg.errors import UserError
from udaseg.nets import NETWORKS
from udaseg.nets.build import build_network
from udaseg.nets.weights import file_weights, load_weights
from udaseg.validation import validate


def spec(**changes):
    default = {"name": "small", "depth": 50, "head": "aspp", "aspp": "paper", "feature_norm": False, "norm": "train"}
    return SimpleNamespace(**default | changes)


def net(classes=5, levels=1, seed=0, **changes):
    return build_network(spec(**changes), classes, levels, seed)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestLoadWeights:
    def test_everything_that_fits_is_copied(self):
        model, tensors = net(levels=2), state(net(levels=2, seed=1))
        tensors["backbone.stem.1.running_mean"] += 3
        assert load_weights(model, tensors, "there") == 1.0
        assert equal(state(model), tensors)

    def test_heads_of_other_classes_keep_their_initial_weights(self):
        model, tensors = net(classes=5), state(net(classes=7, seed=1))
        before = state(model.head)
        assert load_weights(model, tensors, "there") == 1.0
        assert equal(state(model.head), before)
        assert torch.equal(model.backbone.stem[0].weight, tensors["backbone.stem.0.weight"])

    def test_a_head_is_not_loaded_in_parts(self):
        model, tensors = net(aspp="released"), state(net(seed=1))
        before = state(model.head)
        load_weights(model, tensors, "there")
        assert equal(state(model.head), before)

    def test_a_head_of_another_kind_is_not_loaded(self):
        model, tensors = net(head="squeeze_excite", levels=2), state(net(seed=1, levels=2))
        before = state(model.head)
        assert load_weights(model, tensors, "there") == 1.0
        assert equal(state(model.head), before)
        assert equal(state(model.aux_head), state(net(seed=1, levels=2).aux_head))

    @pytest.mark.parametrize("head", ["aspp", "squeeze_excite"])
    def test_a_head_and_the_norm_before_it_go_together(self, head):
        donor = net(head=head, feature_norm=True, seed=1)
        donor.feature_norm.running_mean += 3
        model = net(head=head, feature_norm=True)
        load_weights(model, state(donor), "there")
        assert equal(state(model), state(donor))
        for has, wants in ((True, False), (False, True)):
            model, tensors = net(head=head, feature_norm=wants), state(net(head=head, feature_norm=has, seed=1))
            before = state(model.head)
            load_weights(model, tensors, "there")
            assert equal(state(model.head), before)

    def test_names_without_the_prefix_are_those_of_a_backbone(self):
        model, other = net(), net(seed=1)
        assert load_weights(model, state(other.backbone), "there") == 1.0
        assert equal(state(model.backbone), state(other.backbone))

    def test_frozen_statistics_are_loaded_too(self):
        model, tensors = net(norm="eval"), state(net(seed=1))
        tensors["backbone.stem.1.running_var"] *= 4
        load_weights(model, tensors, "there")
        assert torch.equal(model.backbone.stem[1].running_var, tensors["backbone.stem.1.running_var"])

    def test_one_per_cent_may_be_missing(self):
        model = net(name="deeplabv2")
        tensors = state(model.backbone)
        del tensors["bn1.weight"]
        assert 0.99 <= load_weights(model, tensors, "there") < 1

    def test_too_few_matches_are_refused_and_nothing_is_changed(self):
        model = net()
        before = state(model)
        tensors = state(net(seed=1))
        del tensors["backbone.stem.0.weight"]
        tensors["backbone.layer3.conv1.0.weight"] = torch.zeros(2, 2)
        with pytest.raises(UserError) as caught:
            load_weights(model, tensors, "weights/there.safetensors")
        message = str(caught.value)
        assert "weights/there.safetensors: holds" in message
        assert "stem.0.weight (16, 3, 3, 3) is absent" in message
        assert "layer3.conv1.0.weight (96, 64, 3, 3) is of shape (2, 2)" in message
        assert equal(state(model), before)

    def test_another_network_is_refused(self):
        with pytest.raises(UserError, match="holds 0%"):
            load_weights(net(), {"weight": torch.zeros(1)}, "there")


class TestPredictor:
    """Weights and spec are enough to have the network back, whichever head it has."""

    def saved(self, tmp_path, levels=1, **changes):
        network = validate(Network, vars(spec(**changes)))
        model = build_network(network, 5, levels, seed=1).eval()
        save_tensors(tmp_path / "model.safetensors", model.state_dict())
        return network, model

    @pytest.mark.parametrize("levels", [1, 2])
    @pytest.mark.parametrize("feature_norm", [False, True])
    @pytest.mark.parametrize("head", ["aspp", "squeeze_excite"])
    def test_is_read_back(self, tmp_path, head, feature_norm, levels):
        network, model = self.saved(tmp_path, levels, head=head, feature_norm=feature_norm)
        read = load_predictor(network, 5, tmp_path / "model.safetensors", torch.device("cpu"))
        images = torch.rand(1, 3, 32, 40)
        assert equal(state(read), state(model))
        assert torch.equal(read(images).logits, model(images).logits)

    @pytest.mark.parametrize("changes", [{"head": "squeeze_excite"}, {"feature_norm": True}], ids=str)
    def test_of_another_head_is_refused(self, tmp_path, changes):
        network, _ = self.saved(tmp_path)
        with pytest.raises(UserError, match="not the weights of a small with 5 classes"):
            other = network.model_copy(update=changes)
            load_predictor(other, 5, tmp_path / "model.safetensors", torch.device("cpu"))


class TestFileWeights:
    def test_round_trip(self, tmp_path):
        path = tmp_path / "model.safetensors"
        save_file(state(net()), path)
        assert equal(file_weights(path), state(net()))

    def test_other_formats_missing_and_damaged_files_are_refused(self, tmp_path):
        with pytest.raises(UserError, match=r"model\.pth: .* \.safetensors files only"):
            file_weights(tmp_path / "model.pth")
        with pytest.raises(UserError, match="no such file"):
            file_weights(tmp_path / "model.safetensors")
        damaged = tmp_path / "damaged.safetensors"
        save_file(state(net()), damaged)
        damaged.write_bytes(damaged.read_bytes()[:-100])
        with pytest.raises(UserError, match="not a whole safetensors file"):
            file_weights(damaged)


class Payload:
    """What a hostile pickle does when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestPublishedWeights:
    @pytest.fixture
    def cached(self, tmp_path, monkeypatch):
        """Path where torchvision looks for the ResNet-50 before it looks into the network, which is not there."""

        def unreachable(*args, **kwargs):
            raise OSError("Network is unreachable")

        monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
        monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
        folder = tmp_path / "checkpoints"
        folder.mkdir()
        return folder / os.path.basename(ResNet50_Weights.IMAGENET1K_V1.url)

    def test_a_file_in_the_cache_loads_whole(self, cached):
        torch.manual_seed(0)
        torch.save(resnet50(weights=None).state_dict(), cached)
        model = net(name="deeplabv2", levels=2)
        tensors = NETWORKS["deeplabv2"].published_weights(spec(name="deeplabv2"))
        assert load_weights(model, tensors, "ImageNet") == 1.0
        assert torch.equal(model.backbone.layer4[2].conv3.weight, tensors["layer4.2.conv3.weight"])
        assert torch.equal(model.backbone.bn1.running_var, tensors["bn1.running_var"])

    def test_without_network_the_message_says_where_to_put_the_file(self, cached):
        with pytest.raises(UserError, match=r"resnet50-.*unreachable.*Put this file into .*checkpoints.*file:PATH"):
            NETWORKS["deeplabv2"].published_weights(spec(name="deeplabv2"))

    def test_code_in_a_file_is_not_run(self, cached, tmp_path):
        touched = tmp_path / "touched"
        torch.save({"conv1.weight": Payload(touched)}, cached)
        with pytest.raises(UserError, match="could not be downloaded and read"):
            NETWORKS["deeplabv2"].published_weights(spec(name="deeplabv2"))
        assert not touched.exists()

    def test_a_damaged_file_is_refused(self, cached):
        cached.write_bytes(b"not weights at all")
        with pytest.raises(UserError, match="could not be downloaded and read"):
            NETWORKS["deeplabv2"].published_weights(spec(name="deeplabv2"))

    def test_the_small_network_has_none(self):
        with pytest.raises(UserError, match=r"'small'; use init: pretrain"):
            NETWORKS["small"].published_weights(spec())
