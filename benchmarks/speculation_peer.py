"""Speculation beside llama.cpp's prompt lookup and transformers' assisted and prompt-lookup ways.

Every side is a process of its own that answers one question at a time; ways and sides take turns on
each question, in an order that is drawn. All get the same token ids, and write as many tokens,
greedily. Counted is the time behind the first token, of the clock and of the processors, and each
way's ratio to its own side without speculation.

Usage: python benchmarks/speculation_peer.py --questions QUESTIONS.jsonl [--assistant FOLDER]
[--llamacpp /opt/peers/llamacpp/bin/python --gguf MODEL.gguf] [--weights fp32] [--num-questions 15]
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import store

from treadle.core.seed import numpy_stream
from treadle.judge.bench.methods.speculation import Speculated
from treadle.model.load import resolve
from treadle.runtime import LLM

SERVE = """
import json, sys, time

def serve(answer):
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        tokens, times = [], []
        for token in answer(asked["way"], asked["prompt"], asked["new_tokens"]):
            tokens.append(int(token))
            times.append((time.perf_counter(), time.process_time()))
        (wall, cpu), (first_wall, first_cpu) = times[-1], times[0]
        behind = sum(at != times[0] for at in times)
        print(json.dumps([wall - first_wall, cpu - first_cpu, behind, tokens]), flush=True)
"""
OURS = """
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.choice import choose_executor
from pathlib import Path
executor = choose_executor(Path("MODEL"), "WEIGHTS", THREADS)
engines = {}

def answer(way, prompt, new_tokens):
    if way not in engines:
        engines[way] = LLM("MODEL", executor=executor, speculate=way, enable_prefix_caching=False)
    llm = engines[way]
    (request,) = llm.submit(prompt, SamplingParams(temperature=0, max_tokens=new_tokens,
                                                   ignore_eos=True))
    while request.finish_reason is None:
        for event in llm.step():
            if event.token is not None:
                yield event.token
    llm.close([request])

serve(answer)
"""
TRANSFORMERS = """
import torch
torch.set_num_threads(THREADS)
from queue import Queue
from threading import Thread
from transformers import AutoModelForCausalLM
load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
model, assistant = load("MODEL"), load("ASSISTANT") if "ASSISTANT" else None
model.generation_config.eos_token_id = None
if assistant is not None:
    assistant.generation_config.eos_token_id = None

class Stream:
    def __init__(self):
        self.queue, self.is_prompt = Queue(), True
    def put(self, value):
        if not self.is_prompt:
            for token in value.reshape(-1).tolist():
                self.queue.put(token)
        self.is_prompt = False
    def end(self):
        self.queue.put(None)

def answer(way, prompt, new_tokens):
    how = {"none": {}, "prompt lookup": {"prompt_lookup_num_tokens": 10},
           "assisted": {"assistant_model": assistant}}[way]
    stream, ids = Stream(), torch.tensor([prompt])
    def run():
        with torch.no_grad():
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens,
                           do_sample=False, streamer=stream, pad_token_id=0, **how)
    thread = Thread(target=run)
    thread.start()
    while (token := stream.queue.get()) is not None:
        yield token
    thread.join()

serve(answer)
"""
LLAMACPP = """
from llama_cpp import Llama
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
load = lambda **how: Llama("GGUF", n_ctx=4096, n_threads=THREADS, n_threads_batch=THREADS,
                           verbose=False, logits_all=bool(how), **how)
models = {"none": load(), "prompt lookup": load(
    draft_model=LlamaPromptLookupDecoding(max_ngram_size=2, num_pred_tokens=2))}

def answer(way, prompt, new_tokens):
    model = models[way]
    model.reset()
    for count, token in enumerate(model.generate(prompt, temp=0.0), 1):
        yield token
        if count == new_tokens:
            return

serve(answer)
"""


class Side:
    """A process that answers."""

    def __init__(self, python: str, script: str, **values: object) -> None:
        for name, value in values.items():
            script = script.replace(name, str(value))
        command = [python, "-c", SERVE + script]
        environment = {**os.environ, "OMP_NUM_THREADS": str(values["THREADS"])}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._read("ready")

    def ask(self, **asked: object) -> list:
        """Return wall and processor seconds, tokens written in them, and all tokens."""
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return json.loads(self._read("["))

    def _read(self, start: str) -> str:
        while line := self._process.stdout.readline():
            if line.startswith(start):
                return line
        raise SystemExit("A side ended; its error stands above.")

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--model", default="packaged:smollm2")
    parser.add_argument("--weights", default="fp32")
    parser.add_argument("--assistant", default="")
    parser.add_argument("--llamacpp", help="python with llama-cpp-python")
    parser.add_argument("--gguf", help="the model as llama.cpp reads it")
    parser.add_argument("--num-questions", type=int, default=15)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--most-prompt-tokens", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--classes", nargs="*", default=[])
    given = parser.parse_args()
    folder = resolve(given.model)
    prompts = LLM(folder, cache_bytes=2**24).prompts
    common = {"MODEL": folder, "THREADS": given.threads}
    sides = {
        "treadle": Side(sys.executable, OURS, WEIGHTS=given.weights, **common),
        "transformers": Side(sys.executable, TRANSFORMERS, ASSISTANT=given.assistant, **common),
    }
    ways = [("treadle", way) for way in ("none", "suffix", "ngram", "recycling")]
    lookups = [("transformers", "none"), ("transformers", "prompt lookup")]
    ways += [*lookups, *([("transformers", "assisted")] if given.assistant else [])]
    if given.llamacpp:
        sides["llama.cpp"] = Side(given.llamacpp, LLAMACPP, GGUF=given.gguf, **common)
        ways += [("llama.cpp", "none"), ("llama.cpp", "prompt lookup")]
    method = Speculated(
        questions=given.questions,
        classes=tuple(given.classes),
        num_questions=given.num_questions,
    )
    found: dict[str, dict[str, list]] = {}
    order = numpy_stream(0, "order of ways")
    for kind, questions in method._groups(0):
        for question in questions:
            chat = prompts.chat([{"role": "user", "content": question.text}])
            tokens = prompts.tokens(chat)[-given.most_prompt_tokens :]
            for place in order.permutation(len(ways)):
                side, way = ways[place]
                answer = sides[side].ask(way=way, prompt=tokens, new_tokens=given.new_tokens)
                found.setdefault(kind, {}).setdefault(f"{side}: {way}", []).append(answer)
        print(kind)
        for name, own in summed(found[kind]).items():
            print("  " + ", ".join([name, *(f"{key} {value:.4g}" for key, value in own.items())]))
    for side in sides.values():
        side.close()
    results = {kind: summed(own) for kind, own in found.items()}
    about = {"weights": given.weights, "num_questions": given.num_questions}
    print(store.write("speculation_peer", {**about, "classes": results}))


def summed(answers: dict[str, list]) -> dict[str, dict[str, float]]:
    """Return the rates of each way, their ratios to none, and how many answers are none's."""
    found = {}
    for name, own in answers.items():
        off = answers[f"{name.split(':')[0]}: none"]
        rate, base = (_rate(runs, 0) for runs in (own, off))
        by_cpu, base_cpu = (_rate(runs, 1) for runs in (own, off))
        same = sum(one[3] == other[3] for one, other in zip(own, off, strict=True)) / len(own)
        found[name] = {
            "tokens_per_second": rate,
            "times_none": rate / base,
            "times_none_by_cpu": by_cpu / base_cpu,
            "same_answers": same,
        }
    return found


def _rate(runs: list, clock: int) -> float:
    return sum(run[2] for run in runs) / sum(run[clock] for run in runs)


if __name__ == "__main__":
    main()
