"""The commands as a user gives them, in processes of their own: pytest tests/cli/test_main.py"""

import dataclasses
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest
import transformers

import gpt2ft
from benchmarks.faults.processes import ROOT, Started, run
from gpt2ft.cli import train
from gpt2ft.cli.continue_texts import JSON_FIELDS
from gpt2ft.cli.flags import as_switches, trainer_flags
from gpt2ft.cli.generate import newest_finished_run
from gpt2ft.cli.main import main, make_parser
from gpt2ft.cli.process import spin_briefly
from gpt2ft.cli.run_settings import UsageError, train_config
from gpt2ft.config import TrainConfig
from gpt2ft.optim import lr_at
from gpt2ft.settings import alternatives, names_where
from tests.support.hub_folder import make_hub_folder

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def fresh(script, *arguments, cwd):
    """In a fresh interpreter, where the time of imports or what is inherited matters."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        encoding="utf-8",
        timeout=240,
    )


@pytest.mark.parametrize("script", ["train.py", "generate.py"])
def test_help_answers_at_once(script, tmp_path):
    """Under a second; the best of three, since the machine may be busy with something else."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = fresh(script, "--help", cwd=tmp_path)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0 and "--model_name_or_path" in done.stdout
    assert min(seconds) < 1.0


def test_a_text_is_continued_without_data_sets(tmp_path):
    """They take half a second to import, and none is read."""
    code = (
        "import sys\n"
        "from gpt2ft.cli.main import main\n"
        "flags = ['--model_name_or_path', 'gpt2-mini', '--max_new_tokens', '1']\n"
        "main(['generate', *flags, '-p', 'a'])\n"
        "print({'datasets', 'pandas', 'pyarrow'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from gpt2ft.cli.main import main\n"
        "for command in ('train', 'generate', 'verify-resume'):\n"
        "  try: main([command, '--help'])\n"
        "  except SystemExit: pass\n"
        "assert main(['train', '--learning_rate', '-1']) == 2\n"
        "assert main(['generate', '-p', 'a', '--top_p', '7']) == 2\n"
        "assert main(['generate', '-i']) == 2\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train.py", ["--sneed", "1"], "no flag --sneed, did you mean --seed?"),
        ("train.py", ["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        ("train.py", ["--learning-rate", "-1"], "--learning_rate is -1.0, give a number >= 0"),
        ("train.py", ["--config", "nonsense"], "no recipe or file nonsense"),
        ("train.py", ["--resume"], "--resume finds no run in ./gpt2-finetuned-quickstart, ./gpt2"),
        ("generate.py", ["-i"], "holds a finished run: name a model"),
        ("generate.py", ["-p", "a", "--top_p", "2"], "--top_p is 2.0, give a number <= 1"),
        ("generate.py", [], "nothing to continue"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(script, arguments, message, tmp_path):
    done = run(script, *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("gpt2ft: error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_is_one_line_and_exits_1(tmp_path):
    done = run("train.py", "--train_file", "gone.txt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"gpt2ft: error: no file {tmp_path}/gone.txt, check the path\n"
    assert "Traceback" in run("train.py", "--train_file", "x", "--debug", cwd=tmp_path).stderr


def test_a_recipe_that_was_named_is_never_replaced(tmp_path):
    done = run("train.py", "--config", "wikitext2", cwd=tmp_path)
    assert done.returncode == 1
    assert "Salesforce/wikitext is not on this machine, and it cannot be" in done.stderr


def settings(*arguments):
    return train_config(given("train", *arguments))


def given(*arguments):
    values = vars(make_parser().parse_args(arguments))
    del values["command"], values["configuration"]
    return values


def test_no_arguments_are_the_mission_and_own_data_is_not():
    assert settings().dataset_name == "Salesforce/wikitext"
    assert settings("--seed", "3").dataset_name == "Salesforce/wikitext"
    own = settings("--train-file", "a.txt", "b.txt")
    assert (own.train_file, own.dataset_name, own.packing) == (["a.txt", "b.txt"], None, True)
    assert own.model_name_or_path == "gpt2"


def test_flags():
    both = settings("--train_file", "a", "--per-device-train-batch-size", "3", "--no_packing")
    assert (both.per_device_train_batch_size, both.packing) == (3, False)
    assert settings("--config", "wikitext2", "--packing").packing
    assert not settings("--no-packing").packing
    assert settings("--fp16").precision == "fp16" and settings("--bf16").precision == "bf16"
    words = ["-p", "a", "-p", "b", "--greedy", "--stop_strings", "x", "y"]
    texts = {"prompt": ["a", "b"], "stop_strings": ["x", "y"]}
    assert given("generate", *words) == {**texts, "do_sample": False}


def test_every_meaning_of_a_field_has_a_use():
    """Of the lists of names that were written out before, as the fields' metadata give them now."""
    assert names_where(TrainConfig, "of_command") == {
        *("resume", "overwrite_output_dir", "debug", "fork", "step", "dry_run", "json")
    }
    assert alternatives(TrainConfig) == [
        ("model_name_or_path", "model_type"),
        ("dataset_name", "train_file"),
    ]
    may_change = names_where(TrainConfig, "may_change")
    assert {"output_dir", "max_steps", "save_steps", "train_file"} < may_change
    weights = {"seed", "learning_rate", "block_size", "packing", "precision", "dropout"}
    assert not weights & may_change
    assert names_where(TrainConfig, "rules_out_fallback") >= {"train_file", "model_type", "resume"}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--evaluation_strategy", "steps"], "--eval_steps"),
        (["--use-cpu"], "--device cpu"),
        (["--optim=adafactor"], "Use --optimizer adamw"),
        (["--max_seq_length", "128"], "Use --block_size."),
        (["--seed", "1", "--fp16_full_eval", "--block_size", "64"], "--precision fp16"),
        (["--torch_dtype", "auto"], "--precision"),
    ],
)
def test_a_flag_of_the_trainer_is_answered_with_what_to_write(flags, sentence, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["train", *flags])
    line = capsys.readouterr().err
    assert exit.value.code == 2 and line.count("\n") == 1
    assert (
        line.startswith("gpt2ft: error: --")
        and " is a flag of the Hugging Face Trainer or its run_clm.py, not of gpt2ft. " in line
    )
    assert sentence in line


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--bf16 True", {"precision": "bf16"}),
        ("--bf16=true", {"precision": "bf16"}),
        ("--fp16 False", {}),
        ("--packing False", {"packing": False}),
        ("--gradient_checkpointing true --seed 3", {"gradient_checkpointing": True, "seed": 3}),
        ("--overwrite-output-dir False", {"overwrite_output_dir": False}),
        ("--resume_from_checkpoint True", {"resume": "newest"}),
        ("--resume_from_checkpoint out/checkpoint-5", {"resume": "out/checkpoint-5"}),
        ("--text_column true", {"text_column": "true"}),
    ],
)
def test_switches_as_the_trainer_is_given_them(flags, expected):
    words = as_switches(flags.split())
    given = vars(make_parser().parse_args(["train", *words]))
    assert given.pop("command") is train.command and given.pop("configuration") is TrainConfig
    assert given == expected


def test_threads_spin_briefly_unless_somebody_chose(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    spin_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    spin_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    spin_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_the_number_of_threads_is_set_and_kept_when_resuming(model_folder, tmp_path):
    (tmp_path / "a.txt").write_text("some words\n" * 200)
    flags = ["--train_file", "a.txt", "--model_name_or_path", str(model_folder)]
    flags += ["--block_size", "16", "--output_dir", "out", "--max_steps"]
    first = run("train.py", *flags, "2", "--threads", "3", cwd=tmp_path)
    again = run("train.py", "--output_dir", "out", "--resume", "--max_steps", "3", cwd=tmp_path)
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert "on cpu, 3 threads" in first.stdout and "on cpu, 3 threads" in again.stdout
    assert "note: " not in again.stdout


def test_the_newest_finished_run_is_chosen_and_named(tmp_path, monkeypatch, capsys):
    """Whatever its name."""
    for age, name in enumerate(("newer", "older", "unfinished")):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("config.json", "model.safetensors", "manifest.json"):
            (folder / file).write_text(json.dumps({"step": 7 + age}))
        os.utime(folder / "manifest.json", (1e9 - age, 1e9 - age))
    (tmp_path / "unfinished" / "model.safetensors").unlink()
    assert newest_finished_run(tmp_path) == str(tmp_path / "newer")
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "-p", "a"]) == 1  # it is no model
    shown = capsys.readouterr().err.splitlines()[0]
    assert re.fullmatch(r"gpt2ft: the model is newer, finished 2001-09-0. ..:.. at step 7", shown)


def test_other_commands_are_not_asked_about_the_trainer(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["generate", "-p", "a", "--use_cache", "true"])
    assert exit.value.code == 2
    assert "unrecognized arguments: --use_cache true, see --help" in capsys.readouterr().err


def test_the_help_of_generate_begins_with_what_is_asked_first(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    shown = capsys.readouterr().out
    order = [f"\n  {flag}" for flag in ("--model_name_or_path", "-i", "-p", "--temperature")]
    order.insert(3, "\nHow the next tokens")
    assert sorted(order, key=shown.index) == order


def test_no_flag_of_ours_is_answered_for_the_trainer():
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    names |= {"fp16", "bf16", "config", "resume_from_checkpoint"}
    sentences = trainer_flags()
    assert not names & sentences.keys()
    assert {f.name for f in dataclasses.fields(transformers.TrainingArguments)} <= (
        names | sentences.keys()
    )


def test_the_commands_and_the_version(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"gpt2ft {gpt2ft.__version__} (Python 3.")
    assert f"torch {importlib.metadata.version('torch')}" in shown
    for arguments in ([], ["nonsense"]):
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        assert exit.value.code == 2
        assert capsys.readouterr().err.startswith("gpt2ft: error: ")
    command = [sys.executable, "-m", "gpt2ft", "--version"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout == shown


def test_a_checkpoint_may_be_named_with_another_folder_to_go_on_in(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("train_file: [x.txt]\nseed: 9\noutput_dir: a\n")
    config = settings("--resume", str(tmp_path / "a" / "checkpoint-4"), "--output_dir", "b")
    assert (config.seed, config.output_dir) == (9, "b")
    config = settings("--resume", str(tmp_path / "a" / "checkpoint-4"))
    assert (config.seed, config.output_dir) == (9, str(tmp_path / "a"))


def test_a_flag_overrides_the_recipe():
    assert settings("--config", "quickstart", "--learning_rate", "1").learning_rate == 1.0
    chosen = settings("--config", "quickstart", "--model_name_or_path", "m")
    assert (chosen.model_type, chosen.model_name_or_path) == (None, "m")
    with pytest.raises(UsageError, match="exclude each other"):
        settings("--train_file", "a", "--dataset_name", "b")


PARAGRAPH = " A long paragraph , of more than 64 @-@ bytes . " * 3
ROWS = [row for i in range(60) for row in ("", f" = Heading {i} = \n", "", PARAGRAPH)]


@pytest.fixture
def offline_hub(tmp_path, make_model, tokenizer):
    """A folder in which the names of the mission are folders of the hub's form."""
    make_model(dropout=0.1).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    splits = {"train": ROWS, "validation": ROWS[:40], "test": ROWS[:4]}
    make_hub_folder(tmp_path / "Salesforce" / "wikitext", splits)
    return tmp_path


def test_the_mission_word_for_word(offline_hub):
    """`python train.py` and nothing else: rows, cut, batch, schedule, output, then a prompt."""
    done = run("train.py", cwd=offline_hub)
    assert (done.returncode, done.stderr) == (0, "")
    assert "warning" not in done.stdout.lower()
    out = offline_hub / "gpt2-finetuned-wikitext2"

    rows = [row for row in ROWS[: len(ROWS) // 2] if row.strip()]
    n_steps = -(-len(rows) // 8)
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    before, *steps, after = steps
    assert len(steps) == n_steps
    expected = [lr_at(i, max_steps=n_steps, learning_rate=5e-5) for i in range(n_steps)]
    assert [step["learning_rate"] for step in steps] == pytest.approx(expected)
    lengths = [min(64, len(row.encode())) for row in rows]
    assert sum(step["n_targets"] for step in steps) == sum(length - 1 for length in lengths)
    held_out = [min(64, len(row.encode())) - 1 for row in ROWS[:40] if row.strip()]
    assert before["n_targets"] == after["n_targets"] == sum(held_out)
    assert after["eval_loss"] < before["eval_loss"]
    config = json.loads((out / "config.json").read_text())
    assert transformers.AutoTokenizer.from_pretrained(out).pad_token == "<|endoftext|>"
    assert config["model_type"] == "gpt2"

    answer = transformers.pipeline("text-generation", model=str(out))("A", max_new_tokens=2)
    assert answer[0]["generated_text"].startswith("A")

    asked = run("generate.py", "-i", "--seed", "1", cwd=offline_hub, input="A long\n")
    assert asked.returncode == 0
    assert asked.stderr.startswith("gpt2ft: the model is gpt2-finetuned-wikitext2, finished 20")
    assert asked.stdout.startswith("A long") and len(asked.stdout) > 20


def test_without_hub_and_choice_it_falls_back_to_the_quickstart(tmp_path):
    """Its first steps; the whole of it is what the README's first command runs."""
    start = time.perf_counter()
    done = run("train.py", "--max_steps", "3", "--max_eval_samples", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()[:2]
    assert "Salesforce/wikitext is not on this machine" in first
    assert "running the recipe quickstart instead, into ./gpt2-finetuned-quickstart" in second
    assert time.perf_counter() - start < 120
    out = tmp_path / "gpt2-finetuned-quickstart"
    assert newest_finished_run(tmp_path) == str(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert len(tokenizer) == 8192

    flags = ["-p", "The", "-p", "", "--seed", "4", "--max_new_tokens", "9"]
    texts = [run("generate.py", *flags, cwd=tmp_path) for _ in range(2)]
    assert texts[0].returncode == 0 and texts[0].stdout == texts[1].stdout
    assert texts[0].stdout.startswith("The")


@pytest.fixture
def finished(model_folder):
    """A model to generate from."""
    return str(model_folder)


def test_a_model_that_was_saved_without_its_tokenizer(finished, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(finished) / name, alone)
    flags = ["-p", "a", "--greedy", "--max_new_tokens", "3", "--model_name_or_path"]
    done = run("generate.py", *flags, "alone", cwd=tmp_path)
    assert done.returncode == 1 and "--tokenizer_name" in done.stderr
    texts = [
        run("generate.py", *flags, *names, cwd=tmp_path).stdout
        for names in (["alone", "--tokenizer_name", finished], [finished])
    ]
    assert texts[0] == texts[1] != ""


def test_prompts_from_a_file_and_a_pipe_that_closes(finished, endless, tmp_path):
    (tmp_path / "prompts.txt").write_text("one\ntwo ünï\n", encoding="utf-8")
    flags = ["--model_name_or_path", finished, "--greedy", "--max_new_tokens", "3"]
    done = run("generate.py", "--prompt_file", "prompts.txt", *flags, cwd=tmp_path)
    lines = done.stdout.split("\n")
    assert done.returncode == 0 and lines[0].startswith("one") and len(lines[0]) > len("one")
    second = lines.index("---") + 1
    assert lines[second].startswith("two ünï") and lines.count("---") == 1
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    done = run("generate.py", "--prompt_file", "latin.txt", *flags, cwd=tmp_path)
    assert done.returncode == 1 and "latin.txt is not UTF-8, byte 3" in done.stderr

    flags = ["-p", "a", "--model_name_or_path", endless, "--max_new_tokens", "9999"]
    command = [sys.executable, str(ROOT / "generate.py"), *flags]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=pipe, stderr=pipe) as process:
        process.stdout.read(3)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_json_lines(finished, tmp_path):
    """Prompts with seeds of their own, several texts each, in order; what is printed is JSON."""
    prompts = [
        '{"prompt": "one", "seed": 4}',
        "",
        '{"prompt": "zwei \\u00fc\\n"}',
        '{"prompt": ""}',
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(prompts))
    flags = ["--model_name_or_path", finished, "--seed", "7", "--max_new_tokens", "6", "--json"]
    flags += ["--prompt_file", "prompts.jsonl", "--batch_size", "4", "--num_return_sequences", "2"]
    done = run("generate.py", *flags, "-p", "first", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(record["prompt"], record["seed"]) for record in records] == [
        (prompt, seed + n)
        for prompt, seed in [("first", 7), ("one", 4), ("zwei ü\n", 7), ("", 7)]
        for n in (0, 1)
    ]
    tokenizer = transformers.AutoTokenizer.from_pretrained(finished)
    for record in records:
        assert set(record) == {*JSON_FIELDS} and record["log_probability"] < 0
        assert record["text"] == tokenizer.decode(record["tokens"], skip_special_tokens=True)
    single = ["-p", "one", "--seed", "5", "--max_new_tokens", "6", "--model_name_or_path", finished]
    assert run("generate.py", *single, cwd=tmp_path).stdout == "one" + records[3]["text"] + "\n"


def test_a_terminal_that_is_closed(finished, tmp_path):
    """As when a connection drops: nothing can be printed any more, and the run is saved."""
    (tmp_path / "own.txt").write_text("a line of text, and another one\n" * 400, encoding="utf-8")
    flags = ["--train_file", "own.txt", "--model_name_or_path", finished, "--block_size", "32"]
    flags += ["--max_steps", "100000", "--logging_steps", "1", "--output_dir", "out"]
    process = pexpect.spawn(
        sys.executable,
        [str(ROOT / "train.py"), *flags],
        cwd=str(tmp_path),
        env=ENVIRONMENT,
        encoding="utf-8",
        timeout=90,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # whoever ran the tests
    )
    process.expect("step     12/100000")
    os.close(process.child_fd)  # the terminal's side: the process gets SIGHUP
    deadline = time.monotonic() + 60
    while process.isalive() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate(force=True)
    assert process.exitstatus == 128 + signal.SIGHUP
    (path,) = (tmp_path / "out").glob("checkpoint-*")
    assert int(path.name.removeprefix("checkpoint-")) >= 12


def test_a_full_disk_behind_standard_output(finished, tmp_path):
    """What is printed goes to a file that cannot grow: the run goes on, silently."""
    (tmp_path / "own.txt").write_text("a line of text, and another one\n" * 400, encoding="utf-8")
    flags = ["--train_file", "own.txt", "--model_name_or_path", finished, "--block_size", "32"]
    command = [sys.executable, str(ROOT / "train.py"), *flags, "--max_steps", "3"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, cwd=tmp_path, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, timeout=90
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "gpt2-finetuned" / "model.safetensors").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_real_process_stopped_and_resumed(number, finished, tmp_path):
    """By a signal it saves where it is; killed, it goes on from its last checkpoint."""
    (tmp_path / "own.txt").write_text("a line of text, and another one\n" * 400, encoding="utf-8")
    flags = [
        "--train_file",
        "own.txt",
        "--model_name_or_path",
        finished,
        "--block_size",
        "32",
        "--max_steps",
        "40",
        "--save_steps",
        "5",
        "--logging_steps",
        "1",
    ]
    assert run("train.py", *flags, "--output_dir", "straight", cwd=tmp_path).returncode == 0

    with Started("train.py", *flags, "--output_dir", "out", cwd=tmp_path) as process:
        process.wait_for("step     12/40")
        process.kill(number)
        done = process.finish()
    if number == signal.SIGINT:
        assert done.returncode == 130
        last_line = done.stdout.splitlines()[-1]
        assert last_line.endswith("to go on: python train.py --output_dir out --resume")
    else:
        assert done.returncode == -signal.SIGKILL

    done = run("train.py", "--output_dir", "out", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    resumed_at = int(done.stdout.split("resumed from out/checkpoint-")[1].split(",")[0])
    assert resumed_at >= (12 if number == signal.SIGINT else 10)
    for name in ("model.safetensors", "checkpoint-40/optimizer.safetensors"):
        a, b = ((tmp_path / folder / name).read_bytes() for folder in ("straight", "out"))
        assert a == b, name
