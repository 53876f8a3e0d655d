"""How text is generated: every default, once; a field's docstring is its help text.

What else a flag means stands at its field, see `settings.setting`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from ..settings import check_bounds, check_utf8, setting


@dataclass(frozen=True)
class Sampling:
    """How the next tokens of a text are chosen, and when it ends."""

    max_new_tokens: int = setting(100, at_least=1, at_most=10**7)
    """Tokens to generate, fewer if the text ends."""
    do_sample: bool = setting(
        True, off_flag="--greedy", off_help="Always take the most probable token; draw nothing."
    )
    """Draw at random; else always take the most probable token."""
    temperature: float = setting(0.8, at_least=0, at_most=1000)
    """Below 1 sharpens the distribution, above flattens it; 0: greedy."""
    top_k: int = setting(50, at_least=0)
    """Draw from this many most probable tokens; 0: from all."""
    top_p: float = setting(0.95, above=0, at_most=1)
    """Draw from the fewest tokens that together have this probability."""
    min_p: float = setting(0.0, at_least=0, at_most=1)
    """Draw only tokens with at least this fraction of the greatest probability."""
    typical_p: float = setting(1.0, above=0, at_most=1)
    """Locally typical sampling: draw from the tokens whose information is nearest to the entropy,
    and that together have this probability."""
    repetition_penalty: float = setting(1.0, at_least=0.001, at_most=1000)
    """Above 1: tokens already in the text become less probable."""
    no_repeat_ngram_size: int = setting(0, at_least=0)
    """No sequence of this many tokens occurs twice in a text, prompt included; 0: it may."""
    max_verbatim: int = setting(0, at_least=0)
    """Never copy more than this many tokens in a row from the corpus, prompt included; 0: no
    limit."""
    bad_words: tuple[str, ...] = ()
    """Words never to write, alone or after a space."""
    stop_strings: tuple[str, ...] = ()
    """A text ends before any of these."""

    def __post_init__(self) -> None:
        """Raise `ValueError` with what is wrong, the value and what to do."""
        for name in ("bad_words", "stop_strings"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r}, give a sequence of strings")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_bounds(self)
        check_utf8(self, "bad_words", "stop_strings")

    @property
    def sampling(self) -> Sampling:
        """Of a configuration that has more settings, these alone."""
        fields = dataclasses.fields(Sampling)
        return Sampling(**{field.name: getattr(self, field.name) for field in fields})


@dataclass(frozen=True)
class GenerateConfig(Sampling):
    """How to generate text from a model."""

    model_name_or_path: str | None = None
    """Model: a folder, a .gguf file, a name on the hub, or gpt2-mini (built in); default: the
    newest finished run in the current folder."""
    model_revision: str = "main"
    """Branch, tag or commit of the model on the hub."""
    tokenizer_name: str | None = None
    """Tokenizer, where it is not in the model's folder: a folder, or a name on the hub."""
    interactive: bool = setting(False, flag="-i")
    """Ask for prompts in the terminal."""
    web: bool = False
    """Open a page in the browser in which the model writes."""
    host: str = "127.0.0.1"
    """With --web: the address to listen at; other than loopback, the link has a token."""
    port: int | None = setting(None, at_least=1, at_most=65535)
    """With --web: the port to listen at; default: 7474, or the next one that is free."""
    browser: bool = setting(
        True, off_help="With --web: only print the link, do not open it in a browser."
    )
    """With --web: open the link in a browser."""
    baseline: str | None = None
    """With --web: a second model to compare with; default: what the first was tuned from."""
    chat: bool = False
    """Answer in turns, for a model that learned from conversations: prompts are questions."""
    prompt: tuple[str, ...] = setting((), flag="-p")
    """Text to continue, may be repeated; an empty one starts from the end-of-text token."""
    prompt_file: str | None = None
    """File with one prompt a line, or .jsonl with {"prompt": "...", "seed": 1}."""
    corpus: tuple[str, ...] = ()
    """Files or globs with the text that --max_verbatim is about; default: the training text, if the
    model is in the folder of a run."""
    batch_size: int = setting(8, at_least=1, at_most=10**6)
    """Texts to generate at a time, from --prompt_file or with --num_return_sequences."""
    num_return_sequences: int = setting(1, at_least=1, at_most=10**6)
    """Texts for each prompt, with the seed, the seed + 1, and so on."""
    json: bool = False
    """Write a line of JSON for each text: prompt, text, tokens, seed, log_probability (natural
    logarithm, by the model without filters) and stop_reason."""
    seed: int | None = setting(None, at_least=0, below=2**63)
    """The same seed gives the same text; default: a new one each time."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto: CUDA, else MPS, else the CPU."""
    threads: int | None = setting(None, at_least=1, at_most=1024)
    """Threads that compute on a CPU; default: torch's choice."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """auto: fp16 on CUDA, bf16 on a CPU with bf16 hardware, else fp32. int8: faster on a CPU with
    VNNI or AMX, its texts differ a little."""
    raw: bool = False
    """Write control characters to a terminal as they are."""
    debug: bool = False
    """Show the traceback of an error."""

    def __post_init__(self) -> None:
        """Raise `ValueError` with what is wrong, the value and what to do."""
        super().__post_init__()
        for name in ("prompt", "corpus"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_bounds(self)
        check_utf8(self, "prompt")
        self._check_what_to_do()
        if self.corpus and not (self.max_verbatim or self.interactive or self.web):
            raise ValueError("--corpus is for --max_verbatim, add for example --max_verbatim 20")
        if self.num_return_sequences > 1 and not (self.do_sample and self.temperature):
            raise ValueError(
                f"--num_return_sequences {self.num_return_sequences} would give the same text each "
                "time, as greedy generation draws nothing: leave out one of the two"
            )

    def _check_what_to_do(self) -> None:
        """Raise `ValueError` unless there is one thing to do: a page, a terminal, or prompts."""
        if not (self.web or self.interactive or self.prompt or self.prompt_file):
            raise ValueError("nothing to continue, give -i, --web, -p TEXT or --prompt_file FILE")
        if self.web and (self.interactive or self.prompt or self.prompt_file):
            raise ValueError("--web opens a page, in which prompts are typed: give no others")
        if (self.web or self.interactive) and (self.json or self.num_return_sequences > 1):
            name = "json" if self.json else "num_return_sequences"
            where = "--web" if self.web else "-i"
            raise ValueError(
                f"--{name} cannot be combined with {where}, use it with --prompt or --prompt_file"
            )
        if not self.host:
            raise ValueError("--host is empty, give an address, for example 0.0.0.0")
        for name in ("host", "port", "browser", "baseline"):
            if not self.web and getattr(self, name) != getattr(GenerateConfig, name):
                flag = "no_browser" if name == "browser" else name
                raise ValueError(f"--{flag} is for --web, add it or leave this out")
