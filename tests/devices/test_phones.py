"""phone.yaml: the shipped ones, what is recognised by them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas import resources
from nas.devices.phones import PHONE_FILE, Phone, load_phone, phones, recognise
from nas.errors import InputError

ANDROID = "litert-android"
COREML = "coreml"
GOOD = """\
format: nas-phone-1
name: mine
kind: litert-android
soc: Some chip
match: {soc_model: ['ABC1*'], model: [Mine, Mine Pro]}
compute_unit: cpu
precision: float32
threads: 2
affinity: 'c0'
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "latency_tables" / "mine" / PHONE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "path", sorted(resources.shipped(resources.TABLES).glob(f"*/{PHONE_FILE}")), ids=str
)
def test_shipped_phones_are_whole(path: Path) -> None:
    phone = load_phone(path)
    assert phone.description and phone.soc
    assert (phone.threads == 1 and int(phone.affinity, 16) > 0) == (phone.kind == ANDROID)


def test_shipped_names() -> None:
    kinds = {name: phone.kind for name, phone in phones().items()}
    android = {"snapdragon-8gen1", "snapdragon-8gen2", "galaxy-s24", "galaxy-s25", "pixel-8"}
    assert {name for name, kind in kinds.items() if kind == ANDROID} == android
    assert {name for name, kind in kinds.items() if kind == COREML} == {
        "iphone12",
        "iphone13",
        "iphone14",
    }


@pytest.mark.parametrize(
    ("kind", "soc", "model", "name"),
    [
        (ANDROID, "SM8450", "Xperia", "snapdragon-8gen1"),
        (ANDROID, "SM8475", "Xperia", None),
        (ANDROID, "SM8650", "SM-S921U1", "galaxy-s24"),
        (ANDROID, "SM8650-AC", "SM-S921U", "galaxy-s24"),
        (ANDROID, "s5e9945", "SM-S921B", None),
        (ANDROID, "SM8650", "CPH2581", None),
        (ANDROID, "SM8750", "SM-S931B", "galaxy-s25"),
        (ANDROID, "Tensor G3", "Pixel 8 Pro", "pixel-8"),
        (ANDROID, "Tensor G3", "Pixel 8a", None),
        (ANDROID, "", "iPhone13,2", None),
        (COREML, "", "iPhone13,3", "iphone12"),
        (COREML, "", "iPhone15,3", "iphone14"),
    ],
)
def test_recognised(kind: str, soc: str, model: str, name: str | None) -> None:
    phone = recognise(kind, soc, model)
    assert (phone.name if phone else None) == name


def test_phone_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    mine = load_phone(path)
    assert isinstance(mine, Phone) and (mine.threads, mine.affinity) == (2, "c0")
    assert recognise(ANDROID, "ABC1-X", "Mine Pro") == mine and "galaxy-s24" in phones()
    assert recognise(ANDROID, "ABC1", "Other") is None


def test_one_that_knows_the_model_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, GOOD.replace("ABC1*", "SM8550"))
    monkeypatch.chdir(tmp_path)
    assert {
        model: getattr(recognise(ANDROID, "SM8550", model), "name", None)
        for model in ("Mine", "Other")
    } == {"Mine": "mine", "Other": "snapdragon-8gen2"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "nas-phone-1",
            "nas-device-1",
            r"phone.yaml:1: format: is not a phone file \(got 'nas-device-1', ",
        ),
        (
            "name: mine",
            "name: other",
            r"phone.yaml:2: name: .* folder's name \(got 'other', expected 'mine'\)",
        ),
        (
            "litert-android",
            "windows",
            r"phone.yaml:3: kind: Input should be 'litert-android' or 'coreml' \(got 'windows'\)$",
        ),
        # A board has no phone.yaml, and neither has this computer.
        ("litert-android", "litert-board", r"phone.yaml:3: kind: .*\(got 'litert-board'\)$"),
        (
            "litert-android",
            "[litert-android]",
            r"phone.yaml:3: kind: .*\(got \['litert-android'\]\)",
        ),
        ("soc: Some chip\n", "", r"soc: is missing"),
        (
            "compute_unit: cpu",
            "compute_unit: npu",
            r"phone.yaml:6: compute_unit: .*\(got 'npu', expected one of cpu, gpu\)",
        ),
        (
            "{soc_model: ['ABC1*'], model: [Mine, Mine Pro]}",
            "{}",
            r"phone.yaml:5: match: .* every phone",
        ),
        ("soc_model", "soc", r"phone.yaml:5: match.soc: unknown key"),
        ("threads: 2", "threads: 0", r"phone.yaml:8: threads: .* \(got 0\)"),
        ("'c0'", "'c0; reboot'", r"phone.yaml:9: affinity: .* \(got 'c0; reboot'\)"),
        ("'c0'", "80", r"phone.yaml:9: affinity: .* string \(got 80\)"),
        ("threads", "thread", r"phone.yaml:8: thread: unknown key; known: affinity, "),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(InputError, match=message):
        load_phone(written(tmp_path, GOOD.replace(old, new)))
