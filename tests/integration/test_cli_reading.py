"""What the commands say about a model that a real worker has just learned and published."""

import json

import pytest

from tests.integration.real_worker import Place, command

USERS = ["007", "7", "ünï code", "u::x"]
ITEMS = ["0111161", "111161", "a/b", "é", "z z"]


@pytest.fixture(scope="module")
def learned(kafka, redis_url, tmp_path_factory):
    """Return the place of a worker that has learned a small history and ended."""
    folder = tmp_path_factory.mktemp("learned")
    place = Place(kafka, redis_url, folder / "checkpoints", 2)
    lines = [f"{u}\t{i}\t{1 + (j * k) % 5}\t{978300760 + k}\n" for j, u in enumerate(USERS) for k, i in enumerate(ITEMS[:-1])]
    lines.append(f"{USERS[0]}\t{ITEMS[-1]}\t5\t978300799\n")
    (folder / "u.data").write_text("".join(lines))
    assert command("replay", folder / "u.data", "--topic", place.topic, "--kafka", kafka).code == 0
    assert command("run", *place.arguments(), "--until-idle", 0.5, "--json").code == 0
    yield place
    place.close()


def reading(place, *arguments):
    return command(*arguments, "--redis", place.redis_url, "--model", place.model, "--json")


@pytest.mark.parametrize("user_id", USERS)
def test_top_leaves_out_what_was_rated(learned, user_id):
    ended = reading(learned, "top", user_id, "-n", 3)
    assert ended.code == 0
    assert ended.answer.keys() == {"model", "version", "items"}
    assert ended.answer["model"] == learned.model
    wanted = [] if user_id == USERS[0] else [ITEMS[-1]]
    assert [item["item_id"] for item in ended.answer["items"]] == wanted


def test_top_says_that_a_user_is_unknown(learned):
    ended = reading(learned, "top", "nobody", "-n", 3)
    assert (ended.code, len(ended.answer["items"])) == (0, 3)
    assert ended.complaints == [f"model {learned.model} knows no user 'nobody': this is its ranking for anybody"]
    assert reading(learned, "top", USERS[0]).complaints == []


def test_similar_shows_others_by_cosine(learned):
    items = reading(learned, "similar", ITEMS[0]).answer["items"]
    assert {item["item_id"] for item in items} == set(ITEMS[1:])
    scores = [item["score"] for item in items]
    assert scores == sorted(scores, reverse=True)
    assert -1.0001 <= scores[-1] <= scores[0] <= 1.0001
    assert reading(learned, "similar", "nobody").answer["items"] == []


def test_get_returns_a_row(learned):
    for side, row_id, n in (("user", "007", 5), ("user", "7", 4), ("item", "0111161", 4), ("item", "z z", 1)):
        row = reading(learned, "get", side, row_id).answer
        assert row.keys() == {"id", "vector", "bias", "n_ratings", "version", "timestamp_ms"}
        assert (row["id"], len(row["vector"]), row["n_ratings"]) == (row_id, 8, n)
    assert reading(learned, "get", "user", "007").answer["timestamp_ms"] == 978300799000


@pytest.mark.parametrize("side", ["user", "item"])
def test_an_unknown_row_is_null(learned, side):
    ended = reading(learned, "get", side, "nobody")
    assert (ended.code, ended.output) == (1, ["null"])


def test_every_command_tells_a_version_the_same_way(learned):
    ran = command("run", *learned.arguments(), "--until-idle", 0.2, "--json").answer["version"]
    listed = command("checkpoint", "list", learned.folder, "--json").answer["checkpoints"][-1]["version"]
    told = [reading(learned, *words).answer["version"] for words in (("top", "7"), ("similar", "é"), ("similar", "nobody"))]
    assert [ran, listed, *told] == [ran] * 5
    epoch, position = ran
    assert (epoch, position) > (0, 0)
    lines = command("checkpoint", "list", learned.folder).output
    assert lines[-1].split()[0] == f"{epoch}.{position}"
    epoch, position = reading(learned, "get", "item", "é").answer["version"]
    shown = command("get", "item", "é", "--redis", learned.redis_url, "--model", learned.model).output
    assert f"version  {epoch}.{position}" in shown


def test_a_person_reads_tables(learned):
    where = ("--redis", learned.redis_url, "--model", learned.model)
    assert command("top", "7", *where).output[0].split() == ["item", "predicted"]
    assert command("similar", "é", *where).output[0].split() == ["item", "cosine"]
    assert command("get", "item", "é", *where).output[0].split() == ["item", "é"]
    assert command("get", "item", "e", *where).output == [f"model {learned.model} knows no item 'e'"]


def test_settings_say_where_to_read(learned, tmp_path):
    file = tmp_path / "f.toml"
    file.write_text(f'[redis]\nurl = "{learned.redis_url}"\n[model]\nname = "{learned.model}"\n')
    assert command("get", "user", "7", "--config", file, "--json").answer["id"] == "7"


def test_what_cannot_be_read_is_told_in_one_line(learned):
    command("top", "7", "--redis", learned.redis_url, "--model", "nobodys").refused(1, "no model 'nobodys'")
    command("top", "7", "--redis", "redis://127.0.0.1:1/0").refused(1, "does not answer")
    command("top", "7", "--redis", "127.0.0.1").refused(2, "redis://")
    command("top", "7", "--model", "a b").refused(2, "a b")
    command("get", "film", "7").refused(2, "film")
    command("top", "\udcff").refused(2, "UTF-8")
    command("top").refused(2, "USER")


def test_checkpoints_are_listed_and_verified(learned):
    listed = command("checkpoint", "list", learned.folder, "--json").answer["checkpoints"]
    assert listed
    assert all(one.keys() == {"version", "path", "n_ratings", "offsets", "bytes", "ok"} for one in listed)
    assert listed[-1]["n_ratings"] == 17
    assert sum(listed[-1]["offsets"].values()) == 17
    assert listed[-1]["ok"]
    verified = command("checkpoint", "verify", learned.folder, "--json")
    assert verified.code == 0
    assert verified.answer.keys() == {"ok", "state_hash", "replayed", "comparable", "max_difference"}
    assert verified.answer["ok"]


def test_a_damaged_checkpoint_is_listed_as_such(learned, tmp_path):
    import shutil

    copy = shutil.copytree(learned.folder, tmp_path / "copy")
    victim = max((copy / "data").glob("*.npy"), key=lambda path: path.stat().st_size)
    *content, last = victim.read_bytes()
    victim.write_bytes(bytes([*content, last ^ 1]))
    assert [one["ok"] for one in command("checkpoint", "list", copy, "--json").answer["checkpoints"]].count(False)
    ended = command("checkpoint", "verify", copy, "--json")
    assert ended.code == 1
    manifest = sorted(copy.glob("checkpoint-*.json"))[-1]
    manifest.write_text(manifest.read_text()[:50])
    damaged = command("checkpoint", "list", copy, "--json").answer["checkpoints"][-1]
    assert (damaged["ok"], damaged["n_ratings"]) == (False, None)


def test_a_folder_that_is_none_is_a_mistake(tmp_path):
    command("checkpoint", "list", tmp_path / "none").refused(2, "none")
    assert command("checkpoint", "list", tmp_path, "--json").answer == {"checkpoints": []}


def test_the_settings_in_effect_are_a_settings_file(tmp_path):
    first = command("config", "--set", "model.rank=3", "--set", 'kafka.topic=a"b', "--json")
    assert first.answer["model"]["rank"] == 3
    file = tmp_path / "f.toml"
    file.write_text("\n".join(command("config", "--set", "model.rank=3", "--set", 'kafka.topic=a"b').output))
    assert json.loads(command("config", "--config", file, "--json").output[-1]) == first.answer
    command("config", "--set", "model.rnk=3").refused(2, "did you mean 'model.rank'")
