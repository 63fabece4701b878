"""Supernets that begin with a network's weights: padded, sliced, resized, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import nas
from nas.data import ImageData, load_data
from nas.errors import InputError
from nas.network import Network
from nas.runs.trained_on import TrainedOn
from nas.space import Space
from nas.supernet.checkpoint import Folder
from nas.supernet.options import Recipe
from nas.supernet.supernet import Supernet
from nas.supernet.train import train
from nas.supernet.warm_start import load_start, transfer, warm_start
from nas.weights.importing import LAYOUTS, names_in

PLACEMENTS = pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])


@torch.no_grad()
def lively(network: Network) -> Network:
    """Weights of a size that trained ones have, and norms that a wrong slice would show."""
    torch.manual_seed(1)
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.is_floating_point():
            (
                tensor.uniform_(0.3, 1.2)
                if tensor.dim() == 1
                else tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
            )
    return network.eval()


@pytest.fixture(params=["small", "choices", "stem"])
def any_space(
    request: pytest.FixtureRequest,
    small_space: Callable[..., Space],
    choices_space: Callable[..., Space],
    stem_space: Callable[..., Space],
) -> Callable[..., Space]:
    return {"small": small_space, "choices": choices_space, "stem": stem_space}[str(request.param)]


@PLACEMENTS
@pytest.mark.parametrize("seed", range(4))
def test_the_slice_at_the_networks_widths_is_the_network(
    any_space: Callable[..., Space], attention: str, seed: int
) -> None:
    space = any_space(attention)
    arch = space.sample(seed).compact()
    network = lively(nas.build(arch))
    torch.manual_seed(0)
    supernet = Supernet(space).eval()
    placed = warm_start(supernet, network, space)
    assert placed == len(network.state_dict())
    x = torch.rand(2, 3, *space.resolution)
    with torch.no_grad():
        torch.testing.assert_close(supernet.extract(arch)(x), network(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "member"),
    [
        ("efficientformer", "efficientformer_l1"),
        ("swiftformer", "swiftformer_xs"),
        ("emo", "emo_1m"),
        ("efficientformerv2", "efficientformerv2_s0"),
        ("efficientvit", "efficientvit_b0"),
    ],
)
def test_published_members_are_recognised_and_found_again(
    family: str, member: str, tmp_path: Path
) -> None:
    """At another resolution, and with another number of classes than the data has."""
    space = nas.load_space(family).at(64, 10)
    network = lively(nas.build(space.published[member].at(64, 1000)))
    file = tmp_path / "official.safetensors"
    save_file(official(network, f"{family}/official"), file)
    start = load_start(file, space)
    assert start.network.architecture.name == member and start.layout == f"{family}/official"
    supernet = Supernet(space).eval()
    placed = warm_start(supernet, start.network, start.space)
    heads = sum(name.startswith("head.") for name in network.state_dict())
    assert len(network.state_dict()) - heads <= placed <= len(network.state_dict())
    arch = space.published[member]
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(
            supernet.extract(arch).forward_features(x),
            start.network.eval().forward_features(x),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def official(network: Network, layout: str) -> dict[str, torch.Tensor]:
    """The tensors of a network under their published names (of layouts that convert nothing they
    are the same)."""
    names = names_in(network, LAYOUTS[layout])
    assert names is not None
    return {names[name]: tensor.contiguous() for name, tensor in network.state_dict().items()}


def test_a_wider_network_is_sliced(small_space: Callable[..., Space]) -> None:
    """Into a space of half the widths the most important channels go."""
    space = small_space()
    network = lively(nas.build(space.largest()))
    narrow = Supernet(narrower(space)).eval()
    placed = warm_start(narrow, network, space)
    assert placed > 0.9 * len(network.state_dict())
    stem = narrow.get_submodule("stem")
    wide = network.get_submodule("stem")
    kept = {tuple(row.flatten().tolist()) for row in wide.get_parameter("first.conv.weight")}
    for row in stem.get_parameter("first.conv.weight"):
        assert tuple(row.flatten().tolist()) in kept
    assert all(bool(tensor.isfinite().all()) for tensor in narrow.state_dict().values())


def narrower(space: Space) -> Space:
    path = Path(space.path).with_name("narrower.yaml")
    text = Path(space.path).read_text()
    data = yaml.safe_load(text)
    for stage in data["stages"]:
        widths = stage["width"]
        low = widths["min"] if isinstance(widths, dict) else min(widths)
        stage["width"] = [low]
    data.pop("published", None)
    data["name"] = "narrower"
    path.write_text(yaml.safe_dump(data))
    return nas.load_space(str(path))


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ImageData:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return load_data("digits", (32, 32), 0.1, 128, 0).train


def test_training_begins_there_and_resumes(tmp_path: Path, digits: ImageData) -> None:
    space = nas.load_space("efficientformer_small").at(32, 10)
    full = nas.load_space("efficientformer").published["efficientformer_l1"].at(32, 1000)
    file = tmp_path / "l1.safetensors"
    save_file(official(lively(nas.build(full)), "efficientformer/official"), file)
    start = load_start(file, space)
    recipe = Recipe(epochs=1, batch=64, learning_rate=1e-12, alpha_rate=1e-12, weight_decay=0.0)
    folder = train(space, digits, recipe, tmp_path / "run", start=start)
    assert "member: efficientformer_l1" in folder.description.read_text()
    torch.manual_seed(recipe.seed)
    expected = Supernet(space)
    warm_start(expected, start.network, start.space)
    found = load_file(Folder(tmp_path / "run").weights)
    torch.testing.assert_close(
        found["stem.first.conv.weight"], expected.stem.first.conv.weight.detach()
    )
    with pytest.raises(InputError, match="start: this folder holds another training"):
        train(space, digits, recipe, tmp_path / "run")


def test_what_is_no_member_is_refused(tmp_path: Path) -> None:
    space = nas.load_space("efficientformer").at(64, 10)
    file = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(3)}, file)
    with pytest.raises(
        InputError,
        match=r"other\.safetensors: does not match a published member.*--init-member NAME.*beside",
    ):
        load_start(file, space)
    with pytest.raises(InputError, match=r"efficientformer_l1: unknown checkpoint layout"):
        load_start(file, space, "efficientformer_l1")
    with pytest.raises(InputError, match="'resnet50' is not a published member"):
        load_start(file, space, "resnet50")


@pytest.fixture
def member(small_space: Callable[..., Space], tmp_path: Path) -> Callable[..., Path]:
    """A function from class names to the folder of a member that is not published, with weights."""

    def make(classes: tuple[str, ...] | None = None) -> Path:
        space = small_space()
        arch = space.sample(3)
        folder = tmp_path / "member"
        arch.save(folder / "architecture.yaml")
        network = lively(nas.build(arch))
        header = {"format": "nas-weights-1", **TrainedOn(classes).header()}
        save_file(network.state_dict(), folder / "weights.safetensors", header)
        return folder

    return make


def test_any_member_with_its_weights_is_a_start(
    small_space: Callable[..., Space], member: Callable[..., Path]
) -> None:
    folder = member()
    space = small_space()
    network = nas.build(space.sample(3))
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    x = torch.rand(2, 3, *space.resolution)
    for path in (folder, folder / "architecture.yaml", folder / "weights.safetensors"):
        start = load_start(path, space)
        assert start.layout == "nas" and start.notes == ()
        supernet = Supernet(space).eval()
        assert warm_start(supernet, start.network, start.space) == len(network.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(
                supernet.extract(space.sample(3))(x), network.eval()(x), atol=1e-4, rtol=1e-4
            )


def test_of_several_copies_the_average_starts_and_is_recorded(
    small_space: Callable[..., Space], member: Callable[..., Path]
) -> None:
    folder = member()
    weights = load_file(folder / "weights.safetensors")
    small_space().sample(3).save(folder / "b.yaml")
    live = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    torch.save({"model": live, "ema": weights}, folder / "b.safetensors")
    start = load_start(folder / "b.yaml", small_space())
    assert "'ema' is taken" in start.notes[0] and start.describe()["copy"] == "ema"
    assert torch.equal(start.network.head.classifier.weight, weights["head.classifier.weight"])


def test_the_head_follows_the_names_of_the_classes(
    small_space: Callable[..., Space], member: Callable[..., Path]
) -> None:
    names = tuple("abcdefghij")
    folder = member(names)
    space = small_space()
    weights = load_file(folder / "weights.safetensors")["head.classifier.weight"]
    same = load_start(folder, space, classes=names)
    assert torch.equal(same.network.head.classifier.weight, weights) and not same.notes
    turned = load_start(folder, space, classes=names[::-1])
    assert torch.equal(turned.network.head.classifier.weight, weights.flip(0))
    assert "reordered" in turned.notes[0]
    other = load_start(folder, space, classes=("k", *names[1:]))
    assert "its classes are 10 (a, b, c, d, e, ..)" in other.notes[0]
    assert not torch.isclose(other.network.head.classifier.weight, weights).any()


def test_a_head_of_other_classes_or_none_is_fine(tmp_path: Path) -> None:
    space = nas.load_space("efficientformer").at(64, 10)
    network = lively(nas.build(space.published["efficientformer_l1"].at(64, 37)))
    whole = official(network, "efficientformer/official")
    headless = {name: t for name, t in whole.items() if not name.startswith(("head", "dist_head"))}
    for tensors, classes in ((whole, 37), (headless, 10)):
        save_file(tensors, tmp_path / "l1.safetensors")
        start = load_start(tmp_path / "l1.safetensors", space)
        assert start.network.architecture.name == "efficientformer_l1"
        assert start.network.architecture.classes == classes
        assert start.has_classifier == (classes == 37)


def test_a_start_without_finite_numbers_or_of_other_blocks_is_refused(
    small_space: Callable[..., Space], member: Callable[..., Path], tmp_path: Path
) -> None:
    folder = member()
    tensors = load_file(folder / "weights.safetensors")
    tensors["stem.first.conv.weight"][0] = float("nan")
    save_file(tensors, folder / "weights.safetensors", {"format": "nas-weights-1"})
    with pytest.raises(InputError, match=r"weights\.safetensors: 'stem\.first.* NaN or infinite"):
        load_start(folder, small_space())
    arch = nas.load_space("emo").published["emo_1m"].at(64, 10)
    arch.save(tmp_path / "emo.yaml")
    save_file(nas.build(arch).state_dict(), tmp_path / "emo.safetensors")
    with pytest.raises(InputError, match=r"is of 'emo_1m', whose blocks \(irmb\) are not in"):
        load_start(tmp_path / "emo.yaml", small_space())


@torch.no_grad()
def test_a_member_starts_another_one(any_space: Callable[..., Space]) -> None:
    """Of a member of its own shape nothing is lost, of others what has a place is taken."""
    space = any_space("stage_suffix")
    source = lively(nas.build(space.sample(1)))
    same = nas.build(space.sample(1).compact())
    assert transfer(same, source, space) == len(same.state_dict())
    x = torch.rand(2, 3, *space.resolution)
    torch.testing.assert_close(same.eval()(x), source(x), atol=1e-4, rtol=1e-4)
    for seed in range(2, 6):
        torch.manual_seed(0)
        target = nas.build(space.sample(seed))
        before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
        placed = transfer(target, source, space)
        changed = [n for n, t in target.state_dict().items() if not torch.equal(t, before[n])]
        assert 0 < len(changed) <= placed <= len(before)
        assert {name.partition("_")[0] for name in changed} >= {"stage2", "stage3", "stage4"}


@torch.no_grad()
def test_a_deeper_and_wider_member_computes_what_its_source_does(
    small_space: Callable[..., Space],
) -> None:
    """Further channels feed nothing, and further blocks begin at a layer scale near 0."""
    space = small_space()
    small = space.published["small_s"]
    large = space.member((16, 24, 32, 48), (2, 2, 3, 2), (0, 0, 0, 1))
    source = lively(nas.build(small))
    target = nas.build(large).eval()
    transfer(target, source, space)
    x = torch.rand(2, 3, *space.resolution)
    # Layer norms of the last stage see all channels, so the first three stages are compared.
    for ours, theirs in zip(
        target.forward_features(x)[:3], source.forward_features(x)[:3], strict=True
    ):
        torch.testing.assert_close(ours[:, : theirs.shape[1]], theirs, atol=1e-2, rtol=1e-2)
