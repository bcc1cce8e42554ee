import pytest
import torch

from udaseg.nets.feature_bank import ClassBank, ClassFrequencies
from udaseg.ops.class_balance import balanced_weights


def memory_of(selectors="paper", keep="paper", size=8):
    return ClassBank(5, 4, 3, size, selectors, keep)


def features(images=2, side=4, seed=0):
    return torch.randn(images, 5, side, side, generator=torch.Generator().manual_seed(seed))


def labels(images=2, side=4):
    return torch.arange(images * side * side).view(images, side, side) % 3


def generator():
    return torch.Generator().manual_seed(0)


class TestFill:
    def test_the_teachers_highest_or_lowest_scores_are_kept(self):
        kept = {}
        for keep in ("paper", "released"):
            memory = memory_of(keep=keep)
            memory.load_state_dict(memory_of().state_dict() if not kept else kept["state"])
            kept["state"] = memory.state_dict()
            memory.fill(features(), labels(), 2, generator())
            kept[keep] = memory
            maps = features().movedim(1, -1).reshape(-1, 5)
            rows = memory.teacher_heads.projection(maps)[labels().flatten() == 1]
            scores = memory.teacher_heads.selectors(rows, 1)
            order = scores.argsort(descending=keep == "paper")
            torch.testing.assert_close(memory.bank[1, :2], rows[order[:2]].detach())
            assert memory.counts.tolist() == [2, 2, 2]

    @pytest.mark.parametrize(("selectors", "keep"), [("paper", "random"), ("none", "paper"), ("none", "released")])
    def test_at_random_it_is_a_function_of_the_generator(self, selectors, keep):
        memory = memory_of(selectors, keep)
        banks = []
        for seed in (0, 0, 1):
            memory.bank.zero_()
            memory.fill(features(), labels(), 3, torch.Generator().manual_seed(seed))
            banks.append(memory.bank.clone())
        assert torch.equal(banks[0], banks[1])
        assert not torch.equal(banks[0], banks[2])

    def test_the_newest_come_first(self):
        memory = memory_of()
        memory.fill(features(), labels(), 3, generator())
        before = memory.bank.clone()
        memory.fill(features(seed=1), labels(), 3, generator())
        assert torch.equal(memory.bank[:, 3:6], before[:, :3])
        assert memory.filled() == 6 / 8

    @pytest.mark.parametrize("labelled", [0, 1])
    def test_fewer_than_two_vectors_are_none(self, labelled):
        memory = memory_of()
        few = torch.full((2, 4, 4), 255)
        few.view(-1)[:labelled] = 1
        memory.fill(features(), few, 3, generator())
        assert not memory.counts.any()

    def test_two_vectors_are_enough(self):
        memory = memory_of()
        few = torch.full((2, 4, 4), 255)
        few.view(-1)[:2] = torch.tensor([0, 2])
        memory.fill(features(), few, 3, generator())
        assert memory.counts.tolist() == [1, 0, 1]


class TestContrast:
    @pytest.mark.parametrize("selectors", ["paper", "released", "none"])
    def test_it_reaches_the_features_and_its_own_heads_and_nothing_else(self, selectors):
        memory = memory_of(selectors)
        memory.fill(features(), labels(), 3, generator())
        maps = features(seed=1).requires_grad_()
        memory(maps, labels(side=8)).backward()
        assert maps.grad.any()
        assert all(parameter.grad.any() for parameter in memory.heads.parameters())
        assert all(parameter.grad is None for parameter in memory.teacher_heads.parameters())
        assert not memory.bank.requires_grad

    @pytest.mark.parametrize("labelled", [0, 1])
    def test_with_fewer_than_two_labels_it_is_zero_and_connected(self, labelled):
        memory = memory_of()
        memory.fill(features(), labels(), 3, generator())
        few = torch.full((2, 4, 4), 255)
        few.view(-1)[:labelled] = 1
        maps = features().requires_grad_()
        loss = memory(maps, few)
        loss.backward()
        assert loss == 0
        assert torch.equal(maps.grad, torch.zeros_like(maps))

    def test_an_empty_bank_gives_zero(self):
        maps = features().requires_grad_()
        loss = memory_of()(maps, labels())
        loss.backward()
        assert loss == 0

    def test_steps_bring_vectors_nearer(self):
        memory = memory_of()
        memory.fill(features(), labels(), 8, generator())
        optimizer = torch.optim.SGD(memory.heads.parameters(), lr=0.5)
        values = []
        for _ in range(20):
            loss = memory(features(seed=1), labels())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(float(loss.detach()))
        assert values[-1] < 0.7 * values[0]


def test_the_teachers_heads_follow():
    memory = memory_of()
    with torch.no_grad():
        for parameter in memory.heads.parameters():
            parameter.add_(1)
    before = [parameter.clone() for parameter in memory.teacher_heads.parameters()]
    memory.follow(0.75)
    for own, old in zip(memory.teacher_heads.parameters(), before, strict=True):
        torch.testing.assert_close(own, old + 0.25)


class TestFrequencies:
    def test_labels_of_the_first_batches_and_pseudo_labels_of_the_last_ones_count(self):
        frequencies = ClassFrequencies(3, window=2)
        for index, (label, pseudo) in enumerate([(0, 1), (0, 2), (1, 1), (2, 0), (2, 0)]):
            assert torch.equal(frequencies.weights(), torch.ones(3)) == (index < 2)
            frequencies.add(torch.full((4,), label), torch.full((3,), pseudo))
        assert frequencies.labels.tolist() == [8, 0, 0]
        assert sorted(frequencies.pseudo.tolist()) == [[3, 0, 0], [3, 0, 0]]
        assert int(frequencies.batches) == 5

    def test_weights_are_those_of_both_counts(self):
        frequencies = ClassFrequencies(3, window=1)
        frequencies.add(torch.tensor([0, 0, 0, 1, 255]), torch.tensor([0, 1, 255]))
        torch.testing.assert_close(frequencies.weights(), balanced_weights(torch.tensor([4, 2, 0])))

    def test_without_pseudo_labels_labels_count_alone(self):
        frequencies = ClassFrequencies(3, window=1)
        frequencies.add(torch.tensor([0, 0, 1]), None)
        torch.testing.assert_close(frequencies.weights(), balanced_weights(torch.tensor([2, 1, 0])))
