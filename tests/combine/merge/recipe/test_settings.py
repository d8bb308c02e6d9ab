"""From scopes, filters and gradients to the arguments of a method for one tensor."""

from typing import Annotated, Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict, Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site
from treadle.combine.merge.recipe.grammar import MergeRecipe, parse
from treadle.combine.merge.recipe.settings import base_of, models_of, require_known, resolve
from treadle.core.errors import SettingsError
from treadle.core.method import Control

ATTENTION = "model.layers.0.self_attn.q_proj.weight"
MLP = "model.layers.0.mlp.up_proj.weight"


class Blend(MergeMethod):
    """Blend models for the tests."""

    model_config = ConfigDict(validate_by_name=True)
    name: ClassVar[str] = "blend"
    paper = Control("none")
    base: ClassVar = "optional"

    weight: PerModel
    density: PerModel = (0.5,)
    extra: PerModel | None = None
    lambda_: Annotated[float, Field(alias="lambda", ge=0)] = 1.0
    steps: int = 3
    normalize: bool = True
    sign: str = "sum"

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        return chunk.models[0]


class Needy(Blend):
    """A method whose shared parameter has no default."""

    name: ClassVar[str] = "needy"
    weight: PerModel = (1.0,)
    t: float


class First(Needy):
    """A method whose base is the first model."""

    name: ClassVar[str] = "first"
    base: ClassVar = "first"


class Flat(Blend):
    """A method without a base."""

    name: ClassVar[str] = "flat"
    base: ClassVar = "unused"


def recipe(
    shared: dict[str, Any] | None = None,
    own: dict[str, Any] | None = None,
    models: list[dict[str, Any]] | None = None,
    base: str | None = None,
) -> MergeRecipe:
    """Return a recipe of one slice with global, slice and model parameters."""
    sources = [
        {"model": f"m{index}", "layer_range": [0, 2], "parameters": parameters}
        for index, parameters in enumerate(models or [{"weight": 1}, {"weight": 2}])
    ]
    return parse(
        {
            "merge_method": "blend",
            "base_model": base,
            "slices": [{"sources": sources, "parameters": own}],
            "parameters": shared,
        },
        "test",
    )


def resolved(found: MergeRecipe, tensor: str = MLP, t: float = 0.0, **kw: Any) -> dict[str, Any]:
    method = kw.get("method", Blend)
    inputs = kw.get("inputs") or [tensor] * len(models_of(method, found, found.slices[0]))
    return resolve(method, found, found.slices[0], tensor, inputs, t)


def test_defaults_stay_and_models_have_their_own() -> None:
    found = resolved(recipe())
    assert found == {"weight": (1.0, 2.0), "density": (0.5, 0.5)}
    assert Blend(**found).lambda_ == 1.0


def test_scopes_come_from_the_inside_to_the_outside() -> None:
    scopes = recipe(
        shared={"weight": 9, "density": 0.1, "lambda": 0.3, "steps": 7},
        own={"density": 0.2, "lambda": 0.4},
        models=[{"weight": 1, "density": 0.9}, {}],
    )
    assert resolved(scopes) == {
        "weight": (1.0, 9.0),
        "density": (0.9, 0.2),
        "lambda_": 0.4,
        "steps": 7,
    }


def test_a_default_fills_the_models_without_a_value() -> None:
    assert resolved(recipe(models=[{"weight": 1, "density": 0.9}, {"weight": 1}]))["density"] == (
        0.9,
        0.5,
    )


def test_filters_first_match_wins_and_no_match_falls_through() -> None:
    weight = [{"filter": "self_attn", "value": 0.25}, {"filter": "q_proj", "value": 9}]
    scopes = recipe(shared={"weight": {"filter": "*", "value": 5}}, models=[{"weight": weight}, {}])
    assert resolved(scopes, ATTENTION)["weight"] == (0.25, 5.0)
    assert resolved(scopes, MLP)["weight"] == (5.0, 5.0)


def test_filters_look_at_the_inputs_name_of_a_models_own_parameter() -> None:
    layered = [{"filter": "layers.7.", "value": 3}, {"value": 1}]
    scopes = recipe(shared={"lambda": layered}, models=[{"weight": layered}, {"weight": layered}])
    found = resolved(scopes, "layers.7.w", inputs=["layers.7.w", "layers.2.w"])
    assert (found["weight"], found["lambda_"]) == ((3.0, 1.0), 3.0)


def test_gradients() -> None:
    scopes = recipe(
        shared={
            "lambda": [0, 1, 0.5],
            "normalize": [True, False],
            "sign": ["a", "b", "c"],
            "steps": [0, 10],
        },
        models=[{"weight": {"filter": "mlp", "value": ["1e-1", "3e-1"]}}, {"weight": [2]}],
    )
    middle = resolved(scopes, t=0.5)
    assert middle["weight"] == (pytest.approx(0.2), 2.0)
    assert middle["lambda_"] == 1.0
    assert (middle["normalize"], middle["sign"], middle["steps"]) == (True, "b", 5)
    last = resolved(scopes, t=1.0)
    assert (last["lambda_"], last["normalize"], last["sign"]) == (0.5, False, "c")


@given(
    values=st.lists(st.floats(-4, 4), min_size=1, max_size=6), t=st.floats(0, 1), name=st.text("ab")
)
def test_a_gradient_is_linear_interpolation(values: list[float], t: float, name: str) -> None:
    import numpy as np

    found = resolved(recipe(models=[{"weight": values}]), name, t)["weight"]
    expected = np.interp(t * (len(values) - 1), range(len(values)), values)
    assert found == pytest.approx((expected,), abs=1e-9)


def test_an_optional_field_for_each_model() -> None:
    assert "extra" not in resolved(recipe())
    scopes = recipe(models=[{"weight": 1, "extra": 2}, {"weight": 1, "extra": 3}])
    assert resolved(scopes)["extra"] == (2.0, 3.0)
    scopes = recipe(models=[{"weight": 1, "extra": 2}, {"weight": 1}])
    with pytest.raises(SettingsError, match="needs the parameter 'extra' of model 'm1'"):
        resolved(scopes)


def test_a_missing_value_names_model_tensor_and_parameter() -> None:
    scopes = recipe(models=[{"weight": 1}, {"weight": {"filter": "self_attn", "value": 1}}])
    with pytest.raises(SettingsError) as caught:
        resolved(scopes)
    assert str(caught.value) == (
        f"Merge method 'blend' needs the parameter 'weight' of model 'm1' for tensor '{MLP}', but "
        f"no scope of the recipe grants one; set it under 'parameters', or add a condition without "
        f"a filter."
    )
    with pytest.raises(SettingsError, match=r"needs the parameter 't' for tensor"):
        resolved(recipe(), method=Needy)


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        ({"lambda": "much"}, "lambda = 'much' is refused: expected a valid number"),
        ({"steps": [0, 1]}, r"steps = \[0, 1\] is refused: expected a valid integer"),
        ({"weight": [1, "x"]}, r"weight = \[1, 'x'\] is refused"),
    ],
)
def test_wrong_types(shared: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        resolved(recipe({"weight": 1, **shared}, models=[{}]), t=0.5)


def test_the_base_is_no_model() -> None:
    scopes = recipe(models=[{}, {"weight": 2}, {"weight": 3}], base="m0")
    assert resolved(scopes)["weight"] == (2.0, 3.0)
    assert base_of(Blend, scopes, scopes.slices[0]) == scopes.base
    scopes = recipe(shared={"t": 0.1})
    assert [s.model.path for s in models_of(First, scopes, scopes.slices[0])] == ["m1"]
    assert resolved(scopes, method=First)["weight"] == (2.0,)
    scopes = recipe(base="m0")
    assert base_of(Flat, scopes, scopes.slices[0]) is None
    assert resolved(scopes, method=Flat)["weight"] == (1.0, 2.0)


def test_unknown_parameters_in_any_scope() -> None:
    assert require_known(Blend, recipe({"lambda": 1, "int8_mask": True})) == []
    for scopes, place in [
        (recipe({"lambada": 1}), "the recipe"),
        (recipe(own={"lambada": 1}), "slice 0"),
        (recipe(models=[{"lambada": 1}]), "model 'm0'"),
    ]:
        with pytest.raises(SettingsError, match=f"parameters of {place} name 'lambada'") as caught:
            require_known(Blend, scopes)
        assert "Did you mean 'lambda'?" in str(caught.value)


def test_parameters_that_nothing_reads_are_noted() -> None:
    scopes = recipe(models=[{"weight": 1}, {"weight": 1, "normalize": True}], base="m0")
    assert require_known(Blend, scopes) == [
        "'weight' of the base 'm0' has no effect: it is no model.",
        "'normalize' of model 'm1' has no effect: all models share it. Set it for the slice or the "
        "recipe.",
    ]
