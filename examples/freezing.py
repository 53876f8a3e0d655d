"""Only the last blocks learn; what is before them stays as it is.

    python examples/freezing.py MODEL TEXT [STEPS]

For models of GPT-2's architecture. No gradient is computed below the first block that learns, and
the optimizer holds moments for a fraction of the weights. Saves to ./gpt2-finetuned-last-blocks.
"""

import sys

import gpt2ft

LAST = 2


def main(model_name: str, text: str, n_steps: int = 100) -> None:
    model, tokenizer = gpt2ft.load_model(model_name), gpt2ft.load_tokenizer(model_name)
    model.requires_grad_(False)
    model.transformer.h[-LAST:].requires_grad_(True)
    model.transformer.ln_f.requires_grad_(True)

    corpus = gpt2ft.load_corpus(train_file=[text])
    collate = gpt2ft.CausalLMCollator(tokenizer.pad_token_id)
    train_blocks, held_out_blocks = (
        gpt2ft.Blocks(gpt2ft.tokenize(part, tokenizer), 64)
        for part in (corpus.train, corpus.validation)
    )
    data = gpt2ft.Batches(train_blocks, collate, batch_size=8, seed=0)
    held_out = gpt2ft.Batches(held_out_blocks, collate, batch_size=8)
    optimizer = gpt2ft.build_optimizer(model, learning_rate=1e-4)
    n_trained = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    print(f"training {n_trained:,} of {sum(p.numel() for p in model.parameters()):,} parameters")

    state = gpt2ft.TrainState.create(model, optimizer)
    for result in gpt2ft.train(state, data, max_steps=n_steps, max_grad_norm=1.0):
        if result.step % 10 == 0:
            perplexity = gpt2ft.evaluate(model, held_out).perplexity
            print(f"step {result.step} loss {result.loss:.4f} perplexity {perplexity:.2f}")
    model.save_pretrained("gpt2-finetuned-last-blocks")
    tokenizer.save_pretrained("gpt2-finetuned-last-blocks")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])) if sys.argv[2:] else print(__doc__)
