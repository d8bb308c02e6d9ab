"""Chat templates: the models' own, and the formats that recipes call by name."""

from collections import Counter
from collections.abc import Sequence

from treadle.combine.merge.tokens.tokenizer import Tokenizer
from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.model.text import require_template

__all__ = ["NAMED", "chosen_template"]

_CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""
_LLAMA3 = """\
{{- bos_token -}}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif -%}
"""
_ALPACA = """\
{%- for message in messages -%}
{%- set title = {'user': '### Instruction:\\n', 'user_context': '### Input:\\n',
                 'assistant': '### Response:\\n', 'system': ''}[message['role']] -%}
{{ title + message['content'] | trim + '\\n\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '### Response:\\n' }}
{%- endif -%}
"""
_MISTRAL = """\
{{- bos_token -}}
{%- set told = namespace(text='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' and loop.first -%}
{%- set told.text = message['content'] + '\\n\\n' -%}
{%- elif message['role'] == 'user' -%}
{{ ' [INST] ' + told.text + message['content'] + ' [/INST]' }}
{%- set told.text = '' -%}
{%- elif message['role'] == 'assistant' -%}
{{ ' ' + message['content'] + eos_token }}
{%- else -%}
{{ raise_exception('Only user, assistant and a first system message have a place here.') }}
{%- endif -%}
{%- endfor -%}
"""
_EXAONE = """\
{%- if messages[0]['role'] != 'system' -%}
{{ '[|system|][|endofturn|]\\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- set end = '' if message['role'] == 'user' else '[|endofturn|]' -%}
{{ '[|' + message['role'] + '|]' + message['content'] + end + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '[|assistant|]' }}
{%- endif -%}
"""
NAMED = {
    "alpaca": _ALPACA,
    "chatml": _CHATML,
    "exaone": _EXAONE,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
}
"""Name in a recipe -> the jinja text."""


def chosen_template(
    request: str, names: Sequence[str], tokenizers: Sequence[Tokenizer | None]
) -> str | None:
    """Return the chat template that a recipe asks for; None if "auto" finds none.

    Args:
        request: "auto" for the most common one of the models, a model's name, one of `NAMED`, or a
            jinja text.
        names: The models' names.
        tokenizers: Their tokenizers, or None for a model without.

    Raises:
        SettingsError: It is none of these, or the model has no template.
    """
    found = [None if tokenizer is None else tokenizer.template for tokenizer in tokenizers]
    if request == "auto":
        counts = Counter(template.strip() for template in found if template is not None)
        return counts.most_common(1)[0][0] if counts else None
    if "{" in request:
        require_template(request)
        return request
    if request in NAMED and request not in names:
        return NAMED[request]
    if request not in names:
        close = near(request, [*NAMED, "auto", *names])
        raise SettingsError(
            f"chat_template '{request}' is no jinja text, no template that is kept by name here "
            f"and no model of the merge. {close} Or write the jinja text itself."
        )
    template = found[names.index(request)]
    if template is None:
        raise SettingsError(
            f"chat_template names the model '{request}', which has none; name another one, or "
            f"leave the key out."
        )
    return template
