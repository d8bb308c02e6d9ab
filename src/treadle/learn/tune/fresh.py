"""The action fresh: a small base model, made here, that knows text and how skills look."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from treadle.core.arguments import checked
from treadle.core.checkpoint import content_hash, model_card, prepare_target, side_file
from treadle.core.checkpoint.manifest import MANIFEST_FILE
from treadle.core.checkpoint.publish import remove, write_text
from treadle.core.disk import system_errors
from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.core.registry import Choice
from treadle.core.result import RESULT_FILE, Measurement, Result
from treadle.core.run import Recording, recorded
from treadle.core.settings import Settings
from treadle.core.skills import NAMES
from treadle.learn.tune.primer import Primer, primed_tokens, read_primer
from treadle.learn.tune.writing import published
from treadle.model.optimizers import OPTIMIZERS, Optimizer

if TYPE_CHECKING:
    from treadle.model.classes import CausalLM, Tokenizer
    from treadle.model.fit import Fit

__all__ = ["FreshSettings", "fresh"]

_HEAD_DIM = 64
_TEXTS = ["stdlib:calibration", "stdlib:sources"]
_SAVE_SECONDS = 60.0
_UNSEEN = 1e-4
"""What a later token may change of earlier logits, by rounding."""
_AVERAGED = 10
"""Steps at the end of a loss curve that make one number."""


class FreshSettings(Settings):
    """A model's shape, and how long it learns."""

    architecture: str = "llama"
    """Its `model_type`: any causal language model of transformers that takes a width, layers and
    heads under their usual names."""
    hidden: Annotated[int, Field(gt=0, multiple_of=256)] = 256
    """Width, a multiple of 256, as GGUF's K-quants want it; the MLPs are three times as wide
    (where the architecture calls that intermediate_size; else as its class has it), and
    a head has 64."""
    layers: Annotated[int, Field(gt=0)] = 3
    """Decoder blocks."""
    vocab_size: Annotated[int, Field(gt=256)] = 4096
    """Most tokens of the tokenizer, which is made here of the same text; a digit is one."""
    context_tokens: Annotated[int, Field(gt=1)] = 512
    """Positions of the model."""
    skill_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Fraction of the tokens that shows skills by their looks, with answers drawn at random."""
    steps: Annotated[int, Field(gt=0)] = 200
    """Updates of the weights."""
    rows: Annotated[int, Field(gt=0)] = 12
    """Windows that come in a step."""
    window_tokens: Annotated[int, Field(gt=1)] = 128
    """Tokens of a window."""
    learning_rate: Annotated[float, Field(gt=0)] = 4e-3
    """Highest learning rate."""

    def config(self, end: int, vocab_size: int) -> dict[str, Any]:  # Any: values of config.json
        """Return what config.json says; head and embedding are apart."""
        heads = self.hidden // _HEAD_DIM
        return {
            "model_type": self.architecture,
            "tie_word_embeddings": False,
            "vocab_size": vocab_size,
            "hidden_size": self.hidden,
            "intermediate_size": 3 * self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": self.context_tokens,
            "bos_token_id": None,
            "eos_token_id": end,
            "pad_token_id": end,
        }


@checked
def fresh(
    out: Path,
    *,
    text: list[str] | None = None,
    skills: list[str] | None = None,
    training: FreshSettings | None = None,
    optimizer: Annotated[Optimizer | str | Choice, OPTIMIZERS] = "muon",
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Make a small base model: a tokenizer and weights, taught on text and on skills' looks.

    Skills are shown with answers of the right form that are drawn at random: the base knows how
    they look, and answers by chance, so that what a tuned model knows was taught it. A killed run
    goes on where it was saved. Two seeds are two ancestries: no layer of one fits the other.

    Args:
        out: Model folder to write.
        text: Texts to read: .txt or .jsonl files, stdlib:calibration, stdlib:sources (default: the
            latter two, the documentation topics and the sources of Python's standard library).
        skills: Skills to show: arithmetic, lookup, json, facts (default: all four).
        training: Shape and length.
        optimizer: How weights follow their gradients.
        seed: Of the weights and the order of what is read.
        overwrite: Replace an existing model folder.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: `out` exists, a skill is none, or an interrupted run of other settings has
            left its state beside `out`.
        DataError: A text is missing or empty.
        UnsupportedModelError: transformers makes no model of that architecture and shape.
        CapacityError: The disk is full.
    """
    out, settings = Path(out), training or FreshSettings()
    names, sources = list(NAMES) if skills is None else skills, _TEXTS if text is None else text
    optimizing = OPTIMIZERS.resolve(optimizer)
    _require_effect(settings, skills)
    prepare_target(out, overwrite)
    primer = read_primer(sources, names)
    told = settings.model_dump(mode="json") | {"optimizer": optimizing.settings()}
    told |= {"skills": [spec.name for spec in primer.specs]}
    with recorded("tune", settings=told, action="fresh", seed=seed, out=out, overwrite=None) as run:
        run.read("text", " + ".join(sources), primer.content_hash, "data")
        model, tokenizer, done = _taught(run, primer, settings, optimizing, out)
        _account_for(run, model, done)
        _write(run, model, tokenizer, out)
    return run.result


def _require_effect(settings: FreshSettings, skills: list[str] | None) -> None:
    """Refuse skills of which nothing is shown, and a share of tokens for no skill."""
    if skills and not settings.skill_fraction:
        raise SettingsError(
            f"skills = {', '.join(skills)} have no effect, as skill_fraction is 0; raise it, or "
            f"leave the skills out."
        )
    if skills == [] and "skill_fraction" in settings.model_fields_set:
        raise SettingsError(
            f"skill_fraction = {settings.skill_fraction:g} has no effect without skills; name "
            f"some, or leave it out."
        )


def _taught(
    run: Recording, primer: Primer, settings: FreshSettings, optimizer: Optimizer, out: Path
) -> "tuple[CausalLM, Tokenizer, Fit]":
    from treadle.model.fit import FitSettings, fit, random_batches
    from treadle.model.fresh import fresh_model, fresh_tokenizer

    tokenizer = fresh_tokenizer(primer.samples(), settings.vocab_size)
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    num_tokens = settings.steps * settings.rows * settings.window_tokens
    tokens = primed_tokens(primer, tokenizer, num_tokens, settings.skill_fraction, run.seed)
    model = fresh_model(settings.config(end, len(tokenizer)), run.seed)
    _require_causal(model, settings.architecture)
    state = _state(out)
    done = fit(
        model,
        random_batches(tokens, settings.rows, settings.window_tokens, run.seed),
        FitSettings(
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            save_every_seconds=_SAVE_SECONDS,
        ),
        state,
        optimizer=optimizer,
        identity=run.fingerprint,
        keeps_state=True,
    )
    if done.first_step:
        run.resumed(f"had taken the first {done.first_step} of {settings.steps} steps")
    return model, tokenizer, done


def _require_causal(model: "CausalLM", architecture: str) -> None:
    """Check that no token sees a later one.

    Raises:
        UnsupportedModelError: One does: such a model would learn to copy.
    """
    import torch

    tokens = torch.arange(8)[None] % model.get_input_embeddings().weight.shape[0]
    other = tokens.clone()
    other[0, -1] = 0
    with torch.no_grad():
        one, two = (model(input_ids=some).logits[0, :-1] for some in (tokens, other))
    if float((one - two).abs().max()) > _UNSEEN * float(one.abs().max()):
        raise UnsupportedModelError(
            f"A model of type '{architecture}' sees the tokens that it shall predict; name one "
            f"that is made to go on with a text, such as llama or qwen2."
        )


def _state(out: Path) -> Path:
    """Return the folder of an interrupted run's state."""
    return out.absolute().with_name(f".{out.name}.tuning")


def _account_for(run: Recording, model: "CausalLM", done: "Fit") -> None:
    from treadle.model.fit import loss_figure, norm_figure, speed_figure

    last = done.losses[-_AVERAGED:]
    counted = sum(parameter.numel() for parameter in model.parameters())
    run.measurements += [
        Measurement(
            name="loss",
            value=sum(last) / len(last),
            unit="nats per token",
            better="lower",
            note=f"of the last {len(last)} steps",
        ),
        Measurement(name="parameters", value=counted),
        Measurement(name="tokens", value=sum(done.num_tokens), note="that were learned from"),
        Measurement(name="tokens_per_second", value=done.tokens_per_second, better="higher"),
    ]
    run.figures += [
        loss_figure({"training": done.losses}),
        norm_figure({"training": done.gradient_norms}),
        speed_figure({"training": done}),
    ]


def _write(run: Recording, model: "CausalLM", tokenizer: "Tokenizer", out: Path) -> None:
    """Publish the model's folder."""
    from treadle.model.fresh import save_whole

    with published(out) as folder:
        with system_errors():
            save_whole(model, tokenizer, folder)
        run.bytes["output"] = (folder / "model.safetensors").stat().st_size
        run.finish(folder)
        made = run.manifest([side_file("result", RESULT_FILE)])
        manifest = made.completed(content_hash(folder))
        write_text(folder / "README.md", model_card(out.name, manifest.provenance))
        write_text(folder / MANIFEST_FILE, manifest.model_dump_json(indent=2) + "\n")
    remove(_state(out))
