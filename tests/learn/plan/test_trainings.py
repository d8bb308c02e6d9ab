"""What people train: half precision, checkpointing, LoRA, and models that are no causal ones."""

from types import SimpleNamespace

import pytest
import transformers

from model.graph.plans import donated, peak_bytes
from treadle.core.errors import CapacityError, SettingsError, UnsupportedModelError
from treadle.learn.plan import plan
from treadle.model import tiny
from treadle.model.graph.capture import capture_model
from treadle.model.graph.causal_lm import build_model, config_of
from treadle.model.graph.measure import eager_model_peak
from treadle.model.graph.tasks import TASKS, task_of, trained_as
from treadle.model.graph.training import PLAIN, Training

QUICK = {"order": "program", "layout": "best_fit"}
_PAIRED = {"vocab_size": 320, "d_model": 32, "decoder_start_token_id": 0}
_SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
CONFIGS = {
    "llama": tiny.model("llama", num_hidden_layers=1).config,
    "gpt2": tiny.model("gpt2").config,
    "t5": transformers.T5Config(**_PAIRED, d_kv=8, d_ff=48, num_layers=1, num_heads=4),
    "bart": transformers.BartConfig(
        **_PAIRED,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
    ),
    "vit": transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=28,
        patch_size=14,
    ),
    "bert": transformers.BertConfig(**_SMALL, architectures=["BertForMaskedLM"]),
    "whisper": transformers.WhisperConfig(
        **_PAIRED,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=8,
        max_source_positions=20,
        max_target_positions=48,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        architectures=["WhisperForConditionalGeneration"],
    ),
}
TRAININGS = [
    ("llama", Training(dtype="bfloat16")),
    ("llama", Training(autocast="bfloat16")),
    ("llama", Training(lora_rank=2, learn="q_proj|v_proj", dtype="bfloat16")),
    ("t5", PLAIN),
    ("vit", PLAIN),
    ("whisper", PLAIN),
    *(
        pytest.param(name, training, marks=pytest.mark.slow)
        for name, training in [
            ("llama", Training(lora_rank=4)),
            ("llama", Training(learn="norm")),
            ("gpt2", Training(lora_rank=4)),
            ("t5", Training(lora_rank=2)),
            ("bart", PLAIN),
            ("bert", PLAIN),
        ]
    ),
]


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request, tmp_path_factory):
    """A folder with a config and nothing else."""
    made = tmp_path_factory.mktemp(request.param)
    config = CONFIGS[request.param]
    config.save_pretrained(made)
    return made


@pytest.mark.parametrize(("name", "training"), TRAININGS)
def test_the_traced_order_takes_what_eager_takes(name, training):
    """On fake tensors, where kernels' inner buffers (of convolutions, mostly) do not show."""
    graph = capture_model(CONFIGS[name], batch=2, seq=32, training=training).graph
    program = range(len(graph.operators))
    measured = eager_model_peak(CONFIGS[name], batch=2, seq=32, training=training, fake=True)
    assert peak_bytes(graph, program) == pytest.approx(measured, rel=0.01)
    if name != "vit":
        measured = eager_model_peak(CONFIGS[name], batch=2, seq=32, training=training)
        sums = donated(graph, program, eager=True)
        assert peak_bytes(graph, program, sums) == pytest.approx(measured, rel=0.06)


@pytest.mark.parametrize("name", ["llama"])
def test_checkpointing_keeps_less_and_nearly_what_eager_keeps(name):
    config = tiny.model(name).config
    graph = capture_model(config, batch=2, seq=64, training=Training(checkpointing=True)).graph
    plain = capture_model(config, batch=2, seq=64).graph
    peaks = [peak_bytes(g, range(len(g.operators))) for g in (graph, plain)]
    assert peaks[0] < 0.7 * peaks[1]
    measured = eager_model_peak(
        config, batch=2, seq=64, training=Training(checkpointing=True), fake=True
    )
    assert 0.8 * measured < peaks[0] <= measured


@pytest.mark.parametrize(("name", "training"), TRAININGS)
def test_persistent_bytes_are_parameters_states_and_data(name, training):
    graph = capture_model(CONFIGS[name], batch=2, seq=8, training=training).graph
    config, _ = config_of(CONFIGS[name], "auto")
    model = build_model(config, training)
    held = sum(p.nbytes for p in [*model.parameters(), *model.buffers()])
    learning = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    batch = task_of(config).batch(config, 2, 8)
    rest = graph.persistent_bytes - held - 2 * learning - sum(v.nbytes for v in batch.values())
    assert 0 <= rest < 5000  # constants of the graph, and the step's number


def test_a_folder_with_a_config_alone_is_planned(folder):
    result = plan(folder, batch=2, **QUICK)
    value = {entry.name: entry.value for entry in result.measurements}
    assert value["total"] == value["persistent"] + value["arena"]
    assert value["traced"] > 0


def test_what_takes_less_takes_less(tmp_path):
    CONFIGS["llama"].save_pretrained(tmp_path)
    asked = {"batch": 2, "seq": 64, **QUICK}
    total = {
        name: plan(tmp_path, **asked, **given).measurement("total").value
        for name, given in {
            "plain": {},
            "half": {"dtype": "bfloat16"},
            "kept": {"checkpointing": True},
            "lora": {"lora_rank": 2, "checkpointing": True},
        }.items()
    }
    plain = total.pop("plain")
    assert all(value < plain for value in total.values())
    assert total["lora"] < total["kept"]


QUICKLY = {"llama", "qwen2_moe", "gpt2", "gemma3"}


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICKLY else pytest.param(name, marks=pytest.mark.slow)
        for name in [*tiny.CONFIGS, *tiny.WRAPPERS]
    ],
)
def test_every_architecture_of_the_table_is_planned_or_refused(name, tmp_path):
    if name in tiny.WRAPPERS:
        tiny.build_wrapper(name, tmp_path)
    else:
        tiny.model(name, num_hidden_layers=1).config.save_pretrained(tmp_path)
    result = plan(tmp_path, seq=16, **QUICK)
    is_noted = any("Planned on rows of text" in note for note in result.notes)
    assert is_noted == (name in tiny.WRAPPERS)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("GPT2LMHeadModel", "a causal language model"),
        ("GPT2ForSequenceClassification", "a text classifier"),
        ("GPT2ForTokenClassification", "a token classifier"),
    ],
)
def test_the_class_that_a_config_names_says_what_it_is_trained_for(name, task, tmp_path):
    tiny.model("gpt2", num_hidden_layers=1, architectures=[name]).config.save_pretrained(tmp_path)
    result = plan(tmp_path, seq=16, **QUICK)
    assert task_of(transformers.AutoConfig.from_pretrained(tmp_path)).name == task
    assert not any("Planned as" in note for note in result.notes)


def test_a_config_that_names_no_class_is_planned_as_one_that_a_note_names(tmp_path):
    tiny.model("gpt2", num_hidden_layers=1).config.save_pretrained(tmp_path)
    notes = plan(tmp_path, seq=16, **QUICK).notes
    assert any("names no class: planned as GPT2LMHeadModel" in note for note in notes)


@pytest.mark.parametrize(
    "name",
    [
        "BertForPreTraining",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in [
                "BertForQuestionAnswering",
                "BertForMultipleChoice",
                "BertForNextSentencePrediction",
                "ElectraForPreTraining",
                "AlbertForPreTraining",
            ]
        ),
    ],
)
def test_the_class_that_is_named_is_planned_to_its_last_byte(name, tmp_path):
    kind = getattr(transformers, name)
    small = _SMALL if "Albert" not in name else {**_SMALL, "embedding_size": 16}
    config = kind.config_class(**small, architectures=[name])
    config.save_pretrained(tmp_path)
    model = kind(config)
    held = 12 * sum(p.numel() for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    rest = plan(tmp_path, seq=16, **QUICK).measurement("persistent").value - held
    assert 0 <= rest < 2000  # the batch, and the step's number
    graph = capture_model(config, batch=2, seq=16).graph
    measured = eager_model_peak(config, batch=2, seq=16, fake=True)
    assert peak_bytes(graph, range(len(graph.operators))) == pytest.approx(measured, rel=0.01)


def test_each_class_of_transformers_is_planned_as_itself_or_refused():
    """All classes of all tables, whatever they are for."""
    modeling_auto = transformers.models.auto.modeling_auto
    tables = [name for name in dir(modeling_auto) if name.endswith("_MAPPING_NAMES")]
    counts = {"planned": 0, "refused": 0}
    for table in tables:
        for model_type, found in getattr(modeling_auto, table).items():
            for name in [found] if isinstance(found, str) else found:
                config = SimpleNamespace(model_type=model_type, architectures=[name])
                if any(name in task.classes(config) for task in TASKS):
                    assert trained_as(config).class_name == name
                    counts["planned"] += 1
                else:
                    with pytest.raises(UnsupportedModelError, match=f"{name}.*capture_step"):
                        trained_as(config)
                    counts["refused"] += 1
    assert min(counts.values()) > 500


@pytest.mark.parametrize(
    ("model_type", "name", "mend"),
    [
        ("gpt2", "GPT2Model", "write one of GPT2LMHeadModel.* as `architectures`"),
        ("bert", "BertModel", "BertForMaskedLM"),
        ("clip", "CLIPModel", "CLIPForImageClassification"),
        ("vit_mae", "ViTMAEForPreTraining", "no class for the type 'vit_mae'.*capture_step"),
        ("llama", "MyLlama", "LlamaForCausalLM"),
    ],
)
def test_a_class_that_is_not_trained_so_is_refused_with_those_that_are(model_type, name, mend):
    config = transformers.AutoConfig.for_model(model_type, architectures=[name])
    with pytest.raises(UnsupportedModelError, match=f"(?s)class {name} of the config.*{mend}"):
        capture_model(config, batch=1, seq=8)


@pytest.mark.parametrize(
    "name",
    [
        "mixtral",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ["qwen2_moe", "qwen3_moe"]),
    ],
)
def test_experts_take_what_they_take_in_eager(name):
    """By PyTorch's own allocator, with transformers' own choice of the experts' form."""
    config = tiny.model(name, num_hidden_layers=1).config
    graph = capture_model(config, batch=4, seq=128).graph
    measured = eager_model_peak(config, batch=4, seq=128)
    program = range(len(graph.operators))
    assert peak_bytes(graph, program) == pytest.approx(measured, rel=0.02)


def test_a_mixture_fits_where_its_step_does(tmp_path):
    """As batched products of copied weights it was told to take 3.35 GB."""
    transformers.MixtralConfig(
        **{**_SMALL, "hidden_size": 256, "intermediate_size": 512, "vocab_size": 1000},
        num_key_value_heads=4,
        architectures=["MixtralForCausalLM"],
    ).save_pretrained(tmp_path)
    result = plan(tmp_path, batch=4, seq=128, budget="100MB", **QUICK)
    assert result.measurement("total").value < 100e6
    assert any(note.startswith("Fits") for note in result.notes)


@pytest.mark.parametrize(
    ("rope", "most"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, 128),
        pytest.param(
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            256,
            marks=pytest.mark.slow,
        ),
        pytest.param({"rope_type": "linear", "factor": 2.0}, 64, marks=pytest.mark.slow),
    ],
)
def test_rows_are_as_long_as_rotary_factors_stretch(rope, most, tmp_path):
    tiny.model(
        "llama",
        num_hidden_layers=1,
        max_position_embeddings=64,
        rope_parameters={"rope_theta": 10000.0, **rope},
    ).config.save_pretrained(tmp_path)
    plan(tmp_path, seq=most, **QUICK)
    with pytest.raises(SettingsError, match=f"longer than the {most} positions"):
        plan(tmp_path, seq=most + 1, **QUICK)


def test_what_cannot_be_trained_so_is_refused_with_the_mend(tmp_path):
    for name in ("llama", "vit", "t5"):
        CONFIGS[name].save_pretrained(tmp_path / name)
    transformers.Wav2Vec2Config().save_pretrained(tmp_path / "sound")
    refusals = [
        ("vit", {"seq": 16}, SettingsError, "seq = 16 has no effect .* an image classifier"),
        ("t5", {"chunked_loss": 4}, UnsupportedModelError, "no causal language model.*leave"),
        ("llama", {"chunked_loss": 0}, SettingsError, "chunked_loss = 0, expected 1 chunk"),
        ("llama", {"lora_rank": 0}, SettingsError, "lora_rank = 0, expected 1 or more"),
        ("llama", {"learn": "nose"}, SettingsError, "'nose' is found in no name of .* parameters"),
        ("llama", {"learn": "("}, SettingsError, "no regular expression"),
        ("llama", {"lora_rank": 2, "learn": "x"}, SettingsError, "in no name .* linear layers"),
        ("llama", {"dtype": "int8"}, SettingsError, "dtype = 'int8' is refused: expected 'floa"),
        ("sound", {}, UnsupportedModelError, "no class for the type 'wav2vec2'.*capture_step"),
    ]
    for name, given, error, message in refusals:
        with pytest.raises(error, match=message):
            plan(tmp_path / name, batch=1, **QUICK, **given)


def test_a_budget_that_parameters_break_is_answered_with_lora(tmp_path):
    CONFIGS["llama"].save_pretrained(tmp_path)
    with pytest.raises(CapacityError, match="--lora-rank 16"):
        plan(tmp_path, seq=8, **QUICK, budget="100KB")


def test_tasks_have_classes_in_transformers():
    for task in TASKS:
        assert hasattr(transformers.models.auto.modeling_auto, task.mapping)
