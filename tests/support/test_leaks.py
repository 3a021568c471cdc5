from __future__ import annotations

import base64
import sqlite3
from contextlib import closing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.leaks import database_text, files_below, forms

SECRET = "canary/4c0b2f8e77aa+91d"


def shows(data: bytes) -> bool:
    return any(form in data for form in forms(SECRET))


@pytest.mark.parametrize("front", ["", "k", "ke", "key", "some key: "])
@pytest.mark.parametrize("end", ["", "}", '"}', "and more"])
def test_a_secret_in_a_base64_text_is_found(front, end):
    assert shows(base64.b64encode(f"{front}{SECRET}{end}".encode()))
    assert not shows(base64.b64encode(f"{front}{SECRET[::-1]}{end}".encode()))


def test_a_secret_in_a_url_is_found():
    assert shows(b"http://host/?key=canary%2F4c0b2f8e77aa%2B91d")


def test_a_secret_in_a_compressed_table_is_found(tmp_path):
    pq.write_table(pa.table({"a": [SECRET] * 100}), tmp_path / "t.parquet", compression="zstd")
    ((_, data),) = files_below(tmp_path)
    assert shows(data)


def test_a_secret_in_a_file_name_is_found(tmp_path):
    (tmp_path / SECRET.replace("/", "-")).touch()
    ((_, data),) = files_below(tmp_path)
    assert SECRET.replace("/", "-").encode() in data


def test_a_secret_that_lies_over_two_pages_of_a_database_is_found(tmp_path):
    with closing(sqlite3.connect(tmp_path / "db")) as database:
        database.execute("create table t (value text)")
        for front in range(4000, 4100):
            database.execute("insert into t values (?)", ("x" * front + SECRET,))
        database.commit()
    assert database_text(tmp_path / "db").count(SECRET.encode()) == 100
