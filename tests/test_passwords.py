"""Passwords in addresses are masked, however the address is malformed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.options import Url
from chatflow.passwords import mask_password, without_passwords

_POSTGRES = Url(
    schemes=("postgresql", "postgres"), example="postgresql://host/db", words=("embedded",), needs_host=False
)

MALFORMED = [
    "postgresql://ann:hunter2%@h/db",
    "postgresql://ann:%zzhunter2@h/db",
    "postgresql://ann:%00hunter2@h/db",
    "postgresql://ann:x@hunter2@h/db",
    "postgresql://ann:x/hunter2@h/db",
    "postgresql://ann:x?hunter2@h/db",
    "postgresql://ann:x#hunter2@h/db",
    "postgresql://ann:x hunter2@h/db",
    "postgresql://ann:hunter2",
    "postgresql://ann:hunter2/db",
    "postgresql://a:1,ann:hunter2/db",
    "postgresql://[::1]:hunter2/db",
    "postgresql://h/db?password=hunter2=",
    "postgresql://h/db?password==hunter2",
    "postgresql://h/db?password=a;sslmode=hunter2",
    "postgresql://h/db?sslmode=require;password=hunter2",
    "postgresql://h/db?hunter2",
    "postgresql:ann:hunter2@h/db",
    "postgresql:/ann:hunter2@h/db",
    "http://ann:hunter2@h/db",
    "jdbc:postgresql://h/db?user=ann&password=hunter2",
    "host=h password=hunter2",
    "password='hunter2' host=h",
    "hunter2",
]


@pytest.mark.parametrize("url", MALFORMED)
def test_what_is_malformed_is_refused_without_a_word_of_it(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        _POSTGRES.parse(url)
    assert "hunter2" not in str(caught.value)
    assert not _POSTGRES.may_quote(url)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://ann%3Ahunter2@h/db", "postgresql://ann:***@h/db"),
        ("postgresql://h/db?pass%77ord=hunter2", "postgresql://h/db?pass%77ord=***"),
        ("postgresql://h/db?pasword=hunter2&sslmode=require", "postgresql://h/db?pasword=***&sslmode=require"),
        ("postgresql://h/db?sslmode=a;password=hunter2", "postgresql://h/db?sslmode=***"),
        ("postgresql://h/db?pwd=hunter2", "postgresql://h/db?pwd=***"),
        ("host=h password=hunter2", "***"),
        ("ws://ann:hunter2@h:8080", "ws://ann:***@h:8080"),
    ],
)
def test_passwords_are_masked_also_where_they_do_not_belong(url: str, masked: str) -> None:
    assert mask_password(url) == masked


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ('invalid percent-encoded token: "hunter2%zz"', "postgresql://ann:hunter2%zz@h/db"),
        ('could not translate host name "hunter2@h"', "postgresql://ann:x@hunter2@h/db"),
        ('invalid integer value "hunter2" for connection option "port"', "postgresql://ann:hunter2/db"),
        ('role "ann:hunter2" does not exist', "postgresql://ann%3Ahunter2@h/db"),
        ("no such file: hunt/er2", "postgresql://h/db?sslpassword=hunt%2Fer2"),
        ("cannot connect to ws://ann:hunter2@h/", ""),
    ],
)
def test_what_a_library_says_of_an_address_is_told_without_its_password(text: str, url: str) -> None:
    told = without_passwords(text, url)
    assert "hunter2" not in told
    assert "hunt/er2" not in told
    assert "***" in told


@given(st.text(alphabet="abcdefgh:/@?#%&=;,[] .", max_size=12), st.text(alphabet="abcdefgh:/@?#%&=;,[] .", max_size=12))
def test_no_url_that_is_accepted_shows_a_part_of_its_password(before: str, after: str) -> None:
    url = f"postgresql://ann:{before}hunter2{after}@h/db"
    try:
        _POSTGRES.parse(url)
    except ValueError:
        return
    assert "hunter2" not in mask_password(url)
    assert "hunter2" not in without_passwords(f"error in {url}", url)
