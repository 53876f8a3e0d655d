"""The same loop on many processes, GPUs or machines: the same bits, however many there are.

    torchrun --standalone --nproc-per-node 2 examples/several_processes.py MODEL TEXT [STEPS]

Nothing in the loop speaks of processes. Each computes its part of a step's micro-batches, and all
have the same weights after it. Saves to ./gpt2-finetuned-together.
"""

import sys

import gpt2ft
from gpt2ft.parallel import processes


def main(model_name: str, text: str, n_steps: int = 100) -> None:
    device = gpt2ft.resolve_device("auto")  # of each process its own GPU
    model = gpt2ft.load_model(model_name).to(device)
    tokenizer = gpt2ft.load_tokenizer(model_name)
    corpus = gpt2ft.load_corpus(train_file=[text])
    collate = gpt2ft.CausalLMCollator(tokenizer.pad_token_id)
    train_blocks, held_out_blocks = (
        gpt2ft.Blocks(gpt2ft.tokenize(part, tokenizer), 64)
        for part in (corpus.train, corpus.validation)
    )
    data = gpt2ft.Batches(train_blocks, collate, batch_size=4, seed=0)
    held_out = gpt2ft.Batches(held_out_blocks, collate, batch_size=4)

    # Here the processes meet; all take the weights of process 0.
    state = gpt2ft.TrainState.create(model, gpt2ft.build_optimizer(model, learning_rate=1e-4))
    is_main = processes.rank() == 0
    # Four micro-batches a step, by all processes together.
    for result in gpt2ft.train(
        state, data, max_steps=n_steps, micro_batches_per_step=4, max_grad_norm=1.0
    ):
        if result.step % 10 == 0:
            perplexity = gpt2ft.evaluate(model, held_out).perplexity  # all must call it
            if is_main:
                print(f"step {result.step} loss {result.loss:.4f} perplexity {perplexity:.2f}")
    if is_main:
        model.save_pretrained("gpt2-finetuned-together")
        tokenizer.save_pretrained("gpt2-finetuned-together")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])) if sys.argv[2:] else print(__doc__)
