"""Files are whole or they are the old ones; mistakes in YAML are named by line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas import resources
from nas.errors import InputError, NasError, nearest
from nas.files import YamlFile, dump_yaml, replacing, write_text, write_yaml

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of the ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with (
        pytest.raises(
            NasError, match=r"table\.csv: could not be written \(No space left on device\)"
        ),
        replacing(path),
    ):
        raise OSError(28, os.strerror(28))
    assert path.read_text() == "old"


def test_weights_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    """safetensors has an exception of its own where the system refuses to write."""
    import numpy as np
    from safetensors.numpy import save_file

    with (
        pytest.raises(
            NasError, match=r"weights\.x: could not be written \(.*No such file"
        ) as caught,
        replacing(tmp_path / "weights.x") as temporary,
    ):
        save_file({"a": np.zeros(3)}, temporary.parent / "gone" / "b")
    assert "\n" not in str(caught.value)


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "old")
    program = (
        "import os, signal, sys; from nas.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_written_file_has_the_usual_rights(tmp_path: Path) -> None:
    write_text(tmp_path / "new.txt", "text")
    (tmp_path / "plain.txt").touch()
    assert (tmp_path / "new.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


@given(st.dictionaries(st.text(min_size=1), PLAIN, min_size=1, max_size=5))
def test_yaml_is_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("yaml") / "data.yaml"
    write_yaml(path, data)
    assert YamlFile(path).data == data


@given(st.text(max_size=80))
def test_no_text_gets_more_than_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("yaml") / "data.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        YamlFile(path)
    except InputError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: [1, 2\n", r":3: malformed YAML"),
        ("a: 1\na: 2\n", r":2: a: duplicates the key of line 1\. Fix: remove one of them"),
        ("- 1\n", r": is not a mapping of keys \(got list\)"),
        (
            "a: !!python/object/apply:os.system ['true']\n",
            r":1: malformed YAML: could not determine a constructor",
        ),
        ("", r": the file is empty"),
        ("a: 1\nb: {<<: {c: 1}, c: 2, c: 3}\n", r":2: c: duplicates the key of line 2"),
        ("a: 1\n<<: 3\n", r":2: malformed YAML: expected a mapping or list of mappings"),
        ("? [1]\n: 2\n", r":1: malformed YAML: found unhashable key"),
    ],
)
def test_malformed_yaml_is_named_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml" + reason):
        YamlFile(tmp_path / "bad.yaml")


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 20)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 20)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, r"\*a\d repeats too many nodes"),
        (MERGES, r"\*a\d repeats too many nodes"),
        ("a: 1\nb: &b [1, *b]\n", r":2: .*\*b contains itself"),
        ("a: 1\nb: " + "[" * 10_000 + "]" * 10_000, ":2: .*nested more than 100 deep"),
        ("a: " + "{a: " * 10_000, "nested more than 100 deep"),
        ("- " * 10_000, "nested more than 100 deep"),
        (
            "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200)),
            "repeats too many nodes",
        ),
        ("a: 1\nb: 0x" + "f" * 9_000, ":2: malformed YAML: the number is too large"),
        ("a: 1\nb: " + "9" * 9_000, ":2: malformed YAML: the number is too large"),
    ],
    ids=str.split("laughs merges itself lists mappings items chain hexadecimal digits"),
)
def test_a_small_file_of_unbounded_content_is_refused(
    tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"bad\.yaml.*{reason}") as caught:
        YamlFile(tmp_path / "bad.yaml")
    assert len(str(caught.value)) < len(str(tmp_path)) + 150


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "weights.yaml").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(
        InputError, match=r"weights\.yaml: is too large for a YAML file \(got 109951"
    ):
        YamlFile(tmp_path / "weights.yaml")


def test_what_is_repeated_within_reason_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"a: &a [1, 2]\nb: [{', '.join(['*a'] * 2_000)}]\n")
    assert YamlFile(tmp_path / "a.yaml").data["b"] == [[1, 2]] * 2_000


@pytest.mark.parametrize(
    "own", ["{<<: *l, size: 2}", "{size: 2, <<: *l}", "{<<: [*l, *m], size: 2}"]
)
def test_a_key_overrides_a_merged_one(tmp_path: Path, own: str) -> None:
    (tmp_path / "a.yaml").write_text(
        f"l: &l {{kind: x, size: 4}}\nm: &m {{kind: y, size: 5}}\nn:\n  o: {own}\n"
    )
    file = YamlFile(tmp_path / "a.yaml")
    assert file.data["n"]["o"] == {"kind": "x", "size": 2}
    # Errors point at the value that counts: the own one, and a merged one where it stands.
    assert file.line(["n", "o", "size"]) == 4
    assert file.line(["n", "o", "kind"]) == 1


def test_an_error_points_at_the_deepest_key_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        dump_yaml({"stages": [{"width": 1}, {"width": 2, "blocks": {"kind": "x"}}]})
    )
    file = YamlFile(tmp_path / "a.yaml")
    line = (tmp_path / "a.yaml").read_text().splitlines().index("- width: 2") + 1
    assert (
        str(file.error(["stages", 1, "width"], "is odd"))
        == f"{file.path}:{line}: stages[1].width: is odd"
    )
    assert file.line(["stages", 1, "missing", "deeper"]) == line


@pytest.mark.parametrize(
    ("name", "hint"), [("iphne12", "did you mean 'iphone12'?"), ("zzz", "; known: host, iphone12")]
)
def test_nearest_name(name: str, hint: str) -> None:
    assert hint in nearest(name, ["iphone12", "host"])


def test_kept_files_need_a_home_only_where_no_folder_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(InputError, match=r"HOME: is not set.* Fix: export XDG_CACHE_HOME="):
        resources.cache_folder("data")
    assert resources.expanded("~nobody/photos") == Path("~nobody/photos")


def test_a_cache_is_in_the_named_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert resources.cache_folder("data") == tmp_path / "nas" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert resources.cache_folder("data") == Path.home() / ".cache" / "nas" / "data"
