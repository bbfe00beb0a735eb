"""How good what is learned is: `evaluate` beside River's BiasedMF, `fit --method als` beside Surprise's SVD++.

    python -m tests.benchmarks.bench_evaluate [--seeds 5] [--folds-of-svdpp 2] [--only folds]

Both of ours are the commands as users start them, with their defaults. River predicts and learns the same ratings in the same
order, clipped to the scale; its settings are those of its documentation. SVD++ learns the same random 90 % and is asked
about the same 10 %.
"""

import argparse
import json
import statistics
import subprocess
import time

import numpy as np
from river import optim, reco
from surprise import SVD, Dataset, Reader, SVDpp

from factorstream.worker.cli.fit import ITERATIONS
from factorstream.worker.config import load
from factorstream.worker.fitting import fit, fit_svd, fold, last_writes, learning_of_all, prepare, split
from factorstream.worker.history import read
from factorstream.worker.wiring import fresh_model, kernels_of, learning_of
from tests.benchmarks.live import PROGRAM
from tests.benchmarks.streams import movielens_path, movietweetings_path
from tests.benchmarks.table import Figure, show

MOST_RMSE = {"MovieLens-100K": (0.930, 0.912), "MovieTweetings": (1.576, 1.556)}
MOST_POSTERIOR_RMSE = {"MovieLens-100K": (0.930, 0.906), "MovieTweetings": (1.576, 1.550)}
"""Vectors alone, with calibrator."""
LEAST_RATINGS_PER_S = (400_000, 200_000)
HOLDOUT, MOST_HOLDOUT_RMSE, MOST_ABOVE_SVDPP = 0.1, 0.925, 0.005
N_EVALUATIONS = 3
N_FOLDS, MOST_FOLDS_RMSE = 5, 0.905
METHODS = {
    "als": ("als",),
    "als, learner posterior": ("als", "model.learner=posterior"),
    "sgd": ("sgd",),
    "svd": ("svd",),
}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=5, help="random splits for fit")
    options.add_argument("--folds-of-svdpp", type=int, default=2, help="of five; each takes half a minute")
    options.add_argument("--only", choices=["folds"], help="cross-validation alone")
    asked = options.parse_args()
    paths = {"MovieLens-100K": movielens_path(), "MovieTweetings": movietweetings_path()}
    show("fit, MovieLens-100K, five random folds", folds(paths["MovieLens-100K"], asked.folds_of_svdpp))
    if asked.only:
        return
    for name, path in paths.items():
        if path is not None:
            show(f"evaluate, {name}", evaluation(name, path))
            show(f"evaluate, {name}, model.learner=posterior", posterior(name, path))
    show(f"fit --method als, MovieLens-100K, {asked.seeds} random 90/10 splits", fitting(paths["MovieLens-100K"], asked.seeds))


def evaluation(name, path):
    """Return the figures of `evaluate` and of River over one file."""
    vectors = [ask("evaluate", path, "--set", "model.calibrate=false") for _ in range(N_EVALUATIONS)]
    calibrated = [ask("evaluate", path) for _ in range(N_EVALUATIONS)]
    high_rank = ask("evaluate", path, "--set", "model.rank=64")
    river_rmse, river_mae, river_rate = river(read(path))
    rates = [statistics.median(found["ratings_per_s"] for found in runs) for runs in (vectors, calibrated)]
    return [
        Figure("RMSE, vectors alone", vectors[0]["rmse"], "", at_most=MOST_RMSE[name][0]),
        Figure("RMSE, with calibrator", calibrated[0]["rmse"], "", at_most=MOST_RMSE[name][1]),
        Figure("RMSE, with calibrator, K = 64", high_rank["rmse"], "", at_most=calibrated[0]["rmse"] + 0.001),
        Figure("RMSE of River's BiasedMF", river_rmse),
        Figure("MAE, with calibrator", calibrated[0]["mae"]),
        Figure("MAE of River's BiasedMF", river_mae),
        Figure(f"speed, vectors alone, median of {N_EVALUATIONS}", rates[0], "ratings/s", at_least=LEAST_RATINGS_PER_S[0]),
        Figure(f"speed, with calibrator, median of {N_EVALUATIONS}", rates[1], "ratings/s", at_least=LEAST_RATINGS_PER_S[1]),
        Figure("speed of River's BiasedMF", river_rate, "ratings/s"),
    ]


def posterior(name, path):
    """Return the figures of the learner posterior, its vectors alone and with the calibrator."""
    figures = []
    for calibrate, least in ((False, 250_000), (True, 150_000)):
        told = ("--set", "model.learner=posterior", "--set", f"model.calibrate={str(calibrate).lower()}")
        found = [ask("evaluate", path, *told) for _ in range(N_EVALUATIONS)]
        rate = statistics.median(one["ratings_per_s"] for one in found)
        by = "with calibrator" if calibrate else "vectors alone"
        figures += [
            Figure(f"RMSE, {by}", found[0]["rmse"], "", at_most=MOST_POSTERIOR_RMSE[name][calibrate]),
            Figure(f"ratings within their 90 % intervals, {by}", found[0]["coverage"], "", at_least=0.88, at_most=0.92),
            Figure(f"speed, {by}, median of {N_EVALUATIONS}", rate, "ratings/s", at_least=least),
        ]
    return figures


def ask(*words):
    """Run a command; return what it answers."""
    done = subprocess.run([*PROGRAM, *map(str, words), "--json"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def river(history):
    """Return RMSE, MAE and ratings a second of BiasedMF, each rating predicted and then learned."""
    model = reco.BiasedMF(
        n_factors=10,
        bias_optimizer=optim.SGD(0.025),
        latent_optimizer=optim.SGD(0.05),
        weight_initializer=optim.initializers.Zeros(),
        latent_initializer=optim.initializers.Normal(mu=0.0, sigma=0.1, seed=73),
        l2_bias=0.0,
        l2_latent=0.0,
    )
    lowest, highest = float(history.ratings.min()), float(history.ratings.max())
    columns = (history.user_codes.tolist(), history.item_codes.tolist(), history.ratings.tolist())
    errors = np.empty(len(history))
    began = time.perf_counter()
    for n, (user, item, rating) in enumerate(zip(*columns, strict=True)):
        errors[n] = rating - min(max(model.predict_one(user, item), lowest), highest)
        model.learn_one(user, item, y=rating)
    seconds = time.perf_counter() - began
    return float(np.sqrt(np.mean(errors**2))), float(np.mean(np.abs(errors))), len(history) / seconds


def fitting(path, n_seeds):
    """Return the figures of `fit` and of SVD++ over the same splits."""
    ours, theirs, our_s, their_s = [], [], [], []
    for seed in range(n_seeds):
        found = ask("fit", path, "--method", "als", "--holdout", HOLDOUT, "--seed", seed)["iterations"]
        ours.append(found[-1]["holdout_rmse"])
        our_s.append(sum(iteration["seconds"] for iteration in found))
        rmse, seconds = svdpp(read(path), seed)
        theirs.append(rmse)
        their_s.append(seconds)
    mean = statistics.mean
    return [
        Figure("holdout RMSE, mean", mean(ours), "", at_most=MOST_HOLDOUT_RMSE),
        Figure("holdout RMSE, worst split", max(ours)),
        Figure("holdout RMSE of Surprise's SVD++, mean", mean(theirs)),
        Figure("above SVD++", mean(ours) - mean(theirs), "", at_most=MOST_ABOVE_SVDPP),
        Figure(f"seconds, {len(found)} iterations, mean", mean(our_s), "s"),
        Figure("seconds of SVD++, 20 epochs, mean", mean(their_s), "s"),
    ]


def folds(path, n_of_svdpp):
    """Return the figures of `fit`'s methods and of Surprise's models, all with their defaults, over the same five folds."""
    history = read(path)
    held = held_by(history)
    found = {name: [] for name in (*METHODS, "Surprise's SVD", "Surprise's SVD++")}
    for number in range(N_FOLDS):
        parts = fold(held, number, N_FOLDS, seed=0)
        for name, (method, *told) in METHODS.items():
            found[name].append(fitted(history, parts, method, told))
        found["Surprise's SVD"].append(surprised(history, parts, SVD(random_state=0))[0])
        if number < n_of_svdpp:
            found["Surprise's SVD++"].append(surprised(history, parts, SVDpp(random_state=0, cache_ratings=True))[0])
    most = {"als, learner posterior": MOST_FOLDS_RMSE}
    return [
        Figure(f"RMSE, {name}, mean of {len(errors)} folds", statistics.mean(errors), "", at_most=most.get(name))
        for name, errors in found.items()
        if errors
    ]


def fitted(history, parts, method, told):
    """Return the error on what is held out, of `fit` with its defaults."""
    settings = load(None, told, {})
    kernels, learning, model = kernels_of(settings), learning_of(settings), fresh_model(settings)
    prepare(model, parts.training, kernels, learning)
    n = ITERATIONS[method]
    if method == "svd":
        iterations = fit_svd(model, learning_of_all(learning, model.level), parts.holdout, n_iterations=n, seed=0)
    else:
        iterations = fit(model, kernels, learning, parts.holdout, method=method, n_iterations=n, seed=0)
    *_, last = iterations
    return last.holdout_rmse


def held_by(history):
    """Return the store of what *history* holds in the end."""
    columns = (history.user_codes, history.item_codes, history.ratings, history.timestamps_ms)
    return last_writes(*columns, n_users=len(history.user_names), n_items=len(history.item_names))


def svdpp(history, seed):
    """Return the holdout RMSE of SVD++ over the split that `fit` makes with *seed*, and the seconds it took to learn."""
    parts = split(held_by(history), HOLDOUT, seed)
    return surprised(history, parts, SVDpp(random_state=seed, cache_ratings=True))


def surprised(history, parts, model):
    """Return the RMSE of one of Surprise's models over what *parts* hold out, and the seconds it took to learn."""
    learned = parts.training.entries()
    scale = Reader(rating_scale=(float(history.ratings.min()), float(history.ratings.max())))
    columns = (learned.user_rows.tolist(), learned.item_rows.tolist(), learned.ratings.tolist())
    training = Dataset(reader=scale).construct_trainset([(*rating, None) for rating in zip(*columns, strict=True)])
    began = time.perf_counter()
    model.fit(training)
    seconds = time.perf_counter() - began
    asked = zip(parts.holdout.user_rows.tolist(), parts.holdout.item_rows.tolist(), strict=True)
    errors = parts.holdout.ratings - np.array([model.predict(user, item).est for user, item in asked])
    return float(np.sqrt(np.mean(errors**2))), seconds


if __name__ == "__main__":
    main()
