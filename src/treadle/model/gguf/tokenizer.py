"""The tokenizer that a GGUF file describes: its tokens and merges, split as llama.cpp splits.

The file names how text is split before its merges apply (`tokenizer.ggml.pre`). A split that is
not known is refused: another one would give tokens that the model was not trained on.
"""

from typing import TYPE_CHECKING, Any

from treadle.core.errors import DataError
from treadle.model.gguf.file import GgufFile
from treadle.model.gguf.settings import CONVERT_AGAIN, optional_setting, require_setting

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

__all__ = ["end_tokens", "gguf_tokenizer", "has_tokenizer", "tokenizer_files"]

_CONTROL, _USER_DEFINED = 3, 4
"""GGUF's types of tokens that text is not merged into."""
_LETTERS_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_LETTERS_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
)
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _LETTERS_LLAMA3 + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_QWEN2 = _LETTERS_LLAMA3 + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_GPT4O = (
    "|".join(words + _CONTRACTION for words in _LETTERS_CASED)
    + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    + _SPACES
)
_TEKKEN = "|".join(_LETTERS_CASED) + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
_GPT2, _DIGITS = "", "digits"
_SPLITS = {
    **dict.fromkeys(("default", "gpt-2", "phi-2", "mpt", "olmo", "jais"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"), _QWEN2),
    **dict.fromkeys(("gpt-4o", "llama4"), _GPT4O),
    "tekken": _TEKKEN,
}
"""`tokenizer.ggml.pre` -> pattern; digits: every digit alone, then GPT-2's words."""
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "tekken")
"""Names of splits whose words are taken from the vocabulary before merges are tried, and texts
begun."""
_COMPOSED = ("qwen2", "deepseek-r1-qwen", "olmo")
"""Names of splits of texts whose characters are composed first (NFC)."""
_KEEP_SPACES = ("<unk>", "<s>", "<|endoftext|>")
"""Tokens of phi3's that do not take the white space behind them."""
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>")
"""Tokens that end an answer where the file does not name one."""
_ROLES = (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
_SPACE = "\u2581"


def has_tokenizer(file: GgufFile) -> bool:
    """Say whether a file carries its vocabulary."""
    return "tokenizer.ggml.tokens" in file.settings


def end_tokens(file: GgufFile) -> frozenset[int]:
    """Return the tokens that end a text or an answer."""
    named = [_id(file, key) for key in ("eos", "eot", "eom")]
    if named[1] is None and has_tokenizer(file):
        control = _of_type(file, _CONTROL)
        named += [token for text, token in control.items() if text in _TURN_ENDS]
    return frozenset(int(token) for token in named if token is not None)


def gguf_tokenizer(file: GgufFile) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a file.

    Raises:
        DataError: How it splits text is not known.
    """
    from transformers import PreTrainedTokenizerFast

    made: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=_built(file), clean_up_tokenization_spaces=False, **_named(file)
    )
    made.chat_template = optional_setting(file, "tokenizer.chat_template", "a text")
    return made


def tokenizer_files(file: GgufFile) -> dict[str, str | dict[str, Any]]:
    """Return the tokenizer files of a Hugging Face folder: name -> text or JSON."""
    named = _named(file)
    architecture = file.settings["general.architecture"]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # GPT2Tokenizer would not split digits
        "model_max_length": require_setting(
            file, f"{architecture}.context_length", "a positive whole number"
        ),
        "clean_up_tokenization_spaces": False,
        "chat_template": optional_setting(file, "tokenizer.chat_template", "a text"),
        **named,
    }
    ids = {f"{role}_token_id": _id(file, key) for role, key in _ROLES if role != "unk"}
    return {
        "tokenizer.json": str(_built(file).to_str(pretty=True)),
        "tokenizer_config.json": config,
        "special_tokens_map.json": named,
        "generation_config.json": ids,
    }


def _id(file: GgufFile, key: str) -> int | None:
    key = f"tokenizer.ggml.{key}_token_id"
    found: int | None = optional_setting(file, key, "a whole number")
    return found


def _named(file: GgufFile) -> dict[str, str]:
    """Return the texts of the tokens that have a role."""
    tokens = _tokens(file)
    ids = {role: _id(file, key) for role, key in _ROLES}
    return {
        f"{role}_token": tokens[token]
        for role, token in ids.items()
        if token is not None and 0 <= token < len(tokens)
    }


def _built(file: GgufFile) -> "Tokenizer":
    from tokenizers import AddedToken

    kind = require_setting(file, "tokenizer.ggml.model", "a text")
    if kind not in ("gpt2", "llama"):
        raise DataError(
            f"'{file.path}' has a tokenizer of the kind '{kind}', but gpt2 and llama are read; "
            f"give the Hugging Face folder of the model, or lists of token ids."
        )
    tokenizer = _byte_pairs(file) if kind == "gpt2" else _pieces(file)
    is_phi3 = kind == "llama" and file.settings["general.architecture"] == "phi3"
    added = [
        AddedToken(t, special=True, normalized=False, rstrip=is_phi3 and t not in _KEEP_SPACES)
        for t in _of_type(file, _CONTROL)
    ]
    tokenizer.add_special_tokens(added)
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in _of_type(file, _USER_DEFINED)])
    _add_ends(tokenizer, file)
    return tokenizer


def _of_type(file: GgufFile, wanted: int) -> dict[str, int]:
    """Return the tokens of a type, and their ids."""
    tokens = _tokens(file)
    types = optional_setting(file, "tokenizer.ggml.token_type", "a list of numbers") or []
    _require_one_each(file, "token_type", types or tokens, tokens)
    return {tokens[place]: place for place, kind in enumerate(types) if kind == wanted}


def _tokens(file: GgufFile) -> list[str]:
    found: list[str] = require_setting(file, "tokenizer.ggml.tokens", "a list of texts")
    return found


def _require_one_each(file: GgufFile, name: str, entries: list[Any], tokens: list[str]) -> None:
    if len(entries) != len(tokens):
        raise DataError(
            f"'{file.path}' has {len(entries)} entries of tokenizer.ggml.{name} for {len(tokens)} "
            f"tokens; {CONVERT_AGAIN}."
        )


def _byte_pairs(file: GgufFile) -> "Tokenizer":
    """Build GPT-2's kind: words of bytes."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    name, split = _split_name(file), _split(file)
    merges = _merges(file)
    options = {"ignore_merges": True} if name in _WHOLE_WORDS else {}
    tokenizer = Tokenizer(models.BPE(vocab=_vocabulary(file), merges=merges, **options))
    first = {
        _GPT2: [],
        _DIGITS: [pre_tokenizers.Digits(individual_digits=True)],
    }.get(split, [pre_tokenizers.Split(Regex(split), "isolated")])
    is_plain = split in (_GPT2, _DIGITS)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=is_plain)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, words])
    if name in _COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges(file: GgufFile) -> list[tuple[str, str]]:
    known, found = _vocabulary(file), []
    for merge in require_setting(file, "tokenizer.ggml.merges", "a list of texts"):
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= known.keys():
            raise DataError(
                f"'{file.path}' joins {merge!r:.60} (tokenizer.ggml.merges), which are no two of "
                f"its tokens that give a third; {CONVERT_AGAIN}, or give lists of token ids."
            )
        found.append((left, right))
    return found


def _split_name(file: GgufFile) -> str:
    return str(optional_setting(file, "tokenizer.ggml.pre", "a text") or "default")


def _split(file: GgufFile) -> str:
    name = _split_name(file)
    if name not in _SPLITS:
        raise DataError(
            f"'{file.path}' splits text as '{name}' (tokenizer.ggml.pre), but of these it is known "
            f"how: {', '.join(_SPLITS)}; give the Hugging Face folder of the model, or lists of "
            f"token ids."
        )
    return _SPLITS[name]


def _vocabulary(file: GgufFile) -> dict[str, int]:
    tokens = _tokens(file)
    return {token: place for place, token in enumerate(tokens)}


def _pieces(file: GgufFile) -> "Tokenizer":
    """Build SentencePiece's kind: its merges follow from the vocabulary and the scores."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import generate_merges

    vocabulary = _vocabulary(file)
    is_gemma = file.settings["general.architecture"].startswith("gemma")
    # Gemma's scores do not follow the order of its merges, but its ids do.
    listed = []
    if not is_gemma:
        listed = require_setting(file, "tokenizer.ggml.scores", "a list of numbers")
        _require_one_each(file, "scores", listed, _tokens(file))
    scores = {t: -place if is_gemma else listed[place] for t, place in vocabulary.items()}
    merges = generate_merges(vocabulary, scores)
    unknown = _named(file).get("unk_token")
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
    )
    begins = optional_setting(file, "tokenizer.ggml.add_space_prefix", "true or false")
    begins = not is_gemma if begins is None else begins
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        _SPACE, prepend_scheme="first" if begins else "never", split=False
    )
    strip = [decoders.Strip(" ", 1, 0)] if begins else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _begins_texts(file: GgufFile) -> bool:
    """Say whether texts begin with the token that is there for it."""
    stated: bool | None = optional_setting(file, "tokenizer.ggml.add_bos_token", "true or false")
    if stated is not None:
        return stated
    return (
        require_setting(file, "tokenizer.ggml.model", "a text") == "llama"
        or _split_name(file) in _WHOLE_WORDS
    )


def _add_ends(tokenizer: "Tokenizer", file: GgufFile) -> None:
    """Let texts begin and end with the tokens that the file says."""
    from tokenizers import processors

    named = _named(file)
    ends = optional_setting(file, "tokenizer.ggml.add_eos_token", "true or false")
    first = named.get("bos_token") if _begins_texts(file) else None
    last = named.get("eos_token") if ends else None
    if first is None and last is None:
        return
    single = [text for text in (first, "$A", last) if text is not None]
    special = [(t, _id(file, key)) for t, key in ((first, "bos"), (last, "eos")) if t is not None]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=[f"{t}:0" for t in single] + [f"{t.replace('$A', '$B')}:1" for t in single],
        special_tokens=special,
    )
