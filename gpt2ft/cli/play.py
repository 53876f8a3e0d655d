"""The playground: models loaded, its page served, and opened in the browser."""

from __future__ import annotations

import os
import sys
import webbrowser

from ..data.chat_template import give_template, stop_tokens
from ..generation.config import GenerateConfig, Sampling
from ..generation.ready_model import ReadyModel
from ..generation.text import add_end_tokens
from ..playground.served_model import ServedModel
from ..playground.server import Playground, listen, new_token, serve
from ..playground.state import state
from ..system.terminal import print_line
from .flags import field_docs
from .loader import loader

PORT = 7474


def play(config: GenerateConfig, name: str, baseline: str | None) -> int:
    """Serve the page until Ctrl-C; returns the exit status.

    Raises what loading a model raises, and `OSError` if the port cannot be had.
    """
    load = loader(config, name)

    def load_for_page(named: str) -> ReadyModel:
        model = load(named)
        if named != name and is_chat:  # the second model answers too, in some template
            give_template(model.tokenizer)
        if model.tokenizer.chat_template:  # its answers end where they do in a conversation
            add_end_tokens(model.model, stop_tokens(model.tokenizer))
        return model

    models = [ServedModel(name, "fine-tuned" if baseline else "", load_for_page)]
    if baseline:
        models.append(ServedModel(baseline, "" if config.baseline else "before", load_for_page))
    is_chat = bool(models[0].load().tokenizer.chat_template)
    helps = field_docs(Sampling)
    page = Playground(
        models,
        config.sampling,
        lambda: state(models, config.sampling, seed=config.seed, is_chat=is_chat, helps=helps),
    )
    token = new_token(config.host)
    with listen(config.host, config.port, first=PORT) as listener:
        link = _link(config.host, listener.getsockname()[1], token)
        if token:
            print(
                "gpt2ft: whoever has the link can use the models; the connection is not encrypted",
                file=sys.stderr,
            )
        if config.host in ("0.0.0.0", "::"):
            print(
                f"gpt2ft: elsewhere, put the name of this machine in place of {config.host}",
                file=sys.stderr,
            )
        print_line(f"write in the browser: {link}   (Ctrl-C ends it)")
        if config.browser and _has_screen():
            webbrowser.open(link)
        serve(page.app(token), listener)
    return 0


def _link(host: str, port: int, token: str | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def _has_screen() -> bool:
    """Whether a browser could open a window here."""
    return sys.platform != "linux" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
