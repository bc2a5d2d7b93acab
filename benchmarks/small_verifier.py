"""A second family of verifier without a hub: a small Qwen3-type chat model, trained on the standard library.

    python benchmarks/small_verifier.py runs/small_qwen3 [--steps 600] [--minutes 10]

It learns to write and to explain functions of the running Python's standard library, in ChatML, from what their authors
wrote. It is no good at it; it is a causal language model of another family whose greedy answers are its own.
"""

import argparse
import itertools
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, get_cosine_schedule_with_warmup

from drafter.sources.standard_library import asked

END, START, SPARE = "<|im_end|>", "<|im_start|>", "<|spare|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat(question: str, answer: str) -> str:
    return f"{START}user\n{question}{END}\n{START}assistant\n{answer}{END}\n"


def make_tokenizer(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the texts, with the chat's marks and an id that text never uses."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END, START, SPARE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token=END, pad_token=END)
    made.chat_template = TEMPLATE
    return made


def train(folder: Path, steps: int, minutes: float, rows: int = 8, length: int = 256) -> float:
    """Train and save; returns the mean loss of the last 50 steps, in nats a token."""
    torch.manual_seed(0)
    answered = [made["messages"] for made in asked() if len(made["messages"]) == 2]
    random.Random(0).shuffle(answered)
    texts = [chat(question["content"], answer["content"]) for question, answer in answered]
    tokenizer = make_tokenizer(texts, 4096)
    stream = torch.tensor(list(itertools.chain.from_iterable(tokenizer(texts)["input_ids"])))
    print(f"{len(texts)} functions, {len(stream)} tokens")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05, betas=(0.9, 0.95), fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    losses: list[float] = []
    began = time.perf_counter()
    for step in range(steps):
        start = torch.randint(len(stream) - length, (rows,))
        ids = torch.stack([stream[at : at + length] for at in start.tolist()])  # [rows, length]
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 49:
            print(
                f"step {step + 1}: {sum(losses[-50:]) / 50:.3f} nats, {time.perf_counter() - began:.0f} s", flush=True
            )
        if time.perf_counter() - began > 60 * minutes:
            print(f"stopped after {minutes} minutes")
            break
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(losses[-50:]) / len(losses[-50:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    print(f"{options.folder}: {train(options.folder, options.steps, options.minutes):.3f} nats a token")


if __name__ == "__main__":
    main()
