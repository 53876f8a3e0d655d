"""Many processes give the bits of one: pytest tests/parallel/test_gradient_sum.py"""

import hashlib

import pytest
import torch

import gpt2ft
from gpt2ft.micro_batches import own_part
from gpt2ft.parallel import gradient_sum, processes, sharding
from gpt2ft.parallel.gradient_sum import GradientSum, Share, Tree, nodes_of
from tests.support.gradients import FAMILIES, Rows, new_model, torchs_gradient
from tests.support.processes import together
from tests.support.tiny import tiny_gpt2


def numbers(n):
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, generator=generator, dtype=torch.float64).tolist()


def brute_force_sum(leaves):
    """The sum as the tree has it, from its description: pairs, then pairs of these."""
    while len(leaves) > 1:
        pairs = (leaves[i : i + 2] for i in range(0, len(leaves), 2))
        leaves = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    return leaves[0]


@pytest.mark.parametrize("n", range(1, 40))
def test_the_tree_is_the_same_however_the_leaves_are_divided(n):
    leaves = numbers(n)
    expected = brute_force_sum(leaves)
    for n_processes in range(1, n + 3):
        most = -(-n // n_processes)
        whole = Tree(lambda a, b: a + b)
        for first in range(0, n, most):
            part = Tree(lambda a, b: a + b)
            for i in range(n)[first : first + most]:
                part.put((0, i), leaves[i])
            assert part.nodes == nodes_of(range(n)[first : first + most])
            for node, value in zip(part.nodes, part.values, strict=True):
                whole.put(node, value)
        assert whole.root() == expected  # to the bit


def test_another_order_of_adding_would_be_seen():
    differ = [n for n in range(4, 40) if sum(numbers(n)) != brute_force_sum(numbers(n))]
    assert len(differ) > 10


def test_the_sum_of_one_process_is_the_trees(model):
    """The pairs that autograd adds, too."""
    parameters = list(model.parameters())
    for n in range(1, 10):
        torch.manual_seed(n)
        leaves = [[torch.randn_like(p) for p in parameters] for _ in range(n)]
        sums = GradientSum(Share(1, (range(n),)), parameters)
        for p in parameters:
            p.grad = None
        for number in range(n):
            for p, leaf in zip(parameters, leaves[number], strict=True):
                (p * leaf).sum().backward()
            sums.add(number, torch.tensor(float(number)))
        assert sums.finish() == sum(range(n))
        for i, p in enumerate(parameters):
            assert torch.equal(p.grad, brute_force_sum([leaf[i] for leaf in leaves]))


def trained(n_micro_batches, accumulation, settings):
    """Hashes of the weights after steps of a run; every process has its part of the batches."""
    model = make_model(settings)
    state = gpt2ft.TrainState.create(model, gpt2ft.build_optimizer(model, learning_rate=0.01))
    data = Rows(n_micro_batches)
    losses = [
        result.loss.item()
        for result in gpt2ft.train(
            state, data, max_steps=3, gradient_accumulation_steps=accumulation, max_grad_norm=0.5
        )
    ]
    evaluation = gpt2ft.evaluate(model, data)
    return [digest(model), losses, evaluation.loss, evaluation.n_targets, state.batches]


def make_model(settings):
    # Of another seed on each process: that of process 0 counts.
    model = tiny_gpt2(dropout=0.1, seed=processes.launched() and int(processes.local_rank()))
    if settings == "accelerated":
        gpt2ft.accelerate(model)
    return model


def digest(model):
    values = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    return hashlib.sha256(values).hexdigest()


@pytest.mark.parametrize("settings", ["plain", "accelerated"])
def test_one_two_and_four_processes_end_with_the_same_bits(settings):
    """Steps of four micro-batches; the epoch has 10, so that the third step has two of them."""
    (alone,) = together(1, trained, 10, 4, settings)
    assert alone[-1] == 10
    assert together(2, trained, 10, 2, settings) == [alone] * 2
    assert together(4, trained, 10, 1, settings) == [alone] * 4


def test_a_number_of_micro_batches_that_cannot_be_divided_equally():
    """Three processes with 2, 2 and 1; five of which two have none."""
    for n_processes in (3, 7):
        (alone,) = together(1, trained_by, 5)
        assert together(n_processes, trained_by, 5) == [alone] * n_processes


def trained_by(micro_batches_per_step):
    model = make_model("plain")
    state = gpt2ft.TrainState.create(model, gpt2ft.build_optimizer(model, learning_rate=0.01))
    steps = gpt2ft.train(
        state, Rows(15), max_steps=4, micro_batches_per_step=micro_batches_per_step
    )
    return [digest(model), [result.loss.item() for result in steps]][::-1]


def test_small_buckets_give_the_same(monkeypatch):
    (alone,) = together(1, trained, 10, 4, "plain")
    assert together(2, with_small_buckets, 10, 2, "plain") == [alone] * 2


def with_small_buckets(*arguments):
    gradient_sum.BUCKET = 1001
    return trained(*arguments)


def test_in_another_order_the_bits_differ(monkeypatch):
    """The control: gradients added one after another, as torch does, and by its all_reduce."""
    (alone,) = together(1, trained, 10, 4, "plain")
    (in_turn,) = together(1, without_tree, 10, 4, "plain")
    assert in_turn[0] != alone[0]
    assert in_turn[1] == pytest.approx(alone[1], rel=1e-5)


def without_tree(*arguments):
    step = gpt2ft.loop.train_step
    gpt2ft.loop.train_step = lambda *a, **k: step(*a, **{**k, "fixed_sum_order": False})
    return trained(*arguments)


def test_without_the_fixed_order_it_is_as_torch_adds(monkeypatch):
    """One process: one gradient after another; two: those sums, the same on both."""
    (in_turn,) = together(1, without_tree, 10, 4, "plain")
    (alone,) = together(1, by_autograd, 10, 4, "plain")
    assert in_turn == alone
    first, second = together(2, without_tree, 10, 2, "plain")
    assert first == second
    assert first[1] == pytest.approx(alone[1], rel=1e-5)


class ByAutograd(GradientSum):
    def add(self, number, loss):
        self._loss = loss if self._loss is None else self._loss + loss

    def finish(self):
        return self._loss


def by_autograd(*arguments):
    sharding.GradientSum = ByAutograd
    return trained(*arguments)


def gradients(family, n_micro_batches):
    model = new_model(family)
    fp32 = gpt2ft.resolve_precision("fp32", torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    state = gpt2ft.TrainState.create(model, optimizer, precision=fp32)
    data = Rows(n_micro_batches)
    gpt2ft.train_step(state, [data[0, i] for i in own_part(range(n_micro_batches))])
    return [p.grad.tolist() for p in model.parameters()]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_micro_batches", [1, 3, 4])
def test_the_gradient_is_that_of_torch_on_all_targets(family, n_micro_batches):
    """Of padded and packed micro-batches; with 1, the second process has none."""
    expected = torchs_gradient(family, n_micro_batches)
    for found in together(2, gradients, family, n_micro_batches):
        gradient = torch.cat([torch.tensor(g).flatten() for g in found])
        assert (gradient - expected).norm() / expected.norm() < 1e-6


def some_unused(n):
    """Weights that only some micro-batches use, and one that none does."""
    experts = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(4))
    torch.nn.init.ones_(experts[3].weight)
    state = gpt2ft.TrainState.create(experts, torch.optim.AdamW(experts.parameters(), lr=0.1))
    batches = [{"x": torch.full((1, 3), i + 1.0), "expert": torch.tensor(i % 3)} for i in range(n)]
    gpt2ft.train_step(
        state,
        [batches[i] for i in own_part(range(n))],
        loss_fn=lambda model, batch: model[int(batch["expert"])](batch["x"]).square().sum(),
        count_fn=lambda batch: 1,
    )
    untouched = [p not in state.optimizer.state for p in experts.parameters()]
    return [digest(experts), untouched]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_weights_that_not_all_processes_use(n):
    (alone,) = together(1, some_unused, n)
    assert together(2, some_unused, n) == [alone] * 2
    assert sum(alone[1]) == 2 * (4 - min(n, 3))


def test_half_precision_and_memory_order_travel_too():
    """Gradients in bf16, and of a weight that is stored transposed."""
    (alone,) = together(1, mixed, 4)
    assert together(2, mixed, 4) == [alone] * 2


def mixed(n):
    torch.manual_seed(0)
    model = torch.nn.ParameterList(
        [
            torch.nn.Parameter(torch.randn(5, 7)),
            torch.nn.Parameter(torch.randn(5, 7).bfloat16()),
            torch.nn.Parameter(torch.randn(7, 5).T),
            torch.nn.Parameter(torch.randn(3)),
        ]
    )
    state = gpt2ft.TrainState.create(model, torch.optim.SGD(model.parameters(), lr=0.1))
    batches = [{"x": torch.randn(5, 7)} for _ in range(n)]

    def loss_fn(model, batch):
        return sum((p * batch["x"]).square().sum() for p in list(model)[:3]) + model[3].sum()

    gpt2ft.train_step(
        state,
        [batches[i] for i in own_part(range(n))],
        loss_fn=loss_fn,
        count_fn=lambda batch: 5,
        max_grad_norm=1.0,
    )
    return [p.detach().float().tolist() for p in model]


def test_shares_are_in_the_order_of_the_ranks():
    parts = [[0, 2], [2, 4], [4, 5]]
    for found in together(3, shares, 5):
        assert found == [10.0, parts]


def shares(n):
    processes.join()
    part = own_part(range(n))
    found = gradient_sum.share(2.0 * len(part), len(part))
    return [found.n_targets, [[part.start, part.stop] for part in found.parts]]


def test_a_step_without_any_micro_batch_is_refused(model):
    state = gpt2ft.TrainState.create(model, gpt2ft.build_optimizer(model))
    with pytest.raises(ValueError, match="there are no batches"):
        gpt2ft.train_step(state, [])


def test_nothing_is_held_beyond_one_gradient_with_one_or_two_micro_batches(model):
    """And with 16 three others, as it says."""
    for n, expected in ((1, 0), (2, 0), (4, 1), (8, 2), (16, 3)):
        sums = GradientSum(Share(1, (range(n),)), [p := torch.nn.Parameter(torch.zeros(3))])
        most = 0
        for number in range(n):
            (p * number).sum().backward()
            most = max(most, len(sums._tree.values) + (p.grad is not None) - 1)
            sums.add(number, torch.zeros(()))
        assert most == expected
