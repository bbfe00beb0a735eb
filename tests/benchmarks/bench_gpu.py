"""The GPU's kernels on an NVIDIA GPU: SGD, ALS of three kinds, posteriors, and their share of what its memory could carry.

It needs torch, triton, numba and numpy, and nothing else of Factorstream's; it ends at once where no GPU is.
"""

import argparse
import statistics
import sys
import time

import numpy as np

from factorstream.worker.kernels import devices, selftest
from factorstream.worker.kernels.api import SGD, Batch, Histories, Loss, Moments, Objective, Optimizer, Penalty, Rates, Side
from factorstream.worker.kernels.beliefs import Beliefs, Prior, equations_width, outlook_width
from tests.benchmarks.table import Figure, show

N_USERS, N_ITEMS, N_RATINGS = 480_000, 18_000, 100_000_000
CHUNK, ROUNDS, RANK = 2_000_000, 7, 64
HOW = {"intercept": 3.5, "objective": Objective(Penalty(0.05, 0.05, 0.05, True))}
RATES = Rates(0.01, 0.01, 0.0)
N_POSTERIOR_USERS, POSTERIOR_RANKS, PRIOR = 100_000, (8, 32, 64), Prior(0.1, 0.2, 0.0, 0.0)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ratings", type=int, default=N_RATINGS, help="of the history that ALS solves")
    options.add_argument("--rank", type=int, default=RANK)
    asked = options.parse_args()
    if reason := devices.missing():
        sys.exit(f"nothing measured: {reason}")
    from factorstream.worker.kernels import gpu, gpu_filter

    differences = selftest.differences(gpu) | selftest.filter_differences(gpu_filter)
    show("Self-test, largest differences", [Figure(what, apart, at_most=0.001) for what, apart in differences.items()])
    copied = copy_rate()
    rng = np.random.default_rng(0)
    users = gpu.hold(side(rng, N_USERS, asked.rank), N_USERS)
    items = gpu.hold(side(rng, N_ITEMS, asked.rank), N_ITEMS)
    title = f"{devices.description()[2:]}, K = {asked.rank}, {N_USERS:,} × {N_ITEMS:,} rows"
    copying = Figure("copying on the device", copied / 1e9, "GB/s")
    show(f"SGD in exact order, {title}", [copying, *stepped(gpu, users, items, copied)])
    show(f"SGD of another loss, {title}", list(of_another_loss(gpu, users, items)))
    show(f"A batch of 5,000 as in the stream, {title}", list(small(gpu, users, items)))
    show(f"ALS, {asked.ratings:,} ratings, {title}", list(solved(gpu, users, items, asked.ratings)))
    for rank in POSTERIOR_RANKS:
        show(f"Posteriors in exact order, K = {rank}, {N_POSTERIOR_USERS:,} × {N_ITEMS:,} rows", list(filtered(gpu, rank)))


def stepped(gpu, users, items, copied):
    """Yield updates a second over batches that stay on the device, and over batches that are sent and sorted first."""
    rng = np.random.default_rng(1)
    for n, wanted in ((CHUNK, 2000), (65_536, None)):
        kept = [gpu.keep(stream(rng, n)) for _ in range(4)]
        seconds = timed(lambda one: gpu.sgd(users, items, one, rates=RATES, **HOW), kept)
        yield Figure(f"{n:,} ratings kept on the device", n / seconds / 1e6, "M updates/s", at_least=wanted)
        moved_bytes = n * (4 * 4 * (users.factors.shape[1] + 1) + 40)
        yield Figure("the same: share of what copying reaches", moved_bytes / seconds / copied)
        new = [stream(rng, n) for _ in range(ROUNDS + 1)]
        seconds = timed(lambda one: gpu.sgd(users, items, one, rates=RATES, **HOW), new)
        yield Figure(f"{n:,} ratings sent first", n / seconds / 1e6, "M updates/s", at_least=100 if n == 65_536 else None)


def of_another_loss(gpu, users, items):
    """Yield updates a second, over batches that stay on the device, of yes and no and by the optimizer that remembers most."""
    rng = np.random.default_rng(4)
    new = [stream(rng, CHUNK) for _ in range(4)]
    kept = [gpu.keep(one._replace(ratings=(one.ratings > 3.5).astype(np.float32))) for one in new]
    how = {"intercept": 0.0, "objective": Objective(HOW["objective"].penalty, Loss("logistic")), "rates": RATES}
    state = Optimizer("adam", users=moments(gpu, users), items=moments(gpu, items))
    for optimizer in (SGD, state):
        seconds = timed(lambda one, by=optimizer: gpu.sgd(users, items, one, optimizer=by, **how), kept)
        yield Figure(f"logistic, {optimizer.name}: {CHUNK:,} ratings kept on the device", CHUNK / seconds / 1e6, "M updates/s")


def moments(gpu, side):
    """Return what Adam remembers of *side*, on the device."""
    rows, rank = side.factors.shape
    tables = np.zeros((rows, rank + 1), np.float32), np.zeros((rows, rank + 1), np.float32)
    return gpu.hold(Moments(*tables, np.zeros(rows, np.int32)), rows)


def small(gpu, users, items):
    """Yield how long a batch of the stream takes, without and with short rows folded in."""
    rng = np.random.default_rng(2)
    for longest in (0, 8):
        batches = [stream(rng, 5000, longest) for _ in range(ROUNDS + 1)]
        seconds = timed(lambda one: gpu.sgd(users, items, one, rates=RATES, **HOW), batches)
        wanted = None if longest else 1.0
        yield Figure(f"histories of {longest} ratings at each event", seconds * 1e3, "ms", at_most=wanted)
    began = time.perf_counter()
    users.fetch()
    yield Figure("all users changed so far brought to the host", (time.perf_counter() - began) * 1e3, "ms")


def solved(gpu, users, items, n_ratings):
    """Yield the seconds of one iteration over a history that stays on the device, at both precisions."""
    from factorstream.worker.kernels import gpu_solve

    rng = np.random.default_rng(3)
    own, other = zipf(rng, N_USERS, 0.6, n_ratings), zipf(rng, N_ITEMS, 0.8, n_ratings)
    ratings = rng.normal(3.5, 1, n_ratings).astype(np.float32)
    by_user, by_item = gpu.keep(histories_of(own, other, ratings, N_USERS)), gpu.keep(histories_of(other, own, ratings, N_ITEMS))
    del own, other, ratings
    everyone, everything = np.arange(N_USERS, dtype=np.int32), np.arange(N_ITEMS, dtype=np.int32)

    def iterate(_):
        gpu.als(users, items, everyone, by_user, of_users=True, **HOW)
        gpu.als(items, users, everything, by_item, of_users=False, **HOW)

    for precision in ("ieee", "tf32x3"):
        gpu_solve.PRECISION = precision
        seconds = timed(iterate, [None] * 4)
        wanted = 50 if n_ratings == N_RATINGS else None
        yield Figure(f"one iteration, {precision}", seconds * 1e3, "ms", at_most=wanted)

    def iterate_clicks(grams):
        for own, other, rows, held, gram in (
            (users, items, everyone, by_user, grams[0]),
            (items, users, everything, by_item, grams[1]),
        ):
            penalties = np.full(len(rows), 50, np.float32)
            gpu.implicit(own, other, rows, held, gram, alpha=1.0, penalties=penalties)

    def iterate_answers(_):
        how = {"intercept": 0.0, "objective": HOW["objective"]._replace(loss=Loss("logistic"))}
        gpu.als(users, items, everyone, by_user, of_users=True, **how)
        gpu.als(items, users, everything, by_item, of_users=False, **how)

    by_user, by_item = (gpu.keep(one._replace(ratings=(one.ratings > 3.5).astype(np.float32))) for one in (by_user, by_item))
    users.fetch()
    items.fetch()
    grams = [one.factors.T.astype(np.float64) @ one.factors for one in (items, users)]
    yield Figure("clicks (implicit): one iteration, Gram matrices given", timed(iterate_clicks, [grams] * 4) * 1e3, "ms")
    yield Figure("yes or no (logistic): one iteration", timed(iterate_answers, [None] * 4) * 1e3, "ms")


def filtered(gpu, rank):
    """Yield events a second of the learner posterior's filter, over batches that are sent first; and the rows of a sweep."""
    from factorstream.worker.kernels import gpu_filter

    rng = np.random.default_rng(4)
    users, items = (gpu.hold(side(rng, n, rank), n) for n in (N_POSTERIOR_USERS, N_ITEMS))
    known = tuple(gpu_filter.hold(beliefs(rank, len(one.biases)), len(one.biases)) for one in (users, items))
    for n in (5000, 65_536):
        batches = [stream(rng, n, n_users=N_POSTERIOR_USERS) for _ in range(ROUNDS + 1)]
        how = {"intercept": 3.5, "noise": 0.7, "user_prior": PRIOR, "item_prior": PRIOR}
        seconds = timed(lambda one, how=how: gpu_filter.filter_batch(users, items, *known, one, **how), batches)
        yield Figure(f"{n:,} ratings sent first", n / seconds / 1e6, "M ratings/s")
    n = 10_000_000
    own, other = zipf(rng, N_POSTERIOR_USERS, 0.6, n), zipf(rng, N_ITEMS, 0.8, n)
    histories = gpu.keep(histories_of(own, other, rng.normal(3.5, 1, n).astype(np.float32), N_POSTERIOR_USERS))
    rows, how = np.arange(N_POSTERIOR_USERS, dtype=np.int32), {"intercept": 3.5, "noise": 0.7, "prior": PRIOR}
    seconds = timed(lambda _: gpu_filter.smooth(users, items, *known, rows, histories, **how), [None])
    yield Figure(f"users solved from {n:,} ratings", n / seconds / 1e6, "M visits/s")


def beliefs(rank, rows):
    """Return what is believed of rows without ratings."""
    outlook = np.zeros((rows, outlook_width(rank)), np.float32)
    outlook[:, :rank] = outlook[:, 2 * rank] = 0.1
    equations = np.zeros((rows, equations_width(rank)), np.float32)
    equations[:, -1] = 3.5
    return Beliefs(equations, outlook)


def timed(run, arguments):
    """Return the median seconds of *run* on *arguments*, in turns, at least `ROUNDS`; those that compile are out."""
    import torch

    seconds = []
    for number in range(max(ROUNDS, len(arguments)) + 1):
        argument = arguments[number % len(arguments)]
        torch.cuda.synchronize()
        began = time.perf_counter()
        run(argument)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[len(arguments) if len(arguments) <= 4 else 1 :])


def copy_rate():
    """Return bytes a second, read and written, that a large copy on the device reaches."""
    import torch

    source, target = torch.rand(1 << 29, device="cuda"), torch.empty(1 << 29, device="cuda")
    return 2 * 4 * (1 << 29) / timed(lambda _: target.copy_(source), [None])


def side(rng, rows, rank):
    return Side(rng.standard_normal((rows, rank), dtype=np.float32) * np.float32(0.1), np.zeros(rows, np.float32))


def stream(rng, n, longest=0, n_users=N_USERS):
    """Return *n* events, popular rows often; each user comes with a history of *longest* ratings."""
    none = Histories(np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    met = np.sort(rng.integers(0, N_ITEMS // max(longest, 1), (n, longest)) + np.arange(longest) * (N_ITEMS // max(longest, 1)))
    starts = np.arange(n + 1, dtype=np.int64) * longest
    history = Histories(starts, met.astype(np.int32).ravel(), rng.normal(3.5, 1, n * longest).astype(np.float32))
    counts = np.full(n, max(longest, 20), np.int32)
    rows = zipf(rng, n_users, 0.6, n), zipf(rng, N_ITEMS, 0.8, n)
    return Batch(*rows, rng.normal(3.5, 1, n).astype(np.float32), counts, counts, history if longest else none, none)


def histories_of(own, other, ratings, n):
    """Return ratings by row of *own*; a pair may be there twice, which solving does not mind."""
    order = np.argsort(own, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(own, minlength=n))])
    return Histories(starts.astype(np.int64), other[order], ratings[order])


def zipf(rng, n, exponent, size):
    """Draw rows of which the i-th most popular is drawn with a weight of ``i ** -exponent``."""
    total = np.cumsum(1 / np.arange(1, n + 1) ** exponent)
    return rng.permutation(n)[np.searchsorted(total, rng.random(size) * total[-1])].astype(np.int32)


if __name__ == "__main__":
    main()
