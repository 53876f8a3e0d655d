"""A run of six steps that saves every second one: with our checkpoints, and with two controls.

It goes on from what it finds in its folder. Dropout, accumulation, documents packed into blocks,
an end of an epoch, and a gradient scaler that overflows are all in it.
"""

import hashlib
import json
from pathlib import Path

import torch
from datasets import Dataset

from gpt2ft import (
    Batches,
    Blocks,
    CausalLMCollator,
    TrainState,
    build_optimizer,
    causal_lm_loss,
    new_model,
    tokenize,
    train,
)
from gpt2ft.checkpoint import checkpoints, manifest, snapshot
from gpt2ft.checkpoint.folders import checkpoint_folders, find_checkpoint
from gpt2ft.config import TrainConfig
from gpt2ft.models.loading import train_tokenizer
from gpt2ft.precision import Precision
from gpt2ft.run import observe
from gpt2ft.run.finetune import finetune
from gpt2ft.system import durable

STEPS, SAVE_STEPS, SEED = 6, 2, 11
TEXTS = [f"{i}: a text of some length, like {'others' * (i % 3)}" for i in range(30)]
TOKENIZER = train_tokenizer(TEXTS, vocab_size=257)  # of bytes: there is no room for more


def make_model(seed=0):
    """A 2-layer GPT-2 over bytes with dropout, the same weights for the same seed."""
    torch.manual_seed(seed)
    sizes = "n_layer=2,n_head=2,n_embd=32,n_positions=64"
    return new_model("gpt2", tokenizer=TOKENIZER, overrides=sizes, dropout=0.2)


def make_state(seed=0, overflow=True):
    """Step 0: a model with dropout, and a scaler that overflows at first and later again."""
    model = make_model(seed)
    optimizer = build_optimizer(model, learning_rate=1e-2, weight_decay=0.1)
    precision = Precision(torch.device("cpu"), None)
    state = TrainState.create(model, optimizer, precision=precision)
    if overflow:  # a stand-in for fp16
        state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**118, growth_interval=1)
    return state


def make_data():
    """Fourteen micro-batches of packed blocks an epoch, three a step: an epoch of five steps."""
    store = tokenize(Dataset.from_dict({"text": TEXTS}), TOKENIZER)
    blocks = Blocks(store, 24, limit=42)
    return Batches(blocks, CausalLMCollator(pad_token_id=0), batch_size=3, seed=SEED)


def steps(state, data, max_steps=STEPS):
    """The loop of the run."""
    return train(
        state,
        data,
        max_steps=max_steps,
        gradient_accumulation_steps=3,
        learning_rate=lambda step: 1e-2 / (step + 1),
        max_grad_norm=1.0,
        loss_fn=steep_loss,
    )


def steep_loss(model, batch):
    """The usual loss, so large that its gradient overflows under a scale of 2^118 or so."""
    return 1000 * causal_lm_loss(model, batch)


def fingerprint(state):
    """sha256 of weights, moments, counters and scaler."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    for name, tensor in sorted(snapshot.optimizer_tensors(state).items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    counters = (state.step, state.batches, state.tokens, int(state.skipped_steps))
    digest.update(repr((counters, state.scaler.state_dict())).encode())
    return digest.hexdigest()


def save_ours(folder, state):
    checkpoints.save_checkpoint(folder, state, tokenizer=TOKENIZER)


def resume_ours(folder, state):
    path, _ = find_checkpoint(folder)
    if path:
        checkpoints.load_checkpoint(path, state)


def save_in_place(folder, state):
    """Control: one file, written over, as in most scripts."""
    values = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "values": snapshot.state_values(state),
    }
    durable.make_folder(folder)
    durable.write_by(lambda folder: torch.save(values, folder / "checkpoint.pt"), folder)


def resume_in_place(folder, state):
    if not (folder / "checkpoint.pt").exists():
        return
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    state.model.load_state_dict(saved["model"])
    state.optimizer.load_state_dict(saved["optimizer"])
    _restore_values(state, saved["values"])


def save_newest(folder, state):
    """Control: a folder a step, written where it is to be, as the Trainer does; the newest wins."""
    target = folder / f"checkpoint-{state.step}"
    durable.make_folder(target)
    durable.write_by(state.model.save_pretrained, target)
    durable.write_tensors(target / "optimizer.safetensors", snapshot.optimizer_tensors(state))
    durable.write(target / "state.json", json.dumps(snapshot.state_values(state)).encode())
    for older in checkpoint_folders(folder)[2:]:
        durable.delete(older)


def resume_newest(folder, state):
    found = checkpoint_folders(folder)
    if found:
        checkpoints.load_checkpoint(found[0], state)


def _restore_values(state, values):
    for name in snapshot.COUNTERS:
        setattr(state, name, values[name])
    state.skipped_steps = torch.tensor(values["skipped_steps"])
    state.scaler.load_state_dict(values["scaler"])


def history():
    """Hash of the state at each step of a run that nothing disturbs."""
    data, state = make_data(), make_state()
    hashes = {0: fingerprint(state)}
    for _ in steps(state, data):
        hashes[state.step] = fingerprint(state)
    return hashes


TWICE = "ours, each step saved twice"
PROTOCOLS = {
    "ours": (save_ours, resume_ours),
    TWICE: (save_ours, resume_ours),
    "torch.save in place": (save_in_place, resume_in_place),
    "newest folder": (save_newest, resume_newest),
}


def run(name, folder, committed=lambda step: None):
    """Go on from what is in the folder to the last step; returns (step it went on from, hash)."""
    if name == "finetune":
        return run_finetune(folder, committed)
    save, resume = PROTOCOLS[name]
    data, state = make_data(), make_state()
    resume(Path(folder), state)
    start = state.step
    for _ in steps(state, data):
        for _ in range(0 if state.step % SAVE_STEPS else 2 if name == TWICE else 1):
            save(Path(folder), state)
            committed(state.step)
    return start, fingerprint(state)


def run_finetune(folder, committed):
    """The same of a whole run, as `train.py` carries it out: settings, records, finished model."""
    inputs, starts = folder.parents[1] / "inputs", [0]
    if not inputs.exists():
        make_model().save_pretrained(inputs)
        TOKENIZER.save_pretrained(inputs)
        (inputs / "text.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    save, load = checkpoints.save_checkpoint, checkpoints.load_checkpoint

    def save_and_note(output_dir, state, **options):
        path = save(output_dir, state, **options)
        committed(state.step)
        return path

    def load_and_note(path, state):
        load(path, state)
        starts.append(state.step)

    checkpoints.save_checkpoint, checkpoints.load_checkpoint = save_and_note, load_and_note
    observe.SAMPLE_NEW_TOKENS = 2
    config = TrainConfig(
        model_name_or_path=str(inputs),
        train_file=[str(inputs / "text.txt")],
        output_dir=str(folder),
        block_size=24,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        max_steps=6,
        save_steps=SAVE_STEPS,
        logging_steps=1,
        learning_rate=1e-2,
        precision="fp32",
        resume="auto" if checkpoint_folders(folder) else None,
    )
    finetune(config)
    manifest.verify_checkpoint(folder)
    last = folder / "checkpoint-6"
    names = (folder / "model.safetensors", last / "optimizer.safetensors", last / "state.json")
    return starts[-1], " ".join(durable.sha256(names))
