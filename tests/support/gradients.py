"""Micro-batches, padded and packed, and the gradient that torch has of all of them together."""

import torch
import transformers

import gpt2ft

LLAMA = {
    **{"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64},
    **{"num_attention_heads": 4, "num_key_value_heads": 2},
}
GPT2 = {"n_layer": 2, "n_embd": 32, "n_head": 2}
GPT2 |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
FAMILIES = {"gpt2": GPT2, "llama": LLAMA, "qwen2": LLAMA}


def new_model(family):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, vocab_size=257, **FAMILIES[family])
    return transformers.AutoModelForCausalLM.from_config(config)


class Rows:
    """Micro-batches of 1 to 3 rows of random tokens, padded and packed by turns."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def sample_numbers(self, epoch, index):
        return [index]

    def __getitem__(self, position):
        epoch, index = position
        generator = torch.Generator().manual_seed(100 * epoch + index)
        ids = torch.randint(1, 257, (1 + index % 3, 20), generator=generator)
        batch = {"input_ids": ids, "labels": ids.clone()}
        if index % 2:
            batch["labels"][:, 15 - index % 7 :] = -100
        else:
            batch["position_ids"] = (torch.arange(20) % 9).expand(ids.shape)
        return batch


def torchs_gradient(family, n_micro_batches):
    """Of the mean over all targets of the micro-batches; one flat tensor."""
    model = new_model(family)
    data = Rows(n_micro_batches)
    batches = [data[0, i] for i in range(n_micro_batches)]
    n_targets = sum(map(gpt2ft.count_targets, batches))
    for batch in batches:
        inputs = {**batch, "use_cache": False}
        labels = inputs.pop("labels")[:, 1:]
        logits = model(**inputs).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="sum"
        )
        (loss / n_targets).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])
