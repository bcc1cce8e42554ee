"""PLCA where no golden looks: what its terms are made of, whom they reach, and what each needs."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.tiny import CLASSES, batch, equal, needed, stepper, steps, tensors, train_spec

from udaseg.data.batches.streams import Batch, Labelled
from udaseg.errors import UserError
from udaseg.methods.base import Step
from udaseg.methods.plca import SPEC, Config, shrink
from udaseg.ops.aggregation import aggregate_features, aggregate_predictions
from udaseg.ops.association import association_loss
from udaseg.ops.losses import cross_entropy
from udaseg.ops.lovasz import lovasz_softmax
from udaseg.ops.maps import resize
from udaseg.ops.regularisers import label_smoothing

OPTIONAL = [term for term in SPEC.weights if term != "seg"]
ASSOCIATIONS = ["assoc_feat", "assoc_pred"]


def run_of(*terms: str, knobs: dict[str, Any] | None = None, **changes: Any) -> Any:
    """With these terms beside "seg"; all of them where none is named."""
    off = dict.fromkeys((term for term in OPTIONAL if terms and term not in terms), 0.0)
    return stepper(train_spec("plca", weights=off, knobs=knobs or {}, **changes))


def only_seg(method: str = "plca", **changes: Any) -> Any:
    weights = dict.fromkeys(OPTIONAL, 0.0) if method == "plca" else {}
    return train_spec(method, weights=weights, **changes)


def step_of(run: Any) -> Step:
    return Step(90, 100, run.weights, torch.Generator())


def groups(run: Any, given: Batch | None = None) -> Iterator[dict[str, torch.Tensor]]:
    found: Iterator[dict[str, torch.Tensor]] = run.method.losses(given or batch(0), step_of(run))
    return found


def terms_of(run: Any, given: Batch | None = None) -> dict[str, torch.Tensor]:
    return {name: term for group in groups(run, given) for name, term in group.items()}


def labelled(label: torch.Tensor) -> Batch:
    return Batch(Labelled(batch(0).source.image, label), batch(0).target)


def seen(valid: torch.Tensor) -> Batch:
    return Batch(batch(0).source, replace(batch(0).target, valid=valid))


def test_with_all_else_off_it_is_source_only_bit_by_bit() -> None:
    ours, theirs = stepper(only_seg()), stepper(only_seg("source_only"))
    for run in (ours, theirs):
        steps(run, 0, 4)
    assert equal(tensors(ours.method), tensors(theirs.method))


@pytest.mark.parametrize("aggregation", [True, False])
@pytest.mark.parametrize("contrast_norm", [True, False])
@pytest.mark.parametrize("lsr", ["released", "paper"])
def test_the_terms_are_made_of_these(aggregation: bool, contrast_norm: bool, lsr: Any) -> None:
    run = run_of(
        knobs={"aggregation": aggregation, "aggregation_share": 0.3, "contrast_norm": contrast_norm, "lsr": lsr}
    )
    run.method.net.eval()
    given = batch(0)
    given = Batch(
        given.source,
        replace(given.target, valid=torch.rand((2, 64, 64), generator=torch.Generator().manual_seed(0)) < 0.9),
    )
    found = terms_of(run, given)

    source, target = (run.method.net(stream.image) for stream in (given.source, given.target))
    labels, valid = given.source.label[:, ::4, ::4], given.target.valid[:, ::4, ::4]  # the network's stride is 4
    features, other = source.features["embedding"], target.features["embedding"]
    probs, other_probs = source.logits.softmax(1), target.logits.softmax(1)
    if aggregation:
        other = aggregate_features(other, 0.3, contrast_norm, valid)
        other_probs = aggregate_predictions(other_probs, 0.3, valid)
    threshold = 10.0 if lsr == "released" else 0.0
    columns = target.logits.movedim(1, 0)[:, valid][None, :, :, None]  # (1, C, pixels, 1)
    whole = resize(source.logits, (64, 64))
    expected = {
        "seg": cross_entropy(whole, given.source.label),
        "lovasz": lovasz_softmax(whole, given.source.label),
        "assoc_feat": association_loss(features, other, labels, "cosine", contrast_norm, valid).loss,
        "assoc_pred": association_loss(probs, other_probs, labels, "divergence", contrast_norm, valid).loss,
        "lsr": label_smoothing(source.logits, threshold) + label_smoothing(columns, threshold),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_all_terms_are_in_one_group() -> None:
    assert [list(group) for group in groups(run_of())] == [list(SPEC.weights)]


@pytest.mark.parametrize("terms", [["assoc_feat"], ["assoc_pred"], ASSOCIATIONS, ["lsr"], ["lovasz"]])
def test_each_term_stands_alone(terms: list[str]) -> None:
    run = run_of(*terms)
    found = terms_of(run)
    assert list(found) == ["seg", *terms]
    sum(found[term] for term in terms).backward()
    assert all(parameter.grad.any() for parameter in run.method.net.backbone.parameters())


def test_lsr_stays_where_the_association_of_predictions_is_off() -> None:
    whole, without = terms_of(run_of()), terms_of(run_of("assoc_feat", "lovasz", "lsr"))
    assert "assoc_pred" not in without
    assert torch.equal(whole["lsr"], without["lsr"])


@pytest.mark.parametrize("term", OPTIONAL)
def test_a_term_is_the_same_whatever_else_is_on(term: str) -> None:
    torch.testing.assert_close(terms_of(run_of(term))[term], terms_of(run_of())[term])


def test_only_what_spans_both_domains_needs_the_target() -> None:
    assert needed(only_seg()) == ["source"]
    assert needed(run_of("lovasz").spec) == ["source"]
    for term in ("assoc_feat", "assoc_pred", "lsr"):
        assert needed(run_of(term).spec) == ["source", "target"]


def test_without_a_term_of_both_domains_no_target_is_looked_at() -> None:
    found = terms_of(run_of("lovasz"), batch(0, ["source"]))
    assert list(found) == ["seg", "lovasz"]


def test_the_target_goes_first_and_running_statistics_see_both() -> None:
    run, expected = run_of(), run_of().method.net
    given = batch(0)
    list(groups(run, given))
    with torch.no_grad():
        expected(given.target.image)
        expected(given.source.image)
    assert equal(dict(run.method.net.named_buffers()), dict(expected.named_buffers()))


def test_associations_reach_both_domains() -> None:
    given = batch(0)
    images = [stream.image.requires_grad_() for stream in (given.source, given.target)]
    for term in ASSOCIATIONS:
        for gradient in torch.autograd.grad(terms_of(run_of(term), given)[term], images):
            assert gradient.any()


def test_the_released_lsr_sharpens_and_the_papers_flattens() -> None:
    entropies = []
    for lsr in ("released", "paper"):
        weights = dict.fromkeys(OPTIONAL, 0.0) | {"lsr": 10.0}
        run = stepper(train_spec("plca", weights=weights, knobs={"lsr": lsr}, optim={"lr": 3e-3}))
        for index in range(10):
            run(index, [batch(0)])
        with torch.no_grad():
            entropies.append(float(label_smoothing(run.method.net(batch(0).target.image).logits, 0.0)))
    assert entropies[0] > entropies[1]


@pytest.mark.parametrize("lsr", ["released", "paper"])
def test_without_labels_only_lsr_is_left(lsr: str) -> None:
    run = run_of(knobs={"lsr": lsr})
    found = terms_of(run, labelled(torch.full((2, 64, 64), 255)))
    assert [name for name, term in found.items() if term != 0] == ["lsr"]
    sum(term for name, term in found.items() if name != "lsr").backward()  # they are in the graph
    assert not any(p.grad is not None and p.grad.any() for p in run.method.net.parameters())


def test_a_target_beyond_the_image_is_not_associated_nor_smoothed() -> None:
    run = run_of()
    nothing = terms_of(run, seen(torch.zeros(2, 64, 64, dtype=torch.bool)))
    assert nothing["assoc_feat"] == nothing["assoc_pred"] == 0
    torch.testing.assert_close(nothing["lsr"], label_smoothing(run.method.net(batch(0).source.image).logits, 10.0))


def test_a_class_that_one_image_lacks_gives_it_no_pairs() -> None:
    label = torch.zeros(2, 64, 64, dtype=torch.int64)
    label[1] = len(CLASSES) - 1
    found = terms_of(run_of(*ASSOCIATIONS), labelled(label))
    assert all(found[term] > 0 and found[term].isfinite() for term in ASSOCIATIONS)


def test_the_share_of_consistent_walks_is_logged() -> None:
    run = run_of()
    step = step_of(run)
    list(run.method.losses(labelled(torch.zeros(2, 64, 64, dtype=torch.int64)), step))
    assert {name: [float(value) for value in values] for name, values in step.logs.items()} == {
        "consistent_cosine": [1.0],
        "consistent_divergence": [1.0],
    }


def test_batches_of_unequal_size_are_refused() -> None:
    given = batch(0)
    target = replace(given.target, image=given.target.image[:1], valid=given.target.valid[:1])
    with pytest.raises(UserError, match=r"`batch` of both must be equal; found 2 of .* and 1 of"):
        terms_of(run_of(), Batch(given.source, target))


def test_crops_of_unequal_size_are_no_trouble() -> None:
    given = batch(0)
    target = replace(given.target, image=given.target.image[..., :32], valid=given.target.valid[..., :32])
    assert all(term.isfinite() for term in terms_of(run_of(), Batch(given.source, target)).values())


def test_a_share_of_nothing_is_said_by_the_other_knob() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        Config(aggregation_share=0.0)


def test_in_half_precision_the_terms_are_finite_and_train() -> None:
    run = run_of(train={"precision": "bf16"})
    before = tensors(run.method.net)
    terms, _ = run(0, [batch(0)])
    assert set(terms) == set(SPEC.weights)
    assert not equal(before, tensors(run.method.net))


@pytest.mark.parametrize(("large", "small"), [((64, 64), (16, 16)), ((730, 48), (92, 6)), ((5, 7), (5, 7))])
def test_a_cells_label_is_that_of_its_first_pixel(large: tuple[int, int], small: tuple[int, int]) -> None:
    labels = torch.randint(256, (2, *large))
    rows, columns = (
        [place * length // short for place in range(short)] for length, short in zip(large, small, strict=True)
    )
    found = shrink(labels, torch.zeros(2, 3, *small))
    assert found.dtype == torch.int64
    assert torch.equal(found, labels[:, rows][:, :, columns])
    assert torch.equal(shrink(labels > 100, torch.zeros(2, 3, *small)), found > 100)
