"""Settings that may differ by layer: every form, and what is said about wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from duet.config import Config, parse_config
from duet.errors import ConfigError, ModelError
from duet.merging.layers import Layer
from duet.merging.varying import value_at, value_of_each, varying

LAYERS = {
    "model.0.conv.weight": Layer("backbone", 0.0),
    "model.5.conv.weight": Layer("backbone", 0.25),
    "model.12.conv.weight": Layer("neck", 0.5),
    "model.23.cv2.weight": Layer("head", 1.0),
}


class Params(Config):
    weight: varying(ge=-1, le=2) = 0.5  # type: ignore[valid-type]


def values(setting: Any, layers: dict[str, Layer] = LAYERS) -> list[float]:
    parsed = parse_config(Params, {"weight": setting}, where="test")
    return list(value_of_each(parsed.weight, LAYERS, layers).values())


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        pytest.param(1, [1, 1, 1, 1], id="number"),
        pytest.param(-0.5, [-0.5] * 4, id="negative number"),
        pytest.param([0.3], [0.3] * 4, id="list of one"),
        pytest.param([0, 1], [0, 0.25, 0.5, 1], id="list of two"),
        pytest.param([0, 1, 0], [0, 0.5, 1, 0], id="list of three"),
        pytest.param((0, 2, 0, 2), [0, 1.5, 1, 2], id="tuple of four"),
        pytest.param({"backbone": 0, "neck": 1, "head": 2}, [0, 0, 1, 2], id="roles"),
        pytest.param({"neck": 1, "default": 0.25}, [0.25, 0.25, 1, 0.25], id="default"),
        pytest.param([{"value": 1}], [1] * 4, id="filter for all"),
        pytest.param(
            [{"filter": "model.?.*", "value": 0}, {"filter": "*cv2*", "value": 2}, {"value": 1}],
            [0, 0, 1, 2],
            id="filters",
        ),
        pytest.param(
            [{"filter": "model.0.*", "value": 0}, {"filter": "*", "value": 1}, {"value": 2}],
            [0, 1, 1, 1],
            id="the first that fits",
        ),
    ],
)
def test_every_form(setting: Any, expected: list[float]) -> None:
    assert values(setting) == pytest.approx(expected)


def test_the_default_and_a_parsed_value_are_read_alike() -> None:
    assert Params().weight == 0.5
    again = Params.model_validate(Params(weight=[{"value": 1}]).model_dump(mode="json"))
    assert again == Params(weight=[{"value": 1}])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        pytest.param(3, "3 must be >= -1 and <= 2", id="too large"),
        pytest.param([0, -2], "-2 must be >= -1 and <= 2", id="too small in a list"),
        pytest.param({"neck": 9}, "9 must be >= -1 and <= 2", id="too large in a role"),
        pytest.param([{"value": 9}], "9 must be >= -1 and <= 2", id="too large in a filter"),
        pytest.param(float("nan"), "must be finite", id="nan"),
        pytest.param([float("inf")], "must be finite", id="infinite"),
        pytest.param(True, "expected one number, a list of numbers", id="bool"),
        pytest.param("0.5", "expected one number, a list of numbers", id="text"),
        pytest.param(None, "expected one number, a list of numbers", id="none"),
        pytest.param([], "expected one number, a list of numbers", id="empty list"),
        pytest.param([0.5, "x"], "expected one number, a list of numbers", id="text in a list"),
        pytest.param([0.5, {"value": 1}], "expected one number", id="mixed list"),
        pytest.param({}, "unknown role ''", id="empty mapping"),
        pytest.param({"backbon": 1}, "did you mean 'backbone'", id="role misspelt"),
        pytest.param({"defalt": 1}, "did you mean 'default'", id="default misspelt"),
        pytest.param({"neck": [1]}, "expected one number", id="list in a role"),
        pytest.param([{"filtr": "*", "value": 1}], "did you mean 'filter'", id="filter misspelt"),
        pytest.param([{"filter": "*", "valeu": 1}], "did you mean 'value'", id="value misspelt"),
        pytest.param([{"filter": "*"}], "an entry needs a value", id="no value"),
        pytest.param([{"filter": 3, "value": 1}], "a filter of text", id="filter of a number"),
    ],
)
def test_wrong_settings_are_explained(setting: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values(setting)
    assert message in str(caught.value)
    assert "weight" in str(caught.value)


def test_one_sided_and_absent_limits() -> None:
    class Wide(Config):
        low: varying(ge=0) = 0  # type: ignore[valid-type]
        free: varying() = 0  # type: ignore[valid-type]

    assert Wide(low=1e9, free=-1e9).low == 1e9
    with pytest.raises(ConfigError, match="-1 must be >= 0"):
        parse_config(Wide, {"low": -1}, where="test")


@pytest.mark.parametrize("setting", [[0, 1], {"neck": 1, "default": 0}], ids=["depth", "role"])
def test_depth_and_role_need_a_known_place(setting: Any) -> None:
    with pytest.raises(ModelError, match=r"the place of 'model\.0\.conv\.weight'"):
        values(setting, {})
    assert values(1, {}) == [1] * 4
    assert values([{"value": 1}], {}) == [1] * 4


def test_tensors_without_a_value() -> None:
    with pytest.raises(ModelError, match=r"no value for the role 'head' of 'model\.23"):
        values({"backbone": 1, "neck": 1})
    with pytest.raises(ModelError, match=r"no filter fits the tensor 'model\.12"):
        values([{"filter": "model.?.*", "value": 1}])
    assert value_at((0.5,), "model.12.conv.weight", LAYERS) == 0.5
