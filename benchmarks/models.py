"""What holds for models of other types than GPT-2: tried on a CPU, told as a table in Markdown.

    python benchmarks/models.py
    python benchmarks/models.py ../shared/data/stories260k/hf ../shared/data/gpt-nano-sort/hf

Of each type a tiny new model, or the models in the folders named. docs/how-to/models.md has the
table, and says what the columns mean.
"""

import contextlib
import io
import itertools
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import gpt2ft
from gpt2ft.config import TrainConfig
from gpt2ft.generation.kv_cache import Prefix
from gpt2ft.generation.ready_model import make_ready
from gpt2ft.kernels.packed_linear import PackedLinear
from gpt2ft.models import probe
from gpt2ft.models.adapters import default_targets
from gpt2ft.precision import Precision
from gpt2ft.run.verify_resume import verify_resume
from gpt2ft.system.terminal import silence_libraries

SMALL = "num_hidden_layers=2,hidden_size=64,initializer_range=0.1"
HEADS = f"{SMALL},num_attention_heads=4"
GROUPED = f"{HEADS},intermediate_size=128,num_key_value_heads=2"
SLIDING = f"{GROUPED},sliding_window=8"
TYPES = {
    "GPT-2": ("gpt2", "n_layer=2,n_embd=64,n_head=4,initializer_range=0.1"),
    "Llama": ("llama", GROUPED),
    "SmolLM": ("llama", f"{GROUPED},tie_word_embeddings=true"),
    "SmolLM3": ("smollm3", GROUPED),
    "Mistral": ("mistral", SLIDING),
    "Qwen 2": ("qwen2", GROUPED),
    "Qwen 3": ("qwen3", f"{GROUPED},head_dim=16"),
    "Gemma 2": ("gemma2", f"{SLIDING},head_dim=16,query_pre_attn_scalar=16"),
    "Gemma 3 (text)": ("gemma3_text", f"{SLIDING},head_dim=16,query_pre_attn_scalar=16"),
    "Phi 3": ("phi3", GROUPED),
    "GPT-NeoX": ("gpt_neox", f"{HEADS},intermediate_size=128"),
    "OPT": (
        "opt",
        "num_hidden_layers=2,hidden_size=64,num_attention_heads=4,ffn_dim=128,init_std=0.1,"
        "word_embed_proj_dim=64",
    ),
    "BLOOM": ("bloom", "n_layer=2,hidden_size=64,n_head=4,initializer_range=0.1"),
    "Falcon": ("falcon", HEADS),
    "Mamba": ("mamba", SMALL),
    "GPT-OSS": ("gpt_oss", f"{SLIDING},head_dim=16,num_local_experts=4"),
}
TOKENIZER = "gpt2-mini"
DROPOUT = 0.1
CPU = torch.device("cpu")
DOCUMENTS = (3, 5, 2, 9, 12)  # lengths in tokens, some over a sliding window
SAME = 1e-5


@dataclass(frozen=True)
class Subject:
    """A model to try, as the settings of a run name it."""

    name: str
    settings: dict[str, Any]

    @cached_property
    def tokenizer(self) -> Any:
        name = self.settings.get("tokenizer_name") or self.settings["model_name_or_path"]
        return gpt2ft.load_tokenizer(name)

    @cached_property
    def dropout(self) -> float | None:
        """The dropout to train it with; None if it has none."""
        try:
            self.model(dropout=DROPOUT)
        except ValueError:
            return None
        return DROPOUT

    def model(self, *, dropout: float | None = 0.0) -> Any:
        """The same weights at each call."""
        torch.manual_seed(0)
        if "model_type" not in self.settings:
            return gpt2ft.load_model(self.settings["model_name_or_path"], dropout=dropout)
        return gpt2ft.new_model(
            self.settings["model_type"],
            tokenizer=self.tokenizer,
            overrides=self.settings["config_overrides"],
            dropout=dropout,
        )

    def documents(self) -> list[list[int]]:
        """Random tokens, together no more than the model's window."""
        draw, window = random.Random(0), probe.window(self.model()) or 1000
        totals = zip(DOCUMENTS, itertools.accumulate(DOCUMENTS), strict=True)
        lengths = [n for n, total in totals if total <= window]
        return [[draw.randrange(1, len(self.tokenizer)) for _ in range(n)] for n in lengths]


def of_type(name: str) -> Subject:
    """The tiny model of a row of the table."""
    model_type, overrides = TYPES[name]
    settings = {"model_type": model_type, "config_overrides": overrides}
    return Subject(name, {**settings, "tokenizer_name": TOKENIZER})


def of_folder(folder: str) -> Subject:
    """A model with its real weights; `gpt2-mini` is built in."""
    name = next(part for part in reversed(Path(folder).parts) if part != "hf")
    return Subject(name, {"model_name_or_path": folder})


def documents_apart(subject: Subject) -> str:
    """Whether documents in one row have the losses that they have alone."""
    model, documents = subject.model().eval(), subject.documents()
    alone = sum(_loss_of(model, document) for document in documents)
    gpt2ft.accelerate(model)
    row = torch.tensor([list(itertools.chain(*documents))] * 2)
    labels, positions = row.clone(), torch.cat([torch.arange(len(d)) for d in documents])
    labels[:, positions == 0] = -100
    batch = {"input_ids": row, "labels": labels, "position_ids": positions.repeat(2, 1)}
    together = float(gpt2ft.causal_lm_loss(model, batch).detach()) / 2
    apart = abs(together - alone) <= SAME * alone
    found = probe.keeps_documents_apart(model)
    return _yes(apart) if found == apart else f"{_yes(apart)}, the program says {_yes(found)}"


def _loss_of(model: Any, document: Sequence[int]) -> float:
    ids = torch.tensor([document])
    with torch.no_grad():
        logits = model(ids).logits[0, :-1]
    return float(F.cross_entropy(logits.float(), ids[0, 1:], reduction="sum"))


def same_loss(subject: Subject) -> str:
    """Loss and gradients of padded rows, as the model of transformers itself computes them."""
    batch = _padded(subject)
    theirs, ours = subject.model().train(), subject.model().train()
    gpt2ft.accelerate(ours)
    expected = theirs(
        input_ids=batch["input_ids"],
        attention_mask=(batch["labels"] != -100).long(),
        labels=batch["labels"],
    ).loss
    loss = gpt2ft.causal_lm_loss(ours, batch) / gpt2ft.count_targets(batch)
    torch.autograd.backward([expected, loss])
    same = abs(loss.item() - expected.item()) <= SAME
    for parameter, own in zip(theirs.parameters(), ours.parameters(), strict=True):
        # Where all but nothing is left, as of the bias of keys, there are no digits to compare.
        same &= bool((own.grad - parameter.grad).norm() <= 1e-4 * parameter.grad.norm() + 1e-6)
    return _yes(same)


def _padded(subject: Subject) -> dict[str, torch.Tensor]:
    rows = [{"input_ids": document} for document in subject.documents()]
    return gpt2ft.CausalLMCollator(subject.tokenizer.pad_token_id)(rows)


def fused_head(subject: Subject) -> str:
    """Whether head and loss are computed in one, so that the logits never exist whole."""
    return _yes(probe.plain_head(subject.model()) is not None)


def fast_attention(subject: Subject) -> str:
    """Whether a training step uses the attention of kernels/attention.py."""
    return _yes("_AttentionBackward" in _functions(subject))


def other_fast_parts(subject: Subject) -> str:
    """What else of kernels/ a training step and generation use."""
    used, ready = _functions(subject), make_ready(subject.model(), Precision(CPU, None))
    found = {
        "dropout": "_DropoutBackward" in used,
        "tied embedding": "_LookUpBackward" in used,
        "packed linear": any(isinstance(module, PackedLinear) for module in ready.modules()),
    }
    return ", ".join(name for name, is_used in found.items() if is_used)


def _functions(subject: Subject) -> set[str]:
    """Names of the functions that a training step differentiates."""
    model = subject.model(dropout=subject.dropout).train()
    gpt2ft.accelerate(model)
    return {node.name() for node in _graph(gpt2ft.causal_lm_loss(model, _padded(subject)))}


def _graph(loss: torch.Tensor) -> Iterator[Any]:
    """All nodes of the graph that the backward pass goes through."""
    todo, seen = [loss.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            todo += [following for following, _ in node.next_functions]


def exact_resume(subject: Subject) -> str:
    """Whether a run that is resumed has the bits of one that was never stopped, with dropout."""
    equal = _yes(_resumes_exactly(subject))
    return equal if subject.dropout else f"{equal} (it has no dropout)"


def _resumes_exactly(subject: Subject, **settings: Any) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(_texts(subject)):
            (Path(folder) / f"{number}.txt").write_text(text, encoding="utf-8")
        config = TrainConfig(
            **subject.settings,
            train_file=[f"{folder}/*.txt"],
            row_separator="eos" if subject.tokenizer.eos_token else "none",
            validation_split_percentage=0,
            block_size=min(16, probe.window(subject.model()) or 16),
            dropout=subject.dropout,
            per_device_train_batch_size=2,
            max_steps=4,
            learning_rate=1e-3,
            device="cpu",
            **settings,
        )
        with contextlib.redirect_stdout(io.StringIO()):
            return verify_resume(config, steps=2) == 0


def _texts(subject: Subject) -> list[str]:
    """Texts in the words of a tokenizer; in all kinds of words, if it knows them."""
    source = Path(gpt2ft.__file__).parent
    texts = [(source / name).read_text(encoding="utf-8") for name in ("loop.py", "loss.py")]
    if subject.tokenizer.decode(subject.tokenizer(texts[0])["input_ids"]) == texts[0]:
        return texts
    return [subject.tokenizer.decode(document * 9) for document in subject.documents()]


def bf16_trains(subject: Subject) -> str:
    """Whether a model learns a batch by heart in bf16 on a CPU."""
    model, batch = subject.model(), _padded(subject)
    gpt2ft.accelerate(model)
    optimizer = gpt2ft.build_optimizer(model, learning_rate=3e-3, weight_decay=0.0)
    state = gpt2ft.TrainState.create(model, optimizer, precision=Precision(CPU, torch.bfloat16))
    losses = [gpt2ft.train_step(state, [batch]).loss.item() for _ in range(30)]
    return _yes(losses[-1] < 0.5 * losses[0])


def greedy(subject: Subject) -> str:
    """Whether our sampler writes what `model.generate` writes, alone and in a batch; and how."""
    prompts = [document[:5] for document in subject.documents()]
    plain = subject.model().eval()
    ready = make_ready(subject.model().eval(), Precision(CPU, None))
    n = min(24, (probe.window(plain) or 1000) - 5)
    expected = [_generated(plain, prompt, n) for prompt in prompts]
    sampling, prefix = gpt2ft.Sampling(max_new_tokens=n, do_sample=False), Prefix()
    alone = list(gpt2ft.generate_tokens(ready, [prompts[0]], sampling, prefix=prefix))
    together = [step.tokens.tolist() for step in gpt2ft.generate_tokens(ready, prompts, sampling)]
    same = [step.tokens.item() for step in alone] == expected[0]
    same = same and list(map(list, zip(*together, strict=True))) == expected
    return f"{_yes(same)}, {'cached' if prefix.cache is not None else 'without a cache'}"


def _generated(model: Any, prompt: list[int], n: int) -> list[int]:
    """What transformers writes, without an end."""
    model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt])
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
    tokens: list[int] = model.generate(ids, max_new_tokens=n, **options)[0, len(prompt) :].tolist()
    return tokens


def lora(subject: Subject) -> str:
    """Whether LoRA resumes exactly, and the layers that are adapted where none are named."""
    model = subject.model()
    names = ", ".join(f"`{name}`" for name in sorted(default_targets(model)))
    with tempfile.TemporaryDirectory() as folder:  # an adapter needs a model that has a name
        model.save_pretrained(folder)
        subject.tokenizer.save_pretrained(folder)
        saved = Subject(subject.name, {"model_name_or_path": folder})
        return f"{_yes(_resumes_exactly(saved, lora_r=4))}: {names}"


def _yes(it_is: bool) -> str:
    return "yes" if it_is else "no"


COLUMNS: dict[str, Callable[[Subject], str]] = {
    "documents apart": documents_apart,
    "loss of transformers": same_loss,
    "head and loss fused": fused_head,
    "fast attention": fast_attention,
    "other fast parts": other_fast_parts,
    "exact resume": exact_resume,
    "bf16 trains": bf16_trains,
    "greedy text of transformers": greedy,
    "LoRA": lora,
}


def header() -> str:
    """The first two lines of the table."""
    return f"| | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|"


def row(subject: Subject) -> str:
    """A row of the table; a column that cannot be tried says why."""
    cells = []
    for column in COLUMNS.values():
        try:
            cells.append(column(subject))
        except Exception as error:
            cells.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return f"| {' | '.join([subject.name, *cells])} |"


def main() -> None:
    silence_libraries()
    torch.set_num_threads(1)  # these models are too small to share
    folders = sys.argv[1:]
    print(header())
    for subject in map(of_folder, folders) if folders else map(of_type, TYPES):
        print(row(subject), flush=True)


if __name__ == "__main__":
    main()
