"""The terminal, by command and in a pseudo-terminal: pytest tests/cli/test_text_session.py"""

import os
import re
import signal
import string
import sys
import time
from dataclasses import replace

import pexpect
import pytest
import torch

from benchmarks.faults.processes import ROOT
from gpt2ft import Sampling, generate
from gpt2ft.cli.columns import n_cells
from gpt2ft.cli.session import SETTINGS
from gpt2ft.cli.text_session import TextSession
from gpt2ft.generation.config import GenerateConfig
from gpt2ft.generation.ready_model import ReadyModel
from tests.support.screen import Screen


@pytest.fixture
def screen():
    return Screen()


@pytest.fixture
def conversation(make_model, tokenizer, screen, monkeypatch):
    """With a model of seed 0, and more to load by their seed as name."""
    monkeypatch.setenv("COLUMNS", "60")
    letters = [ids for (ids,) in tokenizer(list(string.ascii_letters))["input_ids"]]
    only_ascii = torch.full((257,), -1e4)
    only_ascii[letters] = 0.0

    def load(name):
        if not name.isdigit():
            raise FileNotFoundError(f"no model {name}")
        model = make_model(seed=int(name)).eval()
        model.lm_head.register_forward_hook(lambda module, args, logits: logits + only_ascii)
        return ReadyModel(name, model, tokenizer)

    config = GenerateConfig(interactive=True, seed=5, max_new_tokens=12)
    conversation = TextSession(config, load("0"), load, screen.append)
    conversation.load = load
    return conversation


def written(conversation, prompt, seed, name="0", **settings):
    """What a model writes on from a prompt, by the function for programs."""
    model = conversation.load(name)
    sampling = Sampling(**{"max_new_tokens": 12, **settings})
    (text,) = generate(model.model, model.tokenizer, prompt, sampling, seed=seed)
    return text.text


def test_texts_again_on_and_back(conversation, screen):
    """/retry takes the next seed, /continue goes on from all of it, /undo returns."""
    conversation.answer("a cat")
    first = "a cat" + written(conversation, "a cat", 5)
    assert screen.take() == first
    conversation.answer("/retry")
    second = "a cat" + written(conversation, "a cat", 6)
    assert screen.take() == second != first
    conversation.answer("/continue")
    third = written(conversation, second, 7)
    assert screen.take() == third
    conversation.answer("/continue and more")
    assert screen.take() == " and more" + written(conversation, second + third + " and more", 8)
    for expected in (second + third, second, first, "no text is left"):
        conversation.answer("/undo")
        assert screen.take() == expected
    for command in ("/undo", "/retry", "/continue", "/probs", "/stats", "/save x", "/compare 1"):
        with pytest.raises(ValueError, match="there is no text yet"):
            conversation.answer(command)


VALUES = {
    "max_new_tokens": ("7", 7, "x", "0"),
    "do_sample": ("false", False, "3", "x"),
    "temperature": ("0.25", 0.25, "hot", "-1"),
    "top_k": ("3", 3, "1.5", "-1"),
    "top_p": ("0.5", 0.5, "x", "1.5"),
    "min_p": ("0.1", 0.1, "x", "2"),
    "typical_p": ("0.9", 0.9, "x", "0"),
    "repetition_penalty": ("1.3", 1.3, "x", "nan"),
    "no_repeat_ngram_size": ("2", 2, "x", "-1"),
    "max_verbatim": ("20", 20, "x", "-1"),
    "bad_words": ('[a, "b c"]', ["a", "b c"], "", ""),
    "stop_strings": ("The end.", ["The end."], "", ""),
    "seed": ("none", None, "x", "-1"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting(name, conversation, screen):
    """Set, shown, checked as the flags are, and back at the start's with /reset."""
    value, expected, *wrong = VALUES[name]
    before = conversation._config
    conversation.answer(f"/set {name} {value}")
    assert screen.take() == f"{name} = {expected}"
    assert conversation._config == replace(before, **{name: expected})
    conversation.answer("/settings")
    assert re.search(rf"^{name} +{re.escape(str(expected))}$", screen.take(), re.MULTILINE)
    for bad in wrong:
        with pytest.raises(ValueError, match=name):
            conversation.answer(f"/set {name} {bad}")
    assert conversation._config == replace(before, **{name: expected})
    conversation.answer("/reset")
    assert conversation._config == before


def test_settings_are_used(conversation, screen):
    conversation.answer("/set temperature 0")
    conversation.answer("/set max_new_tokens 3")
    screen.take()
    conversation.answer("a cat")
    assert screen.take() == "a cat" + written(
        conversation, "a cat", 5, temperature=0, max_new_tokens=3
    )


def test_what_is_no_command(conversation):
    for line, message in (
        ("/nonsense", "unknown command /nonsense; /help lists commands"),
        ("/", "unknown command /; /help lists commands"),
        ("/_current", "unknown command /_current"),
        ("/set", "/set needs a name and a value; the settings are max_new_tokens, "),
        ("/set colour red", "unknown setting colour; the settings are max_new_tokens, "),
        ("/set __class__ x", "unknown setting __class__"),
        ("/set top_k", "/set top_k needs a value"),
        ("/load", "/load needs the name of a model"),
        ("/compare", "there is no text yet"),
        ("/load gone", "no model gone"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
            conversation.answer(line)


@pytest.mark.parametrize("line", ["/quit", "/exit", "quit", "exit", " exit "])
def test_how_to_leave(line, conversation, screen):
    with pytest.raises(EOFError):
        conversation.answer(line)
    assert screen.take() == ""


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("none", ()),
        ("[]", ()),
        ("a", ("a",)),
        ("a b", ("a b",)),
        ('"."', (".",)),
        (r'"\n"', ("\n",)),
        ("'none'", ("none",)),
        ('[a, "b c"]', ("a", "b c")),
        ("1", ("1",)),
    ],
)
def test_lists_as_they_are_typed(typed, words, conversation):
    conversation.answer(f"/set bad_words {typed}")
    assert conversation._config.bad_words == words


def test_a_text_may_begin_with_a_slash(conversation, screen):
    conversation.answer("//set")
    assert screen.take().startswith("/set")
    conversation.answer("/set\nin several lines")
    assert screen.take().startswith("/set\nin several lines")


def test_help_names_every_command(conversation, screen):
    conversation.answer("/help")
    shown = screen.take()
    assert shown in (ROOT / "docs/how-to/generate.md").read_text(encoding="utf-8")
    lines = shown.splitlines()
    commands = "help quit set settings seed stats retry continue undo reset load compare save probs"
    assert [line.split()[0] for line in lines[1:]] == [f"/{name}" for name in commands.split()]
    assert all(len(line.split()) > 2 for line in lines)


def test_seeds(conversation, screen):
    conversation.answer("/set seed none")
    screen.take()
    conversation.answer("a")
    text = screen.take()
    conversation.answer("/seed")
    seed = int(screen.take().removeprefix("the text has seed "))
    conversation.answer(f"/seed {seed}")
    screen.take()
    conversation.answer("a")
    assert screen.take() == text


def test_another_model_and_side_by_side(conversation, screen, tokenizer):
    """The same prompt and seed; within the width; and after /load the text goes on in the other."""
    conversation.answer("a cat sat")
    mine = screen.take()
    conversation.answer("/compare 1 2")
    shown = screen.take()
    rows = shown.splitlines()
    assert all(n_cells(row) <= 60 for row in rows)
    assert [row.split() for row in rows[:2]] == [["0", "1", "2"], ["─" * 18] * 3]
    columns = ["".join(row.ljust(60)[i : i + 18] for row in rows[2:]) for i in (0, 20, 40)]
    columns = ["".join(column.split()) for column in columns]
    for column, name in zip(columns, "012", strict=True):
        text = "a cat sat" + written(conversation, "a cat sat", 5, name)
        assert column == text.replace(" ", "")
    assert len(set(columns)) == 3
    conversation.answer("/load 1")
    assert screen.take() == "loaded 1"
    conversation.answer("/continue")
    assert screen.take() == written(conversation, mine, 6, "1")
    conversation.answer("/settings")
    assert re.match(r"model +1\n", screen.take())


def test_probabilities_are_those_of_the_model(conversation, screen, tokenizer):
    conversation.answer("a cat")
    text = screen.take()
    conversation.answer("/probs")
    lines = screen.take().splitlines()
    with torch.no_grad():
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        logits = conversation.load("0").model(ids).logits[0, -1]
    assert len(text) == len("a cat") + 12
    expected = logits.softmax(-1).topk(10)
    shares = [re.search(r"(\d+\.\d\d)%", line)[1] for line in lines]
    assert shares == [f"{100 * share:.2f}" for share in expected.values.tolist()]
    for line, token in zip(lines, expected.indices.tolist(), strict=True):
        assert line.startswith((repr(tokenizer.decode([token])), "<|endoftext|>"))


def test_a_vocabulary_of_fewer_than_ten(conversation, screen, monkeypatch):
    monkeypatch.setattr("gpt2ft.cli.text_session.PROBABLE_TOKENS", 1000)
    conversation.answer("a cat")
    screen.take()
    conversation.answer("/probs")
    assert len(screen.take().splitlines()) == 257


def test_save_adds_to_a_file(conversation, screen, tmp_path):
    conversation.answer("a cat")
    text = screen.take()
    conversation.answer(f"/save {tmp_path}/out.txt")
    conversation.answer(f"/save {tmp_path}/out.txt")
    assert (tmp_path / "out.txt").read_text("utf-8") == f"{text}\n\n" * 2
    with pytest.raises(OSError):
        conversation.answer(f"/save {tmp_path}/gone/out.txt")


def test_stats(conversation, screen):
    conversation.answer("a cat")
    screen.take()
    conversation.answer("/stats")
    conversation.answer("/set max_new_tokens 5")
    conversation.answer("/retry")
    conversation.answer("/undo")
    screen.clear()
    conversation.answer("/stats")
    numbers = re.match(r"12 tokens: the first after (.*) s, then (.*) a second", screen.take())
    assert 0 < float(numbers[1]) < 10 and float(numbers[2]) > 1


def test_past_the_window_is_said_once(conversation, screen):
    conversation.answer("a" * 60)
    assert screen.take().endswith("newest 32 to 64)")
    conversation.answer("a" * 60)
    assert "newest" not in screen.take()


def test_a_text_that_fails_is_no_text(conversation, screen):
    with torch.no_grad():
        next(conversation._model.model.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        conversation.answer("a cat")
    with pytest.raises(ValueError, match="there is no text yet"):
        conversation.answer("/retry")


def test_completion(conversation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file[1].txt").touch()
    assert conversation.complete("/se") == ["/seed", "/set", "/settings"]
    assert conversation.complete("/set top") == ["top_k", "top_p"]
    assert conversation.complete("/set top_k ") == []
    assert conversation.complete("/load fo") == ["folder/"]
    assert conversation.complete("/compare x f") == ["file[1].txt", "folder/"]
    assert conversation.complete("a text /se") == conversation.complete("fo") == []


# --- the program


@pytest.fixture(params=["prompt_toolkit", "readline"])
def terminal(request, tmp_path, endless):
    """`generate.py -i` in a pseudo-terminal, with either way of line editing."""
    (tmp_path / "hidden").mkdir()
    if request.param == "readline":
        (tmp_path / "hidden" / "prompt_toolkit.py").write_text("raise ImportError")
    environment = {
        **os.environ,
        **{"PYTHONPATH": f"{tmp_path / 'hidden'}:{ROOT}", "HOME": str(tmp_path)},
        **{"OMP_NUM_THREADS": "1", "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
    }
    environment.pop("COLUMNS", None)
    flags = ["-i", "--model_name_or_path", endless, "--seed", "1", "--max_new_tokens", "20"]
    process = pexpect.spawn(
        sys.executable,
        [str(ROOT / "generate.py"), *flags],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as from a script's `&`
        cwd=str(tmp_path),
        env=environment,
        encoding="utf-8",
        timeout=60,
        dimensions=(24, 80),
    )
    yield Terminal(process)
    process.close()


class Terminal:
    """A person at it: types a line, and reads until the next prompt."""

    def __init__(self, process):
        self.process = process
        self.read()

    def type(self, line):
        """What is shown from there to the next prompt; the line itself comes first."""
        self.process.send(line)
        time.sleep(0.1)  # else what is typed is drawn while the last prompt is
        self.process.send("\r")
        return self.read()

    def read(self, prompt="gpt2ft>"):
        """What moves the cursor or colours is the line editor's: no text can write an escape."""
        shown, deadline = "", time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                shown += self.process.read_nonblocking(4096, timeout=0.15)
            except pexpect.TIMEOUT:
                text = re.sub(r"\x1b(?:\[[?0-9;>]*[a-zA-Z]|[=>])", "", shown).replace("\r", "")
                if text.rstrip().endswith(prompt):
                    assert "\x1b" not in text
                    return text
        raise AssertionError(f"no {prompt} but {shown}")


@pytest.mark.parametrize("terminal", ["readline"], indirect=True)
def test_the_program(terminal, endless, tmp_path):
    """Every command once, as typed."""
    assert terminal.type("first prompt").count("first prompt") >= 2
    assert "unknown command /x; /help" in terminal.type("/x")
    assert "/compare PATH..." in terminal.type("/help")
    assert "temperature = 0.5" in terminal.type("/set temperature 0.5")
    assert "--top_p is 7.0, give" in terminal.type("/set top_p 7")
    assert re.search("temperature +0.5", terminal.type("/settings"))
    assert "first prompt" in terminal.type("/retry")
    assert "gpt2ft: error" not in terminal.type("/continue more")
    assert "seed 3" in terminal.type("/seed")
    assert "first prompt" in terminal.type("/undo")
    assert "20 tokens: the first after" in terminal.type("/stats")
    assert terminal.type("/probs").count("%") == 10
    assert f"loaded {endless}" in terminal.type(f"/load {endless}")
    assert "no folder /gone" in terminal.type("/load /gone")
    assert f"saved to {tmp_path}/out.txt" in terminal.type(f"/save {tmp_path}/out.txt")
    assert (tmp_path / "out.txt").read_text("utf-8").startswith("first prompt")
    terminal.process.setwinsize(24, 46)
    shown = terminal.type("/compare endless")
    (rule,) = (line for line in shown.splitlines() if "─" in line)
    assert rule == f"{'─' * 22}  {'─' * 22}"
    terminal.process.setwinsize(24, 80)
    assert "texts forgotten" in terminal.type("/reset")
    assert "there is no text yet" in terminal.type("/retry")
    terminal.process.sendeof()
    terminal.process.expect(pexpect.EOF)
    terminal.process.close()
    assert terminal.process.exitstatus == 0
    assert "first prompt\n" in (tmp_path / ".gpt2ft_history").read_text()


def test_keys(terminal, tmp_path):
    """Ctrl-C in a text and at the prompt, arrow up, Tab, several lines, control characters."""
    process = terminal.process
    terminal.type("/set max_new_tokens 1000000")
    terminal.type("/set temperature 2")
    terminal.type("/set top_k 0")
    process.send("endless\r")
    # Bytes drawn almost evenly: control characters come soon, and come escaped.
    process.expect(r"\\x[01][0-9a-f]")
    process.sendintr()
    terminal.read()
    numbers = re.search(r"(\d+) tokens: the first", terminal.type("/stats"))
    assert 0 < int(numbers[1]) < 1_000_000
    terminal.type("/set max_new_tokens 3")
    process.send("dropped")
    time.sleep(0.2)
    process.sendintr()
    terminal.read()
    process.send("\x1b[A\x1b[A\x1b[A")  # the third line back
    assert "endless" in terminal.type("")
    process.send("/set no_re\t")
    time.sleep(0.5)
    assert "no_repeat_ngram_size = 2" in terminal.type(" 2")
    assert "\\x1b]0;title\\x07" in terminal.type("\x1b[200~\x1b]0;title\x07\x1b[201~")  # pasted
    process.send('"""one\r')
    terminal.read("...")
    terminal.type('two"""')
    terminal.type(f"/save {tmp_path}/out.txt")
    assert (tmp_path / "out.txt").read_text("utf-8").startswith("one\ntwo")
    process.sendeof()
    process.expect(pexpect.EOF)
    process.close()
    assert process.exitstatus == 0
