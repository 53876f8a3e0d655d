"""Checkpoints of a model that is divided: pytest tests/checkpoint/test_divided.py"""

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import gpt2ft
from gpt2ft.checkpoint import divided
from gpt2ft.checkpoint.manifest import verify_checkpoint
from gpt2ft.micro_batches import own_part
from gpt2ft.parallel import processes
from gpt2ft.parallel.sharding import whole
from gpt2ft.system import durable
from tests.support.gradients import FAMILIES, Rows, new_model
from tests.support.processes import together
from tests.support.tiny import byte_tokenizer

FP32 = gpt2ft.resolve_precision("fp32", torch.device("cpu"))


def new_state(family, seed=0):
    """A state with an average of the first weight besides, as a researcher might keep."""
    model = new_model(family)
    gpt2ft.shard(model)
    # With the usual epsilon, gradients that are only rounding make large updates.
    optimizer = gpt2ft.build_optimizer(model, learning_rate=0.01, epsilon=1e-3)
    state = gpt2ft.TrainState.create(model, optimizer, precision=FP32, seed=seed)
    first = next(model.parameters()).detach()
    state.extra = {"average": first.clone(), "count": torch.tensor(3)}
    return state


def make_steps(state, n):
    data = Rows(4)
    for _ in range(n):
        gpt2ft.train_step(state, [data[0, i] for i in own_part(range(4))])
        state.extra["average"].lerp_(next(state.model.parameters()).detach(), 0.5)


def all_tensors(state):
    """Every tensor of a state, whole, by a name; for comparing."""
    tensors = {f"weight/{n}": p for n, p in state.model.named_parameters()}
    for n, p in state.model.named_parameters():
        tensors |= {f"{key}/{n}": v for key, v in state.optimizer.state[p].items()}
    tensors |= {f"extra/{n}": t for n, t in state.extra.items()}
    return {n: whole(t.detach()).flatten().tolist() for n, t in tensors.items()}


def trained_and_saved(family, out):
    """One step, a checkpoint, two more steps."""
    state = new_state(family)
    make_steps(state, 1)
    path = gpt2ft.save_checkpoint(out, state, tokenizer=byte_tokenizer())
    at_save = all_tensors(state)
    make_steps(state, 2)
    return [str(path), at_save, all_tensors(state)]


def loaded(family, path, steps):
    state = new_state(family, seed=9)
    gpt2ft.load_checkpoint(path, state)
    make_steps(state, steps)
    return [all_tensors(state), state.step, state.seed]


@pytest.mark.parametrize("family", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_saved_by_three_and_read_by_any_number(family, tmp_path):
    """With three processes some tensors have fewer rows than there are processes."""
    (path, at_save, at_end), *others = together(3, trained_and_saved, family, str(tmp_path))
    assert [other[1:] for other in others] == [[at_save, at_end]] * 2
    path = Path(path)
    verify_checkpoint(path)
    # As any tool reads it.
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    assert type(model) is type(new_model(family))
    for name, p in model.named_parameters():
        assert p.flatten().tolist() == at_save[f"weight/{name}"]
    assert model.lm_head.weight is model.get_output_embeddings().weight
    moments = load_file(path / "optimizer.safetensors")
    assert moments.keys() == {n for n in at_save if not n.startswith(("weight/", "extra/"))}
    assert all(t.flatten().tolist() == at_save[n] for n, t in moments.items())
    for n in (1, 2, 4):
        assert together(n, loaded, family, str(path), 0) == [[at_save, 1, 0]] * n
    # On the same number exactly, on another within rounding.
    assert together(3, loaded, family, str(path), 2) == [[at_end, 3, 0]] * 3
    for tensors, _, _ in together(2, loaded, family, str(path), 2):
        for name, values in tensors.items():
            mine, theirs = torch.tensor(values).double(), torch.tensor(at_end[name]).double()
            assert (mine - theirs).norm() <= 1e-4 * theirs.norm(), name


def test_the_file_has_the_bytes_of_one_process_in_their_places(tmp_path):
    (whole_path, *_), *_ = together(1, trained_and_saved, "gpt2", str(tmp_path / "one"))
    (path, *_), *_ = together(2, trained_and_saved, "gpt2", str(tmp_path / "two"))
    for name in ("model.safetensors", "optimizer.safetensors", "extra.safetensors"):
        one, two = load_file(Path(whole_path) / name), load_file(Path(path) / name)
        assert {n: (t.shape, t.dtype) for n, t in one.items()} == {
            n: (t.shape, t.dtype) for n, t in two.items()
        }
        sizes = [(Path(folder) / name).stat().st_size for folder in (whole_path, path)]
        assert abs(sizes[0] - sizes[1]) < 1024  # the head is written in another way
    names = [sorted(p.name for p in Path(folder).iterdir()) for folder in (whole_path, path)]
    assert names[0] == names[1]


def test_a_checkpoint_of_one_process_is_read_by_many(tmp_path):
    ((path, at_save, _),) = together(1, trained_and_saved, "qwen2", str(tmp_path))
    assert together(2, loaded, "qwen2", path, 0) == [[at_save, 1, 0]] * 2


def disk_full_at_one(out, failing):
    state = new_state("gpt2")
    make_steps(state, 1)
    gpt2ft.save_checkpoint(out, state)
    make_steps(state, 1)
    if processes.rank() == failing:
        durable.write_at = full
    try:
        gpt2ft.save_checkpoint(out, state)
    except OSError as error:
        return [type(error).__name__, str(error)]
    return ["saved", ""]


def full(path, pieces):
    raise OSError(28, "No space left on device", str(path))


@pytest.mark.parametrize("failing", [0, 1])
def test_a_disk_that_is_full_for_one_ends_all_and_keeps_the_last_checkpoint(failing, tmp_path):
    outcomes = together(2, disk_full_at_one, str(tmp_path), failing)
    assert outcomes[failing][0] == "OSError" and "No space left" in outcomes[failing][1]
    assert outcomes[1 - failing][0] == "LostProcessError"
    assert gpt2ft.find_checkpoint(tmp_path)[0] == tmp_path / "checkpoint-1"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def folder_not_seen(out):
    state = new_state("gpt2")
    if processes.rank() == 1:
        write_at = durable.write_at
        durable.write_at = lambda path, pieces: write_at(Path("/nowhere") / path.name, pieces)
    try:
        gpt2ft.save_checkpoint(out, state)
    except OSError as error:
        return str(error)
    return "saved"


def test_a_folder_that_not_all_see(tmp_path):
    here, there = together(2, folder_not_seen, str(tmp_path))
    assert here == processes.LOST
    assert there.startswith("process 1 does not see ") and "all machines share" in there
    assert not list(tmp_path.iterdir())


def test_a_model_whose_files_have_other_tensors_is_refused():
    config = transformers.MixtralConfig(
        **FAMILIES["llama"], vocab_size=257, num_local_experts=2, num_experts_per_tok=1
    )
    divided.check_names(new_model("gpt2"))
    with pytest.raises(ValueError, match=r"MixtralForCausalLM is saved with other tensors"):
        divided.check_names(transformers.MixtralForCausalLM(config))
