"""Imported once by the server that forks the tests' processes: what each would else do first."""

import tempfile

import torch
import transformers.models.gpt2.modeling_gpt2
import transformers.models.llama.modeling_llama

import benchmarks.faults.trials  # noqa: F401
from benchmarks.faults.protocols import make_model
from gpt2ft.system.terminal import silence_libraries

silence_libraries()
torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as folder:  # fills caches of transformers
    model = make_model()
    model(input_ids=torch.zeros(1, 1, dtype=torch.int64))
    model.save_pretrained(folder)
    transformers.AutoModelForCausalLM.from_pretrained(folder)
