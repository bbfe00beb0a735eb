"""``factorstream fit`` as its user runs it."""

import json

import numpy as np
import pytest

from factorstream.worker.local import generated
from tests.integration.real_worker import check_all, command, rates


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
    ended = command("fit", file, "--method", "als", "--iterations", 2, "--holdout-last")
    assert ["objective" in line and "holdout RMSE" in line for line in ended.errors[:2]] == [True, True]
    assert any("█" in line for line in ended.errors[2:]), "the course of both is drawn"
    [line] = ended.output
    assert line.startswith("als: 2,")
    assert ", 2 passes in " in line


def test_epochs_are_iterations_and_a_fit_goes_on_from_a_file(file, tmp_path):
    out = tmp_path / "model.npz"
    first = command("fit", file, "--method", "als", "--iterations", 4, "--out", out, "--json").answer["iterations"]
    again = command("fit", file, "--method", "als", "--epochs", 1, "--start", out, "--json").answer["iterations"]
    assert len(again) == 1
    assert again[0]["objective"] <= first[-1]["objective"] * (1 + 1e-6)


def test_steps_from_a_file_of_solves_leave_nothing_of_what_rows_said(file, tmp_path):
    solved, stepped = tmp_path / "solved.npz", tmp_path / "stepped.npz"
    assert command("fit", file, "--method", "als", "--iterations", 4, "--out", solved).code == 0
    assert command("fit", file, "--method", "sgd", "--epochs", 1, "--start", solved, "--out", stepped).code == 0
    with np.load(solved) as of_solves, np.load(stepped) as of_steps:
        assert of_solves["user_effects"].any()
        assert not of_steps["user_effects"].any()
        assert not of_steps["item_effects"].any()


def test_the_decomposition_of_a_matrix_is_numpys(tmp_path):
    matrix, file, out = np.random.default_rng(0).normal(size=(12, 9)), tmp_path / "matrix.npy", tmp_path / "model.npz"
    np.save(file, matrix)
    ended = command("fit", file, "--method", "svd", "--set", "model.rank=4", "--out", out, "--json")
    u, sigma, vt = np.linalg.svd(matrix)
    assert ended.answer["iterations"][-1]["objective"] == pytest.approx(0.5 * (sigma[4:] ** 2).sum(), rel=1e-5)
    with np.load(out) as model:
        assert model["user_ids"].tolist() == list(map(str, range(12)))
        assert model["user_factors"] @ model["item_factors"].T == pytest.approx(u[:, :4] * sigma[:4] @ vt[:4], abs=1e-5)
        assert not model["user_biases"].any()
        assert model["intercept"] == 0


def test_in_a_matrix_nan_is_missing_and_zero_where_that_is_said(tmp_path):
    file = tmp_path / "matrix.npy"
    np.save(file, np.array([[1, 0, np.nan], [np.nan, 2, 0]]))
    counted = [command("fit", file, "--method", "als", *more, "--json").answer for more in ([], ["--zero-is-missing"])]
    assert [answer["n_ratings"] for answer in counted] == [4, 2]
    assert [(answer["n_users"], answer["n_items"]) for answer in counted] == [(2, 3)] * 2


def test_a_worker_goes_on_from_a_fitted_file(make_place, tmp_path):
    place = make_place()
    past, future = rates(10, 10), rates(5, 10, first=10)
    file = tmp_path / "past.csv"
    lines = [f"{e['user_id']},{e['item_id']},{e['rating']},{e['timestamp_ms'] // 1000}\n" for e in past]
    file.write_text("user_id,item_id,rating,timestamp\n" + "".join(lines))
    fitted = command("fit", file, "--method", "sgd", "--checkpoint", place.folder, *place.arguments(), "--json")
    assert fitted.answer["n_ratings"] == 100
    [listed] = command("checkpoint", "list", place.folder, "--json").answer["checkpoints"]
    assert (listed["n_ratings"], listed["offsets"], listed["ok"]) == (100, {}, True)
    place.send([*past, *future])
    assert place.run().settled()["n_accepted"] == 50, "what the file held already is not learned again"
    assert check_all(place).n_accepted == 150
    assert command("checkpoint", "verify", place.folder, "--json").answer["ok"]
    command("fit", file, "--method", "sgd", "--checkpoint", place.folder).refused(2, "holds checkpoints already")


def test_mistakes_are_told_before_the_work(file, tmp_path):
    command("fit", file, "--method", "lda").refused(2, "'lda'", "als")
    command("fit", file, "--method", "als", "--minibatch", 5).refused(2, "--minibatch is for sgd")
    command("fit", file, "--method", "als", "--out", tmp_path / "none" / "m.npz").refused(2, "--out", "no folder that can be")
    command("fit", tmp_path / "none.csv", "--method", "als").refused(2, "there is no such file")
    command("fit", file, "--method", "als", "--limit", 1, "--holdout", 0.9).refused(2, "leaves none of 1 ratings")
