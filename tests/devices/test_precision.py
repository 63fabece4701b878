"""Precisions: which device has which, and the names of their tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.convert.converter import LITERT, LITERT_INT8
from nas.devices.kinds import KINDS
from nas.devices.precision import (
    check_precision,
    device_of,
    device_options,
    litert_target,
    table_name,
)
from nas.errors import InputError
from nas.testing.devices import FakeDevice


@pytest.mark.parametrize(
    ("precision", "name"),
    [(None, "phone"), ("float32", "phone"), ("int8", "phone-int8"), ("float16", "phone-float16")],
)
def test_a_table_of_another_precision_has_a_name_of_its_own(
    precision: str | None, name: str
) -> None:
    assert table_name("phone", precision) == name
    info = replace(FakeDevice().info(), name=name, precision=precision or "float32")
    asked = None if name == "phone" else precision
    assert device_of(info) == ("phone", asked)
    assert device_options(info) == ["--device", "phone", *(["--precision", asked] if asked else [])]


def test_a_device_that_is_called_like_a_precision_keeps_its_name() -> None:
    info = replace(FakeDevice().info(), name="my-int8", precision="float32")
    assert device_of(info) == ("my-int8", None)
    # A GPU phone whose own precision is float16 needs no name for it.
    info = replace(FakeDevice().info(), name="pixel", precision="float16")
    assert device_of(info) == ("pixel", None)


def test_files_are_int8_for_int8_alone() -> None:
    assert litert_target("int8") == LITERT_INT8
    assert {litert_target(each) for each in (None, "float32", "float16")} == {LITERT}


def test_what_a_device_lacks_is_refused_by_name() -> None:
    check_precision(None, "the host", ("float32",))
    check_precision("float32", "the host", ("float32", "int8"))
    with pytest.raises(
        InputError,
        match=r"--precision: is not available on the host \(got float16, expected float32 or int8\)",
    ):
        check_precision("float16", "the host", ("float32", "int8"))


@pytest.mark.parametrize("name", KINDS)
def test_a_bundle_of_a_kind_has_its_own_precision_among_those_that_it_may_have(name: str) -> None:
    recipe = KINDS[name].bundle_recipe()
    if recipe is not None and recipe.by_precision:
        assert recipe.target in recipe.by_precision.values()
