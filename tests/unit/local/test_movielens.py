"""MovieLens-100K out of a wheel: what is kept, and what is said when there is none."""

import zipfile

import pytest

from factorstream.worker.errors import DataUnavailable
from factorstream.worker.local import movielens

RATINGS = "user_id:token\titem_id:token\trating:float\ttimestamp:float\r\n1\t50\t5\t881250949\r\n2\t07\t3\t881250950\r\n"
FILMS = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "50\tStar Wars\t1977\tAction Sci-Fi\n07\tMépris, Le\t\t\n"
)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Return a folder that pip takes packages from instead of the network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def publish(index, **parts):
    with zipfile.ZipFile(index / "recbole-1.2.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("recbole-1.2.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.0\n")
        wheel.writestr("recbole-1.2.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("recbole-1.2.0.dist-info/RECORD", "")
        for name, text in parts.items():
            wheel.writestr(movielens.WITHIN + name, text)


def test_ratings_titles_and_genres_come_out_of_the_wheel_once(index, tmp_path):
    publish(index, inter=RATINGS, item=FILMS)
    found = movielens.fetch(tmp_path / "data")
    assert found.ratings.read_bytes() == b"1\t50\t5\t881250949\n2\t07\t3\t881250950\n"
    assert found.titles == {"50": "Star Wars (1977)", "07": "Mépris, Le"}
    assert found.genres == {"50": ("Action", "Sci-Fi"), "07": ()}
    next(index.iterdir()).unlink()
    assert movielens.fetch(tmp_path / "data") == found


def test_no_package_to_be_had_is_said_and_leaves_nothing_half_done(index, tmp_path):
    with pytest.raises(DataUnavailable, match=r"recbole==1\.2\.0.*check the network"):
        movielens.fetch(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_package_without_the_data_is_said(index, tmp_path):
    publish(index, inter=RATINGS)
    with pytest.raises(DataUnavailable, match=r"holds no .*ml-100k\.item"):
        movielens.fetch(tmp_path / "data")
