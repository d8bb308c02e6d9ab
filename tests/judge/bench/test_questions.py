"""Questions through a model that knows its answers, and through a real one."""

import json
import shutil
from pathlib import Path

import pytest

from judge.bench.machines import Clocked
from treadle.core.ports import Answer
from treadle.judge.bench import bench
from treadle.judge.bench.methods.questions import Questions
from treadle.runtime import LLM, SamplingParams


class Oracle(Clocked):
    """Answers by a table, a hundredth of a second a word."""

    def answer(self, prompts, asked):
        assert asked.is_chat
        (question,) = prompts
        words = {"One?": "one", "Two?": "it is\n two"}[question].split()[: asked.max_tokens]
        self.work([1], 1 + len(words))
        return [Answer(" ".join(words), tuple(range(len(words))), True)]


def test_answers_stand_beside_their_speed(clock):
    method = Questions(questions=("One?", "Two?"), new_tokens=5)
    found = method.measure(Oracle(prompt_seconds=0.02, token_seconds=0.01), 0).measurements
    assert [(entry.name, entry.note) for entry in found[2:]] == [
        ("One?", "one"),
        ("Two?", "it is two"),
    ]
    # One and three tokens, a hundredth of a second each, after a prompt of two hundredths.
    assert [entry.name for entry in found[:2]] == ["rate", "rate_by_cpu"]
    rates = [4 / 0.08, 4 / 0.16, 1 / 0.03, 3 / 0.05]
    assert [entry.value for entry in found] == pytest.approx(rates)


def test_a_question_that_stands_twice_is_refused():
    with pytest.raises(ValueError, match="'One\\?' is asked twice; ask each question once"):
        Questions(questions=("One?", "Two?", "One?"))


def test_a_real_model_is_asked_through_its_chat_template(llama, tmp_path):
    model = Path(shutil.copytree(llama, tmp_path / "model"))
    file = model / "tokenizer_config.json"
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))
    result = bench(model, tmp_path / "out", Questions(questions=("Why?",), new_tokens=3))
    assert result.measurement("Why?").note
    assert result.measurement("Why?").value > 0
    assert result.bytes["held"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::treadle.runtime.price.RoundedWeightsWarning")
@pytest.mark.parametrize("weights", ["fp32", "fp16", "q8", "q4_0", "q4_1"])
def test_the_first_token_of_each_answer_is_clear_in_every_form(weights):
    """A near-tie there would show a form as worse than it is, by a coin's toss."""
    llm = LLM("packaged:smollm2", weights=weights, cache_bytes=1 << 26)
    chats = [[{"role": "user", "content": question}] for question in Questions().questions]
    prompts = [llm.prompts.tokens(llm.prompts.chat(chat)) for chat in chats]
    params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=2)
    for output in llm.generate(prompts, params):
        best, second = sorted(output.outputs[0].logprobs[0].values(), reverse=True)[:2]
        assert best - second > 1.0, "nats: less than e times as probable as the next"
