"""pytest tests/checkpoint/test_checkpoints.py"""

import errno
import json
import os
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from benchmarks.faults.protocols import fingerprint, make_data, make_state, steps
from benchmarks.faults.trials import damage
from gpt2ft import (
    TrainState,
    build_optimizer,
    find_checkpoint,
    load_checkpoint,
    load_model,
    save_checkpoint,
    train,
)
from gpt2ft.checkpoint import checkpoints, snapshot
from gpt2ft.checkpoint.folders import checkpoint_folders, is_finished
from gpt2ft.checkpoint.manifest import CheckpointError, verify_checkpoint, with_sha256
from gpt2ft.micro_batches import step_samples
from gpt2ft.optim import parameter_groups
from gpt2ft.precision import Precision
from gpt2ft.system import durable
from tests.support.families import small_config
from tests.support.tiny import tiny_gpt2

FP32 = Precision(torch.device("cpu"), None)
STEPS = 9


@pytest.fixture(scope="module")
def data():
    return make_data()


@pytest.mark.parametrize("overflow", [False, True])
def test_resumed_from_any_step_it_ends_bit_identical(overflow, data, tmp_path):
    """Dropout, accumulation, packing, an end of an epoch, and a scaler that overflows."""
    state = make_state(overflow=overflow)
    for _ in steps(state, data, STEPS):
        save_checkpoint(tmp_path, state, keep=100)
    expected = fingerprint(state)
    assert state.batches > len(data)
    assert any("position_ids" in data[0, index] for index in range(len(data)))
    assert (int(state.skipped_steps) >= 2) == overflow

    for step in range(1, STEPS):
        torch.manual_seed(1000 + step)  # whatever is drawn before resuming
        resumed = make_state(seed=step, overflow=overflow)
        load_checkpoint(tmp_path / f"checkpoint-{step}", resumed)
        assert resumed.step == step
        for _ in steps(resumed, data, STEPS):
            pass
        assert fingerprint(resumed) == expected, step


def test_tensors_of_ones_own_go_with_the_run(data, tmp_path):
    """An average of the weights, kept in the body of the loop."""

    def averaged(state, max_steps):
        for _ in steps(state, data, max_steps):
            for name, p in state.model.named_parameters():
                state.extra[name].lerp_(p.detach(), 0.1)
        return state

    def new_state(seed=0):
        state = make_state(seed=seed)
        state.extra = {n: p.detach().clone() for n, p in state.model.named_parameters()}
        return state

    straight = averaged(new_state(), 6)
    path = save_checkpoint(tmp_path, averaged(new_state(), 3))
    resumed = new_state(seed=1)
    load_checkpoint(path, resumed)
    averaged(resumed, 6)
    assert fingerprint(resumed) == fingerprint(straight)
    assert all(torch.equal(t, resumed.extra[n]) for n, t in straight.extra.items())

    for extra, difference in (({}, "not none"), ({"a": torch.zeros(2)}, "none, not")):
        other = make_state()
        other.extra = extra
        with pytest.raises(CheckpointError, match=f"tensors differ: .*{difference}"):
            load_checkpoint(path, other)


def test_loaded_moments_lie_in_memory_as_new_ones(data, tmp_path):
    """At the addresses and in the order of elements that the optimizer itself would choose."""

    def new_state():
        model = tiny_gpt2()
        weight = model.transformer.h[0].mlp.c_fc.weight
        weight.data = weight.data.t().contiguous().t()
        return TrainState.create(model, build_optimizer(model), precision=FP32)

    state = new_state()
    for _ in steps(state, data, 1):
        path = save_checkpoint(tmp_path, state)
    resumed = new_state()
    load_checkpoint(path, resumed)
    own, loaded = state.model.parameters(), resumed.model.parameters()
    for a, b in zip(own, loaded, strict=True):
        for key, moment in state.optimizer.state[a].items():
            copy = resumed.optimizer.state[b][key]
            assert moment.data_ptr() % 64 == copy.data_ptr() % 64 == 0
            assert moment.stride() == copy.stride() and torch.equal(moment, copy)


@pytest.mark.parametrize("model_type", ["granitemoe", "youtu"])
def test_a_model_loaded_from_its_checkpoint_goes_on_bit_identical(model_type, data, tmp_path):
    """One sums in another order at other addresses; of one transformers empties the padding row."""
    torch.manual_seed(0)
    new = transformers.AutoModelForCausalLM.from_config(small_config(model_type))
    state = TrainState.create(new, build_optimizer(new, learning_rate=1e-2), precision=FP32)
    for _ in train(state, data, max_steps=12, max_grad_norm=1.0):
        if state.step == 6:
            path, saved = save_checkpoint(tmp_path, state), fingerprint(state)
    model = load_model(str(path))
    resumed = TrainState.create(model, build_optimizer(model, learning_rate=1e-2), precision=FP32)
    load_checkpoint(path, resumed)
    assert fingerprint(resumed) == saved
    for _ in train(resumed, data, max_steps=12, max_grad_norm=1.0):
        pass
    assert fingerprint(resumed) == fingerprint(state)


class WithNumbers(torch.optim.Optimizer):
    """Momentum whose state holds Python numbers, fp64, and whole numbers in another shape."""

    def __init__(self, groups):
        super().__init__(groups, {"lr": 0.05})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                entry = self.state[p]
                if not entry:
                    entry.update(
                        step=0, decay=1.0, warm=True, seen=torch.zeros(3, dtype=torch.int64)
                    )
                    entry["mean"] = torch.zeros_like(p, dtype=torch.float64)
                entry["step"] += 1
                entry["decay"] *= 0.9
                entry["seen"] += 1
                entry["warm"] = entry["step"] < 4
                entry["mean"].mul_(0.9).add_(p.grad, alpha=0.1 + entry["decay"] / 3)
                p -= group["lr"] * entry["mean"].float() / entry["step"]


class Both(torch.optim.Optimizer):
    """Several optimizers as one: they share its groups and state."""

    def __init__(self, *parts):
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        for part in parts:
            part.state = self.state

    def step(self, closure=None):
        for part in self.parts:
            part.step()


def muon_beside_adamw(groups):
    """Muon for the matrices within the blocks, AdamW for embeddings and vectors."""
    named = [pair for g in groups for pair in zip(g["param_names"], g["params"], strict=True)]
    inner = [(n, p) for n, p in named if p.dim() == 2 and ".h." in n]
    rest = [(n, p) for n, p in named if n not in dict(inner)]
    return Both(torch.optim.Muon(inner, lr=1e-3), torch.optim.AdamW(rest, lr=1e-3))


OPTIMIZERS = {
    "Python numbers": WithNumbers,
    "Muon beside AdamW": muon_beside_adamw,
    "Rprop": lambda groups: torch.optim.Rprop(groups, lr=1e-3),
    "ASGD": lambda groups: torch.optim.ASGD(groups, lr=1e-2),
    "Adamax": lambda groups: torch.optim.Adamax(groups, lr=1e-3),
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "SGD with momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "Adam, amsgrad": lambda groups: torch.optim.Adam(groups, lr=1e-3, amsgrad=True),
    "NAdam": lambda groups: torch.optim.NAdam(groups, lr=1e-3),
    "RAdam": lambda groups: torch.optim.RAdam(groups, lr=1e-3),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=1e-3, momentum=0.5, centered=True),
    "Adagrad": lambda groups: torch.optim.Adagrad(groups, lr=1e-2),
    "Adadelta": lambda groups: torch.optim.Adadelta(groups, lr=1e-1),
    "Adafactor": lambda groups: torch.optim.Adafactor(groups, lr=1e-2),
}


def grouped(model):
    return parameter_groups(model, weight_decay=0.01)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [*((name, grouped) for name in OPTIMIZERS), ("NAdam", torch.nn.Module.named_parameters)],
)
def test_with_any_optimizer_it_resumes_bit_identical(name, parameters, data, tmp_path):
    def new_state(seed):
        model = tiny_gpt2(seed=seed, dropout=0.1)
        optimizer = OPTIMIZERS[name](parameters(model))
        return TrainState.create(model, optimizer, precision=FP32)

    torch.manual_seed(5)
    state = new_state(0)
    for _ in train(state, data, max_steps=6, max_grad_norm=1.0):
        if state.step == 3:
            save_checkpoint(tmp_path, state)
    resumed = new_state(1)
    load_checkpoint(tmp_path / "checkpoint-3", resumed)
    for _ in train(resumed, data, max_steps=6, max_grad_norm=1.0):
        pass
    assert fingerprint(resumed) == fingerprint(state)
    numbers = snapshot.state_values(state)["numbers"]
    assert bool(numbers) == (name == "Python numbers")
    assert snapshot.state_values(resumed)["numbers"] == numbers


def test_a_parameter_that_never_has_a_gradient_has_no_moments(data, tmp_path):
    """An encoder that text does not reach, an expert that is never chosen, something added."""

    def new_state():
        model = tiny_gpt2()
        model.added = torch.nn.Linear(3, 3)
        return TrainState.create(model, build_optimizer(model), precision=FP32)

    state = new_state()
    for _ in steps(state, data, 1):
        pass
    assert not any("added" in name for name in snapshot.optimizer_tensors(state))
    path = save_checkpoint(tmp_path, state)
    resumed = new_state()
    load_checkpoint(path, resumed)
    assert fingerprint(resumed) == fingerprint(state)


class Plain(torch.nn.Module):
    """Not of transformers: embedding and head, tied."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(257, 8), torch.nn.Linear(8, 257, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, input_ids, **_):
        self.seen += self.training
        return SimpleNamespace(logits=self.head(self.embed(input_ids)))


class Adapted(torch.nn.Module):
    """As peft does it: the model is frozen, adapters are trained, and they alone are saved."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        width = base.config.n_embd
        self.adapter = torch.nn.Linear(width, width)
        base.transformer.h[0].mlp.register_forward_hook(lambda _, __, x: x + self.adapter(x))

    @property
    def config(self):
        return self.base.config

    def get_input_embeddings(self):
        return self.base.get_input_embeddings()

    def get_output_embeddings(self):
        return self.base.get_output_embeddings()

    def forward(self, *arguments, **options):
        return self.base(*arguments, **options)

    def save_pretrained(self, folder, **_):
        weights = {"weight": self.adapter.weight.detach(), "bias": self.adapter.bias.detach()}
        save_file(weights, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text("{}")


def adapted():
    return Adapted(tiny_gpt2(dropout=0.1))


def with_peft():
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_dropout=0.1, fan_in_fan_out=True)
    return peft.get_peft_model(tiny_gpt2(), settings)


def compiled():
    return torch.compile(tiny_gpt2(dropout=0.1), backend="eager")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft
@pytest.mark.parametrize("make", [Plain, adapted, with_peft, compiled])
def test_a_model_that_is_not_one_of_transformers_resumes_bit_identical(make, data, tmp_path):
    """What is trained is saved; the frozen model under an adapter is not."""

    def new_state(seed):
        torch.manual_seed(seed)
        model = make()
        return TrainState.create(model, build_optimizer(model, learning_rate=1e-2), precision=FP32)

    state = new_state(0)
    for _ in train(state, data, max_steps=6):
        if state.step == 3:
            save_checkpoint(tmp_path, state)
    path, reasons = find_checkpoint(tmp_path)
    assert path and not reasons
    saved = load_file(path / "trained.safetensors")
    assert {n for n, p in state.model.named_parameters() if p.requires_grad} <= saved.keys()
    assert not {n for n, p in state.model.named_parameters() if not p.requires_grad} & saved.keys()
    resumed = new_state(1)
    load_checkpoint(path, resumed)
    for _ in train(resumed, data, max_steps=6):
        pass
    assert fingerprint(resumed) == fingerprint(state)
    with pytest.raises(CheckpointError, match="it holds the moments of other parameters"):
        load_checkpoint(path, make_state())


class LowRank(torch.nn.Module):
    """As in examples/lora.py: a layer that is frozen, and what is added to it."""

    def __init__(self, layer):
        super().__init__()
        n_in, n_out = layer.weight.shape
        self.layer, self.down = layer, torch.nn.Parameter(torch.randn(n_in, 4) / 4)
        self.up = torch.nn.Parameter(torch.zeros(4, n_out))

    def forward(self, x):
        return self.layer(x) + x @ self.down @ self.up


def test_with_layers_put_in_the_place_of_others_it_resumes_bit_identical(data, tmp_path):
    def new_state(seed):
        model = tiny_gpt2(seed=seed, dropout=0.1).requires_grad_(False)
        for block in model.transformer.h:
            block.attn.c_attn = LowRank(block.attn.c_attn)
        return TrainState.create(model, build_optimizer(model, learning_rate=1e-2), precision=FP32)

    state = new_state(0)
    for _ in train(state, data, max_steps=6):
        if state.step == 3:
            path = save_checkpoint(tmp_path, state)
    resumed = new_state(1)
    load_checkpoint(path, resumed)
    for _ in train(resumed, data, max_steps=6):
        pass
    assert fingerprint(resumed) == fingerprint(state)


def test_a_model_that_saves_folders_is_refused(data, tmp_path):
    """As peft does for adapters of another name than `default`."""
    model = adapted()
    original = model.save_pretrained
    model.save_pretrained = lambda folder, **_: original((folder / "mine").mkdir() or folder)
    state = TrainState.create(model, build_optimizer(model), precision=FP32)
    with pytest.raises(
        ValueError, match="Adapted saves folders, mine, which a checkpoint does not"
    ):
        save_checkpoint(tmp_path, state)
    assert list(tmp_path.iterdir()) == []


def first(state):
    return state.optimizer.state[state.optimizer.param_groups[0]["params"][0]]


UNHOLDABLE = {
    "a list": (
        lambda s: first(s).update(history=[1]),
        "holds history/transformer.wte.weight, a list",
    ),
    "a sparse tensor": (
        lambda s: first(s).update(exp_avg=torch.zeros(2, 2).to_sparse()),
        "holds exp_avg/transformer.wte.weight, a Tensor",
    ),
    "a tensor as an option": (
        lambda s: s.optimizer.param_groups[0].update(lr=torch.tensor(0.1)),
        "AdamW holds lr of a group, a Tensor",
    ),
    "an optimizer of another model": (
        lambda s: setattr(s, "model", tiny_gpt2()),
        "the optimizer's parameters are not those of the model, transformer.wte.weight",
    ),
    "parameters without names": (
        lambda s: s.optimizer.param_groups[0].pop("param_names"),
        "the optimizer's groups name no parameters",
    ),
}


@pytest.mark.parametrize("case", UNHOLDABLE)
def test_what_could_not_be_loaded_again_is_refused_when_it_is_saved(case, data, tmp_path):
    change, message = UNHOLDABLE[case]
    state = make_state(overflow=False)
    for _ in steps(state, data, 1):
        pass
    change(state)
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path, state)
    assert list(tmp_path.iterdir()) == []


def test_moments_that_do_not_fit_are_named(data):
    state = make_state(overflow=False)
    for _ in steps(state, data, 1):
        pass
    values, moments = snapshot.state_values(state), snapshot.optimizer_tensors(state)
    weights = {name: w.clone() for name, w in state.model.state_dict().items()}
    name = "exp_avg/transformer.h.0.ln_1.bias"
    wrong = {
        rf"{name}: none, not \(32,\) torch.float32": {
            k: v for k, v in moments.items() if k != name
        },
        r"exp_avg/other: \(2,\) torch.float32, not none": {
            **moments,
            "exp_avg/other": torch.zeros(2),
        },
        r"\(32, 32\) torch.float32, not \(32,\)": {**moments, name: torch.zeros(32, 32)},
        r"\(31,\) torch.float32": {**moments, name: torch.zeros(31)},
        r"\(32,\) torch.int64": {**moments, name: torch.zeros(32, dtype=torch.int64)},
    }
    for message, others in wrong.items():
        with pytest.raises(ValueError, match=message):
            snapshot.restore(state, values, weights, others, {})


def zero(key):
    def forget(state):
        for entry in state.optimizer.state.values():
            entry[key].zero_()

    return forget


def as_at_the_start(name):
    return lambda state: setattr(state, name, getattr(make_state(), name))


OMISSIONS = {
    "weights": lambda state: state.model.load_state_dict(make_state().model.state_dict()),
    **{name: zero(name) for name in ("exp_avg", "exp_avg_sq", "step")},
    **{f"state.{name}": as_at_the_start(name) for name in ("step", "batches", "scaler")},
    **{f"state.{name}": as_at_the_start(name) for name in ("tokens", "skipped_steps")},
    "state.seed": lambda state: setattr(state, "seed", 1),
}


@pytest.mark.parametrize("omission", OMISSIONS)
def test_whatever_is_left_out_of_the_state_is_missed(omission, data, tmp_path):
    """Else the test above would prove nothing."""
    state = make_state()
    for result in steps(state, data, STEPS):
        if result.step == 7:
            path = save_checkpoint(tmp_path, state)
    resumed = make_state(seed=1)
    load_checkpoint(path, resumed)
    OMISSIONS[omission](resumed)
    for _ in steps(resumed, data, STEPS):
        pass
    assert fingerprint(resumed) != fingerprint(state)


def test_stopped_and_resumed_it_sees_the_samples_of_a_run_that_never_was(data, tmp_path):
    """By their numbers and in order, over the end of an epoch and updates that are skipped."""

    def seen(state, max_steps):
        numbers = []
        for result in steps(state, data, max_steps):
            numbers += step_samples(data, result.batches)
        return numbers

    expected = seen(make_state(), STEPS)
    assert len(expected) > 42 and set(expected) == set(range(42))
    state, numbers = make_state(), []
    for stop in (1, 4, 5, STEPS):
        numbers += seen(state, stop)
        path = save_checkpoint(tmp_path, state)
        state = make_state(seed=stop)
        load_checkpoint(path, state)
    assert numbers == expected


def test_the_random_numbers_of_the_process_are_left_alone(data):
    """A researcher's own draws go on as if nobody had trained."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    state = make_state()
    torch.manual_seed(1)
    for _ in steps(state, data, 2):
        pass
    assert torch.equal(torch.rand(3), expected)


@pytest.fixture
def saved(data, tmp_path, tokenizer):
    """A run of nine steps with checkpoints 3, 6 and 9, of which the last two are kept."""
    state = make_state(overflow=False)
    for result in steps(state, data, STEPS):
        if result.step % 3 == 0:
            save_checkpoint(tmp_path, state, tokenizer=tokenizer, run={"config": "x"})
    return tmp_path, state


def test_layout_and_rotation(saved):
    folder, state = saved
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-6", "checkpoint-9"]
    newest = folder / "checkpoint-9"
    files = {path.name for path in newest.iterdir()}
    assert files == {
        *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json"),
        *("tokenizer_config.json", "optimizer.safetensors", "state.json"),
        "manifest.json",
    }
    manifest = json.loads((newest / "manifest.json").read_text())
    assert manifest["step"] == 9 and manifest["run"] == {"config": "x"}
    assert set(manifest["files"]) == files - {"manifest.json"}
    modes = {path.stat().st_mode & 0o777 for path in newest.iterdir()}
    assert len(modes) == 1  # the umask's; safetensors alone would write 0600
    moments = load_file(newest / "optimizer.safetensors")
    assert "exp_avg/transformer.h.0.ln_1.weight" in moments
    loaded = transformers.AutoModelForCausalLM.from_pretrained(newest)
    for a, b in zip(loaded.parameters(), state.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert transformers.AutoTokenizer.from_pretrained(newest).eos_token_id == 0


@pytest.mark.parametrize("how", ["delete", "truncate", "flip a bit"])
@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json"),
        *("tokenizer_config.json", "optimizer.safetensors", "state.json"),
        "manifest.json",
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_the_reason_said(name, how, saved):
    """Each file of one, in three ways."""
    folder, _ = saved
    damage(folder / "checkpoint-9" / name, how)
    path, reasons = find_checkpoint(folder)
    assert path == folder / "checkpoint-6"
    assert len(reasons) == 1 and "checkpoint-9" in reasons[0] and name.split(".")[0] in reasons[0]


def test_no_flipped_bit_of_a_manifest_gets_past_or_in_the_way(saved):
    """Whatever it hits, the settings too: the checkpoint is passed over, or it says the same."""
    folder, _ = saved
    manifest = folder / "checkpoint-9" / "manifest.json"
    good = manifest.read_bytes()
    passed_over = 0
    for place in range(len(good)):
        manifest.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        path, reasons = find_checkpoint(folder)
        passed_over += bool(reasons)
        if path.name == "checkpoint-9":
            assert json.loads(manifest.read_bytes()) == json.loads(good), place
    assert passed_over > 0.7 * len(good)


def test_a_file_that_cannot_be_read_is_passed_over(saved, monkeypatch):
    """A bad sector in the newest: the one before is taken, and saving goes on."""
    folder, _ = saved
    original = durable._sha256

    def fails(path):
        if path.parent.name == "checkpoint-9" and path.name == "model.safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return original(path)

    monkeypatch.setattr(durable, "_sha256", fails)
    path, (reason,) = find_checkpoint(folder)
    assert path.name == "checkpoint-6" and "cannot be read" in reason


def test_if_none_is_valid_it_is_an_error_never_a_fresh_start(saved):
    folder, _ = saved
    for path in checkpoint_folders(folder):
        damage(path / "state.json", "truncate")
    with pytest.raises(CheckpointError, match=r"no checkpoint .*-9.*-6"):
        find_checkpoint(folder)


def test_nothing_there(tmp_path):
    assert find_checkpoint(tmp_path) == (None, [])
    assert find_checkpoint(tmp_path / "gone") == (None, [])


def test_links_other_names_and_outside_files_are_no_checkpoints(saved):
    folder, _ = saved
    (folder / "checkpoint-99").symlink_to(folder / "checkpoint-9")
    shutil.copytree(folder / "checkpoint-9", folder / "checkpoint-x")
    path, reasons = find_checkpoint(folder)
    assert path == folder / "checkpoint-9"
    assert len(reasons) == 1 and "checkpoint-99 is a symbolic link" in reasons[0]
    manifest = json.loads((folder / "checkpoint-9/manifest.json").read_text())
    manifest["files"]["../checkpoint-6/state.json"] = {"size": 1, "sha256": ""}
    (folder / "checkpoint-9/manifest.json").write_text(json.dumps(with_sha256(manifest)))
    with pytest.raises(CheckpointError, match=r"\.\./checkpoint-6/state\.json"):
        verify_checkpoint(folder / "checkpoint-9")


@pytest.mark.parametrize(
    ("number", "advice"),
    [(3, "this version reads 2, update gpt2ft"), (1, "this version reads 2: the run cannot go on")],
)
def test_another_format_is_refused(number, advice, saved):
    folder, _ = saved
    manifest = json.loads((folder / "checkpoint-9/manifest.json").read_text())
    manifest["format"] = number
    (folder / "checkpoint-9/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=f"format {number}, {advice}"):
        verify_checkpoint(folder / "checkpoint-9")


def test_rotation_counts_only_valid_ones(saved):
    """With checkpoint-9 damaged, saving 10 must leave 6 where it is."""
    folder, state = saved
    damage(folder / "checkpoint-9" / "model.safetensors", "flip a bit")
    state.step = 10
    save_checkpoint(folder, state)
    assert {p.name for p in folder.iterdir()} >= {"checkpoint-6", "checkpoint-10"}
    assert find_checkpoint(folder)[0] == folder / "checkpoint-10"


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(saved):
    folder, state = saved
    damage(folder / "checkpoint-9" / "model.safetensors", "truncate")
    save_checkpoint(folder, state)
    assert find_checkpoint(folder) == (folder / "checkpoint-9", [])
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint-6", "checkpoint-9"]


def test_a_step_saved_again_leaves_one_checkpoint_of_it(saved):
    folder, state = saved
    save_checkpoint(folder, state)
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint-6", "checkpoint-9"]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_crash_while_a_step_is_saved_again_leaves_its_checkpoint(damaged, saved, monkeypatch):
    """Between the two renames the older one is found; it stays until a good one has its place."""
    folder, state = saved
    original, calls = durable.rename, []

    def crash(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr(durable, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, state)
    monkeypatch.undo()
    replaced = folder / "checkpoint-9.replaced-1"
    assert find_checkpoint(folder) == (replaced, [])
    load_checkpoint(replaced, state)
    if damaged:
        shutil.copytree(replaced, folder / "checkpoint-9")
        damage(folder / "checkpoint-9" / "state.json", "truncate")
        assert find_checkpoint(folder)[0] == replaced
    save_checkpoint(folder, state)
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint-6", "checkpoint-9"]


@pytest.mark.parametrize(
    "operation", ["write", "write_tensors", "sync_file", "sync_folder", "rename"]
)
def test_when_the_disk_fails_the_older_checkpoints_stay(operation, saved, monkeypatch):
    folder, state = saved

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, operation, fail)
    state.step = 12
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(folder, state)
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint-6", "checkpoint-9"]
    assert find_checkpoint(folder)[0] == folder / "checkpoint-9"


def test_a_disk_too_small_is_noticed_before_writing(saved, monkeypatch):
    folder, state = saved
    monkeypatch.setattr(durable, "free_bytes", lambda _: 1000)
    with pytest.raises(OSError, match="0 MiB free, saving needs"):
        save_checkpoint(folder, state)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("operation", ["fsync", "mkdir"])
def test_a_disk_that_fills_up_while_saving_is_explained(operation, number, saved, monkeypatch):
    """Where, how much is needed and what to do; the system's own error names no file."""
    folder, state = saved

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, operation, fail)
    state.step = 12
    with pytest.raises(OSError) as caught:
        save_checkpoint(folder, state)
    assert caught.value.errno == number
    assert re.fullmatch(
        rf"{os.strerror(number)} while saving: {folder} has \d+ MiB free, "
        r"saving needs 1 MiB, make room or name another --output_dir",
        str(caught.value),
    )


def test_leftovers_do_not_take_the_room_of_a_checkpoint(saved, monkeypatch):
    """Of a dozen crashes: they are deleted before free space is measured."""
    folder, state = saved
    (folder / ".saving-abc").mkdir()
    free = durable.free_bytes
    monkeypatch.setattr(
        durable, "free_bytes", lambda path: 0 if (path / ".saving-abc").exists() else free(path)
    )
    state.step = 12
    assert save_checkpoint(folder, state).name == "checkpoint-12"


def test_leftovers_of_a_crash_are_cleared(saved):
    folder, state = saved
    (folder / ".saving-abc").mkdir()
    (folder / ".trash-checkpoint-3").mkdir()
    (folder / ".hidden-file").touch()
    state.step = 12
    save_checkpoint(folder, state)
    names = {p.name for p in folder.iterdir()}
    assert names == {"checkpoint-9", "checkpoint-12", ".hidden-file"}


def test_what_does_not_fit_is_named(saved, make_model):
    folder, _ = saved
    bigger = make_model(n_positions=65)
    state = TrainState.create(bigger, build_optimizer(bigger), precision=FP32)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(folder / "checkpoint-9", state)
    half = make_state(overflow=False)
    half.precision = Precision(torch.device("cpu"), torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"trained in fp32.*add --precision fp32"):
        load_checkpoint(folder / "checkpoint-9", half)
    frozen = make_model()
    frozen.transformer.wpe.requires_grad_(False)
    state = TrainState.create(frozen, build_optimizer(frozen), precision=FP32)
    with pytest.raises(CheckpointError, match=r"other parameters: transformer\.wpe\.weight"):
        load_checkpoint(folder / "checkpoint-9", state)


def test_moments_go_by_name_not_by_position(saved):
    """The same file with its tensors in another order loads the same."""
    folder, state = saved
    path = folder / "checkpoint-9" / "optimizer.safetensors"
    tensors = load_file(path)
    save_file(dict(sorted(tensors.items(), reverse=True)), path)
    resumed = make_state(seed=3, overflow=False)
    load_checkpoint(folder / "checkpoint-9", resumed)
    assert fingerprint(resumed) == fingerprint(state)


def test_the_finished_model(saved, tokenizer):
    folder, state = saved
    assert not is_finished(folder)
    checkpoints.save_finished(folder, state, tokenizer=tokenizer)
    assert is_finished(folder)
    manifest = verify_checkpoint(folder)
    assert manifest["step"] == 9
    text = transformers.pipeline("text-generation", model=str(folder))("ab", max_new_tokens=3)
    assert text[0]["generated_text"].startswith("ab")
    checkpoints.save_finished(folder, state, tokenizer=tokenizer)  # and once more, over it
    verify_checkpoint(folder)


def test_clearing_takes_the_run_and_nothing_else(saved, tokenizer):
    folder, state = saved
    checkpoints.save_finished(folder, state, tokenizer=tokenizer)
    (folder / "notes.txt").write_text("mine")
    checkpoints.clear(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_no_pickle_is_written(saved):
    folder, _ = saved
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.suffix in {".json", ".safetensors", ".jinja"}, path
