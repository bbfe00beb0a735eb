"""``factorstream evaluate``: how good the learner is on a history of one's own."""

from __future__ import annotations

from factorstream.worker.cli.options import Config, Limit, RatingsFile, Set
from factorstream.worker.cli.printing import Json, answer


def evaluate(
    file: RatingsFile, config: Config = None, assignments: Set = None, limit: Limit = None, as_json: Json = False
) -> None:
    """Predict each rating just before learning it, one after another in order of time, and say how far off that was.

    Ties in time are taken in the order of the file. An id met for the first time is predicted by its prior, and every rating
    counts. Predictions are clipped to the smallest and largest rating so far, or to the configured range. Times are of learning
    alone, not of reading the file or compiling.
    """
    from factorstream.worker.config import load
    from factorstream.worker.evaluation import check_ratings, events_of
    from factorstream.worker.evaluation import evaluate as run
    from factorstream.worker.history import read
    from factorstream.worker.wiring import fresh_model, learner_of, warm_up

    settings = load(config, assignments or [])
    history = read(file, limit)
    learner = learner_of(settings)
    model = fresh_model(settings)
    check_ratings(learner.learning, model.level, history.ratings)
    warm_up(learner, settings)
    found = run(learner, model, events_of(history))
    ranking = {} if found.recall_at_10 is None else {"recall_at_10": found.recall_at_10}
    sure = {} if found.coverage is None else {"coverage": found.coverage}
    held = "" if found.coverage is None else f", {found.coverage:.1%} within their 90 % intervals"
    recall = "" if found.recall_at_10 is None else f"recall@10 of a hundred sampled items {found.recall_at_10:.4f}, "
    loss = "" if settings.model.loss == "squared" else f"{settings.model.loss} loss {found.loss:.4f}, "
    answer(
        {
            "n_ratings": found.n_ratings,
            "rmse": found.rmse,
            "mae": found.mae,
            **ranking,
            **sure,
            "loss": found.loss,
            "ratings_per_s": round(found.ratings_per_s),
            "n_sweeps": found.n_sweeps,
        },
        as_json=as_json,
        line=f"{found.n_ratings:,} ratings: {recall}{loss}RMSE {found.rmse:.4f}, MAE {found.mae:.4f}{held};"
        f" {found.n_sweeps} sweeps, {found.ratings_per_s:,.0f} ratings/s",
    )
