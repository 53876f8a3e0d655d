"""Questions and answers in turns: pytest tests/cli/test_chat_session.py"""

import json

import pytest

from gpt2ft import Sampling
from gpt2ft.cli.chat_session import ChatSession
from gpt2ft.data.chat_template import give_template, question_ids, stop_tokens
from gpt2ft.generation.config import GenerateConfig
from gpt2ft.generation.ready_model import ReadyModel
from gpt2ft.generation.text import add_end_tokens, begin, extend
from tests.support.screen import Screen
from tests.support.tiny import byte_tokenizer


@pytest.fixture
def screen():
    return Screen()


@pytest.fixture
def session(make_model, screen):
    def load(name):
        tokenizer = byte_tokenizer()
        give_template(tokenizer)
        model = make_model(seed=int(name), n_positions=256).eval()
        add_end_tokens(model, stop_tokens(tokenizer))
        return ReadyModel(name, model, tokenizer)

    config = GenerateConfig(interactive=True, chat=True, seed=5, max_new_tokens=12)
    session = ChatSession(config, load("0"), load, screen.append)
    session.model = load("0")
    return session


def answer(session, messages, seed=5):
    """What the model answers to these messages, by hand."""
    model = session.model
    text = begin(model.tokenizer, "", seed)
    text.prompt_ids = question_ids(model.tokenizer, messages)
    sampling = Sampling(max_new_tokens=12)
    for _ in extend(model.model, model.tokenizer, [text], sampling):
        pass
    return text.text


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def test_the_model_sees_the_whole_conversation(session, screen):
    session.answer("Hi")
    first = answer(session, [user("Hi")])
    assert screen.take() == first
    session.answer("//and?")
    second = answer(session, [user("Hi"), assistant(first), user("/and?")])
    assert screen.take() == second
    session.answer("/retry")
    again = answer(session, [user("Hi"), assistant(first), user("/and?")], seed=6)
    assert screen.take() == again
    session.answer("/undo")
    session.answer("Well")
    assert screen.take() == answer(session, [user("Hi"), assistant(first), user("Well")])


def test_a_system_message_and_a_new_conversation(session, screen):
    session.answer("Hi")
    session.answer("/system Be kind.")
    screen.take()
    session.answer("Hi")
    told = [{"role": "system", "content": "Be kind."}]
    first = answer(session, [*told, user("Hi")])
    assert screen.take() == first
    session.answer("/reset")
    session.answer("Ho")
    assert screen.take().endswith(answer(session, [*told, user("Ho")]))


def test_the_oldest_questions_are_left_out_where_the_window_is_full(session, screen):
    long = "word " * 14
    session.answer(long)
    session.answer(long)
    second = session._texts[1].text
    screen.take()
    session.answer("Hi")
    shown = screen.take()
    kept = [user(long), assistant(second), user("Hi")]
    assert shown.startswith(answer(session, kept))
    assert shown.endswith("it no longer sees the oldest questions)")
    session.answer("Ho")
    assert "window" not in screen.take()  # said once


def test_a_conversation_is_saved(session, screen, tmp_path):
    session.answer("Hi")
    path = tmp_path / "talk.txt"
    session.answer(f"/save {path}")
    said = session._texts[0].text
    assert path.read_text(encoding="utf-8") == f"user: Hi\n\nassistant: {said}\n\n"
    session.answer("/load 1")
    session.model = session._load("1")
    screen.take()
    session.answer("/retry")
    assert screen.take() == answer(session, [user("Hi")], seed=6)
    session.answer("/undo")
    session.answer("  ")  # nothing was asked
    assert screen.take() == "" and not session._texts
    session.answer("Again")
    assert screen.take() == answer(session, [user("Again")])


def test_what_there_is_not_yet(session):
    for command in ("/retry", "/undo", "/save x"):
        with pytest.raises(ValueError, match="there is no question yet, ask one"):
            session.answer(command)
    with pytest.raises(ValueError, match="/load needs the name"):
        session.answer("/load")


def test_help_names_every_command(session, screen):
    session.answer("/help")
    commands = "help quit set settings seed stats system retry undo reset load save"
    lines = screen.take().splitlines()[1:]
    assert [line.split()[0] for line in lines] == [f"/{name}" for name in commands.split()]


def test_a_prompt_is_a_question(model_folder, capsys):
    from gpt2ft.cli.main import main

    flags = f"generate --model_name_or_path {model_folder} --chat --seed 3 --max_new_tokens 4"
    main([*flags.split(), "-p", "Hi", "--json", "--precision", "fp32", "--device", "cpu"])
    shown, noted = capsys.readouterr()
    record = json.loads(shown)
    assert record["prompt"] == "Hi" and len(record["tokens"]) <= 4
    assert "has no chat template: a plain one is used, which it does not know" in noted
