import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.errors import NotFound, Unavailable
from seaway.serving.router import Router, choose, sticky_point
from seaway.types import ModelState, RoutingTable, ServedVersion, Signature


def served(version: int, weight_bp: int = 10_000, model: str = "m") -> ServedVersion:
    return ServedVersion(model, version, version, 0, weight_bp, Signature((), ()), "onnx", (), 8, 1.0)


def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(NotFound, match="'m'"):
        Router(RoutingTable(1)).resolve("m", None, 0.0)


def test_a_deployed_model_that_is_not_ready_says_why() -> None:
    router = Router(RoutingTable(1, not_ready=(ModelState("m", "UNAVAILABLE", "no such operator"),)))
    with pytest.raises(Unavailable, match="no such operator"):
        router.resolve("m", None, 0.0)


def test_a_version_that_is_not_deployed_is_not_found_and_the_deployed_ones_are_named() -> None:
    with pytest.raises(NotFound, match="deployed: 3"):
        Router(RoutingTable(1, (served(3),))).resolve("m", "4", 0.0)


def test_a_named_version_is_taken_whatever_its_weight() -> None:
    router = Router(RoutingTable(1, (served(3), served(4, 0))))
    assert router.resolve("m", "4", 0.0).version == 4


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=6), st.floats(0, 1, exclude_max=True))
def test_weights_divide_the_points_between_the_arms(weights: list[int], point: float) -> None:
    arms = [served(number, weight) for number, weight in enumerate(weights)]
    chosen = choose(arms, point).version
    left = point * sum(weights)
    assert sum(weights[:chosen]) <= left + 1e-6
    assert left - 1e-6 <= sum(weights[: chosen + 1])


@given(st.text())
def test_a_sticky_key_gives_the_same_point_always(key: str) -> None:
    point = sticky_point(key, "m")
    assert point == sticky_point(key, "m")
    assert 0 <= point < 1
