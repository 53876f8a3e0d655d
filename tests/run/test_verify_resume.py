"""pytest tests/run/test_verify_resume.py"""

import re

import pytest

from benchmarks.faults.processes import run
from gpt2ft import loop
from gpt2ft.checkpoint import checkpoints as checkpoint
from gpt2ft.checkpoint import snapshot


@pytest.fixture
def flags(model_folder, tmp_path):
    """A run with dropout, accumulation, and an end of an epoch within the six steps."""
    (tmp_path / "own.txt").write_text("some words of a text\n" * 40, encoding="utf-8")
    own = {
        "model_name_or_path": model_folder,
        "train_file": "own.txt",
        "block_size": 32,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "learning_rate": 0.01,
        "num_train_epochs": 3,
        "output_dir": "out",
    }
    return [part for name, value in own.items() for part in (f"--{name}", str(value))]


def verdict(tmp_path, flags, prepare=None):
    before = sorted(tmp_path.rglob("*"))
    done = run("gpt2ft", "verify-resume", *flags, cwd=tmp_path, prepare=prepare)
    assert done.stderr == ""
    assert sorted(tmp_path.rglob("*")) == before  # nothing is kept
    return done.returncode, done.stdout


def test_resuming_is_exact(tmp_path, flags):
    status, shown = verdict(tmp_path, flags)
    assert status == 0
    parts = re.findall(r"^(\w[\w ]*?) +(\d+) values  sha256 \w{16}  equal$", shown, re.MULTILINE)
    assert [part for part, _ in parts] == ["weights", "moments", "counters"]
    assert [int(count) for _, count in parts[:2]] == [28, 3 * 28]
    assert "steps 1 to 3, a checkpoint, and steps 4 to 6 resumed from it" in shown
    assert re.match(r"resuming is exact with (fp32|bf16) on cpu", shown.splitlines()[-1])


def forget_the_seed():
    original = checkpoint.load_checkpoint

    def load_checkpoint(path, state):
        original(path, state)
        state.seed += 1

    checkpoint.load_checkpoint = load_checkpoint


def forget_weights():
    original = snapshot.restore

    def restore(state, values, weights, *others, **options):
        own = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
        original(state, values, weights, *others, **options)
        state.model.load_state_dict({name: tensor * 1.001 for name, tensor in own.items()})

    snapshot.restore = restore


def forget_moments():
    original = checkpoint.load_checkpoint

    def load_checkpoint(path, state):
        original(path, state)
        for entry in state.optimizer.state.values():
            entry["exp_avg"].zero_()

    checkpoint.load_checkpoint = load_checkpoint


def forget_place_in_data():
    original = checkpoint.load_checkpoint

    def load_checkpoint(path, state):
        original(path, state)
        state.batches = 0

    checkpoint.load_checkpoint = load_checkpoint


@pytest.mark.parametrize(
    "forget", [forget_the_seed, forget_weights, forget_moments, forget_place_in_data]
)
def test_what_a_checkpoint_forgets_is_found(forget, tmp_path, flags):
    status, shown = verdict(tmp_path, flags, prepare=forget)
    assert status == 1
    assert re.search(r"weights +28 values  sha256 \w{16}  28 differ: transformer\.", shown)
    assert "resuming is NOT exact" in shown
    assert "never stopped differ as well" not in shown


def shake():
    """A device whose sums have no fixed order."""
    original, calls = loop.train_step, []

    def train_step(state, *arguments, **options):
        calls.append(1)
        state.model.lm_head.weight.data.mul_(1 + 1e-6 * len(calls))
        return original(state, *arguments, **options)

    loop.train_step = train_step


def test_a_device_that_never_gives_the_same_is_told_apart(tmp_path, flags):
    status, shown = verdict(tmp_path, flags, prepare=shake)
    assert status == 1
    assert shown.splitlines()[-1].startswith("two runs that are never stopped differ as well")


def test_what_does_not_make_sense(tmp_path, flags):
    done = run("gpt2ft", "verify-resume", *flags, "--steps", "0", cwd=tmp_path)
    assert done.returncode == 2 and "--steps is 0, give a number >= 1" in done.stderr
    done = run("gpt2ft", "verify-resume", *flags, "--resume", cwd=tmp_path)
    assert done.returncode == 2 and "--resume is for train" in done.stderr
    done = run("gpt2ft", "verify-resume", *flags, "--max_steps", "5", cwd=tmp_path)
    assert (
        done.returncode == 1
        and "--steps 3 needs a run of 6 steps, this one has 5: add --max_steps 6" in done.stderr
    )
