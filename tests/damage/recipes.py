"""Merge recipes that are wrong, by rule; not a test itself. A and B stand for two models."""

from collections.abc import Iterator

SOUND = """\
merge_method: linear
models:
  - model: A
    parameters: {weight: 0.5}
  - model: B
    parameters: {weight: 0.5}
dtype: float32
"""
SLICES = """\
merge_method: passthrough
slices:
  - sources: [{model: A, layer_range: RANGE}]
  - sources: [{model: B, layer_range: [1, 2]}]
dtype: float32
"""
TASK = """\
merge_method: ties
base_model: A
models:
  - model: B
    parameters: {weight: 1.0, density: DENSITY}
dtype: float32
"""


def _texts() -> Iterator[tuple[str, str]]:
    for text in ("", " ", "---", "[]", "7", "null", "linear", "{", "a: b: c", "\t- x", "%YAML 9.9"):
        yield f"text {text!r}", text
    yield "binary", "\x00\x01\x02"
    yield "an anchor of itself", "a: &a [*a]\n" + SOUND
    yield "a bomb", _bomb() + SOUND
    yield "a tag that runs code", "x: !!python/object/apply:os.system ['true']\n" + SOUND
    yield "a tag of nobody", "x: !nobody 7\n" + SOUND
    yield "deep", "merge_method: " + "[" * 5000
    yield "two documents", SOUND + "---\n" + SOUND
    yield "a key twice", SOUND + "merge_method: slerp\n"
    yield "an alias of nothing", "base_model: *gone\n" + SOUND


def _bomb() -> str:
    lines = ["x-a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x-a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return "\n".join(lines) + "\n"


def _changed() -> Iterator[tuple[str, str]]:
    for old, new in (
        *(("merge_method: linear\n", ""), ("linear", "lineer"), ("linear", "7"), ("linear", "[]")),
        *(
            ("linear", "null"),
            ("linear", "{a: 1}"),
            ("model: A", "model: /gone"),
            ("model: A", "x: A"),
        ),
        *(("model: A", "model: 7"), ("model: A", "model: null"), ("model: A", "model: []")),
        *(("model: A", "model: ''"), ("model: A", "model: A+/gone"), ("model: A", "model: A@v1")),
        *(("model: A", "model: {path: A}"), ("model: A", "model: {model: {path: 7}}")),
        *(("{weight: 0.5}", "7"), ("{weight: 0.5}", "null"), ("{weight: 0.5}", "[0.5]")),
        *(
            ("{weight: 0.5}", "{wait: 0.5}"),
            ("{weight: 0.5}", "{weight: }"),
            ("float32", "float99"),
        ),
        *(("float32", "int8"), ("float32", "7"), ("float32", "[float32]"), ("models:", "model:")),
        *(("models:", "models: 7\nx:"), ("models:\n", "models:\nslices:\n")),
    ):
        yield f"{old!r} -> {new!r}", SOUND.replace(old, new, 1)
    for value in (
        "x",
        ".nan",
        ".inf",
        "-.inf",
        "1e999",
        "[]",
        "[[1]]",
        "[x]",
        "{a: 1}",
        "true",
        "1e40",
    ):
        yield f"weight {value}", SOUND.replace("weight: 0.5", f"weight: {value}", 1)
    for value in (
        *("[{filter: q_proj, value: x}]", "[{filter: 7, value: 1}]", "[{filter: q_proj}]"),
        *("[{value: .nan}]", "[{filter: q_proj, value: 1}, 7]", "[{filter: '(', value: 1}]"),
    ):
        yield f"weight {value}", SOUND.replace("weight: 0.5", f"weight: {value}", 1)
    yield "weights that cancel", SOUND.replace("0.5", "1.0", 1).replace("0.5", "-1.0", 1)
    for line in (
        *("base_model: /gone", "base_model: 7", "tokenizer_source: nobody", "tokenizer_source: 7"),
        *("tokenizer: {source: 7}", "tokenizer: 7", "tokenizer: {tokens: 7}", "chat_template: 7"),
        *(
            "chat_template: '{{'",
            "out_dtype: float99",
            "parameters: 7",
            "parameters: {normalize: x}",
        ),
        *("parameters: {int8_mask: 7}", "unknown_key: 7", "7: 7", "x-repeat-scale: x"),
        *(
            "x-allow-architectures: 7",
            "slices: []",
            "modules: 7",
            "modules: {nobody: {slices: []}}",
        ),
        "tokenizer: {source: union, pad_to_multiple_of: 0}",
    ):
        yield line, SOUND + line + "\n"


def _others() -> Iterator[tuple[str, str]]:
    for value in (
        *(
            "[0]",
            "[1, 0]",
            "[0, 9]",
            "[-1, 1]",
            "[0, 0]",
            "7",
            "x",
            "null",
            "[0.5, 1]",
            "['0', '1']",
        ),
        *("[0, 1, 2]", "[true, false]", "[]", "{a: 1}"),
    ):
        yield f"layer_range {value}", SLICES.replace("RANGE", value)
    for text in ("[]", "[7]", "[{}]", "[{sources: []}]", "[{sources: 7}]", "[{sources: [7]}]", "7"):
        yield f"slices {text}", f"merge_method: passthrough\nslices: {text}\ndtype: float32\n"
    for value in ("-0.1", "1.1", "x", ".nan", "[0.5, 2]", "null", "[]"):
        yield f"density {value}", TASK.replace("DENSITY", value)
    yield "no base", TASK.replace("base_model: A\n", "").replace("DENSITY", "0.5")
    for lines in (
        *("t: 2", "t: x", "t: [0.5, x]", "t: .nan", "t: [{filter: mlp, value: 3}]", "s: 0.5", "{}"),
        "",
    ):
        yield (
            f"slerp {lines!r}",
            "merge_method: slerp\nbase_model: A\nmodels: [{model: A}, {model: B}]\n"
            f"parameters: {lines if lines == '{}' else '{' + lines + '}'}\n",
        )
    yield (
        "slerp of three",
        (
            "merge_method: slerp\nbase_model: A\nmodels: [{model: A}, {model: B}, {model: B}]\n"
            "parameters: {t: 0.5}\n"
        ),
    )


RECIPES: dict[str, str] = dict(one for family in (_texts, _changed, _others) for one in family())
"""What is wrong -> the recipe."""
