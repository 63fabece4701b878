"""The estimated iPhone 12 table: made again from the published figures, near them, and honest about its error."""

from __future__ import annotations

import shutil
from dataclasses import astuple, replace
from itertools import pairwise
from pathlib import Path

import pytest

from nas import resources
from nas.errors import InputError
from nas.latency import LatencyTable, load_table
from nas.latency.cost_model import Costs, Observation, demand, fit, price
from nas.latency.coverage import space_operations
from nas.latency.estimated import estimate, main
from nas.latency.published import layers_of
from nas.latency.reference_nets import reference_nets
from nas.space import load_space
from nas.specs import Layer, Shape

FOLDER = resources.shipped(resources.TABLES) / "iphone12"
SPACES = ("efficientformer", "efficientformerv2", "swiftformer", "efficientvit", "emo")
SPACE = load_space("efficientformer")
PUBLISHED = {
    "efficientformer": {"efficientformer_l1": 1.4, "efficientformer_l3": 2.7, "efficientformer_l7": 6.6},
    "efficientformerv2": {
        "efficientformerv2_s0": 0.9, "efficientformerv2_s1": 1.1, "efficientformerv2_s2": 1.6,
        "efficientformerv2_l": 2.7,
    },
}  # fmt: skip
ON_IOS_15 = {"efficientformer_l1": 1.6, "efficientformer_l3": 3.0, "efficientformer_l7": 7.0}


@pytest.fixture(scope="module")
def shipped() -> LatencyTable:
    return load_table(str(FOLDER))


@pytest.fixture(scope="module")
def again() -> LatencyTable:
    return estimate(FOLDER)


def networks(table: LatencyTable) -> dict[str, dict[str, float]]:
    assert table.device.estimate is not None
    return {entry["name"]: entry for entry in table.device.estimate.networks}  # type: ignore[attr-defined]


def test_the_shipped_table_is_what_the_script_makes(shipped: LatencyTable, again: LatencyTable) -> None:
    assert list(shipped.rows) == list(again.rows)
    for row, new in zip(shipped.rows.values(), again.rows.values(), strict=True):
        assert replace(row, median_ms=0, p10_ms=0, p90_ms=0) == replace(new, median_ms=0, p10_ms=0, p90_ms=0)
        times = (new.median_ms, new.p10_ms, new.p90_ms)
        assert (row.median_ms, row.p10_ms, row.p90_ms) == pytest.approx(times, rel=2e-3, abs=2e-6)
    assert shipped.device.intercept_ms == pytest.approx(again.device.intercept_ms, rel=2e-3)
    assert shipped.expected_error == pytest.approx(again.expected_error, abs=0.02)
    assert replace(shipped.device, intercept_ms=0, estimate=None) == replace(
        again.device, intercept_ms=0, estimate=None
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_members_are_within_15_percent_and_in_order(shipped: LatencyTable, name: str) -> None:
    known, members = PUBLISHED[name], load_space(name).published
    predicted = {member: shipped.predict(members[member]).ms for member in known}
    assert predicted == pytest.approx(known, rel=0.15)
    assert sorted(predicted, key=lambda member: predicted[member]) == list(known)


def test_on_an_older_ios_members_are_within_15_percent(shipped: LatencyTable) -> None:
    assert {name: shipped.predict(SPACE.published[name]).ms for name in ON_IOS_15} == pytest.approx(ON_IOS_15, rel=0.15)


@pytest.mark.parametrize("name", SPACES)
def test_every_member_of_every_space_is_covered(shipped: LatencyTable, name: str) -> None:
    space = load_space(name)
    members = [space.sample(seed) for seed in range(50)] + [space.largest(), space.smallest()]
    assert all(shipped.predict(member).missing == () for member in (*members, *space.published.values()))


def test_no_row_is_of_no_use(shipped: LatencyTable) -> None:
    wanted = (operation.key for name in SPACES for operation in space_operations(load_space(name)))
    assert set(shipped.rows) == set(wanted)


def test_every_row_says_estimated_with_a_spread(shipped: LatencyTable) -> None:
    for row in shipped.rows.values():
        assert (row.provenance, row.runs) == ("estimated", 0)
        assert 0 < row.p10_ms < row.median_ms < row.p90_ms


def test_a_wider_operation_never_takes_less(shipped: LatencyTable) -> None:
    """With more channels coming in and all else equal, and with more going out."""
    groups: dict[tuple[str, ...], list[tuple[int, float]]] = {}
    for row in shipped.rows.values():
        before, after = Shape.parse(row.input), Shape.parse(row.output)
        but_width = ";".join(each for each in row.hyperparameters.split(";") if not each.startswith("width="))
        grid = f"{before.height}x{before.width}"
        groups.setdefault((row.kind, row.hyperparameters, grid), []).append((before.channels, row.median_ms))
        groups.setdefault((row.kind, but_width, "from", row.input), []).append((after.channels, row.median_ms))
    compared = 0
    for key, points in groups.items():
        points.sort()
        for (narrow, less), (wide, more) in pairwise(points):
            compared += wide > narrow
            assert wide == narrow or more >= less, (key, narrow, wide)
    assert compared > 3000


def test_attention_takes_several_times_a_local_block(shipped: LatencyTable) -> None:
    largest = SPACE.largest()
    for stage, low, high in ((3, 3.0, 30.0), (4, 1.2, 5.0)):
        for width in SPACE.stages[stage - 1].widths:
            side = 224 // 2 ** (stage + 1)
            (local,), (attention,) = SPACE.stages[stage - 1].local, SPACE.stages[stage - 1].global_
            ratio = (
                shipped.rows["mb3d", str(attention), f"tokens:{width}x{side}x{side}"].median_ms
                / shipped.rows["mb4d", str(local), f"{width}x{side}x{side}"].median_ms
            )
            assert low < ratio < high
    assert shipped.predict(largest).ms > shipped.predict(SPACE.published["efficientformer_l7"]).ms


def test_the_error_is_given_and_small(shipped: LatencyTable) -> None:
    info = shipped.device.estimate
    assert info is not None and shipped.device.provenance == "estimated"
    entries = networks(shipped).values()
    by_hand = [abs(entry["left_out_ms"] / entry["published_ms"] - 1) * 100 for entry in entries]
    assert info.leave_one_out_mape == pytest.approx(sum(by_hand) / len(by_hand), abs=0.05)
    assert shipped.expected_error == info.leave_one_out_mape <= 15
    assert info.leave_one_out["spearman"] >= 0.95  # type: ignore[attr-defined]
    assert len(by_hand) == info.leave_one_out["n"] >= 20  # type: ignore[attr-defined]


def test_a_network_left_out_is_predicted_without_its_own_figures(again: LatencyTable, tmp_path: Path) -> None:
    """Other figures for one model change its fit, but not the prediction that leaves it out."""
    folder = shutil.copytree(FOLDER, tmp_path / "iphone12")
    text = (folder / "published.csv").read_text()
    (folder / "published.csv").write_text(text.replace("L7,EfficientFormer,224,6.6", "L7,EfficientFormer,224,9.9"))
    before, after = networks(again), networks(estimate(folder))
    assert after["EfficientFormer-L7"]["left_out_ms"] == pytest.approx(
        before["EfficientFormer-L7"]["left_out_ms"], rel=1e-3
    )
    assert after["EfficientFormer-L7"]["fitted_ms"] > before["EfficientFormer-L7"]["fitted_ms"] * 1.03
    for name in ("EfficientFormer-L1", "EfficientFormer-L3"):
        assert after[name]["family_left_out_ms"] == pytest.approx(before[name]["family_left_out_ms"], rel=1e-3)


def test_the_fit_finds_the_costs_that_made_the_figures() -> None:
    costs = Costs(call=0.4, compute=0.2, memory=0.05, elementwise=0.02, norm=0.3, softmax=0.6, layout=0.02)
    observations = []
    for name, layers in reference_nets().items():
        listed = layers(Shape(3, 224, 224))
        ms = costs.call + price(listed, costs)
        observations.append(Observation(name, name, demand(listed, calls=1), ms, ms))
    assert astuple(fit(observations)) == pytest.approx(astuple(costs), rel=1e-3)


def test_a_kernel_takes_the_longer_of_arithmetic_and_weights() -> None:
    costs = Costs(call=1.0, compute=1.0, memory=10.0, elementwise=5.0, norm=0, softmax=0, layout=0.5)
    reuses = Layer("conv", macs=4 * 10**9, params=10**5, read=10**4, written=10**4)
    reads = Layer("linear", macs=10**6, params=10**5, read=0, written=0)
    assert price([reuses], costs) == pytest.approx(4.0 + 0.2)
    assert price([reads], costs) == pytest.approx(1.0)
    assert price([Layer("reshape", read=9, written=9), Layer("activation", read=9, written=9)], costs) == 0.5
    assert price([Layer("elementwise", read=10**5, written=10**5)], costs) == pytest.approx(1.0)
    assert price([reuses, reads], costs) == pytest.approx(5.2)


def test_an_unknown_network_or_figure_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="VGG-16: its layers are not known; known: ConvNeXt-B"):
        layers_of("VGG-16", 224)
    folder = shutil.copytree(FOLDER, tmp_path / "iphone12")
    text = (folder / "published.csv").read_text()
    for good, bad, reason in (
        ("ConvNeXt-B,ConvNeXt,224,8.4", "ConvNeXt-B,ConvNeXt,224,-8.4", r"published.csv:2: latency_ms: '-8.4'"),
        ("8.4,fit", "8.4,use", r"published.csv:2: role: 'use' is none of fit, other"),
    ):
        (folder / "published.csv").write_text(text.replace(good, bad))
        with pytest.raises(InputError, match=reason):
            estimate(folder)
    (folder / "published.csv").write_text(text)
    recipe = (folder / "estimate.yaml").read_text()
    (folder / "estimate.yaml").write_text(recipe.replace("date: 2026", "date: about 2026"))
    with pytest.raises(InputError, match=r"estimate.yaml:\d+: date: expected a date, found 'about 2026"):
        estimate(folder)


def test_the_command_writes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    folder = shutil.copytree(FOLDER, tmp_path / "latency_tables" / "iphone12")
    (folder / "table.csv").unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["iphone12"]) == 0
    rows = len(load_table("iphone12").rows)
    assert rows > 2000 and f"{rows} rows" in capsys.readouterr().out
    assert main(["iphone21"]) == 2
    assert "unknown estimate 'iphone21', did you mean 'iphone12'" in capsys.readouterr().err
    assert main([]) == 2
