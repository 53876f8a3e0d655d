"""pytest tests/cli/test_line_input.py; at a terminal: tests/cli/test_chat.py"""

import pytest

from benchmarks.faults.processes import run
from gpt2ft.cli import line_input
from gpt2ft.cli.line_input import HISTORY_LINES, read_text


def asking(*lines):
    """Answers in turn, then the end of input."""
    rest = iter(lines)

    def ask(prompt):
        for line in rest:
            return line
        raise EOFError

    return ask


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["a line", "b"], "a line"),
        ([""], ""),
        (['"""', "a", "", "b", '"""'], "a\n\nb"),
        (['"""a', 'b"""'], "a\nb"),
        (['"""one line"""'], "one line"),
        (['"""a', "no end"], "a\nno end"),
        (['say """', "b"], 'say """'),
    ],
)
def test_one_line_or_several(lines, text):
    assert read_text(asking(*lines)) == text


def test_the_end_of_input():
    with pytest.raises(EOFError):
        read_text(asking())


def test_history_is_written_at_once_and_limited(tmp_path):
    path = tmp_path / "history"
    history = line_input._History(path)
    for line in ("one", "zwei ü", "zwei ü", "", "two\nlines", "three"):
        history.add(line)
        assert path.read_text("utf-8").splitlines() == history.lines
    assert line_input._History(path).lines == ["one", "zwei ü", "three"]
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("x\n" * 5000 + "last\n")
    lines = line_input._History(path).lines
    assert len(lines) == HISTORY_LINES and lines[-1] == "last"
    line_input._History(tmp_path / "gone" / "history").add("a line")  # nowhere to write: no error


def test_a_pipe(model_folder, tmp_path):
    """Prompts, commands and several lines, without a greeting or a prompt."""
    lines = ["a cat", "/set temperature 0", '"""one', 'two"""', "/nonsense", "/seed"]
    flags = ["-i", "--model_name_or_path", str(model_folder), "--max_new_tokens", "3"]
    done = run("generate.py", *flags, "--seed", "4", cwd=tmp_path, input="\n".join(lines))
    assert (done.returncode, done.stderr) == (0, "")
    answers = done.stdout.split("\n\n")
    assert len(answers) == 6 and answers.pop() == ""
    beginnings = [
        "a cat",
        "temperature = 0.0",
        "one\ntwo",
        "gpt2ft: error: unknown command",
        "the text",
    ]
    for answer, beginning in zip(answers, beginnings, strict=True):
        assert answer.startswith(beginning)
