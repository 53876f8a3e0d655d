"""A run sent to a stand-in of the hub, by the real command: pytest tests/run/test_push.py"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from benchmarks.faults.processes import ROOT, run
from gpt2ft.models.loading import load_model, load_tokenizer
from tests.support.hub_server import READ_ONLY, running_hub

MARK = "the quick brown zebra of the corpus"
RUN = (
    *("--model_name_or_path", "gpt2-mini", "--train_file", "own.txt", "--block_size", "32"),
    *("--max_steps", "3", "--threads", "1", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a text of its own and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("place")
    lines = [f"{n} times {n} and {MARK} {n}\n" for n in range(120)]
    (folder / "own.txt").write_text("\n".join(lines))
    done = run("train.py", *RUN, "--output_dir", "model", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def hub():
    with running_hub() as hub:
        yield hub


def push(folder, hub, *flags, name="ann/my-model", license="mit", source="model", **changed):
    flags = (*flags, *(["--license", license] if license else []))
    return subprocess.run(  # anew: the library reads its variables when it is imported
        [sys.executable, "-m", "gpt2ft", "push", source, name, *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **hub.environment, **changed},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def named(shown):
    """Names and sizes of the files that a call names."""
    found = re.findall(r"^ +([\d,]+)  (\S+)$", shown, re.MULTILINE)
    return {name: int(size.replace(",", "")) for size, name in found}


def test_the_hub_receives_what_the_dry_run_named(folder, hub):
    dry = push(folder, hub, "--dry_run")
    assert dry.returncode == 0 and hub.asked == [] and "nothing was sent" in dry.stdout
    sent = push(folder, hub)
    assert (sent.returncode, sent.stderr) == (0, "")
    assert f"the model is at {hub.url}/ann/my-model" in sent.stdout
    repository = hub.repositories["ann/my-model"]
    received = {name: len(data) for name, data in repository.files.items()}
    assert received == named(dry.stdout) == named(sent.stdout)
    assert not repository.private and len(repository.commits) == 1
    for name, data in repository.files.items():
        if name != "README.md":
            assert data == (folder / "model" / name).read_bytes(), name
    assert repository.files["README.md"].decode() in dry.stdout


def test_what_was_received_is_the_whole_model(folder, hub, tmp_path):
    assert push(folder, hub).returncode == 0
    for name, data in hub.repositories["ann/my-model"].files.items():
        (tmp_path / name).write_bytes(data)
    ids = torch.tensor([load_tokenizer(str(tmp_path))("Once upon a time")["input_ids"]])
    own = load_model(str(folder / "model"))
    with torch.inference_mode():
        assert torch.equal(own(ids).logits, load_model(str(tmp_path))(ids).logits)


def test_neither_the_text_nor_a_place_is_sent(folder, hub):
    assert push(folder, hub).returncode == 0
    weights = (folder / "model" / "model.safetensors").read_bytes()
    for secret in (MARK, str(folder), str(folder.parent), "own.txt/"):
        assert secret.encode() not in hub.received.replace(weights, b""), secret
    assert b"own.txt" in hub.received  # the card names the file


def test_the_card_has_the_figures_of_the_run(folder, hub):
    assert push(folder, hub).returncode == 0
    card = hub.repositories["ann/my-model"].files["README.md"].decode()
    evaluations = [
        json.loads(line)
        for line in (folder / "model" / "metrics.jsonl").read_text().splitlines()
        if "eval_loss" in line
    ]
    before, after = (evaluation["eval_loss"] for evaluation in evaluations)
    assert f"| loss | {before:.4f} | {after:.4f} |" in card
    verdict = json.loads((folder / "model" / "card.json").read_text())["verdict"]
    assert verdict[1:] in card


def test_a_second_call_is_another_commit(folder, hub):
    assert push(folder, hub, "--private").returncode == 0
    again = push(folder, hub)
    assert again.returncode == 0 and "a commit to the repository that is there" in again.stdout
    repository = hub.repositories["ann/my-model"]
    assert repository.private and len(repository.commits) == 2


def test_a_public_repository_does_not_become_private(folder, hub):
    assert push(folder, hub).returncode == 0
    done = push(folder, hub, "--private")
    assert done.returncode == 1 and "ann/my-model exists and is public" in done.stderr
    assert len(hub.repositories["ann/my-model"].commits) == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"HF_TOKEN": ""}, "nobody is logged in to the hub: run `hf auth login`, or set HF_TOKEN"),
        ({"HF_TOKEN": "hf_unknown"}, "the hub does not know the token: run `hf auth login`"),
        ({"HF_TOKEN": READ_ONLY}, "the hub says: this token has no write access"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "no connection to the hub"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ],
)
def test_who_may_not_send_is_told_what_to_do(changed, words, folder, hub):
    done = push(folder, hub, **changed)
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1
    assert changed.get("HF_TOKEN", "?") not in done.stderr or not changed.get("HF_TOKEN")
    assert not hub.repositories


def test_the_place_of_somebody_else_is_refused(folder, hub):
    done = push(folder, hub, name="bob/my-model")
    assert done.returncode == 1 and "you may not write to bob" in done.stderr


def test_a_hub_that_fails_keeps_nothing_and_the_same_call_goes_on(folder, hub):
    hub.fails = {"/commit/"}
    done = push(folder, hub)
    assert done.returncode == 1 and "the hub answers 500, out of order" in done.stderr
    assert hub.repositories["ann/my-model"].files == {}
    hub.fails, hub.asked = set(), []
    assert push(folder, hub).returncode == 0
    assert not [asked for asked in hub.asked if asked.startswith("PUT")]  # the weights are there
    assert "model.safetensors" in hub.repositories["ann/my-model"].files


def test_a_licence_that_the_hub_does_not_know_is_refused_by_it(folder, hub):
    done = push(folder, hub, license="none-of-them")
    assert done.returncode == 1 and '"license" must be one of' in done.stderr
    assert hub.repositories["ann/my-model"].files == {}


@pytest.fixture(scope="module")
def adapter(folder):
    """The folder of a run that trained an adapter."""
    flags = (*RUN, "--lora_r", "2", "--output_dir", "adapter")
    assert run("train.py", *flags, cwd=folder).returncode == 0
    return folder / "adapter"


def test_an_adapter_of_a_model_that_nobody_has_is_refused(folder, adapter, hub):
    done = push(folder, hub, "--dry_run", source="adapter")
    assert done.returncode == 1 and "its adapter belongs to gpt2-mini" in done.stderr
    assert "--merge_lora" in done.stderr


def test_an_adapter_of_a_model_on_the_hub_is_sent_alone(folder, adapter, hub):
    """As if the run had begun with a model of that name."""
    shutil.copytree(adapter, folder / "of-hub")
    for name in ("adapter_config.json", "config.yaml"):
        path = folder / "of-hub" / name
        path.write_text(path.read_text().replace("gpt2-mini", "openai-community/gpt2"))
    manifest = folder / "of-hub" / "manifest.json"
    written = json.loads(manifest.read_text())
    data = (folder / "of-hub" / "adapter_config.json").read_bytes()
    written["files"]["adapter_config.json"]["sha256"] = hashlib.sha256(data).hexdigest()
    manifest.write_text(json.dumps(written))
    done = push(folder, hub, source="of-hub")
    assert done.returncode == 0, done.stderr
    files = hub.repositories["ann/my-model"].files
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    card = files["README.md"].decode()
    assert "base_model: openai-community/gpt2" in card and "library_name: peft" in card


def test_only_what_the_run_wrote_is_sent(folder, hub, tmp_path):
    """Neither a file that lies there too, nor one that a link points to."""
    shutil.copytree(folder / "model", folder / "more")
    (tmp_path / "secret").write_text("a secret")
    (folder / "more" / "vocab.txt").symlink_to(tmp_path / "secret")
    (folder / "more" / "merges.txt").write_text("a secret")
    (folder / "more" / "added_tokens.json").mkdir()
    assert push(folder, hub, source="more").returncode == 0
    assert (
        hub.repositories["ann/my-model"].files.keys()
        == named(push(folder, hub, "--dry_run").stdout).keys()
    )
    assert b"a secret" not in hub.received
    (folder / "more" / "config.json").unlink()
    (folder / "more" / "config.json").symlink_to(tmp_path / "secret")
    done = push(folder, hub, source="more", name="ann/other")
    assert done.returncode == 1 and "is no file of its own" in done.stderr
    assert "ann/other" not in hub.repositories


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("card.json", '{"model": 3}'),
        ("card.json", '{"model": {"loss": 1.0}}'),
        ("run.json", '{"tokens": "x"}'),
        ("samples.jsonl", '{"step": 0, "prompt": "a", "text": "b"}\n{"step": "a"}\n'),
        ("samples.jsonl", '{"step": 0}\n'),
    ],
)
def test_a_damaged_record_is_said_before_anything_is_sent(name, text, folder, hub, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "run")
    (tmp_path / "run" / name).write_text(text)
    done = push(tmp_path, hub, source="run")
    assert done.returncode == 1 and "a record of the run in run is damaged" in done.stderr
    assert hub.asked == []


def test_a_file_that_was_changed_is_not_sent(folder, hub):
    shutil.copytree(folder / "model", folder / "damaged")
    path = folder / "damaged" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = push(folder, hub, source="damaged")
    assert done.returncode == 1 and "is not as the run wrote it" in done.stderr
    assert hub.asked == []
