"""Forms of answers in the making."""

import threading
from pathlib import Path

import pytest

from treadle.runtime import LLM, StructuredOutputs
from treadle.runtime.answer.constraint import Grammars


def test_a_form_that_takes_long_to_compile_holds_up_no_other(
    llama: Path, monkeypatch: pytest.MonkeyPatch
):
    llm = LLM(llama, weights="fp32")
    grammars = Grammars(llm.prompts.tokenizer, llm.prompts.eos_tokens, llm.shape.vocab_size)
    quick, slow = StructuredOutputs(choice=["a"]), StructuredOutputs(choice=["b"])
    began, may_end = threading.Event(), threading.Event()
    compile_form = grammars._compile

    def compile_slowly(form: StructuredOutputs):
        if form is slow:
            began.set()
            assert may_end.wait(120)
        return compile_form(form)

    monkeypatch.setattr(grammars, "_compile", compile_slowly)
    found = []
    thread = threading.Thread(target=lambda: found.append(grammars.constraint(slow)))
    thread.start()
    assert began.wait(120)
    assert grammars.constraint(quick).allowed().any()
    assert grammars.constraint(quick).allowed().any()
    may_end.set()
    thread.join(120)
    assert found[0].allowed().any()
