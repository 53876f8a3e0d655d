"""What can be wrong with files, and with the process that reads them: the rows of test_bad_input.

The first take the folder they work on; the others run in the command's own process, whose server
finds them by name.
"""

import ctypes
import http.server
import json
import os
import shutil
import sys
import threading

import filelock
import torch
import transformers
from safetensors.torch import load_file, save_file

from gpt2ft.models.gguf import write_gguf
from gpt2ft.models.loading import train_tokenizer
from tests.support.tiny import byte_tokenizer


def written(name, content):
    """A file of that content."""
    data = content if isinstance(content, bytes) else content.encode()
    return lambda place: (place / name).write_bytes(data)


def records(*lines):
    """Thirty good records, and then these lines."""
    return written("a.jsonl", '{"text": "some text of a record"}\n' * 30 + "\n".join(lines) + "\n")


def all_of(*steps):
    return lambda place: [step(place) for step in steps]


def removed(*names):
    def remove(place):
        for name in names:
            path = place / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def linked(name):
    """The folder is elsewhere, and a symbolic link in its place."""

    def link(place):
        real = (place / name).rename(place / f"real-{name.rpartition('/')[2]}")
        (place / name).symlink_to(real)

    return link


def folder(name, mode=0o755):
    def make(place):
        (place / name).mkdir()
        (place / name).chmod(mode)

    return make


def cut(name, size):
    return lambda place: os.truncate(place / name, size)


def flipped(name):
    def flip(place):
        data = bytearray((place / name).read_bytes())
        data[len(data) // 2] ^= 1
        (place / name).write_bytes(data)

    return flip


def changed(name, **values):
    """A JSON file with other values; None takes one away."""

    def change(place):
        content = {**json.loads((place / name).read_text()), **values}
        kept = {key: value for key, value in content.items() if value is not None}
        (place / name).write_text(json.dumps(kept))

    return change


def tensors(change):
    def edit(place):
        weights = load_file(place / "model/model.safetensors")
        change(weights)
        save_file(weights, place / "model/model.safetensors", metadata={"format": "pt"})

    return edit


def not_a_number(weights):
    weights["transformer.h.1.mlp.c_fc.bias"][0] = torch.nan


def a_chat_template(template):
    def give(place):
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = template
        tokenizer.save_pretrained(place / "model")

    return give


def two_more_tokens(place):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<x>", "<y>"])
    tokenizer.save_pretrained(place / "model")


def a_vocabulary_with_a_hole(place):
    """As many entries as the model has, but one of them far off."""
    path = place / "model/tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["t"] = 700
    path.write_text(json.dumps(tokenizer))


NO_SPECIAL_TOKENS = changed(
    "model/tokenizer_config.json", eos_token=None, bos_token=None, pad_token=None
)


def a_gguf_file(text="", other=""):
    """A GGUF file of a tiny GPT-2, where a text in it is replaced by another as long."""

    def make(place):
        tokenizer = train_tokenizer(["a word and another word of many words"], vocab_size=270)
        sizes = {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 64, "vocab_size": 270}
        config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
        model = transformers.GPT2LMHeadModel(config)
        write_gguf(place / "m.gguf", model, tokenizer, type="f16", metadata={})
        data = (place / "m.gguf").read_bytes()
        (place / "m.gguf").write_bytes(data.replace(text.encode(), other.encode(), 1))

    return make


def adapter(base, **settings):
    """A LoRA adapter of that base, in the folder `adapter`, with a tokenizer."""

    def make(place):
        path = place / "adapter"
        path.mkdir()
        byte_tokenizer().save_pretrained(path)
        content = {"peft_type": "LORA", "r": 2, "fan_in_fan_out": True, **settings}
        content["base_model_name_or_path"] = base
        (path / "adapter_config.json").write_text(json.dumps(content))
        layer = "base_model.model.transformer.h.0.attn.c_attn"
        matrices = {"A": torch.zeros(2, 32), "B": torch.zeros(96, 2)}
        weights = {f"{layer}.lora_{side}.weight": t for side, t in matrices.items()}
        save_file(weights, path / "adapter_model.safetensors")

    return make


def in_use(place):
    """Another process holds the lock."""
    (place / "out").mkdir()
    lock = filelock.FileLock(place / "out/.lock")
    lock.acquire()
    (place / "out/.lock").write_text("4711\n")
    return lock


def a_newer_format(place):
    for step in (2, 4):
        changed(f"out/checkpoint-{step}/manifest.json", format=7)(place)


def finished(place):
    """As it would have ended."""
    shutil.copytree(place / "out/checkpoint-4", place / "out", dirs_exist_ok=True)


def unfinished(place):
    """Stopped after its last checkpoint."""
    for path in (place / "out").iterdir():
        if path.is_file() and path.name not in ("config.yaml", "metrics.jsonl", ".lock"):
            path.unlink()


def no_privileges():
    """Root may read and write everything, until it gives its capabilities up."""
    if os.geteuid() == 0:
        version, nothing = 0x20080522, (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(version, 0), nothing) == 0


def no_space():
    from gpt2ft.system import durable

    durable.free_bytes = lambda path: 1000


def a_small_machine():
    from gpt2ft.run import memory

    memory.available_bytes = lambda: 1000


def no_memory():
    """On a GPU: what a step needs is not estimated before."""
    import transformers

    from gpt2ft.run import memory

    def forward(self, *arguments, **options):
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return original(self, *arguments, **options)

    original = transformers.GPT2Model.forward
    transformers.GPT2Model.forward = forward
    memory.available_bytes = lambda: None


def no_peft():
    sys.modules["peft"] = None  # as if it were not installed


def no_gguf():
    sys.modules["gguf"] = None  # as if it were not installed


def no_labels():
    from gpt2ft.data.collate import CausalLMCollator

    def masked(self, samples):
        batch = collate(self, samples)
        return {**batch, "labels": torch.full_like(batch["labels"], -100)}

    collate = CausalLMCollator.__call__
    CausalLMCollator.__call__ = masked


def no_reader():
    """Whoever read standard output has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)  # the old one was for a file


class EmptyHub(http.server.BaseHTTPRequestHandler):
    """Answers, and has nothing."""

    def do_HEAD(self):
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_):
        pass


def an_empty_hub():
    """A hub that can be reached, as if its libraries had been imported with it."""
    from huggingface_hub import constants, hf_api

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), EmptyHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in list(os.environ):
        if name == "HF_HUB_OFFLINE" or name.lower().endswith("_proxy"):
            del os.environ[name]
    constants.HF_HUB_OFFLINE = False
    endpoint = f"http://127.0.0.1:{server.server_port}"
    os.environ["HF_ENDPOINT"] = constants.ENDPOINT = hf_api.api.endpoint = endpoint
    address = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{")
    constants.HUGGINGFACE_CO_URL_TEMPLATE = "".join([endpoint, *address[1:]])
