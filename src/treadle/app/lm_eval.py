"""treadle's runtime as a model of lm-eval, the harness of EleutherAI (extra `eval`).

Importing this module registers the model as ``treadle``. From the shell::

    python -m treadle.app.lm_eval run --model treadle \
        --model_args pretrained=FOLDER,weights=q8 --tasks arc_easy
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from treadle.core.errors import SettingsError
from treadle.model.text import puts_bos
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.answer.outputs import RequestOutput

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise SettingsError(
        f"lm-eval is not installed ({error}); pip install 'treadle[eval]'."
    ) from error

__all__ = ["TreadleLM"]

Request = Any  # Any: lm-eval's Instance
Scored = tuple[float, bool]
_GENERATED_TOKENS = 256  # lm-eval's default, where a task does not say


@register_model("treadle")
class TreadleLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """A model that lm-eval asks for likelihoods and for text; all requests share one batch."""

    def __init__(
        self,
        pretrained: str,
        *,
        weights: str = "auto",
        kv_dtype: str = "fp32",
        num_threads: int | None = None,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        seed: int = 0,
        trust_remote_code: bool = False,
        **ignored: Any,  # what lm-eval passes to every model: batch_size, device, ...
    ) -> None:
        """Load a model.

        Args:
            pretrained: A folder, a GGUF file, ``packaged:smollm2``, or a hub id.
            weights: As of `LLM`.
            kv_dtype: As of `LLM`, but exact unless told otherwise.
            num_threads: Of the native step; None for the physical cores.
            max_length: Tokens of context and continuation together; None: what the model takes.
            add_bos_token: Whether texts start with the token that the tokenizer puts before them
                (None: where it does so by itself).
            seed: Of sampled answers.
            trust_remote_code: Whether code from the checkpoint may run.
            ignored: The engine makes its own batches and runs on the CPU.
        """
        super().__init__()
        self._llm = LLM(
            pretrained,
            weights=weights,
            kv_dtype=kv_dtype,
            num_threads=num_threads,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
        self._pretrained = str(pretrained)
        self.tokenizer = self._llm.prompts.tokenizer
        asked = add_bos_token
        self._adds_bos = puts_bos(self.tokenizer, "auto") if asked is None else asked
        # The runtime wants room for one token after a prompt.
        longest = self._llm.shape.max_positions - 1
        self.max_length = min(max_length or longest, longest)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(cast(int, self.tokenizer.eos_token_id))

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that stands alone."""
        found = self.tokenizer.bos_token_id
        return self.eot_token_id if found is None else int(cast(int, found))

    @property
    def tokenizer_name(self) -> str:
        """A name for what lm-eval keeps by tokenizer."""
        return self._pretrained.replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return the tokens of a text."""
        adds = self._adds_bos if add_special_tokens is None else add_special_tokens
        return list(self.tokenizer(string, add_special_tokens=adds).input_ids)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as the text that the model was tuned on."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[Scored]:
        """Return each continuation's log-likelihood, and whether greedy decoding would give it."""
        found: dict[int, Scored] = {}
        # Continuations of one context one after the other, so that later ones find it in the cache.
        order = _by_turns([tuple(context) for _, context, _ in requests])
        prompts, params = [], []
        for place in order:
            _, context, continuation = requests[place]
            prompts.append((context + continuation)[-self.max_length :])
            start = max(1, len(prompts[-1]) - len(continuation))
            params.append(_scoring(start))
        outputs = self._llm.generate(prompts, params)
        for place, output in zip(order, outputs, strict=True):
            key = requests[place][0]
            found[place] = _score(output)
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, found[place])
        return [found[place] for place in range(len(requests))]

    def loglikelihood_rolling(
        self, requests: Sequence[Request], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood of whole texts, in windows that do not overlap."""
        texts = [request.args[0] for request in requests]
        windows = [
            [
                (None, *make_disjoint_window(pair))
                for pair in get_rolling_token_windows(
                    token_list=self.tok_encode(text),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length - 1,
                    context_len=1,
                )
            ]
            for text in texts
        ]
        scores = iter(self._loglikelihood_tokens([pair for own in windows for pair in own]))
        found = []
        for text, own in zip(texts, windows, strict=True):
            found.append(sum(next(scores)[0] for _ in own))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    def generate_until(self, requests: Sequence[Request], disable_tqdm: bool = False) -> list[str]:
        """Return the continuation of each text, up to one of the strings that end it."""
        prompts, params = [], []
        for request in requests:
            text, settings = request.args
            asked = dict(normalize_gen_kwargs(settings, default_max_gen_toks=_GENERATED_TOKENS))
            amount = min(int(asked["max_gen_toks"]), self.max_length - 1)
            prompts.append(self.tok_encode(text)[-(self.max_length + 1 - amount) :])
            params.append(_sampling(asked, amount))
        found = [output.outputs[0].text for output in self._llm.generate(prompts, params)]
        for request, text in zip(requests, found, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return found


def _by_turns(contexts: Sequence[tuple[int, ...]]) -> list[int]:
    """Return places such that the first of each context come first, then the second ones."""
    seen: Counter[tuple[int, ...]] = Counter()
    turns = []
    for place, context in enumerate(contexts):
        turns.append((seen[context], place))
        seen[context] += 1
    return [place for _, place in sorted(turns)]


def _scoring(start: int) -> SamplingParams:
    # One best token beside each of the prompt's says whether it is the greedy one.
    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        prompt_logprobs=1,
        prompt_logprobs_start=start,
        ignore_eos=True,
    )


def _score(output: RequestOutput) -> Scored:
    """Add up the log-probabilities of the prompt's tokens that have them."""
    total, is_greedy = 0.0, True
    assert output.prompt_logprobs is not None
    for token, entry in zip(output.prompt_token_ids, output.prompt_logprobs, strict=True):
        if entry is not None:
            total += entry[token]
            is_greedy &= entry[token] == max(entry.values())
    return total, is_greedy


def _sampling(asked: dict[str, Any], max_tokens: int) -> SamplingParams:
    until = asked.get("until") or ()
    is_sampled = bool(asked.get("do_sample")) and asked.get("temperature", 1.0) > 0
    chosen: dict[str, Any] = {"temperature": 0.0}
    if is_sampled:
        names = ("temperature", "top_p", "top_k", "min_p")
        chosen = {name: asked[name] for name in names if asked.get(name) is not None}
    stop = (until,) if isinstance(until, str) else tuple(until)
    return SamplingParams(
        max_tokens=max_tokens, stop=tuple(text for text in stop if text), **chosen
    )


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
