"""Whole runs, in this process: pytest tests/run/test_finetune.py"""

import hashlib
import itertools
import json
import signal

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

from gpt2ft import loop, loss
from gpt2ft.checkpoint.folders import find_checkpoint, recorded_run
from gpt2ft.config import TrainConfig
from gpt2ft.run import build as building
from gpt2ft.run import finetune as story
from gpt2ft.run import texts
from gpt2ft.run.finetune import finetune
from gpt2ft.run.output_folder import locked
from gpt2ft.run.recipe import load_recipe
from gpt2ft.system import durable
from gpt2ft.system.signals import listening
from tests.support.lines import LINES


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def results(output_dir):
    """Weights and moments of a run that is finished."""
    last = find_checkpoint(output_dir)[0]
    names = ("model.safetensors", "optimizer.safetensors")
    return [sha256(output_dir / "model.safetensors"), *(sha256(last / name) for name in names)]


def records(output_dir):
    """Those of metrics.jsonl, without the time that a step took."""
    lines = (output_dir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{name: x for name, x in record.items() if name != "seconds"} for record in found]


def test_a_run_from_corpus_to_model(settings, tmp_path, capsys):
    out = tmp_path / "out"
    assert finetune(TrainConfig(**settings)) == 0
    assert {p.name for p in out.glob("checkpoint-*")} == {"checkpoint-8", "checkpoint-12"}
    assert yaml.safe_load((out / "config.yaml").read_text())["learning_rate"] == 3e-3

    written = records(out)
    steps = [record for record in written if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 13))
    assert sorted(record["n_targets"] for record in steps)[1:] == [8 * 31] * 11
    assert [round(record["learning_rate"], 9) for record in steps[:2]] == [0.003, 0.00275]
    evaluations = [record for record in written if "eval_loss" in record]
    assert [record["step"] for record in evaluations] == [0, 12]
    assert evaluations[1]["eval_loss"] < evaluations[0]["eval_loss"] - 0.5

    shown = capsys.readouterr().out
    for expected in (
        "12 steps of 8 blocks",
        "step      5/12  loss",
        "perplexity",
        "it wrote after",
        f"saved to {out}",
        f"python generate.py -i --model_name_or_path {out}",
    ):
        assert expected in shown, expected

    answer = transformers.pipeline("text-generation", model=str(out))("line", max_new_tokens=5)
    assert answer[0]["generated_text"].startswith("line")


@pytest.mark.parametrize("stop_at", [1, 3, 4, 11])
def test_stopped_by_a_signal_and_resumed_it_ends_the_same(
    stop_at, settings, tmp_path, monkeypatch, capsys
):
    """Dropout is on, and it stops at, before and after a checkpoint."""
    straight = {**settings, "output_dir": str(tmp_path / "straight")}
    assert finetune(TrainConfig(**straight)) == 0

    def train_and_signal(state, *arguments, **keywords):
        for result in original(state, *arguments, **keywords):
            if result.step == stop_at:
                signal.raise_signal(signal.SIGTERM)
            yield result

    original = story.train
    monkeypatch.setattr(story, "train", train_and_signal)
    with listening() as stop:
        assert finetune(TrainConfig(**settings), stop=stop) == 128 + signal.SIGTERM
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.endswith(f"python train.py --output_dir {settings['output_dir']} --resume")
    assert find_checkpoint(tmp_path / "out")[0].name == f"checkpoint-{stop_at}"
    assert not (tmp_path / "out" / "manifest.json").exists()

    monkeypatch.setattr(story, "train", original)
    torch.manual_seed(123)
    assert finetune(TrainConfig(**settings, resume="auto")) == 0
    assert results(tmp_path / "out") == results(tmp_path / "straight")

    def per_step(out):
        return [r for r in records(out) if "loss" in r]

    assert per_step(tmp_path / "out") == per_step(tmp_path / "straight")
    assert f"resumed from {tmp_path / 'out'}/checkpoint-{stop_at}" in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", ["adafactor", "sgd"])
def test_resuming_is_exact_with_any_optimizer(optimizer, settings, tmp_path):
    settings |= {"optimizer": optimizer, "max_steps": 6, "save_steps": 3, "weight_decay": 0.1}
    straight = {**settings, "output_dir": str(tmp_path / "straight")}
    assert finetune(TrainConfig(**straight)) == 0
    resumed = {**settings, "resume": str(tmp_path / "straight" / "checkpoint-3")}
    assert finetune(TrainConfig(**resumed)) == 0
    assert results(tmp_path / "out") == results(tmp_path / "straight")
    facts = json.loads((tmp_path / "straight" / "run.json").read_text())["forecast"]
    size = facts["checkpoint_bytes"]
    json_files = sum(p.stat().st_size for p in (tmp_path / "out" / "checkpoint-6").glob("*.json"))
    assert size["expected"] == pytest.approx(size["actual"] - json_files, rel=0.1)


def test_observing_more_often_changes_nothing(settings, tmp_path):
    often = {"eval_steps": 1, "logging_steps": 1, "save_steps": 1, "per_device_eval_batch_size": 2}
    assert finetune(TrainConfig(**settings)) == 0
    assert finetune(TrainConfig(**{**settings, **often, "output_dir": str(tmp_path / "b")})) == 0
    assert results(tmp_path / "out") == results(tmp_path / "b")


def test_a_run_in_place_is_not_written_over(settings, tmp_path):
    assert finetune(TrainConfig(**settings)) == 0
    before = results(tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"a finished run: name another folder, train it further with --resume"
    ):
        finetune(TrainConfig(**settings))
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="an unfinished run"):
        finetune(TrainConfig(**settings))
    assert results(tmp_path / "out") == before
    other = {**settings, "seed": 1, "overwrite_output_dir": True}
    assert finetune(TrainConfig(**other)) == 0
    assert results(tmp_path / "out") != before
    assert [r["step"] for r in records(tmp_path / "out") if "eval_loss" in r] == [0, 12]


def test_a_resumed_run_may_grow_but_not_change(settings, tmp_path):
    assert finetune(TrainConfig(**settings)) == 0
    with pytest.raises(ValueError, match=r"block_size: 32 then, 16 now; seed: 42 then, 1 now"):
        finetune(TrainConfig(**{**settings, "seed": 1, "block_size": 16}, resume="auto"))
    assert finetune(TrainConfig(**{**settings, "max_steps": 14}, resume="auto")) == 0
    assert find_checkpoint(tmp_path / "out")[0].name == "checkpoint-14"
    # Already at the last step: nothing is trained, and the model is there.
    before = results(tmp_path / "out")
    assert finetune(TrainConfig(**{**settings, "max_steps": 14}, resume="auto")) == 0
    assert results(tmp_path / "out") == before


def test_a_run_that_overwrote_another_can_be_resumed(settings, tmp_path):
    """The flag belongs to the command, not to the run: the checkpoints stay."""
    assert finetune(TrainConfig(**settings)) == 0
    assert finetune(TrainConfig(**settings, overwrite_output_dir=True)) == 0
    saved = load_recipe(str(tmp_path / "out" / "config.yaml"))
    assert finetune(TrainConfig(**{**saved, "max_steps": 14}, resume="auto")) == 0
    steps = [r["step"] for r in records(tmp_path / "out") if "loss" in r]
    assert steps == list(range(1, 15))


def test_changed_data_is_refused_and_moved_data_is_not(settings, tmp_path):
    assert finetune(TrainConfig(**settings)) == 0
    longer = {**settings, "max_steps": 14, "resume": "auto"}
    path = tmp_path / "own.txt"
    path.write_text("something else\n" * 9 + "".join(LINES[9:]), encoding="utf-8")
    with pytest.raises(ValueError, match="the tokens of the corpus are others"):
        finetune(TrainConfig(**longer))
    moved = path.rename(tmp_path / "moved.txt")
    moved.write_text("".join(LINES), encoding="utf-8")
    assert finetune(TrainConfig(**{**longer, "train_file": [str(moved)]})) == 0


def test_going_back_to_an_older_checkpoint_loses_none(settings, tmp_path):
    assert finetune(TrainConfig(**{**settings, "save_total_limit": 9})) == 0
    out = tmp_path / "out"
    before = results(out)
    older = {**settings, "save_total_limit": 9, "resume": str(out / "checkpoint-4")}
    assert finetune(TrainConfig(**older)) == 0
    assert results(out) == before  # the same way again
    names = {path.name for path in out.glob("checkpoint-*")}
    assert names == {
        *("checkpoint-4", "checkpoint-8", "checkpoint-12"),
        *("checkpoint-8.aside-1", "checkpoint-12.aside-1"),
    }


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "config.yaml"])
def test_files_that_are_not_of_a_run_are_not_written_over(name, settings, tmp_path):
    out = _made(tmp_path / "out")
    (out / name).write_text("mine")
    with pytest.raises(ValueError, match=f"holds a {name} that is not of a run"):
        finetune(TrainConfig(**settings))
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, "mine")]


def test_the_model_is_never_written_over_by_its_own_run(settings, model_folder):
    before = sha256(model_folder / "model.safetensors")
    own = {**settings, "output_dir": str(model_folder)}
    around = {**settings, "output_dir": str(model_folder.parent)}
    for place in (own, around):
        with pytest.raises(ValueError, match="holds the model itself"):
            finetune(TrainConfig(**place, overwrite_output_dir=True))
    with pytest.raises(ValueError, match="holds the model itself"):
        finetune(TrainConfig(**own))
    assert sha256(model_folder / "model.safetensors") == before


@pytest.fixture
def with_scaler(monkeypatch):
    """Runs with an enabled scaler on the CPU, and the loss over whole logits: as fp16 on CUDA."""
    monkeypatch.setattr(loss, "plain_head", lambda model: None)

    def patch(**scaler):
        def create(*arguments, **keywords):
            state = original(*arguments, **keywords)
            state.scaler = torch.amp.GradScaler("cpu", **scaler)
            return state

        original = building.TrainState.create
        monkeypatch.setattr(building.TrainState, "create", create)

    return patch


def test_updates_the_scaler_skips_are_only_noted(settings, tmp_path, with_scaler):
    with_scaler(init_scale=3.4e38, growth_interval=4)  # overflows at first
    assert finetune(TrainConfig(**{**settings, "eval_steps": 1})) == 0
    written = records(tmp_path / "out")
    assert [r["step"] for r in written if "loss" in r] == list(range(1, 13))
    skipped = [r["step"] for r in written if r.get("skipped")]
    assert skipped[:1] == [1] and len(skipped) < 12
    assert [r["step"] for r in written if "eval_loss" in r] == list(range(13))
    assert not (tmp_path / "out" / "checkpoint-0").exists()


def broken(monkeypatch, spoil, batches):
    """From here on `spoil` is done to the loss of these micro-batches, by their number."""
    usual, count = loop.causal_lm_loss, itertools.count()

    def loss_fn(model, batch):
        loss = usual(model, batch)
        return spoil(loss) if next(count) in batches else loss

    monkeypatch.setattr(story, "train", lambda *a, **k: loop.train(*a, **k, loss_fn=loss_fn))


def nan(loss):
    return loss * float("nan")


def infinite(loss):
    """With the gradient that it had."""
    return loss + float("inf")


def steep(loss):
    """A good loss, whose gradient is not finite."""
    return loss + torch.sqrt(loss * 0)


def test_a_gradient_that_overflows_at_any_scale_ends_the_run(settings, with_scaler, monkeypatch):
    with_scaler(init_scale=4.0)
    broken(monkeypatch, steep, range(1000))
    with pytest.raises(FloatingPointError, match=r"step 10, the tenth in a row: loss 5\."):
        finetune(TrainConfig(**settings, on_nonfinite="skip"))


def test_a_scale_that_has_come_down_to_nothing_ends_the_run(settings, with_scaler, monkeypatch):
    """Though between the overflows there are good steps."""
    with_scaler(init_scale=2.0**-9)
    broken(monkeypatch, steep, [4, 8])  # steps 3 and 5
    scale = r"step 5, with the gradient scale down to 0\.0005: loss \d"
    with pytest.raises(FloatingPointError, match=scale):
        finetune(TrainConfig(**settings, on_nonfinite="skip"))


@pytest.mark.parametrize("scaler", [False, True])
@pytest.mark.parametrize("spoil", [nan, infinite, steep])
def test_what_is_not_finite_stops_the_run_before_the_update(
    spoil, scaler, settings, tmp_path, with_scaler, monkeypatch
):
    """Names the step, the samples and their first words; a scaler owns only its overflows."""
    if scaler:
        with_scaler(init_scale=4.0)
    broken(monkeypatch, spoil, [12])  # the first micro-batch of step 7
    if scaler and spoil is steep:
        assert finetune(TrainConfig(**settings)) == 0
        assert len([r for r in records(tmp_path / "out") if r.get("skipped")]) == 1
        return
    text = r"not finite at step 7: loss \S+, gradient norm nan, samples \d+(, \d+){7}, the first "
    with pytest.raises(FloatingPointError, match=text + r"begins '.*'; .*--on_nonfinite skip"):
        finetune(TrainConfig(**settings))
    last, _ = find_checkpoint(tmp_path / "out")
    assert last.name == "checkpoint-4"
    steps = [record for record in records(tmp_path / "out") if "loss" in record]
    assert steps[-1]["skipped"] is True and steps[-1]["grad_norm"] is None


@pytest.mark.parametrize("scaler", [False, True])
def test_asked_to_skip_it_counts_and_goes_on(
    scaler, settings, tmp_path, with_scaler, monkeypatch, capsys
):
    """Here from the last checkpoint on, as the error advises; the last step is spoiled as well."""
    if scaler:
        with_scaler(init_scale=4.0)
    broken(monkeypatch, nan, [12])
    with pytest.raises(FloatingPointError):
        finetune(TrainConfig(**settings))
    broken(monkeypatch, nan, [4, 5, 15])  # steps 7 and 12
    assert finetune(TrainConfig(**settings, on_nonfinite="skip", resume="auto")) == 0
    last, _ = find_checkpoint(tmp_path / "out")
    assert last.name == "checkpoint-12"
    assert json.loads((last / "state.json").read_text())["skipped_steps"] == 2
    assert all(torch.isfinite(t).all() for t in load_file(last / "model.safetensors").values())
    shown = capsys.readouterr().out
    assert shown.count("update skipped, not finite: loss nan") == shown.count("  skipped 1") == 2
    assert "loss nan  lr" not in shown  # the mean is that of the others


def test_ten_in_a_row_are_too_many(settings, monkeypatch):
    broken(monkeypatch, nan, range(4, 24))
    with pytest.raises(FloatingPointError, match="at step 12, the tenth in a row: loss nan"):
        finetune(TrainConfig(**settings, on_nonfinite="skip"))


def test_another_number_of_threads_is_announced(settings, capsys):
    """It is recorded, as sums are then added up in another order."""
    finetune(TrainConfig(**{**settings, "max_steps": 4}))
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        finetune(TrainConfig(**{**settings, "max_steps": 6}, resume="auto"))
    finally:
        torch.set_num_threads(before)
    shown = capsys.readouterr().out
    note = f"note: up to here the run had --threads {before}, now it has {before + 1}"
    assert shown.count("note: ") == 1 and note in shown


def test_resuming_needs_something_to_resume(settings, tmp_path):
    with pytest.raises(ValueError, match="found no checkpoint"):
        finetune(TrainConfig(**settings, resume="newest"))
    with pytest.raises(ValueError, match="nowhere is not there, there are none"):
        finetune(TrainConfig(**settings, resume=str(tmp_path / "nowhere")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("accumulation", [2, 4])
def test_a_checkpoint_of_the_version_before_goes_on_as_it_began(
    accumulation, settings, tmp_path, monkeypatch
):
    """It had numpy's order and added gradients in turn, and recorded neither."""
    settings |= {"gradient_accumulation_steps": accumulation, "save_steps": 2, "max_steps": 6}
    record = building.Run.record

    def recorded_before(run):
        now = record(run)
        for name in ("fixed_sum_order", "micro_batches_per_step"):
            del now["config"][name]
        del now["order"]
        return now

    with monkeypatch.context() as patch:
        patch.setattr(texts.Whole, "order", 1)
        patch.setattr(building.Run, "record", recorded_before)
        old = TrainConfig(**settings, fixed_sum_order=False)
        assert finetune(old) == 0
        expected = results(tmp_path / "out")
        other = TrainConfig(**{**settings, "output_dir": str(tmp_path / "new")})
    assert finetune(other) == 0  # the control: a new run
    assert results(tmp_path / "new") != expected
    (tmp_path / "out" / "checkpoint-6").rename(tmp_path / "end")
    (tmp_path / "out" / "manifest.json").unlink()
    settings["gradient_accumulation_steps"] = 1  # the run keeps its own
    assert finetune(TrainConfig(**settings, resume="newest")) == 0
    assert results(tmp_path / "out") == expected
    run = recorded_run(tmp_path / "out" / "checkpoint-6")
    assert run["order"] == 1 and run["config"]["fixed_sum_order"] is False


def test_a_folder_in_use_is_refused(settings, tmp_path):
    refused = pytest.raises(ValueError, match=r"is in use by process \d+")
    with locked(_made(tmp_path / "out")), refused:
        finetune(TrainConfig(**settings))
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def _made(path):
    path.mkdir()
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"packing": False, "row_separator": "none", "validation_split_percentage": 10.0},
        {"gradient_checkpointing": True, "lr_scheduler_type": "cosine", "warmup_ratio": 0.25},
        {"precision": "bf16", "dropout": 0.0},
        {"validation_split_percentage": 0.0, "max_train_samples": 16, "max_steps": None},
        {
            "model_name_or_path": None,
            "model_type": "gpt2",
            "row_separator": "none",
            "config_overrides": "n_layer=1,n_head=2,n_embd=16,n_positions=32,vocab_size=300",
        },
        {
            "model_name_or_path": None,
            "model_type": "llama",
            "config_overrides": "num_hidden_layers=1,hidden_size=16,intermediate_size=16,"
            "num_attention_heads=2,vocab_size=300",
        },
    ],
    ids=lambda changes: ",".join(changes),
)
def test_other_ways_to_run(changes, settings, tmp_path):
    assert finetune(TrainConfig(**{**settings, **changes})) == 0
    losses = [record["loss"] for record in records(tmp_path / "out") if "loss" in record]
    assert all(0 < loss < 10 for loss in losses)
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token == "<|endoftext|>"


def test_checkpointing_activations_computes_the_same(settings, tmp_path):
    """Dropout on: what is computed again must draw the same numbers."""
    assert finetune(TrainConfig(**settings)) == 0
    again = {**settings, "gradient_checkpointing": True, "output_dir": str(tmp_path / "b")}
    assert finetune(TrainConfig(**again)) == 0
    a, b = ([r["loss"] for r in records(tmp_path / name) if "loss" in r] for name in ("out", "b"))
    torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=0, atol=1e-5)


def test_a_model_that_cannot_keep_documents_apart_says_so(settings, capsys):
    new = {"model_name_or_path": None, "max_steps": 2, "row_separator": "eos"}
    sizes = "n_layer=1,n_head=2,hidden_size=16,vocab_size=300"
    finetune(TrainConfig(**{**settings, **new, "model_type": "bloom", "config_overrides": sizes}))
    assert (
        "with this model the documents in a block are context for each other"
        in capsys.readouterr().out
    )
    other = {**settings, "max_steps": 2, "overwrite_output_dir": True}
    finetune(TrainConfig(**other))
    assert "context for each other" not in capsys.readouterr().out


def test_going_on_in_another_folder_takes_the_records_along(settings, tmp_path, capsys):
    assert finetune(TrainConfig(**settings)) == 0
    other = {**settings, "output_dir": str(tmp_path / "b")}
    assert finetune(TrainConfig(**other, resume=str(tmp_path / "out" / "checkpoint-8"))) == 0
    assert results(tmp_path / "b") == results(tmp_path / "out")
    assert records(tmp_path / "b") == records(tmp_path / "out")
    assert "before       after" in capsys.readouterr().out


def test_a_run_started_meanwhile_is_not_written_over(settings, tmp_path, monkeypatch):
    """While this one was building, another finished in the same folder."""
    original = story.build

    def slow_build(*arguments):
        monkeypatch.setattr(story, "build", original)
        assert finetune(TrainConfig(**{**settings, "seed": 7})) == 0
        return original(*arguments)

    monkeypatch.setattr(story, "build", slow_build)
    with pytest.raises(ValueError, match="holds a finished run"):
        finetune(TrainConfig(**settings))
    assert load_recipe(str(tmp_path / "out" / "config.yaml"))["seed"] == 7


@pytest.mark.parametrize("resume", [None, "auto"])
def test_what_crashes_left_is_deleted_before_free_space_is_measured(
    resume, settings, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    if resume:
        assert finetune(TrainConfig(**{**settings, "max_steps": 4})) == 0
    leftovers = [out / f".saving-{n}" for n in range(12)] + [out / ".trash-checkpoint-2"]
    for path in leftovers:
        path.mkdir(parents=True)
    free = durable.free_bytes
    monkeypatch.setattr(
        durable, "free_bytes", lambda path: 0 if leftovers[3].exists() else free(path)
    )
    assert finetune(TrainConfig(**{**settings, "max_steps": 5, "resume": resume})) == 0
    assert not any(path.exists() for path in leftovers)
