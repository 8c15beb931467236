"""Make fl_bench/models/llama_tiny: a tokenizer and a small Llama that have seen rated sentences of people only.

    .venv/bin/python scripts/make_llama_checkpoint.py [STEPS]

It takes about three minutes on one core. The sentences, of movies, Amazon, tweets and news, are those of data=reviews
(vaderSentiment, MIT licence): no instruction is among them, so that clients who have instructions can teach it.
"""

import sys

import numpy as np
import torch
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fl_bench.data import reviews
from fl_bench.models.causal import TINY

VOCABULARY, WIDTH, LENGTH, BATCH, RATE = 1024, 96, 128, 16, 4e-3
PAD, END = "<pad>", "<end>"


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE, learnt from these texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=[PAD, END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def main(steps: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    texts = reviews.rated().texts
    tokenizer = make_tokenizer(texts)
    order = np.random.default_rng(0).permutation(len(texts))
    numbers = tokenizer([texts[i] + END for i in order])["input_ids"]
    tokens = torch.tensor([number for text in numbers for number in text])
    train, test = tokens[: -len(tokens) // 20], tokens[-len(tokens) // 20 :]
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    for _ in track(range(steps)):
        starts = torch.randint(len(train) - LENGTH, (BATCH,))
        rows = torch.stack([train[start : start + LENGTH] for start in starts])
        optimizer.zero_grad()
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    rows = test[: len(test) // LENGTH * LENGTH].view(-1, LENGTH)
    with torch.no_grad():
        loss = np.mean([float(model(input_ids=part, labels=part).loss) for part in rows.split(BATCH)])
    print(f"{model.num_parameters()} parameters; loss on sentences that it has not seen: {loss:.3f}")
    model.save_pretrained(TINY)
    tokenizer.save_pretrained(TINY)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
