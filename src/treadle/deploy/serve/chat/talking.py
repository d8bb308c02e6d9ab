"""How a conversation becomes an answer in pieces, whatever interface asked for it."""

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from starlette.requests import Request

from treadle.core.errors import TreadleError
from treadle.deploy.http.asked import AllowedTools, AskedChat, NamedTool, Tool
from treadle.deploy.http.errors import ApiError, from_treadle
from treadle.deploy.serve.catalogue import ServedModel
from treadle.deploy.serve.chat.answer import ChatAnswer, Turn
from treadle.deploy.serve.chat.calls import format_of
from treadle.deploy.serve.chat.conversation import Talk, written
from treadle.deploy.serve.chat.forms import blame, form_of, schemas_of
from treadle.deploy.serve.chat.pieces import ChatPiece, Plain
from treadle.deploy.serve.chat.thoughts import BEGIN, END, thinks
from treadle.deploy.serve.preparing import Wanted
from treadle.deploy.serve.routed.choosing import choose, said_first
from treadle.deploy.serve.routed.turns import ask_in_turn
from treadle.deploy.serve.sampling import sampling_params
from treadle.deploy.serve.serving import Answers, Prepared, Serving
from treadle.runtime.answer.outputs import Delta
from treadle.runtime.request import SamplingParams
from treadle.runtime.structured import FormError, StructuredOutputs

__all__ = ["Talking", "Words", "begin", "talk_of"]


class Words(NamedTuple):
    """How an interface calls things, for errors, and what it does where the context ends."""

    form_param: str = "response_format"
    form_place: str = "response_format.json_schema.schema"
    tool_place: str = "tools[{}].function.parameters"
    is_capped: bool = False
    """Whether an answer that asks for more than the context has left gets what is left."""


_CHATS = Words()


class Talking(NamedTuple):
    """Answers on their way, and how each is read."""

    model: ServedModel
    answers: Answers
    chats: list[ChatAnswer]

    async def pieces(self) -> AsyncIterator[tuple[int, Delta, list[ChatPiece]]]:
        """Give what is new: of which answer, as it came, and as a client reads it."""
        async for place, delta in self.answers.pieces():
            yield place, delta, self.chats[place].take(delta)

    def usage(self) -> Plain:
        """Return how many tokens were read and written, in OpenAI's names."""
        found = self.answers.usage([chat.tokens for chat in self.chats])
        thoughts = [chat.thought for chat in self.chats if chat.thought]
        tokenizer = self.model.llm.prompts.reader
        count = sum(len(tokenizer(t, add_special_tokens=False).input_ids) for t in thoughts)
        return {**found, "completion_tokens_details": {"reasoning_tokens": count}}


async def begin(
    serving: Serving,
    request: Request,
    asked: AskedChat,
    words: Words = _CHATS,
    fitted: Callable[[ServedModel], AskedChat] | None = None,
) -> Talking:
    """Let a conversation wait for its answers.

    Args:
        serving: Who answers.
        request: Of the client.
        asked: What it wants, in OpenAI's words.
        words: Of the interface that asks.
        fitted: Returns the same in words that depend on the model.

    Raises:
        ApiError: The request is refused.
    """
    read = partial(said_first, asked.messages)
    chosen = await choose(serving, request, asked.model, read, asked.n or 1)
    turns: list[Turn] = []

    def prepare(model: ServedModel, wanted: Wanted) -> list[Prepared]:
        chat = asked if fitted is None else fitted(model)
        turn, prepared = _prepared(serving, model, chat, words)
        turns.append(turn)
        return [prepared]

    model, answers = await ask_in_turn(serving, request, asked, chosen, asked.n or 1, prepare)
    chats = [ChatAnswer(turns[-1]) for _ in answers.parts[0].requests]
    return Talking(model, answers, chats)


def talk_of(asked: AskedChat, model: ServedModel) -> Talk:
    """Return the conversation that the model's template gets to see."""
    is_off = asked.tool_choice == "none"
    return Talk(
        asked.messages,
        [] if is_off else _offered(asked),
        template_values(asked.chat_template_kwargs or {}, asked.reasoning_effort, model),
        asked.add_generation_prompt is not False,
        asked.continue_final_message is True,
    )


def template_values(
    given: Mapping[str, Any],  # Any: JSON values
    effort: str | None,
    model: ServedModel,
) -> dict[str, Any]:
    """Return what the template reads beside the messages.

    Raises:
        ApiError: It reads no such value.
    """
    template, values = model.chat_template, dict(given)
    if effort is not None:
        if "reasoning_effort" in template:
            values.setdefault("reasoning_effort", effort)
        elif "enable_thinking" in template:
            values.setdefault("enable_thinking", effort != "none")
        elif effort != "none":
            raise ApiError(
                400,
                f"Found reasoning_effort = '{effort}', but the chat template of '{model.name}' has "
                f"no thoughts to steer; leave it out.",
                "unsupported_parameter",
                "reasoning_effort",
            )
    for name in list(values):
        if name in template:
            continue
        if name in ("enable_thinking", "thinking") and values[name] is False:
            del values[name]  # it never thinks
            continue
        raise ApiError(
            400,
            f"The chat template of '{model.name}' reads no '{name[:80]}'; leave it out of "
            f"chat_template_kwargs.",
            "unsupported_parameter",
            "chat_template_kwargs",
        )
    return values


def _offered(asked: AskedChat) -> list[Tool]:
    tools = asked.tools or []
    if not isinstance(asked.tool_choice, AllowedTools):
        return tools
    allowed = {entry.name for entry in asked.tool_choice.allowed_tools.tools}
    return [tool for tool in tools if tool.function.name in allowed]


def _turn(serving: Serving, model: ServedModel, asked: AskedChat, talk: Talk) -> Turn:
    """Return how the answer is to be read, as far as the request says so."""
    has_thoughts = thinks(model.chat_template, serving.reasoning_parser)
    turn = Turn(thinks=has_thoughts and asked.structured_outputs is None)
    if not talk.tools:
        return turn
    choice = asked.tool_choice
    mode = choice.allowed_tools.mode if isinstance(choice, AllowedTools) else choice or "auto"
    name = serving.tool_format
    return turn._replace(
        tool_format=format_of(model.chat_template) if name == "auto" else name,
        reads_calls=mode == "auto",
        is_forced=mode != "auto",
        only=choice.name if isinstance(choice, NamedTool) else None,
        is_single=asked.parallel_tool_calls is False,
        names=frozenset(tool.function.name for tool in talk.tools),
    )


def _prepared(
    serving: Serving, model: ServedModel, asked: AskedChat, words: Words
) -> tuple[Turn, Prepared]:
    talk = talk_of(asked, model)
    text = written(model, talk)
    end = text.rstrip()
    turn = _turn(serving, model, asked, talk)
    turn = turn._replace(
        thinks=turn.thinks and not end.endswith(END), is_thinking=end.endswith(BEGIN)
    )
    tokens = model.tokens(text, adds_special=False)
    most = asked.max_completion_tokens or asked.max_tokens
    if words.is_capped and most is not None:
        most = min(most, model.max_length - len(tokens))
    try:
        params = _params(asked, model, talk, turn, model.max_tokens(len(tokens), most))
    except FormError as error:
        raise _blamed(asked, model, talk, words, error) from error
    except TreadleError as error:
        raise from_treadle(error) from error
    return turn, (tokens, params)


def _params(
    asked: AskedChat, model: ServedModel, talk: Talk, turn: Turn, most: int
) -> SamplingParams:
    params = sampling_params(
        asked,
        most,
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        form=form_of(talk.tools, asked.response_format, turn),
        shows_special_tokens=turn.reads_calls or _marks_are_special(model, turn),
    )
    if params.structured_outputs is not None:
        model.llm.check(params)
    return params


def _blamed(
    asked: AskedChat, model: ServedModel, talk: Talk, words: Words, error: FormError
) -> ApiError:
    """Return which of a request's schemas cannot be kept."""
    if asked.structured_outputs is not None:
        return from_treadle(error)

    def check(form: StructuredOutputs) -> None:
        model.llm.check(SamplingParams(max_tokens=1, structured_outputs=form))

    tools = {place: tool for place, tool in enumerate(asked.tools or []) if tool in talk.tools}
    schemas = schemas_of(tools, asked.response_format, words.tool_place, words.form_place)
    return blame(check, schemas, words.form_param, error)


def _marks_are_special(model: ServedModel, turn: Turn) -> bool:
    """Return whether the marks of thoughts are tokens that texts leave out."""
    return turn.thinks and END in model.llm.prompts.tokenizer.all_special_tokens
