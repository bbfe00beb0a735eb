"""``factorstream fit`` as its user runs it."""

import json

import numpy as np
import pytest

from factorstream.worker.local import generated
from tests.integration.real_worker import command


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "ratings.csv"
    generated.ratings(3_000, 200, 100).write_csv(path)
    return path


@pytest.mark.parametrize("method", ["als", "sgd"])
def test_every_iteration_is_reported_and_the_model_is_written(file, method, tmp_path):
    out = tmp_path / "model.npz"
    ended = command(
        "fit", file, "--method", method, "--iterations", 3, "--holdout", 0.1, "--seed", 7, "--set", "model.rank=4",
        "--out", out, "--json",
    )  # fmt: skip
    assert ended.code == 0
    assert ended.answer["method"] == method
    assert [set(step) for step in ended.answer["iterations"]] == [{"objective", "seconds", "holdout_rmse"}] * 3
    assert ended.answer["iterations"][-1]["holdout_rmse"] < 1.0
    with np.load(out, allow_pickle=False) as model:
        lines = [line.split(",") for line in file.read_text().splitlines()[1:]]
        assert model["user_ids"].tolist() == list(dict.fromkeys(line[0] for line in lines))
        assert model["item_ids"].tolist() == list(dict.fromkeys(line[1] for line in lines))
        n_users, n_items = len(model["user_ids"]), len(model["item_ids"])
        assert model["user_ids"].dtype.kind == model["item_ids"].dtype.kind == "U"
        assert (model["user_factors"].shape, model["item_factors"].shape) == ((n_users, 4), (n_items, 4))
        assert (model["user_biases"].shape, model["item_biases"].shape) == ((n_users,), (n_items,))
        assert 0.5 <= model["intercept"] <= 5
        told = json.loads(str(model["settings"]))["model"]
    assert (told["rank"], told["seed"]) == (4, 7)


def test_the_written_model_predicts_what_was_reported(file, tmp_path):
    out = tmp_path / "model.npz"
    ended = command("fit", file, "--method", "als", "--out", out, "--set", "als.lambda_user=2", "--json")
    with np.load(out, allow_pickle=False) as model:
        users, items = ({row_id: row for row, row_id in enumerate(model[f"{side}_ids"])} for side in ("user", "item"))
        squares = []
        for line in file.read_text().splitlines()[1:]:
            user, item, rating, _ = line.split(",")
            n, m = users[user], items[item]
            score = model["intercept"] + model["user_biases"][n] + model["item_biases"][m]
            squares.append((float(rating) - score - model["user_factors"][n] @ model["item_factors"][m]) ** 2)
    assert 0.5 * sum(squares) < ended.answer["iterations"][-1]["objective"] < 1.5 * sum(squares)


def test_a_person_sees_a_line_an_iteration(file):
    ended = command("fit", file, "--method", "als", "--iterations", 2)
    assert ["objective" in line for line in ended.output] == [True, True, False]
    assert ended.output[-1].startswith("als: 3,000 ratings in ")


def test_mistakes_are_told_before_the_work(file, tmp_path):
    command("fit", file, "--method", "svd").refused(2, "'svd'", "als")
    command("fit", file, "--method", "als", "--out", tmp_path / "none" / "m.npz").refused(2, "--out", "no folder that can be")
    command("fit", tmp_path / "none.csv", "--method", "als").refused(2, "there is no such file")
    command("fit", file, "--method", "als", "--limit", 1, "--holdout", 0.9).refused(2, "leaves none of 1 ratings")
