"""What benchmarks learn from: real ratings where they are at hand, generated ones everywhere."""

from pathlib import Path

from factorstream.worker.history import History, read
from factorstream.worker.local import generated, movielens

ROOT = Path(__file__).parents[2]
MOVIETWEETINGS = ROOT.parent / "shared/data/movietweetings/ratings.dat.gz"
N_USERS, N_ITEMS = 100_000, 20_000


def movielens_path():
    """Return where MovieLens-100K is, fetching it the first time: 100,000 ratings, 943 users, 1,682 films."""
    return movielens.fetch(ROOT / ".data/ml-100k").ratings


def movietweetings_path():
    """Return where MovieTweetings is (141,695 ratings, 21,081 users, 12,611 films); None: not on this machine."""
    return MOVIETWEETINGS if MOVIETWEETINGS.exists() else None


def generated_history(n_ratings):
    """Return a generated stream: 100,000 users and 20,000 items, popularity by Zipf's law."""
    drawn = generated.ratings(n_ratings, N_USERS, N_ITEMS)
    users, items = [f"u{row}" for row in range(N_USERS)], [f"m{row}" for row in range(N_ITEMS)]
    return History(drawn.users, drawn.items, drawn.ratings, drawn.timestamps_ms, users, items)


def movietweetings_and_generated(n_generated):
    """Return histories by name."""
    path = movietweetings_path()
    histories = {} if path is None else {"MovieTweetings": read(path)}
    return {**histories, f"generated {n_generated / 1e6:g} M": generated_history(n_generated)}
