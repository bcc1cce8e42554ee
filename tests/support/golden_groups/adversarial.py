"""DANN and AdaptSegNet."""

from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from support.golden_groups.base import Arrays, Golden, count, decimal, network, sizes, tensor
from torch import nn

from udaseg.engine.optimizers import Optimizers, RepeatedSGD, rate_factor, scale_rates
from udaseg.methods.base import Step
from udaseg.nets.build import released_listings
from udaseg.nets.discriminators import PatchDiscriminator, PixelClassifier
from udaseg.nets.heads import Aspp
from udaseg.ops import adversarial
from udaseg.ops.losses import cross_entropy

# ------------------------------------------------------------------------------------------------------------- DANN


def dann_grl(arrays: Arrays) -> dict[str, Any]:
    x = tensor(arrays["x"], gradient=True)
    y = adversarial.reverse_gradient(x, float(arrays["alpha"]))
    y.backward(tensor(arrays["grad_output"]))
    return {"expected_y": y, "expected_grad_input": x.grad}


def dann_alpha(arrays: Arrays) -> dict[str, Any]:
    steps = prod((int(arrays["n_epoch"]), int(arrays["batches_per_epoch"])))
    done = [Step(step, steps, {}, torch.Generator()).progress for step in arrays["step"].tolist()]
    return {"f64_expected_alpha": [adversarial.reversal_strength(share, decimal(arrays["gamma"])) for share in done]}


def dann_step(arrays: Arrays) -> dict[str, Any]:
    features = {name: tensor(arrays[f"feat_{name}"], gradient=True) for name in ("source", "target")}
    classes, channels = arrays["Wc"].shape
    head = Aspp(channels, classes, dilations=[1])  # a 1x1 classifier is a 3x3 one that looks at its centre only
    kernel = np.zeros((classes, channels, 3, 3), np.float32)
    kernel[:, :, 1, 1] = arrays["Wc"]
    head.load_state_dict({"branches.0.weight": tensor(kernel), "branches.0.bias": torch.zeros(classes)})
    outputs, hidden = arrays["W2"].shape
    classifier = PixelClassifier(channels, hidden, dropout=0.0, layers=2, outputs=outputs)
    for conv, layer in zip(classifier.convs, "12", strict=True):
        weight, bias = tensor(arrays[f"W{layer}"]), tensor(arrays[f"b{layer}"])
        conv.load_state_dict({"weight": weight.reshape(*weight.shape, 1, 1), "bias": bias})

    seg = cross_entropy(head(features["source"]), tensor(arrays["label_source"]).long())
    domain = {}
    for name, maps in features.items():
        logits = classifier(adversarial.reverse_gradient(maps, float(arrays["alpha"])))
        domain[name] = adversarial.domain_loss(logits, int(arrays[f"{name}_domain"]))
    torch.autograd.backward([seg, *domain.values()])
    gradients = {}
    for conv, layer in zip(classifier.convs, "12", strict=True):
        gradients[f"expected_grad_W{layer}"] = conv.weight.grad.reshape(arrays[f"W{layer}"].shape)
        gradients[f"expected_grad_b{layer}"] = conv.bias.grad
    return {
        "expected_seg": seg,
        **{f"expected_domain_{name}": loss for name, loss in domain.items()},
        **{f"expected_grad_feat_{name}": maps.grad for name, maps in features.items()},
        **gradients,
    }


# ------------------------------------------------------------------------------------------------------ AdaptSegNet


def adaptseg_poly_lr(arrays: Arrays) -> dict[str, Any]:
    settings: Any = SimpleNamespace(
        name="sgd", lr=float(arrays["f64_base_lr"]), head_lr_factor=10.0, momentum=0.9, weight_decay=5e-4,
        schedule="poly", power=decimal(arrays["power"]), schedule_iterations=int(arrays["max_iter"]),
        warmup_iterations=0, backbone_lr_multiplicity=1,
    )  # fmt: skip
    optimizer = Optimizers(settings).network(network("small", 50, "train", classes=2, levels=1))
    rates = []
    for iteration in arrays["iteration"].tolist():
        scale_rates(optimizer, rate_factor(settings, iteration, iterations=1))
        rates.append([group["lr"] for group in optimizer.param_groups])
    backbone, head = zip(*rates, strict=True)
    return {"f64_expected_lr": backbone, "f64_expected_head_lr": head}


def adaptseg_adv_step(arrays: Arrays) -> dict[str, Any]:
    kind = {"Vanilla": "vanilla", "LS": "least_squares"}[str(arrays["gan"])]
    levels = [level for level in ("1", "2") if f"target_logits_{level}" in arrays]
    source_size, target_size = sizes(arrays["source_size"]), sizes(arrays["target_size"])
    compared: dict[str, Any] = {}
    discriminators, target_logits, losses = {}, {}, {}
    for level in levels:
        discriminators[level] = patch_discriminator(arrays, f"D{level}_")
        target_logits[level] = tensor(arrays[f"target_logits_{level}"], gradient=True)
        seen = adversarial.output_space(target_logits[level], target_size)
        compared[f"expected_D_out_target_{level}"] = discriminators[level](seen)
        losses[level] = adversarial.adversarial_loss(discriminators[level], target_logits[level], target_size, kind)
    named = levels if arrays["lambda_adv"].size == len(levels) else ("1", "2")
    lambdas = dict(zip(named, tensor(arrays["lambda_adv"]), strict=True))
    torch.autograd.backward(list(losses.values()), [lambdas[level] for level in levels])
    compared["expected_loss_adv"] = torch.stack(list(losses.values()))
    discrimination = {}
    for level in levels:
        compared[f"expected_grad_target_logits_{level}"] = target_logits[level].grad
        source = (tensor(arrays[f"source_logits_{level}"]), source_size)
        discrimination[level] = adversarial.discriminator_losses(
            discriminators[level], source, (target_logits[level], target_size), kind
        )
        torch.autograd.backward(discrimination[level][:2])
    for domain in ("source", "target"):
        halves = [getattr(parts, domain) for parts in discrimination.values()]
        compared[f"expected_loss_D_{domain}"] = torch.stack(halves)
    gradients = {
        f"expected_D{level}_{name}_weight_grad": conv.weight.grad
        for level in levels
        for name, conv in zip(PATCH_LAYERS, discriminators[level].convs, strict=True)
    }
    return {**compared, **{key: gradient for key, gradient in gradients.items() if key in arrays}}


PATCH_LAYERS = ("conv1", "conv2", "conv3", "conv4", "classifier")


def patch_discriminator(arrays: Arrays, prefix: str) -> nn.Module:
    width, channels = arrays[f"{prefix}conv1.weight"].shape[:2]
    discriminator = PatchDiscriminator(channels, width)
    for conv, name in zip(discriminator.convs, PATCH_LAYERS, strict=True):
        conv.load_state_dict({part: tensor(arrays[f"{prefix}{name}.{part}"]) for part in ("weight", "bias")})
    return discriminator


def adaptseg_seg_ce(arrays: Arrays) -> dict[str, Any]:
    logits = tensor(arrays["logits"], gradient=True)
    loss = cross_entropy(logits, tensor(arrays["label"]).long())
    loss.backward()
    return {"expected_loss": loss, "expected_grad": logits.grad}


def adaptseg_aspp(arrays: Arrays) -> dict[str, Any]:
    classes, channels = arrays["conv2d_list.0.weight"].shape[:2]
    compared = {}
    for key, dilations in (("expected_released_two_branches", (6, 12)), ("expected_four_branches", (6, 12, 18, 24))):
        head = Aspp(channels, classes, dilations)
        for index, branch in enumerate(head.branches):
            branch.load_state_dict({part: tensor(arrays[f"conv2d_list.{index}.{part}"]) for part in ("weight", "bias")})
        compared[key] = head(tensor(arrays["x"]))
    return compared


def adaptseg_shapes(arrays: Arrays) -> dict[str, Any]:
    with torch.device("meta"):  # shapes without numbers
        discriminator = PatchDiscriminator(19)
        net = network("deeplabv2", 101, "affine_frozen", classes=19, levels=2)
    parameters = list(net.parameters())

    def discriminated(size: tuple[int, int]) -> list[int]:
        return [*size, *discriminator(torch.empty(1, 19, *size, device="meta")).shape[2:]]

    def segmented(size: tuple[int, int]) -> list[int]:
        outputs = net(torch.empty(1, 3, *size, device="meta"))
        return [*size, *outputs.aux_logits.shape[2:], *outputs.logits.shape[2:]]

    return {
        "n_params_discriminator_19": count(list(discriminator.parameters())),
        "n_params_deeplab_multi_19": count(parameters),
        "n_trainable_deeplab_multi_19": count([parameter for parameter in parameters if parameter.requires_grad]),
        "param_trainable": [parameter.requires_grad for parameter in parameters],
        "multiplicity_in_1x_group": list(released_listings(net).values()),
        "discriminator_in_hw_out_hw": [discriminated(sizes(row[:2])) for row in arrays["discriminator_in_hw_out_hw"]],
        "deeplab_in_hw_level1_hw_level2_hw": [
            segmented(sizes(row[:2])) for row in arrays["deeplab_in_hw_level1_hw_level2_hw"]
        ],
    }


def adaptseg_dup_sgd(arrays: Arrays) -> dict[str, Any]:
    weights = nn.Parameter(tensor(arrays["w0"]))
    optimizer = RepeatedSGD(
        [weights], decimal(arrays["lr"]), decimal(arrays["momentum"]), decimal(arrays["weight_decay"]), int(arrays["k"])
    )
    for gradient in arrays["grads"]:
        weights.grad = tensor(gradient)
        optimizer.step()
    return {"expected_w_shared_buffer": weights}


CASES: dict[str, Golden] = {
    "dann.grl": Golden(dann_grl),
    "dann.alpha": Golden(dann_alpha, tolerances={"": (1e-12, 0.0)}),
    "dann.step": Golden(dann_step),
    "adaptseg.poly_lr": Golden(adaptseg_poly_lr, tolerances={"": (1e-9, 0.0)}),
    "adaptseg.adv_step": Golden(
        adaptseg_adv_step,
        # The segmenter's gradients carry the weights of about 1e-3, which an absolute tolerance must not swallow.
        tolerances={"": (1e-4, 1e-6)} | {f"expected_grad_target_logits_{level}": (1e-4, 1e-9) for level in "12"},
    ),
    "adaptseg.seg_ce": Golden(adaptseg_seg_ce, guard={"expected_loss": 0.0}),
    "adaptseg.aspp": Golden(adaptseg_aspp, tolerances={"": (1e-4, 1e-4)}),
    "adaptseg.shapes": Golden(
        adaptseg_shapes,
        exact=[
            "n_params_discriminator_19",
            "n_params_deeplab_multi_19",
            "n_trainable_deeplab_multi_19",
            "param_trainable",
            "multiplicity_in_1x_group",
            "discriminator_in_hw_out_hw",
            "deeplab_in_hw_level1_hw_level2_hw",
        ],
    ),
    "adaptseg.dup_sgd": Golden(adaptseg_dup_sgd, tolerances={"": (1e-4, 1e-6)}),
}
