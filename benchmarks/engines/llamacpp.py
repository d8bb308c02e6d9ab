"""llama.cpp through llama-cpp-python's C interface: llamacpp.py MODEL THREADS SHARING.

Prompts run as sequences of one context, whole batches of up to 512 tokens in their order, then one
token of each at a time: what its server does with as many slots. With SHARING = copy, the common
start of the prompts is computed once and its cache copied to the other sequences, which the server
does not do by itself but a program can.
"""

import ctypes
import sys
import time
from typing import NamedTuple

import llama_cpp as C
import numpy as np
from answer import Tokens, serve

BATCH = 512
ROOM = 256
"""Tokens that follow a prompt, at most."""


class Entry(NamedTuple):
    """One row of a batch."""

    token: int
    place: int
    sequence: int
    wants_logits: bool


@C.llama_log_callback
def silent(level, text, data) -> None:
    pass


class Model:
    """A model and the one context that it has at a time."""

    def __init__(self, path: str, threads: int, sharing: str) -> None:
        C.llama_backend_init()
        C.llama_log_set(silent, ctypes.c_void_p(0))
        self._model = C.llama_model_load_from_file(path.encode(), C.llama_model_default_params())
        self._vocab = C.llama_vocab_n_tokens(C.llama_model_get_vocab(self._model))
        self._threads, self._shares = threads, sharing == "copy"
        self._batch = C.llama_batch_init(BATCH, 0, 1)
        self._context, self._size = None, (0, 0)

    def generate(self, prompts: Tokens, new_tokens: int) -> list[float]:
        """Answer prompts and return the times of the first tokens."""
        self._clear(len(prompts), max(map(len, prompts)) + new_tokens)
        shared = self._share(prompts) if self._shares and len(prompts) > 1 else 0
        tokens, first_at = self._prefill(prompts, shared)
        for step in range(new_tokens - 1):
            self._run(
                [
                    Entry(token, len(prompts[sequence]) + step, sequence, True)
                    for sequence, token in enumerate(tokens)
                ]
            )
            tokens = [int(self._logits(row).argmax()) for row in range(len(tokens))]
        return first_at

    def loss(self, windows: Tokens) -> float:
        """Return the mean loss of all tokens but the windows' first."""
        losses = []
        for row in windows:
            self._clear(1, len(row))
            self._run([Entry(token, place, 0, True) for place, token in enumerate(row)])
            found = np.stack([self._logits(i) for i in range(len(row) - 1)]).astype(np.float64)
            found -= found.max(axis=1, keepdims=True)
            normal = np.log(np.exp(found).sum(axis=1))
            losses.append(float((normal - found[np.arange(len(row) - 1), row[1:]]).mean()))
        return float(np.mean(losses))

    def read(self, prompt: list[int], sequences: int) -> None:
        """Read a prompt as the first of several sequences."""
        self._clear(sequences, len(prompt) + ROOM)
        self._length, self._count = len(prompt), sequences
        for first in range(0, len(prompt), BATCH):
            places = range(first, min(first + BATCH, len(prompt)))
            self._run([Entry(prompt[p], p, 0, p == len(prompt) - 1) for p in places])

    def prepare(self) -> None:
        """Copy its cache to the others."""
        for sequence in range(1, self._count):
            C.llama_memory_seq_cp(C.llama_get_memory(self._context), 0, sequence, -1, -1)

    def step(self, tokens: int, sequences: int) -> None:
        """Let so many sequences go on by so many tokens behind the prompt."""
        memory = C.llama_get_memory(self._context)
        for sequence in range(self._count):
            C.llama_memory_seq_rm(memory, sequence, self._length, -1)
        last = [5] * sequences
        for place in range(self._length, self._length + tokens):
            self._run([Entry(token, place, number, True) for number, token in enumerate(last)])
            last = [int(self._logits(row).argmax()) for row in range(sequences)]

    def _clear(self, sequences: int, length: int) -> None:
        size = sequences, -(-length // 256) * 256
        if size != self._size:
            if self._context is not None:
                C.llama_free(self._context)
            wanted = C.llama_context_default_params()
            wanted.n_seq_max = sequences
            wanted.n_ctx = size[0] * size[1]
            wanted.n_batch = wanted.n_ubatch = BATCH
            wanted.n_threads = wanted.n_threads_batch = self._threads
            wanted.kv_unified = self._shares and sequences > 1
            self._context, self._size = C.llama_init_from_model(self._model, wanted), size
        C.llama_memory_clear(C.llama_get_memory(self._context), True)

    def _share(self, prompts: Tokens) -> int:
        """Compute the prompts' common start for the first sequence and give it to the others."""
        alike = zip(*prompts, strict=False)
        shared = next((i for i, t in enumerate(alike) if len(set(t)) > 1), len(prompts[0]) - 1)
        for first in range(0, shared, BATCH):
            places = range(first, min(first + BATCH, shared))
            self._run([Entry(prompts[0][place], place, 0, False) for place in places])
        for sequence in range(1, len(prompts)):
            C.llama_memory_seq_cp(C.llama_get_memory(self._context), 0, sequence, 0, shared)
        return shared

    def _prefill(self, prompts: Tokens, shared: int) -> tuple[list[int], list[float]]:
        todo = [
            Entry(token, place, sequence, place == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for place, token in enumerate(prompt)
            if place >= shared
        ]
        tokens, first_at = [0] * len(prompts), [0.0] * len(prompts)
        for start in range(0, len(todo), BATCH):
            entries = todo[start : start + BATCH]
            self._run(entries)
            for row, entry in enumerate(entries):
                if entry.wants_logits:
                    tokens[entry.sequence] = int(self._logits(row).argmax())
                    first_at[entry.sequence] = time.perf_counter()
        return tokens, first_at

    def _run(self, entries: list[Entry]) -> None:
        batch = self._batch
        batch.n_tokens = len(entries)
        for i, entry in enumerate(entries):
            batch.token[i], batch.pos[i] = entry.token, entry.place
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, entry.sequence
            batch.logits[i] = entry.wants_logits
        if C.llama_decode(self._context, batch):
            raise RuntimeError("llama_decode failed")

    def _logits(self, row: int) -> np.ndarray:
        return np.ctypeslib.as_array(C.llama_get_logits_ith(self._context, row), (self._vocab,))


def load():
    model = Model(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    return model.generate, model.loss, model


serve(load)
