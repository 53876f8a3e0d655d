"""Each example does what it says: pytest tests/whole/test_examples.py"""

import contextlib
import csv
import json
import math
import runpy
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import gpt2ft
from gpt2ft.parallel import processes
from tests.support.processes import together
from tests.support.tiny import tiny_gpt2

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
TEXT = "".join(f"{n} and {n} are {2 * n}, " + "so it is; " * (n % 7) + "\n" for n in range(300))
FIRST = {
    "prompt": "two and two are ",
    "completion": "four, and that is all there is to say about it",
}


@pytest.fixture
def run(model_folder, tmp_path, monkeypatch, capsys):
    """The example of that name with model, text and number of steps; returns its lines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")

    def run(name, n_steps=20, *, text="text.txt", model=model_folder):
        example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
        example["main"](str(model), text, n_steps)
        return capsys.readouterr().out.splitlines()

    return run


def number_after(word, line):
    words = line.replace(",", "").split()
    return float(words[words.index(word) + 1])


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def test_there_is_a_test_for_each_and_none_is_long():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    tested = {name for name in globals() if name.startswith("test_")}
    assert names and {f"test_{name}" for name in names} <= tested
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 80, path.name


def test_label_smoothing(run, model, monkeypatch):
    first, *_, last = run("label_smoothing", 40)
    assert number_after("perplexity", last) < number_after("perplexity", first)
    # The loss is that of torch on the whole batch.
    loss_of = runpy.run_path(str(EXAMPLES / "label_smoothing.py"))["smoothed_loss"]
    rows = [{"input_ids": [5, 6, 7, 8]}, {"input_ids": [9, 10]}]
    batch = gpt2ft.CausalLMCollator(0)(rows)
    loss = loss_of(model, batch)
    mask = (batch["labels"] != -100).long()
    logits = model(batch["input_ids"], attention_mask=mask).logits
    pieces = [logits[0, :3], logits[1, :1]]
    targets = torch.tensor([6, 7, 8, 10])
    expected = torch.nn.functional.cross_entropy(torch.cat(pieces), targets, label_smoothing=0.1)
    torch.testing.assert_close(loss / 4, expected, rtol=1e-5, atol=1e-6)


def test_distillation(run, tmp_path):
    tiny_gpt2(seed=5).save_pretrained(tmp_path / "model")
    first, *_, last = run("distillation", 60)
    assert number_after("loss", last) < number_after("loss", first)
    student = transformers.AutoModelForCausalLM.from_pretrained("gpt2-finetuned-student")
    assert student.config.n_layer == 1 and student.config.n_embd == 32


def test_lora(run, model_folder):
    """Saved is a usual model, in which only the layers that were adapted differ."""
    trained, first, *_, last = run("lora", 60)
    n_trained, n_all = (int(word.replace(",", "")) for word in trained.split()[1:4:2])
    assert 0 < n_trained < n_all / 2
    assert number_after("loss", last) < number_after("loss", first)
    before, after = weights(model_folder), weights("gpt2-finetuned-lora")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    adapted = [f"transformer.h.{n}.attn.{m}.weight" for n in (0, 1) for m in ("c_attn", "c_proj")]
    assert changed == set(adapted)


def test_freezing(run, tmp_path, tokenizer):
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=4, n_head=2, n_embd=32, n_positions=64, vocab_size=257)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "deep")
    tokenizer.save_pretrained(tmp_path / "deep")
    _, first, *_, last = run("freezing", 40, model=tmp_path / "deep")
    assert number_after("perplexity", last) < number_after("perplexity", first)
    before, after = weights("deep"), weights("gpt2-finetuned-last-blocks")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in before if ".h.2." in n or ".h.3." in n or "ln_f" in n}


def test_curriculum(run):
    lines = run("curriculum", 60)  # 300 rows in batches of 8: an epoch is 38 steps
    shortest, longest = ([number_after(w, line) for line in lines] for w in ("from", "to"))
    assert longest[0] <= shortest[1] <= longest[1] <= shortest[2]
    assert all(least < most for least, most in zip(shortest[3:], longest[3:], strict=True))
    assert min(shortest[3:]) < shortest[2]


def test_another_optimizer(run):
    """Also that it goes on where it was, with the state of that optimizer."""
    whole = run("another_optimizer", 40)
    Path("gpt2-finetuned-adafactor").rename("whole")
    run("another_optimizer", 20)
    resumed = run("another_optimizer", 40)
    assert resumed == ["resumed at step 20", *whole[2:]]


def test_activations(run):
    run("activations", 20)
    header, *rows = csv.reader(Path("activations.csv").read_text(encoding="utf-8").splitlines())
    assert header == ["step", "loss", "block 0", "block 1"] and len(rows) == 2
    assert all(float(size) > 0 for row in rows for size in row[2:])


def test_completions(run, tokenizer):
    records = [FIRST, {"prompt": "x" * 500, "completion": "out of reach"}] * 10
    Path("records.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    first, *_, last = run("completions", 30, text="records.jsonl")
    assert number_after("loss", last) < number_after("loss", first)
    per_sample = len(FIRST["completion"]) + 1  # and the end of text; a token is a byte
    assert {number_after("over", line) for line in (first, last)} <= {
        8 * per_sample,
        2 * per_sample,
    }


def test_preferences(run, model_folder, tmp_path):
    """The loss is that of the paper, of each pair; what was chosen gains on what was rejected."""
    records = [
        {"prompt": "is it so? ", "chosen": f"yes, {n} times", "rejected": f"no, not {n}"}
        for n in range(10)
    ]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    first, *_, last = run("preferences", 40, text="pairs.jsonl")
    assert number_after("loss", last) < number_after("loss", first) < 0.7
    assert {number_after("over", line) for line in (first, last)} <= {4, 2}

    def log_probability(model, record, kind):
        prompt, answer = (tokenizer(record[n])["input_ids"] for n in ("prompt", kind))
        ids = torch.tensor([[*prompt, *answer, tokenizer.eos_token_id]])
        each = model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])
        return float(each[len(prompt) - 1 :].sum())

    tokenizer = gpt2ft.load_tokenizer(str(model_folder))
    before = gpt2ft.load_model(str(model_folder))
    after = gpt2ft.load_model("gpt2-finetuned-preferences")
    expected = []
    with torch.no_grad():
        for record in records:
            gained = [
                log_probability(after, record, kind) - log_probability(before, record, kind)
                for kind in ("chosen", "rejected")
            ]
            assert gained[0] > gained[1]
            expected.append(math.log1p(math.exp(-0.1 * (gained[0] - gained[1]))))
    example = runpy.run_path(str(EXAMPLES / "preferences.py"))
    data, loss_fn = example["Pairs"](records, tokenizer), example["preference_loss"](before)
    count_fn = lambda batch: len(batch["input_ids"]) // 2  # noqa: E731
    fp32 = gpt2ft.resolve_precision("fp32", torch.device("cpu"))
    found = gpt2ft.evaluate(after, data, precision=fp32, loss_fn=loss_fn, count_fn=count_fn)
    assert found.n_targets == 10
    assert found.loss == pytest.approx(sum(expected) / 10, rel=1e-4)


def test_several_processes(run, model_folder, tmp_path):
    """Two processes print and save what one does."""
    alone = run("several_processes", 20)
    assert len(alone) == 2
    Path("gpt2-finetuned-together").rename("alone")
    together(2, several_processes, str(tmp_path), str(model_folder), 20)
    assert Path("printed-0").read_text().splitlines() == alone
    assert Path("printed-1").read_text() == ""
    found, expected = weights("gpt2-finetuned-together"), weights("alone")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def several_processes(folder, model, n_steps):
    """In each of the processes, which print into a file each."""
    with contextlib.chdir(folder), open(f"printed-{processes.local_rank()}", "w") as out:
        example = runpy.run_path(str(EXAMPLES / "several_processes.py"))
        with contextlib.redirect_stdout(out):
            example["main"](model, "text.txt", n_steps)
