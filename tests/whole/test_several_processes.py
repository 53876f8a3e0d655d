"""One run in several processes: pytest tests/whole/test_several_processes.py"""

import contextlib
import functools
import hashlib
import random
import re
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.faults.processes import Started, run
from gpt2ft.checkpoint import checkpoints
from gpt2ft.parallel import processes
from gpt2ft.parallel.differences import refuse_differences
from gpt2ft.run import finetune, observe
from gpt2ft.system import durable
from tests.support.processes import torchrun_environments
from tests.support.tiny import byte_tokenizer, tiny_gpt2

STEPS = 8
FLAGS = (
    *("--model_name_or_path", "model", "--train_file", "own.txt", "--block_size", "32"),
    *("--per_device_train_batch_size", "2", "--micro_batches_per_step", "4"),
    *("--max_steps", str(STEPS), "--save_steps", "2", "--eval_steps", "3", "--threads", "1"),
    *("--learning_rate", "0.01", "--precision", "fp32", "--validation_split_percentage", "20"),
)
LOST = "another process of this run has ended or cannot be reached, see its own message"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A model with dropout and a text."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_gpt2(dropout=0.1).save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    text = "".join(f"line {n} of a text, and {n} more\n" for n in range(60))
    (folder / "own.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def straight(inputs):
    """Weights and moments of the run in one process that is never stopped."""
    assert run("train.py", *FLAGS, "--output_dir", "one", cwd=inputs).returncode == 0
    return results(inputs / "one")


@pytest.fixture
def place(inputs, tmp_path):
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    return tmp_path


def results(out):
    files = (out / "model.safetensors", out / f"checkpoint-{STEPS}" / "optimizer.safetensors")
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


@contextlib.contextmanager
def started(n, *flags, cwd, prepare=(), own_flags=(), environments=None):
    """A run in n processes; `prepare` and `own_flags` are of single ranks."""
    prepare, own_flags = dict(prepare), dict(own_flags)
    with contextlib.ExitStack() as stack:
        environments = environments or torchrun_environments(n)
        yield [
            stack.enter_context(
                Started(
                    "train.py",
                    *(*FLAGS, "--output_dir", "out", *flags, *own_flags.get(rank, ())),
                    cwd=cwd,
                    env=environment,
                    prepare=prepare.get(rank),
                )
            )
            for rank, environment in enumerate(environments)
        ]


def finished(n, *flags, cwd, **options):
    with started(n, *flags, cwd=cwd, **options) as all_of_them:
        return [process.finish() for process in all_of_them]


@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.slow), 4])
def test_the_bits_are_those_of_one_process(n, place, straight):
    first, *others = finished(n, cwd=place)
    assert first.returncode == 0, first.stderr
    assert f", {n} processes" in first.stdout and "saved to out" in first.stdout
    assert [(o.returncode, o.stdout, o.stderr) for o in others] == [(0, "", "")] * (n - 1)
    assert results(place / "out") == straight


def test_other_micro_batches_give_other_bits(place, straight):
    """The control: two micro-batches a step instead of four."""
    done = run("train.py", *FLAGS, "--micro_batches_per_step", "2", "--output_dir", "o", cwd=place)
    assert done.returncode == 0
    assert results(place / "o") != straight


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_stops_all_and_another_number_goes_on(number, place, straight):
    """Stopped on 4 processes, then on 1, then finished on 2."""
    for n, rank, step in ((4, 3, 2), (1, 0, 5)):
        resume = ("--resume",) if n == 1 else ()
        stop = {rank: functools.partial(raise_at_step, step, number)}
        done = finished(n, *resume, cwd=place, prepare=stop)
        assert {d.returncode for d in done} == {128 + number}, done
        assert "to go on: python train.py" in done[0].stdout
        assert [d.stdout + d.stderr for d in done[1:]] == [""] * (n - 1)
    assert [d.returncode for d in finished(2, "--resume", cwd=place)] == [0, 0]
    assert results(place / "out") == straight


def raise_at_step(step, number):
    original = finetune.progress.TrainingReport.step

    def at_step(report, result, state):
        original(report, result, state)
        if state.step == step:
            signal.raise_signal(number)

    finetune.progress.TrainingReport.step = at_step


def test_a_signal_while_evaluating_stops_all(place, straight):
    done = finished(2, cwd=place, prepare={1: signal_in_evaluation})
    assert {d.returncode for d in done} == {128 + signal.SIGTERM}
    assert [d.returncode for d in finished(2, "--resume", "auto", cwd=place)] == [0, 0]
    assert results(place / "out") == straight


def signal_in_evaluation():
    original, calls = observe.score, []

    def score(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:  # of step 3
            signal.raise_signal(signal.SIGTERM)
        return original(*arguments, **options)

    observe.score = score


def test_a_process_that_dies_ends_the_others_soon(place, straight):
    for rank in (0, 1):
        with started(
            3, "--resume", "auto", cwd=place, prepare={rank: die_at_step_5}
        ) as all_of_them:
            all_of_them[rank].process.join(60)
            begin = time.monotonic()
            rest = [p.finish(30) for i, p in enumerate(all_of_them) if i != rank]
            assert time.monotonic() - begin < 30
        assert all(d.returncode == 1 for d in rest)
        said = "".join(d.stderr for d in rest)
        assert re.fullmatch(rf"(gpt2ft: error( in process \d)?: {LOST}\n){{1,2}}", said), said
    assert [d.returncode for d in finished(2, "--resume", "auto", cwd=place)] == [0, 0]
    assert results(place / "out") == straight


def die_at_step_5():
    raise_at_step(5, signal.SIGKILL)


def test_resume_auto_starts_a_run_and_goes_on_with_it(place, straight):
    stop = {0: functools.partial(raise_at_step, 1, signal.SIGTERM)}
    (first,) = finished(1, "--resume", "auto", cwd=place, prepare=stop)
    assert first.returncode == 128 + signal.SIGTERM and "resumed" not in first.stdout
    (second,) = finished(1, "--resume", "auto", cwd=place)
    assert "resumed from" in second.stdout
    assert results(place / "out") == straight
    (third,) = finished(1, "--resume", "auto", cwd=place)
    assert third.returncode == 0 and "all 8 steps are done" in third.stdout


def test_the_same_command_on_another_number_of_processes(place):
    """With --gradient_accumulation_steps, which counts for each process, the steps stay."""
    flags = [flag for flag in FLAGS if flag not in ("--micro_batches_per_step", "4")]
    flags += ["--gradient_accumulation_steps", "2", "--output_dir", "own", "--resume", "auto"]
    stop = functools.partial(raise_at_step, 3, signal.SIGTERM)
    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(Started("train.py", *flags, cwd=place, env=e, prepare=stop))
            for e in torchrun_environments(2)
        ]
        assert [p.finish().returncode for p in both] == [143, 143]
    done = run("train.py", *flags, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "8 steps of 8 blocks" in done.stdout


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        (("--seed", "7"), "differ in --seed: process 0 has 42, process 1 has 7"),
        (("--train_file", "other.txt"), "differ in tokens: process 0 has"),
        (("--learning_rate", "0.1"), "differ in --learning_rate: process 0 has 0.01"),
        (("--threads", "2"), "differ in --threads: process 0 has 1, process 1 has 2"),
        (("--save_steps", "3"), "differ in --save_steps: process 0 has 2, process 1 has 3"),
        (("--eval_steps", "4"), "differ in --eval_steps: process 0 has 3, process 1 has 4"),
        (("--max_eval_samples", "1"), "differ in --max_eval_samples: process 0 has None"),
        (("--model_name_or_path", "other"), "differ in their model: process 0 has"),
    ],
    ids=["seed", "text", "rate", "threads", "saving", "evaluating", "held-out", "model"],
)
def test_processes_that_differ_are_refused(flag, sentence, place):
    (place / "other.txt").write_text("another text\n" * 150, encoding="utf-8")
    tiny_gpt2(n_inner=16).save_pretrained(place / "other")
    byte_tokenizer().save_pretrained(place / "other")
    done = finished(2, cwd=place, own_flags={1: flag})
    assert [d.returncode for d in done] == [1, 1]
    said = "".join(d.stderr for d in done)
    assert sentence in said and said.count("error") == 1, said
    assert not (place / "out").exists()


def test_an_environment_that_names_several_but_not_which(place):
    done = run("train.py", *FLAGS, "--output_dir", "out", cwd=place, env={"WORLD_SIZE": "2"})
    assert done.returncode == 2
    assert done.stderr == (
        "gpt2ft: error: WORLD_SIZE is 2, but RANK, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, "
        "MASTER_PORT is not set: start several processes with torchrun, or unset WORLD_SIZE\n"
    )


def test_a_usage_error_is_said_once(place):
    done = finished(2, "--block_size", "1", cwd=place)
    assert [d.returncode for d in done] == [2, 2]
    assert "".join(d.stderr for d in done).count("--block_size") == 1


def test_without_the_hub_all_end(place):
    """One process alone would run another recipe, but the others might have found the hub."""
    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(Started("train.py", cwd=place, env={**e, "HF_HUB_OFFLINE": "1"}))
            for e in torchrun_environments(2)
        ]
        done = [process.finish(60) for process in both]
    assert [d.returncode for d in done] == [1, 1]
    assert "name a folder, or --train_file, or --config quickstart" in done[0].stderr


def test_a_wrong_number_of_torchruns_is_named(place):
    env = {**torchrun_environments(2)[0], "WORLD_SIZE": "two"}
    done = run("train.py", *FLAGS, "--output_dir", "out", cwd=place, env=env)
    assert done.returncode == 2 and "the variable WORLD_SIZE is 'two'" in done.stderr


def test_a_process_that_waits_for_others_says_so_and_answers_signals(place):
    environment = torchrun_environments(2)[0]
    with Started("train.py", *FLAGS, "--output_dir", "out", cwd=place, env=environment) as alone:
        time.sleep(15)
        alone.kill(signal.SIGTERM)
        done = alone.finish(20)
    assert done.returncode == 128 + signal.SIGTERM
    assert "process 0 waits for the others, 2 in all, at 127.0.0.1, port" in done.stderr


@pytest.mark.slow
def test_a_process_that_hangs_does_not_keep_the_others_from_stopping(place):
    """One is stopped by SIGSTOP in the midst of its steps; the other answers the second signal."""
    environments = [{**e, "TORCHELASTIC_RUN_ID": ""} for e in torchrun_environments(2)]
    for environment in environments:
        del environment["TORCHELASTIC_RUN_ID"]  # started by hand
    with started(2, cwd=place, environments=environments, prepare={1: hang_at_step_3}) as both:
        time.sleep(12)
        both[0].kill(signal.SIGTERM)
        time.sleep(1)
        assert both[0].process.is_alive()  # it waits for the other one, to stop together
        both[0].kill(signal.SIGTERM)
        assert both[0].finish(10).returncode == -signal.SIGTERM
        both[1].kill(signal.SIGKILL)


def hang_at_step_3():
    raise_at_step(3, signal.SIGSTOP)


def test_a_signal_that_comes_twice_under_torchrun_saves_all_the_same(place, straight):
    """As a scheduler sends it to all processes, and torchrun once more."""
    done = finished(2, cwd=place, prepare={0: twice_at_step_3, 1: twice_at_step_3})
    assert {d.returncode for d in done} == {128 + signal.SIGTERM}, done
    assert [d.returncode for d in finished(2, "--resume", cwd=place)] == [0, 0]
    assert results(place / "out") == straight


def twice_at_step_3():
    raise_at_step(3, signal.SIGTERM)
    save = checkpoints.save_checkpoint

    def signalled(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        return save(*arguments, **options)

    checkpoints.save_checkpoint = signalled


def test_a_process_out_of_memory(place):
    done = finished(2, cwd=place, prepare={1: out_of_memory})
    assert [d.returncode for d in done] == [1, 1]
    assert done[0].stderr == f"gpt2ft: error: {LOST}\n"
    assert done[1].stderr.startswith("gpt2ft: error in process 1: out of memory with batches of 2")


def out_of_memory():
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    torch.Tensor.backward = fail


def test_a_full_disk_ends_all_and_loses_nothing(place, straight):
    done = finished(2, cwd=place, prepare={0: full_disk_at_second_save})
    assert [d.returncode for d in done] == [1, 1]
    assert "No space left on device while saving" in done[0].stderr
    assert done[1].stderr in ("", f"gpt2ft: error in process 1: {LOST}\n")
    assert [d.returncode for d in finished(2, "--resume", "auto", cwd=place)] == [0, 0]
    assert results(place / "out") == straight


def full_disk_at_second_save():
    original, calls = durable.write_tensors, []

    def write(path, tensors):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", str(path))
        original(path, tensors)

    checkpoints.durable.write_tensors = write


def test_a_folder_that_a_machine_does_not_see_is_said_before_the_first_step(place):
    done = finished(2, cwd=place, own_flags={1: ("--output_dir", "elsewhere")})
    assert [d.returncode for d in done] == [0, 0]
    note = done[0].stdout.index("note: process 1 does not see the output folder")
    assert note < done[0].stdout.index("step      0")
    assert not (place / "elsewhere").exists()


def test_data_that_a_machine_lacks(place):
    done = finished(2, cwd=place, own_flags={1: ("--train_file", "missing.txt")})
    assert [d.returncode for d in done] == [1, 1]
    assert "error in process 1: no file" in done[1].stderr
    assert done[0].stderr in ("", f"gpt2ft: error: {LOST}\n")


def test_weights_that_part_are_noticed_when_saving(place):
    done = finished(2, cwd=place, prepare={1: disturb})
    assert [d.returncode for d in done] == [1, 1]
    assert "".join(d.stderr for d in done).count("differ in their weights") == 1
    assert not list((place / "out").glob("checkpoint-*"))


def disturb():
    original = finetune.refuse_differences

    def refuse(settings):
        if "their weights" in settings:
            settings = {"their weights": [n + 1 for n in settings["their weights"]]}
        original(settings)

    finetune.refuse_differences = refuse


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_random_kills_of_random_processes(seed, place, straight):
    """Until the run is done; benchmarks/elastic.py does it with torchrun, and more often."""
    dice = random.Random(seed)
    first = {0: functools.partial(raise_at_step, dice.randint(1, STEPS - 1), signal.SIGKILL)}
    assert {d.returncode for d in finished(dice.randint(1, 4), cwd=place, prepare=first)} != {0}
    for _ in range(60):
        n = dice.randint(1, 4)
        with started(n, "--resume", "auto", cwd=place) as all_of_them:
            victim = all_of_them[dice.randrange(n)]
            victim.process.join(dice.uniform(0.3, 2))  # also while it loads, builds or ends
            victim.process.kill()
            codes = [process.finish(60).returncode for process in all_of_them]
            if set(codes) == {0}:
                break
    assert results(place / "out") == straight


def test_a_divided_model_goes_on_exactly_on_as_many_processes_and_nearly_on_others(place, straight):
    """Stopped by a signal, killed, and finished on 2; then another is finished on 1, undivided."""
    done = finished(2, "--fsdp", "--output_dir", "all", cwd=place)
    assert [d.returncode for d in done] == [0, 0]
    assert "divided among 2 processes" in done[0].stdout
    expected = results(place / "all")
    assert expected != straight
    stop = {1: functools.partial(raise_at_step, 3, signal.SIGTERM)}
    done = finished(2, "--fsdp", cwd=place, prepare=stop)
    assert {d.returncode for d in done} == {128 + signal.SIGTERM}
    shutil.copytree(place / "out", place / "other")
    done = finished(2, "--fsdp", "--resume", cwd=place, prepare={0: die_at_step_5})
    assert [d.returncode for d in done] == [-signal.SIGKILL, 1]
    done = finished(2, "--fsdp", "--resume", "auto", cwd=place)
    assert [d.returncode for d in done] == [0, 0], done
    assert results(place / "out") == expected
    for other, flags in ((1, ()), (3, ("--fsdp",))):
        flags = (*flags, "--resume", "other/checkpoint-3", "--output_dir", str(other))
        done = finished(other, *flags, cwd=place)
        assert [d.returncode for d in done] == [0] * other, done
        assert_near(place / str(other), place / "all")


def assert_near(one, other):
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    for name, tensor in one.items():
        if not name.endswith("c_attn.bias"):  # of keys, whose gradient is nothing but rounding
            assert (tensor - other[name]).norm() <= 1e-3 * tensor.norm(), name


def test_a_stream_is_the_same_on_any_number_of_processes(place):
    text = (place / "own.txt").read_text().splitlines(keepends=True)
    for number in range(5):
        (place / f"part-{number}.txt").write_text("".join(text[number * 12 :][:12]))
    flags = ("--train_file", "part-*.txt", "--streaming", "--files_at_once", "1")
    for n, out in ((1, "s1"), (2, "s2")):
        done = finished(n, *flags, "--output_dir", out, cwd=place)
        assert [d.returncode for d in done] == [0] * n, done
    assert results(place / "s2") == results(place / "s1")
    assert (place / "s1" / "shards.json").read_text().count("digest") > 1
    stop = {0: functools.partial(raise_at_step, 5, signal.SIGTERM)}
    finished(2, *flags, cwd=place, prepare=stop)
    assert [d.returncode for d in finished(3, *flags, "--resume", cwd=place)] == [0] * 3
    assert results(place / "out") == results(place / "s1")


def test_a_divided_model_needs_a_folder_that_all_see(place):
    done = finished(2, "--fsdp", cwd=place, own_flags={1: ("--output_dir", "elsewhere")})
    assert [d.returncode for d in done] == [1, 1]
    said = "".join(d.stderr for d in done)
    assert "process 1 does not see the output folder" in said and "with --fsdp every" in said


def test_one_process_asks_nobody():
    assert (processes.size(), processes.rank(), processes.local_size()) == (1, 0, 1)
    assert processes.gather([1, 2.5]) == [[1, 2.5]]
    assert processes.gather_text("ä") == ["ä"]
    assert processes.on_main(lambda: "done") == "done"
    assert processes.first_to_say("x") and processes.first_to_say("x")
    refuse_differences({"a": 1})
    processes.wait()
