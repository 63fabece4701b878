"""Passwords are masked in every form that an address or a command line may have them in."""

from __future__ import annotations

import shlex
import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from nas.passwords import MASK, expanded, masked, masked_command, masked_text, without

SECRET = st.text(string.ascii_letters + string.digits + "!$*+,-._~/?#@:%& '\"", min_size=4)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://user:pw@host/db", "postgresql://user:***@host/db"),
        ("postgresql+psycopg://:pw@[::1]:5432/db", "postgresql+psycopg://:***@[::1]:5432/db"),
        # A password whose "@", "/" or "?" is not escaped, and an "@" in the user's name.
        ("postgresql://u:p@ss@host/db", "postgresql://u:***@host/db"),
        ("postgresql://u:p@s/s@host/db", "postgresql://u:***@host/db"),
        ("postgresql://u:p/s?s@host/db", "postgresql://u:***@host/db"),
        ("postgresql://user@server:pw@host/db", "postgresql://user@server:***@host/db"),
        # Not an address, and one whose host was forgotten.
        ("user:pw@host/db", "user:***@host/db"),
        ("postgresql//user:pw@host", "postgresql//user:***@host"),
        ("postgresql:/user:pw@host", "postgresql:***@host"),
        ("postgresql://user:pw/db", "postgresql://user:***/db"),
        ("sqlite:///s.db?password=a b&timeout=3", "sqlite:///s.db?password=***&timeout=3"),
        (
            "postgresql://h/d?sslpassword=x&passfile=/p",
            "postgresql://h/d?sslpassword=***&passfile=/p",
        ),
        ("host=h user=u password='a b' dbname=d", "host=h user=u password=*** dbname=d"),
        ("Server=h;Pwd=abc;Database=d", "Server=h;Pwd=***;Database=d"),
    ],
)
def test_a_password_is_masked(address: str, shown: str) -> None:
    assert masked(address) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///study.db",
        "postgresql://user@host:5432/db?connect_timeout=3&email=a@b",
        "postgresql://user:${PGPASSWORD}@host/db",
        "https://host:8080/images.parquet",
        "adb:192.168.0.3:5555",
        "imagenet-1k@main",
        "runs/10:30@home",
        "efficientformer_l1",
        "",
    ],
)
def test_what_holds_no_password_stays(text: str) -> None:
    assert masked(text) == masked_text(text) == masked_command(text) == text


@given(SECRET)
@example("p w@:/")
def test_no_secret_before_the_host_is_shown(secret: str) -> None:
    # A secret of digits before a slash reads as a port, which is not a password.
    assume(not secret[0].isdigit() and secret not in "postgresql://user:***@localhost/db")
    line = shlex.join(["nas", "search", "--storage", f"postgresql://user:{secret}@localhost/db"])
    assert secret not in masked(f"postgresql://user:{secret}@localhost/db")
    assert secret not in " ".join(shlex.split(masked_command(line)))


@given(st.text(string.ascii_letters + string.digits + "-._~+/", min_size=9))
def test_no_secret_in_a_query_is_shown(secret: str) -> None:
    address = f"sqlite:///study.db?password={secret}&timeout=3"
    for shown in (
        masked(address),
        masked_text(f"nas: storage {address}: cannot be used"),
        masked_command(f"nas search --storage={address} --out o"),
    ):
        assert secret not in shown and MASK in shown and "timeout=3" in shown


@given(st.text())
def test_masking_twice_is_masking_once(text: str) -> None:
    assert masked(masked(text)) == masked(text)
    masked_text(text)
    masked_command(text)


def test_a_sentence_keeps_its_other_words() -> None:
    told = masked_text("unexpected argument (postgresql://u:pw@h/db), did you mean 'a:b@c'?")
    assert told == "unexpected argument (postgresql://u:***@h/db), did you mean 'a:b@c'?"


def test_secrets_are_cut_out_of_the_words_of_another_program() -> None:
    assert without("no host 'ss@h', password hunter22", ["hunter2", "hunter22"]) == (
        "no host 'ss@h', password ***"
    )


def test_variables_are_filled_in_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_TEST_PASSWORD", "p@ss${word}")
    assert expanded("a ${NAS_TEST_PASSWORD} $HOME {x}") == "a p@ss${word} $HOME {x}"
    monkeypatch.delenv("NAS_TEST_PASSWORD")
    with pytest.raises(ValueError, match="the environment variable NAS_TEST_PASSWORD is not set"):
        expanded("${NAS_TEST_PASSWORD}")
