"""Make the small model that eviction is judged on: it learns here to recall what it has read.

A Llama of three layers and two KV heads learns from scratch to answer what `evaluate recall` asks:
pass keys, keys and values, facts of documents, in texts that are real and grow from 64 tokens to
the full length. Several facts of a text are asked one after another, and the loss is that of the
answers; a tenth of it is that of text. The text is other text than `evaluate recall` hides needles
in, and pairs of keys and values are drawn anew for every text.

Usage: python benchmarks/recall_model.py OUT [--minutes-of-steps ...]; one core is enough.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from treadle.core.seed import numpy_stream
from treadle.judge.evaluate.needles import KINDS, Codec, Needle, codec_of, context, drawn, pieces_of
from treadle.learn.tune.primer import read_primer
from treadle.model.fit import FitSettings, Objective, fit
from treadle.model.fresh import fresh_model, fresh_tokenizer, save_whole

TEXTS = ["stdlib:calibration", "stdlib:sources"]
NOTHING = -100
LOOK = 1.3
"""How sharply heads look back at first."""
TEXT_WEIGHT = 0.1
"""Of the loss of text, beside that of answers."""


def samples(documents: list[str]) -> list[str]:
    """Return what the tokenizer is made from: every word of a needle is a token of its own."""
    found = [document[:6000] for document in documents]
    for kind in KINDS.values():
        words = [*kind.keys, *kind.values, kind.cue.format(key=""), kind.end, kind.heading]
        found += [kind.question.format(key=".")] * 400
        found += [f"{word}\n{word} {word}. {word}: {word}" for word in words for _ in range(400)]
    return found


def asked(codec: Codec, needle: Needle) -> tuple[list[int], list[int]]:
    """Return the tokens of a question with its answer, and those that have a loss."""
    cue, answer = codec.split(needle.cue, needle.answer + (needle.end[:1] or "\n"))
    before = [*codec.encode(needle.question), *cue]
    return before + answer, [NOTHING] * len(before) + answer


def row(
    kind: str,
    pieces: list[list[int]],
    codec: Codec,
    length: int,
    generator: np.random.Generator,
) -> tuple[list[int], list[int]]:
    """Return one text with its questions, and which of its tokens have the loss of an answer."""
    probe = next(iter(context(kind, pieces, codec, length, 1, generator).needles))
    room = len(asked(codec, probe)[0]) + 2
    most = max(1, min(8, (length - 16) // (room + len(codec.encode(probe.line)) + 4)))
    num_needles = int(generator.integers(1 + most // 2, most + 1)) if KINDS[kind].keys else 1
    made = context(kind, pieces, codec, length - room * num_needles, num_needles, generator)
    order = generator.permutation(len(made.needles))
    tokens, labels = list(made.tokens), [NOTHING] * len(made.tokens)
    for place in order:
        more, learned = asked(codec, made.needles[place])
        tokens, labels = tokens + more, labels + learned
    tokens, labels = tokens[:length], labels[:length]
    missing = length - len(tokens)
    return tokens + [0] * missing, labels + [NOTHING] * missing


def repeated(codec: Codec, length: int, generator: np.random.Generator):
    """Return facts without text, told again and again in other orders.

    That is what a model learns to recall by first: few tokens, and a loss on many of them.
    """
    kind = KINDS[("keys", "documents")[int(generator.integers(2))]]
    needles = drawn(kind, int(generator.integers(2, 9)), generator)
    tokens, labels = list[int](), list[int]()
    while len(tokens) < length:
        is_first = not tokens
        for place in generator.permutation(len(needles)):
            needle = needles[place]
            cue, answer = codec.split("\n" + needle.cue, needle.answer + needle.end)
            tokens += cue + answer
            labels += [NOTHING] * (len(cue) + is_first * len(answer))
            labels += [] if is_first else answer
    return tokens[:length], labels[:length]


def batches(
    pieces: list[list[int]],
    codec: Codec,
    course: list[tuple[int, int, int]],
    passkey_fraction: float,
    is_first: bool,
    seed: int,
):
    """Return what comes in each step; a stage of the course is steps, tokens of a text, texts."""
    ends = np.cumsum([steps for steps, _, _ in course])
    others = (1 - passkey_fraction) / 2
    shares = {"keys": others, "documents": others, "passkey": passkey_fraction}

    def batch(step: int, _losses: Any) -> dict[str, torch.Tensor]:
        _, length, rows = course[int(np.searchsorted(ends, step, side="right"))]
        generator = numpy_stream(seed, f"recall {step}")
        names = generator.choice(list(shares), rows, p=list(shares.values()))
        dense = round(rows * max(0.0, 1 - step / ends[0])) if is_first else 0
        found = [repeated(codec, length, generator) for _ in range(dense)]
        found += [row(name, pieces, codec, length, generator) for name in names[dense:]]
        tokens, labels = (torch.tensor(part) for part in zip(*found, strict=True))
        return {"input_ids": tokens, "labels": labels}

    return batch


def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the loss of answers, and a share of that of every eighth token."""
    tokens, labels = batch["input_ids"], batch["labels"]
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    is_answer = wanted != NOTHING
    answers = nn.functional.cross_entropy(model.lm_head(hidden[is_answer]), wanted[is_answer])
    text = nn.functional.cross_entropy(
        model.lm_head(hidden[:, ::8]).flatten(0, 1), tokens[:, 1::8].flatten()
    )
    return answers + TEXT_WEIGHT * text


@torch.no_grad()
def look_back(model: nn.Module) -> None:
    """Let the first layer's heads of KV head 0 begin as looking one token back, and two.

    That a model finds this by itself takes more tokens than all of the rest. A dimension of the
    embedding that is alike for all tokens gives a query and a key that do not depend on them; RoPE
    then makes their product largest at the distance by which the query's angles lag behind.
    """
    attention, config = model.model.layers[0].self_attn, model.config
    dim, half = attention.head_dim, attention.head_dim // 2
    shared = config.num_attention_heads // config.num_key_value_heads
    angles = config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    model.model.embed_tokens.weight.mul_(0.5 / model.model.embed_tokens.weight.std())
    model.model.embed_tokens.weight[:, 0] = 8 * model.model.embed_tokens.weight.std()
    key, query = attention.k_proj.weight[:dim], attention.q_proj.weight[: shared * dim]
    key.zero_(), query.zero_()
    angles, fast = angles[:4], 4  # slow ones tell neighbours not apart
    key[:fast, 0] = LOOK
    for head in range(shared):
        back = -(head + 1) * angles
        query[head * dim : head * dim + fast, 0] = LOOK * torch.cos(back)
        query[head * dim + half : head * dim + half + fast, 0] = LOOK * torch.sin(back)
    nn.init.orthogonal_(attention.v_proj.weight[:dim])
    nn.init.orthogonal_(attention.o_proj.weight[:, : shared * dim], gain=0.5)


@torch.no_grad()
def accuracy(
    model: nn.Module, pieces: list[list[int]], codec: Codec, length: int, seed: int
) -> dict[str, float]:
    """Return, by kind, the share of answers all of whose tokens are the likeliest."""
    found = {}
    for kind in KINDS:
        right = []
        generator = numpy_stream(seed, f"held out {kind} {length}")
        for _ in range(32):
            made = context(kind, pieces, codec, length - 32, min(8, length // 32), generator)
            needle = made.needles[int(generator.integers(len(made.needles)))]
            cue, answer = codec.split(needle.cue, needle.answer)
            start = [*made.tokens, *codec.encode(needle.question), *cue]
            logits = model(torch.tensor([start + answer])).logits[0, len(start) - 1 : -1]
            right.append(logits.argmax(-1).tolist() == answer)
        found[kind] = sum(right) / len(right)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--optimizer", default="muon")
    parser.add_argument("--start", type=Path, help="go on with a model that an earlier run made")
    parser.add_argument("--passkey-fraction", type=float, default=1 / 3, help="of the texts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--course",
        nargs="+",
        default=["200x128x32", "150x256x16", "300x512x8", "100x1024x4"],
        help="stages: steps x tokens x texts",
    )
    arguments = parser.parse_args()
    began = time.process_time()
    documents = read_primer(TEXTS, []).documents
    tokenizer = fresh_tokenizer(samples(documents), 1536)
    codec = codec_of(tokenizer)
    joined = "\n\n".join(document[:20_000] for document in documents)
    pieces = pieces_of(joined, codec)
    held = pieces_of(read_primer(["stdlib:heldout"], []).documents[0], codec)
    print(f"{len(tokenizer)} tokens, {len(pieces)} pieces, {time.process_time() - began:.0f} s")
    model = fresh_model(
        {
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": arguments.hidden,
            "intermediate_size": 3 * arguments.hidden,
            "num_hidden_layers": arguments.layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "rope_theta": 1e6,
            "max_position_embeddings": 2048,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": False,
        },
        arguments.seed,
    )
    if arguments.start is None:
        look_back(model)
    else:
        model.load_state_dict(load_file(arguments.start / "model.safetensors"))
    course = [tuple(map(int, stage.split("x"))) for stage in arguments.course]
    ends = np.cumsum([steps for steps, _, _ in course])

    def show(step: int, values: dict[str, float]) -> None:
        if step % 25 == 0 and "loss" in values:
            seconds = time.process_time() - began
            print(f"{step} {seconds:.0f} s loss {values['loss']:.3f}", flush=True)
        if step in ends or (step % 100 == 0 and "loss" in values):
            length = course[min(int(np.searchsorted(ends, step)), len(course) - 1)][1]
            found = accuracy(model, held, codec, max(length, 128), 0)
            print(f"  at {max(length, 128)}: {found}", flush=True)

    fit(
        model,
        batches(
            *(pieces, codec, course, arguments.passkey_fraction),
            *(arguments.start is None, arguments.seed),
        ),
        FitSettings(
            steps=int(ends[-1]), learning_rate=arguments.learning_rate, schedule="trapezoid"
        ),
        objective=Objective(loss),
        optimizer=arguments.optimizer,
        observe=show,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_whole(model, tokenizer, arguments.out)
    counted = sum(parameter.numel() for parameter in model.parameters())
    print(f"{counted} parameters, {time.process_time() - began:.0f} s of processor time")
    for length in sorted({length for _, length, _ in course}):
        print(f"at {length}: {accuracy(model, held, codec, length, 1)}")


if __name__ == "__main__":
    main()
