"""Reading mergekit's YAML: every form it has, and what is refused."""

from pathlib import Path

import pytest

from treadle.combine.merge.recipe.grammar import (
    MergeRecipe,
    ModelRef,
    TokenizerRequest,
    TokenSource,
    load,
    of_models,
    parse,
)
from treadle.core.errors import DataError, SettingsError

CONFIGURATIONS = {
    "models": """
merge_method: linear
models:
  - model: org/first
    parameters: {weight: 0.7}
  - model: org/second@main
    parameters: {weight: "3e-1"}
dtype: float16
parameters: {normalize: true}
""",
    "task vectors": """
merge_method: ties
base_model: org/base
models:
  - model: org/base
  - model: org/maths
    parameters: {density: 0.5, weight: [0, 0.3, 0.7, 1]}
  - model: org/code+org/code-lora
    parameters:
      density: 0.3
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
parameters: {normalize: true, int8_mask: true}
dtype: bfloat16
out_dtype: torch.float32
""",
    "stack": """
merge_method: passthrough
slices:
  - sources:
      - model: org/deep
        layer_range: [0, 24]
  - sources:
      - model: org/deep
        layer_range: [8, 32]
dtype: float16
""",
    "stack with silent repeats": """
merge_method: passthrough
slices:
  - sources: [{model: m, layer_range: [0, 4]}]
  - sources:
      - model: m
        layer_range: [2, 4]
        parameters:
          scale:
            - {filter: o_proj, value: 0.0}
            - {filter: down_proj, value: 0.0}
            - {value: 1.0}
""",
    "slerp": """
merge_method: slerp
base_model: a
slices:
  - sources:
      - {model: a, layer_range: [0, 32]}
      - {model: b, layer_range: [0, 32]}
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: bfloat16
""",
    "a base for each slice": """
merge_method: task_arithmetic
slices:
  - base_model: base/one
    parameters: {lambda: 0.5}
    sources:
      - {model: base/one, layer_range: [0, 2]}
      - {model: tuned, layer_range: [2, 4], parameters: {weight: 1}}
  - base_model: base/two
    sources:
      - {model: base/two, layer_range: [0, 2]}
      - {model: tuned, layer_range: [0, 2], parameters: {weight: 1}}
""",
    "one module": """
merge_method: dare_ties
base_model: base
modules:
  text_decoder:
    parameters: {density: {filter: mlp, value: 0.2}}
    models:
      - {model: a, parameters: {weight: 0.5}}
      - {model: b, parameters: {weight: 0.5}}
parameters: {density: 0.9}
""",
    "one module of slices": """
merge_method: linear
modules:
  text_decoder:
    slices:
      - sources: [{model: a, layer_range: [0, 2], parameters: {weight: 1}}]
""",
    "tokenizer": """
merge_method: linear
base_model: base
models: [{model: base, parameters: {weight: 1}}, {model: chat, parameters: {weight: 1}}]
tokenizer:
  source: union
  pad_to_multiple_of: 64
  tokens:
    <|start|>: {source: chat}
    <|stop|>: {source: chat, force: true}
    <|pad|>: {source: {kind: zero}}
    <|user|>: {source: {kind: model_token, model: chat, token: user}}
    <|tool|>: {source: {kind: model_token, model: base, token_id: 7}}
    <|new|>: {}
chat_template: auto
""",
    "tokenizer of a model": """
merge_method: linear
models: [{model: a, parameters: {weight: 1}}]
tokenizer: {source: org/other}
""",
    "old tokenizer key": """
merge_method: linear
models: [{model: a, parameters: {weight: 1}}]
tokenizer_source: base
base_model: a
""",
    "references as mappings": """
merge_method: linear
models:
  - model: {model: {path: org/a, revision: v2}, lora: org/lora@v1}
    parameters: {weight: 1}
  - model: {model: org/b, lora: {path: org/lora, revision: v3}}
    parameters: {weight: 1}
""",
    "aliases and nulls": """
merge_method: linear
base_model: null
dtype:
models:
  - model: a
    parameters: &shared {weight: 1}
  - model: b
    parameters: {<<: *shared, weight: 2}
  - model: c
    parameters: {<<: *shared}
""",
}


def read(name: str, folder: Path) -> MergeRecipe:
    file = folder / "merge.yml"
    file.write_text(CONFIGURATIONS[name])
    return load(file)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_form_is_read(name: str, tmp_path: Path) -> None:
    recipe = read(name, tmp_path)
    assert recipe.slices
    assert recipe.slices[0].sources


def test_models_are_one_slice_of_whole_models(tmp_path: Path) -> None:
    recipe = read("models", tmp_path)
    (output_slice,) = recipe.slices
    first, second = output_slice.sources
    assert first == (ModelRef("org/first"), None, {"weight": 0.7})
    assert second == (ModelRef("org/second", revision="main"), None, {"weight": "3e-1"})
    assert (recipe.method, recipe.dtype, recipe.out_dtype) == ("linear", "float16", None)
    assert recipe.parameters == {"normalize": True}
    assert (recipe.base, recipe.tokenizer, recipe.notes) == (None, None, [])


def test_adapters_and_inert_parameters(tmp_path: Path) -> None:
    recipe = read("task vectors", tmp_path)
    models = [source.model for source in recipe.slices[0].sources]
    assert models == [
        ModelRef("org/base"),
        ModelRef("org/maths"),
        ModelRef("org/code", "org/code-lora"),
    ]
    assert recipe.out_dtype == "float32", "torch's own prefix is dropped"
    (note,) = recipe.notes
    assert "'int8_mask' has no effect" in note


def test_slices_have_layers_and_bases(tmp_path: Path) -> None:
    assert [s.sources[0].layers for s in read("stack", tmp_path).slices] == [(0, 24), (8, 32)]
    recipe = read("a base for each slice", tmp_path)
    assert [s.base for s in recipe.slices] == [ModelRef("base/one"), ModelRef("base/two")]
    assert recipe.slices[0].parameters == {"lambda": 0.5}


def test_the_parameters_of_a_module_come_before_the_global_ones(tmp_path: Path) -> None:
    recipe = read("one module", tmp_path)
    own = recipe.slices[0].parameters
    assert own == {"density": {"filter": "mlp", "value": 0.2}}
    assert recipe.parameters == {"density": 0.9}
    assert len(read("one module of slices", tmp_path).slices) == 1


def test_tokenizer_blocks(tmp_path: Path) -> None:
    recipe = read("tokenizer", tmp_path)
    chat = ModelRef("chat")
    assert recipe.tokenizer == TokenizerRequest(
        "union",
        {
            "<|start|>": TokenSource("model", chat),
            "<|stop|>": TokenSource("model", chat, force=True),
            "<|pad|>": TokenSource("zero"),
            "<|user|>": TokenSource("model_token", chat, token="user"),
            "<|tool|>": TokenSource("model_token", ModelRef("base"), token_id=7),
            "<|new|>": TokenSource("default"),
        },
        64,
    )
    assert recipe.chat_template == "auto"
    assert read("tokenizer of a model", tmp_path).tokenizer == (ModelRef("org/other"), {}, None)
    assert read("old tokenizer key", tmp_path).tokenizer == ("base", {}, None)


def test_references(tmp_path: Path) -> None:
    recipe = read("references as mappings", tmp_path)
    first, second = (source.model for source in recipe.slices[0].sources)
    assert first == ModelRef("org/a", "org/lora", "v2", "v1")
    assert second == ModelRef("org/b", "org/lora", None, "v3")
    assert (str(first), str(second)) == ("org/a@v2+org/lora@v1", "org/b+org/lora@v3")
    assert of_models("linear", [str(first)]).slices[0].sources[0].model == first
    assert of_models("linear", ["packaged:smollm2"]).slices[0].sources[0].model == ModelRef(
        "packaged:smollm2"
    )


def test_merge_keys_are_no_repeated_keys(tmp_path: Path) -> None:
    sources = read("aliases and nulls", tmp_path).slices[0].sources
    assert [source.parameters["weight"] for source in sources] == [1, 2, 1]


def test_own_keys_are_kept() -> None:
    document = {"merge_method": "linear", "models": [{"model": "a"}], "x-search": {"budget": 6}}
    assert parse(document, "here").extras == {"x-search": {"budget": 6}}


def test_keys_at_the_top_that_nobody_knows_are_told(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yml"
    file.write_text(
        "x-models: &models [{model: a}]\nmerge_method: linear\nmodels: *models\nlicence: mit\n"
        "tags: [merge]\nlicense: apache-2.0\n"
    )
    recipe = load(file)
    assert [source.model for source in recipe.sources] == [ModelRef("a")]
    assert recipe.notes == [
        f"The key '{key}' has no effect here." for key in ("x-models", "licence", "tags", "license")
    ]


def test_the_command_line() -> None:
    recipe = of_models("ties", ["a", "b+lora"], "base", "float32", "bfloat16", "union")
    assert [source.model for source in recipe.slices[0].sources] == [
        ModelRef("a"),
        ModelRef("b", "lora"),
    ]
    assert recipe.base == ModelRef("base")
    assert recipe[3:7] == ("float32", "bfloat16", TokenizerRequest("union"), None)
    with pytest.raises(SettingsError, match=r"the command line, key 'models\[0\].model': found"):
        of_models("linear", ["a+b+c"])
    with pytest.raises(SettingsError, match="name at least one model"):
        of_models("linear", [])


ONE = "merge_method: linear\nmodels: [{model: a}]\n"
SOURCE = "{model: a, layer_range: [0, 2]}"


def sliced(source: str, more: str = "") -> str:
    return f"merge_method: linear\nslices: [{{sources: [{source}]{more}}}]"


REFUSED = [
    ("", "is empty; write a merge"),
    (f"{ONE}---\n{ONE}", "holds 2 YAML documents, as files of mergekit-multi do, but one"),
    ("[a]", r"found \['a'\], expected a mapping"),
    ("models: [{model: a}]", "the key 'merge_method' is missing; add it"),
    (f"{ONE}dtipe: float16", "unknown key 'dtipe'. Did you mean 'dtype'"),
    (f"{ONE}x-keep-zero: true", "unknown key 'x-keep-zero'. Did you mean 'x-keep-zeros'"),
    (f"{ONE}1: 2", "the key 1 is no text"),
    ("gate_mode: hidden\nbase_model: a\nexperts: []", "a file of mergekit-moe, which makes a mixt"),
    ("base_model: a\nexperts: [{source_model: b}]", "a file of mergekit-moe"),
    ("genome: {models: [a]}\ntasks: [b]", "a file of mergekit-evolve"),
    ("steps: [{prune: {}}]", "recipe of several steps; run it with: treadle run FILE"),
    ("steps: [{prune: {}}]\nover: {}", "this is a sweep; run it with: treadle sweep FILE"),
    ("- prune: {method: wanda}", "found a list, as recipes of several steps have"),
    (f"{ONE}dtype: floa16", "key 'dtype': unknown dtype 'floa16'. Did you mean 'float16'"),
    (f"{ONE}merge_method: ties", "line 3: the key 'merge_method' stands twice"),
    ("merge_method: linear", "found none of the contradictory keys"),
    (f"{ONE}slices: [{{sources: [{SOURCE}]}}]", "found 'models' and 'slices' of the contradictory"),
    (
        "merge_method: linear\nmodels: []",
        "the list is empty; name at least one model",
    ),
    ("merge_method: linear\nmodels: [a]", r"key 'models\[0\]': found 'a', expected a mapping"),
    ("merge_method: linear\nmodels: [{modle: a}]", "unknown key 'modle'. Did you mean 'model'"),
    ("merge_method: linear\nmodels: [{x-model: a}]", "unknown key 'x-model'"),
    ("merge_method: linear\nmodels: [{}]", r"key 'models\[0\]': the key 'model' is missing"),
    ("merge_method: linear\nmodels: [{model: 7}]", "found 7, expected a text"),
    ("merge_method: linear\nmodels: [{model: a@b@c}]", "expected PATH or PATH@REVISION"),
    ("merge_method: linear\nmodels: [{model: a+}]", "expected a text"),
    ("merge_method: 5\nmodels: [{model: a}]", "key 'merge_method': found 5, expected a text"),
    (sliced(SOURCE, ", layers: 1"), "unknown key 'layers'"),
    (sliced("{model: a}"), r"key 'slices\[0\].sources\[0\]': the key 'layer_range' is missing"),
    (sliced("{model: a, layer_range: [4, 4]}"), r"found \[4, 4\], expected \[first, behind"),
    (sliced("{model: a, layer_range: [0, 2, 4]}"), "behind the last"),
    (sliced("{model: a, layer_range: [-1, 4]}"), "found -1, expected a whole number from 0 on"),
    (sliced("{model: a, layer_range: [0, true]}"), "found True, expected a whole number"),
    (
        sliced(f"{SOURCE}, {{model: b, layer_range: [0, 3]}}"),
        r"the layer ranges of one slice hold \[2, 3\] layers; make them equally long",
    ),
    ("merge_method: linear\nmodules: {a: {}}", "exactly one of the contradictory keys 'models'"),
    (f"{ONE}parameters: [1]", r"key 'parameters': found \[1\], expected a mapping"),
    (f"{ONE}parameters: {{weight: []}}", r"key 'parameters.weight': found \[\]"),
    (f"{ONE}parameters: {{weight: [[1]]}}", r"'parameters.weight\[0\]': found \[1\], expected"),
    (f"{ONE}parameters: {{weight: [1, {{value: 2}}]}}", "found 1 among conditions; write it as"),
    (f"{ONE}parameters: {{weight: {{filter: mlp}}}}", "the key 'value' is missing"),
    (f"{ONE}parameters: {{weight: {{filtre: a, value: 1}}}}", "Did you mean 'filter'"),
    (f"{ONE}parameters: {{weight: {{value: {{value: 1}}}}}}", "inside a condition"),
    (f"{ONE}tokenizer_source: base\ntokenizer: {{source: base}}", "are contradictory keys"),
    (f"{ONE}tokenizer: {{pad_to_multiple_of: 0}}", "expected a whole number from 1 on"),
    (f"{ONE}tokenizer: {{tokens: {{t: {{force: true}}}}}}", "'force' needs to know by what"),
    (f"{ONE}tokenizer: {{tokens: {{t: {{force: 3}}}}}}", "found 3; write true or false"),
    (f"{ONE}tokenizer: {{tokens: {{t: {{source: {{kind: one}}}}}}}}", "unknown kind 'one'"),
    (f"{ONE}tokenizer: {{tokens: {{t: {{source: {{kind: zero, token: a}}}}}}}}", "key 'token'"),
    (
        f"{ONE}tokenizer: {{tokens: {{t: {{source: {{kind: model_token, model: a}}}}}}}}",
        "give exactly one of 'token' and 'token_id'",
    ),
    (f"{ONE}chat_template: [a]", "key 'chat_template': found"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "merge.yml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        load(file)
    assert "merge.yml" in str(caught.value)


def test_each_module_has_slices_and_parameters_of_its_own() -> None:
    modules = {
        name: {"models": [{"model": name}], "parameters": {"weight": weight}}
        for name, weight in (("text_decoder", 0.3), ("vision_tower", 0.7))
    }
    found = parse({"merge_method": "linear", "modules": modules}, "here")
    assert [module.name for module in found.modules] == ["text_decoder", "vision_tower"]
    assert [one.parameters["weight"] for one in found.slices] == [0.3, 0.7]
    assert [source.model.path for source in found.sources] == ["text_decoder", "vision_tower"]
    with pytest.raises(SettingsError, match="the mapping is empty"):
        parse({"merge_method": "linear", "modules": {}}, "here")


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No recipe at .*; give a YAML file\."):
        load(tmp_path / "none.yml")
    file = tmp_path / "bad.yml"
    file.write_text("a: [")
    with pytest.raises(DataError, match="is not YAML"):
        load(file)
