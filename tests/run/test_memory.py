"""pytest tests/run/test_memory.py"""

import json

import pytest
import torch
import transformers

from gpt2ft.checkpoint.folders import recorded_run
from gpt2ft.config import TrainConfig
from gpt2ft.loop import train
from gpt2ft.run import finetune as story
from gpt2ft.run import memory
from gpt2ft.run.build import build
from gpt2ft.run.finetune import finetune
from gpt2ft.run.rewind import rewind
from gpt2ft.system.signals import Stop

NAMES = ("model.safetensors", "optimizer.safetensors")
SMALLER = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}


@pytest.fixture
def small_device(monkeypatch):
    """A device on which no more than so many samples can be trained on at once, from a call on."""

    def limit(samples, *, after=0):
        calls = []

        def forward(self, input_ids, *arguments, **options):
            if torch.is_grad_enabled():
                calls.append(1)
                if len(input_ids) > samples and len(calls) > after:
                    raise torch.OutOfMemoryError("CUDA out of memory")
            return original(self, input_ids, *arguments, **options)

        monkeypatch.setattr(transformers.GPT2Model, "forward", forward)

    original = transformers.GPT2Model.forward
    # What a run has before its first step is counted too.
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    return limit


def results(folder):
    return [(folder / "checkpoint-12" / name).read_bytes() for name in NAMES]


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def column(folder, name):
    return [record[name] for record in records(folder) if "loss" in record]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_update_is_that_of_smaller_micro_batches(
    dropout, settings, tmp_path, small_device, capsys
):
    """From the first step on: to the bit that of a run that was told to have them."""
    whole = {**settings, "dropout": dropout, "output_dir": str(tmp_path / "whole")}
    assert finetune(TrainConfig(**whole)) == 0
    told = {**whole, **SMALLER, "output_dir": str(tmp_path / "told")}
    assert finetune(TrainConfig(**told)) == 0
    capsys.readouterr()
    small_device(2)
    assert finetune(TrainConfig(**{**settings, "dropout": dropout}, auto_micro_batch=True)) == 0
    assert (
        "step      1  out of memory with micro-batches of 4: it is begun again, from now on in 4 "
        "micro-batches of 2" in capsys.readouterr().out
    )
    out = tmp_path / "out"
    assert results(out) == results(tmp_path / "told")
    said = [record for record in records(out) if "micro_batches_per_step" in record]
    assert said == [{"step": 1, "per_device_train_batch_size": 2, "micro_batches_per_step": 4}]
    assert column(out, "n_targets") == column(tmp_path / "whole", "n_targets")
    if not dropout:  # another number of rows draws other numbers
        for name in ("loss", "grad_norm"):
            a, b = (torch.tensor(column(folder, name)) for folder in (out, tmp_path / "whole"))
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_run_that_was_stopped_goes_on_in_them(
    settings, tmp_path, small_device, monkeypatch, capsys
):
    """With dropout; memory runs out in the middle of step 6, and once more in step 10."""
    asked = {**settings, "auto_micro_batch": True}
    straight = {**asked, "output_dir": str(tmp_path / "straight")}
    small_device(2, after=11)
    assert finetune(TrainConfig(**straight)) == 0
    for name in ("checkpoint-8", "checkpoint-12"):
        then = recorded_run(tmp_path / "straight" / name)["config"]
        assert (then["per_device_train_batch_size"], then["micro_batches_per_step"]) == (2, 4)
    monkeypatch.undo()  # enough memory from here on
    again = {**asked, "resume": str(tmp_path / "straight" / "checkpoint-8")}
    assert finetune(TrainConfig(**again)) == 0
    assert results(tmp_path / "out") == results(tmp_path / "straight")
    # The time machine divides them where the run did.
    assert rewind(tmp_path / "straight", 11, tmp_path / "at-11", stop=Stop()) == 0
    assert "each loss of steps 9 to 11 is the one that was recorded" in capsys.readouterr().out
    refused = {**settings, "resume": str(tmp_path / "straight" / "checkpoint-8")}
    with pytest.raises(ValueError, match="per_device_train_batch_size: 2 then, 4 now"):
        finetune(TrainConfig(**{**refused, "output_dir": str(tmp_path / "c")}))


def test_the_time_machine_divides_them_where_the_run_did(
    settings, tmp_path, small_device, monkeypatch, capsys
):
    small_device(1, after=11)
    kept = {**settings, "per_device_train_batch_size": 3, "save_total_limit": 9}
    assert finetune(TrainConfig(**kept, auto_micro_batch=True)) == 0
    monkeypatch.undo()
    assert rewind(tmp_path / "out", 8, tmp_path / "at-8", stop=Stop()) == 0
    (tmp_path / "out" / "checkpoint-8").rename(tmp_path / "kept")
    assert rewind(tmp_path / "out", 8, tmp_path / "again", stop=Stop()) == 0
    expected = (tmp_path / "kept" / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == expected
    assert "each loss of steps 5 to 8 is the one that was recorded" in capsys.readouterr().out


def test_an_interrupted_step_draws_nothing_and_moves_nothing(settings, small_device):
    run = build(TrainConfig(**settings, auto_micro_batch=True))
    small_device(2, after=1)
    said = []
    states = torch.get_rng_state()
    steps = memory.begun_again(run, train, said.append)
    result = next(steps)
    assert torch.equal(torch.get_rng_state(), states)
    assert (result.step, list(result.batches), len(said)) == (1, [0, 1, 2, 3], 1)
    samples = [i for n in range(4) for i in run.data.sample_numbers(0, n)]
    other = build(TrainConfig(**settings))
    assert samples == [i for n in range(2) for i in other.data.sample_numbers(0, n)]


def test_where_one_sample_is_too_much(settings, small_device):
    small_device(0, after=11)
    with pytest.raises(MemoryError, match=r"out of memory with batches of 1 times 32 tokens, give"):
        finetune(TrainConfig(**settings, auto_micro_batch=True))


def test_without_the_flag_the_error_names_it(settings, small_device):
    small_device(2, after=12)
    way = "go on with --resume --auto_micro_batch, or give --per_device_train_batch_size 2"
    with pytest.raises(MemoryError, match=f"{way} --gradient_accumulation_steps 4"):
        finetune(TrainConfig(**settings))
    small_device(2)
    assert finetune(TrainConfig(**settings, auto_micro_batch=True, resume="newest")) == 0


def test_several_processes_cannot(settings, monkeypatch):
    monkeypatch.setattr(story.processes, "size", lambda: 2)
    with pytest.raises(ValueError, match="--auto_micro_batch is for one process"):
        finetune(TrainConfig(**settings, auto_micro_batch=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_forward_pass_keeps_is_measured_with_less(precision, settings):
    """The straight line through two small batches is what the whole batch keeps, or less."""
    run = build(TrainConfig(**{**settings, "precision": precision}))
    states = torch.get_rng_state()
    estimated = memory.activation_bytes(run, memory.largest_micro_batch(run))
    actual = memory._kept_by(run, 4 * 32)
    assert 0.9 * actual <= estimated <= 1.01 * actual
    assert torch.equal(torch.get_rng_state(), states) and not run.state.model.training


def test_a_step_that_surely_does_not_fit_is_refused(settings, tmp_path, monkeypatch):
    run = build(TrainConfig(**settings))
    need = memory.bytes_needed(run)
    n = sum(p.numel() for p in run.state.model.parameters())
    assert need > 8 * n + 4 * n  # the optimizer's state, and the first micro-batch's gradients
    monkeypatch.setattr(memory, "available_bytes", lambda: need - 1)
    ways = "--per_device_train_batch_size 2 --gradient_accumulation_steps 4 "
    with pytest.raises(
        MemoryError, match=rf"needs 1 MiB more .* 0 MiB left: give {ways}.*adafactor"
    ):
        finetune(TrainConfig(**settings))
    assert not list((tmp_path / "out").glob("checkpoint*"))
    monkeypatch.setattr(memory, "available_bytes", lambda: need)
    memory.check_memory(run)
    thrifty = build(TrainConfig(**settings, optimizer="adafactor"))
    assert memory.bytes_needed(thrifty) < need - 7 * n
    most = memory.most_bytes(run)
    assert most > need  # else too little could be taken for enough
    monkeypatch.setattr(memory, "bytes_needed", lambda run: pytest.fail("it is known without"))
    monkeypatch.setattr(memory, "available_bytes", lambda: 2 * most + 1)
    memory.check_memory(run)
