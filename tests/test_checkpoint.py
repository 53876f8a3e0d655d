"""pytest tests/test_checkpoint.py"""

import hashlib
import json
import random
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from gpt2ft import (
    Batches,
    CausalLMCollator,
    TrainState,
    build_optimizer,
    durable,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    train,
)
from gpt2ft import checkpoint as checkpoints
from gpt2ft.manifest import CheckpointError, verify_checkpoint
from gpt2ft.precision import Precision

FP32 = Precision(torch.device("cpu"), None)
STEPS = 9


class Samples:
    """Fourteen samples, so that an epoch of batches of 2, accumulated by 3, has 3 steps."""

    def __len__(self):
        return 14

    def __getitem__(self, index):
        return {"input_ids": [(index * 31 + i * 7) % 256 + 1 for i in range(4 + index % 5)]}


@pytest.fixture
def make_state(make_model):
    def make(seed=0, overflow=False, **settings):
        model = make_model(dropout=0.2, seed=seed)
        optimizer = build_optimizer(model, learning_rate=1e-2, weight_decay=0.1)
        state = TrainState.create(model, optimizer, precision=FP32, seed=11)
        if overflow:  # a stand-in for fp16: overflows at first, and again after each growth
            state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=2)
        return state

    return make


def steps(state, max_steps=STEPS):
    data = Batches(Samples(), CausalLMCollator(pad_token_id=0), batch_size=2, seed=state.seed)
    return train(
        state,
        data,
        max_steps=max_steps,
        gradient_accumulation_steps=3,
        learning_rate=lambda step: 1e-2 / (step + 1),
    )


def fingerprint(state):
    """sha256 of weights, moments and counters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    for p in state.model.parameters():
        for key, tensor in sorted(state.optimizer.state[p].items()):
            digest.update(key.encode() + tensor.numpy().tobytes())
    counters = (state.step, state.epoch, state.batch, state.tokens, state.skipped_steps)
    digest.update(repr((counters, state.scaler.state_dict())).encode())
    return digest.hexdigest()


@pytest.mark.parametrize("overflow", [False, True])
def test_resumed_from_any_step_it_ends_bit_identical(overflow, make_state, tmp_path):
    """Dropout, accumulation, three epochs, and a scaler that overflows on the way."""
    torch.manual_seed(5)
    state = make_state(overflow=overflow)
    for _ in steps(state):
        save_checkpoint(tmp_path, state, keep=100)
    expected = fingerprint(state)
    assert state.epoch >= 2
    assert (state.skipped_steps >= 3) == overflow

    for step in range(1, STEPS):
        torch.manual_seed(1000 + step)  # whatever was drawn before resuming
        resumed = make_state(seed=step, overflow=overflow)
        load_checkpoint(tmp_path / f"checkpoint-{step}", resumed)
        assert resumed.step == step
        for _ in steps(resumed):
            pass
        assert fingerprint(resumed) == expected, step


OMISSIONS = [
    "model",
    "exp_avg",
    "exp_avg_sq",
    "step tensors",
    "torch random state",
    "batch",
    "step",
]


@pytest.mark.parametrize("omission", OMISSIONS)
def test_whatever_is_left_out_of_the_state_is_missed(omission, make_state, tmp_path):
    """Else the test above would prove nothing."""
    torch.manual_seed(5)
    state = make_state()
    for result in steps(state):
        if result.step == 4:
            path = save_checkpoint(tmp_path, state)
    resumed = make_state(seed=1)
    load_checkpoint(path, resumed)
    moments = resumed.optimizer.state.values()
    if omission == "model":
        resumed.model.load_state_dict(make_state(seed=1).model.state_dict())
    elif omission.startswith("exp_avg"):
        for entry in moments:
            entry[omission].zero_()
    elif omission == "step tensors":
        for entry in moments:
            entry["step"].zero_()
    elif omission == "torch random state":
        torch.manual_seed(0)
    else:
        setattr(resumed, omission, 0)
    for _ in steps(resumed):
        pass
    assert fingerprint(resumed) != fingerprint(state)


def test_every_random_state_comes_back(make_state, tmp_path):
    state = make_state()
    draws = (random.random, np.random.rand, lambda: torch.rand(3).tolist())
    path = save_checkpoint(tmp_path, state)
    expected = [draw() for draw in draws]
    load_checkpoint(path, state)
    assert [draw() for draw in draws] == expected


@pytest.fixture
def saved(make_state, tmp_path, tokenizer):
    """A run of nine steps with checkpoints 3, 6 and 9, of which the last two are kept."""
    state = make_state()
    for result in steps(state):
        if result.step % 3 == 0:
            save_checkpoint(tmp_path, state, tokenizer=tokenizer, run={"config": "x"})
    return tmp_path, state


def test_layout_and_rotation(saved):
    folder, state = saved
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-6", "checkpoint-9"]
    newest = folder / "checkpoint-9"
    files = {path.name for path in newest.iterdir()}
    assert files >= {
        *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json"),
        *("optimizer.safetensors", "rng.safetensors", "state.json", "manifest.json"),
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


def damage(path, how):
    if how == "delete":
        path.unlink()
    elif how == "truncate":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))


@pytest.mark.parametrize("how", ["delete", "truncate", "flip a bit"])
@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "optimizer.safetensors",
        "rng.safetensors",
        "state.json",
        "config.json",
        "manifest.json",
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_the_reason_said(name, how, saved):
    folder, _ = saved
    damage(folder / "checkpoint-9" / name, how)
    path, reasons = find_checkpoint(folder)
    if name == "manifest.json" and how == "flip a bit" and not reasons:
        pytest.fail("a flipped bit in the manifest went unseen")
    assert path == folder / "checkpoint-6"
    assert len(reasons) == 1 and "checkpoint-9" in reasons[0] and name.split(".")[0] in reasons[0]


def test_no_flipped_bit_of_a_manifest_gets_past_or_in_the_way(saved):
    """Whatever it hits: either the checkpoint is passed over, or its files were still verified."""
    folder, _ = saved
    manifest = folder / "checkpoint-9" / "manifest.json"
    good = manifest.read_bytes()
    files = set(json.loads(good)["files"])
    passed_over = 0
    for place in range(len(good)):
        manifest.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        path, reasons = find_checkpoint(folder)
        passed_over += bool(reasons)
        if path.name == "checkpoint-9":
            assert set(json.loads(manifest.read_bytes())["files"]) == files, place
    assert passed_over > len(good) / 2


def test_if_none_is_valid_it_is_an_error_never_a_fresh_start(saved):
    folder, _ = saved
    for path in checkpoints.checkpoints(folder):
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
    assert find_checkpoint(folder)[0] == folder / "checkpoint-9"
    manifest = json.loads((folder / "checkpoint-9/manifest.json").read_text())
    manifest["files"]["../checkpoint-6/state.json"] = {"size": 1, "sha256": ""}
    (folder / "checkpoint-9/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"\.\./checkpoint-6/state\.json"):
        verify_checkpoint(folder / "checkpoint-9")


def test_a_newer_format_is_refused(saved):
    folder, _ = saved
    manifest = json.loads((folder / "checkpoint-9/manifest.json").read_text())
    manifest["format"] = 2
    (folder / "checkpoint-9/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="format 2, known is 1"):
        verify_checkpoint(folder / "checkpoint-9")


def test_rotation_counts_only_valid_ones(saved, make_state):
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


@pytest.mark.parametrize("operation", ["write", "write_tensors", "settle", "sync_folder", "rename"])
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


def test_leftovers_of_a_crash_are_cleared(saved):
    folder, state = saved
    (folder / ".saving-abc").mkdir()
    (folder / ".trash-checkpoint-3").mkdir()
    (folder / ".hidden-file").touch()
    state.step = 12
    save_checkpoint(folder, state)
    names = {p.name for p in folder.iterdir()}
    assert names == {"checkpoint-9", "checkpoint-12", ".hidden-file"}


def test_what_does_not_fit_is_named(saved, make_model, make_state):
    folder, _ = saved
    bigger = make_model(n_positions=65)
    state = TrainState.create(bigger, build_optimizer(bigger), precision=FP32)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(folder / "checkpoint-9", state)
    half = make_state()
    half.precision = Precision(torch.device("cpu"), torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"trained in fp32.*add --precision fp32"):
        load_checkpoint(folder / "checkpoint-9", half)
    frozen = make_model()
    frozen.transformer.wpe.requires_grad_(False)
    state = TrainState.create(frozen, build_optimizer(frozen), precision=FP32)
    with pytest.raises(CheckpointError, match=r"other parameters: transformer\.wpe\.weight"):
        load_checkpoint(folder / "checkpoint-9", state)


def test_moments_go_by_name_not_by_position(saved, make_state, make_model):
    """The same file with its tensors in another order loads the same."""
    folder, state = saved
    path = folder / "checkpoint-9" / "optimizer.safetensors"
    tensors = load_file(path)
    save_file(dict(sorted(tensors.items(), reverse=True)), path)
    resumed = make_state(seed=3)
    load_checkpoint(folder / "checkpoint-9", resumed)
    assert fingerprint(resumed) == fingerprint(state)


def test_the_finished_model(saved, tokenizer):
    folder, state = saved
    assert not checkpoints.is_finished(folder)
    checkpoints.save_finished(folder, state, tokenizer=tokenizer)
    assert checkpoints.is_finished(folder)
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
