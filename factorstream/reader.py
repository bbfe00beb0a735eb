"""Read embeddings, predictions and rankings from Redis.

A score is the same number whichever method returns it: rankings find their candidates in cached blocks, and then score
the best of them from the rows that `Reader.predict` reads.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import partial
from types import TracebackType
from typing import cast
from urllib.parse import urlsplit

import numpy as np
import redis
from numpy.typing import NDArray
from redis.backoff import NoBackoff
from redis.retry import Retry

from factorstream import keys
from factorstream.blocks import VERSIONS, unpack_block, unpack_versions
from factorstream.catalogue import Catalogue
from factorstream.embedding import Embedding, Side, Version, unpack
from factorstream.errors import InvalidAddress, ModelNotFound, NoProbabilities, NoUncertainty, ReaderUnavailable
from factorstream.meta import Meta, Priors, unpack_meta
from factorstream.prediction import category_probabilities, link
from factorstream.ranking import Ranking
from factorstream.seen import unpack_seen
from factorstream.uncertainty import Estimate, Uncertainty, score_variances, unpack_uncertainty

F64 = NDArray[np.float64]

CANDIDATES = 4
"""Items scored again from their rows, for each one asked for: how far blocks may lag behind rows without being noticed."""
_BLOCKS_AT_ONCE = 16


class Reader:
    """What a model says about users and items, as of now. Threads may share it.

    Every method raises `ModelNotFound` when no worker has published the model, `ReaderUnavailable` when Redis does not answer,
    and `UnreadableValue` for bytes of a layout that this client does not know.
    """

    def __init__(self, url: str, model: str = "default", *, timeout_s: float = 5.0) -> None:
        """Connect when first used.

        Args:
            url: Where Redis is: ``redis://localhost:6379/0``; ``rediss://`` for TLS.
            timeout_s: How long to wait for each answer; one that does not come is asked for once more.

        Raises `InvalidAddress` and `InvalidModelName`.
        """
        self.model = keys.check_model_name(model)
        self._where = urlsplit(url).netloc.rpartition("@")[2] or url  # never a password in a message
        self._redis = _client(url, timeout_s)
        self._n_buckets = 1
        self._lock = threading.Lock()
        self._catalogue = Catalogue(rank=0)
        self._journal_id = ""
        """Of the model whose blocks these are."""

    def meta(self) -> Meta:
        """Return the model's description."""
        return self._fetch(partial(self._item_keys, ()))[0]

    def user(self, user_id: str) -> Embedding | None:
        """Return the user's embedding; None for a user never seen."""
        meta, (value,) = self._fetch(lambda n_buckets: [keys.user_key(self.model, user_id, n_buckets)])
        return _embedding(meta, "user", user_id, value)

    def item(self, item_id: str) -> Embedding | None:
        """Return the item's embedding; None for an item never seen."""
        meta, (value,) = self._fetch(lambda n_buckets: [keys.item_key(self.model, item_id, n_buckets)])
        return _embedding(meta, "item", item_id, value)

    def predict(self, user_id: str, item_ids: Sequence[str]) -> list[float]:
        """Return the predicted rating of each item, not clipped (`Meta.range` says to what); one round trip for one bucket.

        An unknown user or item counts as an average one: the intercept and the other side's bias.
        """
        return _predictions(*self._pairs(user_id, item_ids))

    def predict_with_uncertainty(self, user_id: str, item_ids: Sequence[str]) -> list[Estimate]:
        """Return what `predict` does with the standard deviation of each, so that a client can explore; one round trip likewise.

        An unknown user or item is as uncertain as the prior. Raises `NoUncertainty` for a model that is published without.
        """
        meta, (user_value, user_doubt, *values) = self._fetch(
            lambda n_buckets: [
                keys.user_key(self.model, user_id, n_buckets),
                keys.user_uncertainty_key(self.model, user_id, n_buckets),
                *self._item_keys(item_ids, n_buckets),
                *(keys.item_uncertainty_key(self.model, item_id, n_buckets) for item_id in item_ids),
            ]
        )
        priors = self._priors(meta)
        n = len(item_ids)
        user = _embedding(meta, "user", user_id, user_value)
        items = [_embedding(meta, "item", item_id, value) for item_id, value in zip(item_ids, values[:n], strict=True)]
        doubts = [_uncertainty(meta, "item", item_id, value) for item_id, value in zip(item_ids, values[n:], strict=True)]
        variances = score_variances(
            _factors(meta, [user])[0],
            _variances(meta, priors.user, [_uncertainty(meta, "user", user_id, user_doubt)])[0],
            _factors(meta, items),
            _variances(meta, priors.item, doubts),
        )
        return list(map(Estimate, _predictions(meta, user, items), np.sqrt(variances).tolist()))

    def user_uncertainty(self, user_id: str) -> Uncertainty | None:
        """Return how sure the model is of the user's row; None for a user never seen.

        Raises `NoUncertainty` for a model that is published without.
        """
        meta, (value,) = self._fetch(lambda n_buckets: [keys.user_uncertainty_key(self.model, user_id, n_buckets)])
        self._priors(meta)
        return _uncertainty(meta, "user", user_id, value)

    def item_uncertainty(self, item_id: str) -> Uncertainty | None:
        """Return how sure the model is of the item's row, likewise."""
        meta, (value,) = self._fetch(lambda n_buckets: [keys.item_uncertainty_key(self.model, item_id, n_buckets)])
        self._priors(meta)
        return _uncertainty(meta, "item", item_id, value)

    def probabilities(self, user_id: str, item_ids: Sequence[str]) -> list[dict[float, float]]:
        """Return how likely each rating of each item is, ``{rating: probability}``; of ordinal and logistic models (`Meta.link`).

        Raises `NoProbabilities` for a model whose loss gives none.
        """
        meta, user, items = self._pairs(user_id, item_ids)
        scores = _scores(meta, user, items)
        if meta.link == "ordinal":
            categories, shares = meta.categories, category_probabilities(scores, meta.cuts)
        elif meta.link == "sigmoid":
            categories, shares = (0.0, 1.0), category_probabilities(scores, (0.0,))
        else:
            raise NoProbabilities(
                f"model {self.model!r} was learned with {meta.loss} loss, which gives a number and no probabilities: "
                "model.loss = ordinal gives one for each star, logistic for yes and no"
            )
        return [dict(zip(categories, row, strict=True)) for row in shares.tolist()]

    def top_n(self, user_id: str, n: int = 10, *, exclude: Collection[str] = (), exclude_seen: bool = True) -> Ranking:
        """Return the *n* items with the highest predicted rating and that rating, best first.

        For an unknown user: the items that everybody rates highest.

        Args:
            exclude: Items to leave out.
            exclude_seen: Leave out what the user has rated, as far as the model remembers (``publish.seen_items``).
        """
        meta, (row, seen, versions) = self._fetch(
            lambda n_buckets: [
                keys.user_key(self.model, user_id, n_buckets),
                keys.seen_key(self.model, user_id, n_buckets),
                keys.blocks_key(self.model),
            ]
        )
        user = _embedding(meta, "user", user_id, row)
        query = user.augmented if user else _average("user", meta.rank)
        seen_slots = unpack_seen(seen) if seen and exclude_seen else np.zeros(0, np.uint32)

        def candidates(n_candidates: int) -> list[str]:
            with self._lock:
                catalogue = self._refreshed(meta, versions)
                return catalogue.best(query, n_candidates, without=[seen_slots, catalogue.slots_of(exclude)])

        return self._ranked(meta, n, candidates, lambda meta, items: _predictions(meta, user, items))

    def similar_items(self, item_id: str, n: int = 10) -> Ranking:
        """Return the *n* items whose factors point most nearly the same way, and the cosine; none for an unknown item."""
        meta, (row, versions) = self._fetch(
            lambda n_buckets: [keys.item_key(self.model, item_id, n_buckets), keys.blocks_key(self.model)]
        )
        item = _embedding(meta, "item", item_id, row)
        if item is None:
            return _best(meta, [], [], 0)
        query = np.append(item.vector, np.zeros(2, np.float32))

        def candidates(n_candidates: int) -> list[str]:
            with self._lock:
                catalogue = self._refreshed(meta, versions)
                return catalogue.best(query, n_candidates, without=[catalogue.slots_of([item_id])], cosine=True)

        return self._ranked(meta, n, candidates, lambda _, items: _cosines(item, items))

    def similar_users(self, user_id: str, n: int = 10, *, among: Collection[str]) -> Ranking:
        """Return the *n* users *among* those named whose factors point most nearly the same way, and the cosine.

        Unknown users are left out, and so is the user; none for an unknown user.
        """
        others = [other_id for other_id in dict.fromkeys(among) if other_id != user_id]
        meta, values = self._fetch(
            lambda n_buckets: [keys.user_key(self.model, any_id, n_buckets) for any_id in [user_id, *others]]
        )
        user = _embedding(meta, "user", user_id, values[0])
        rows = [_embedding(meta, "user", other_id, value) for other_id, value in zip(others, values[1:], strict=True)]
        known = [row for row in rows if row is not None]
        return _best(meta, known, _cosines(user, known), n) if user else _best(meta, [], [], 0)

    def close(self) -> None:
        """Give back the connections. Safe to call twice."""
        self._redis.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ranked(
        self, meta: Meta, n: int, candidates: Callable[[int], list[str]], scores: Callable[[Meta, list[Embedding]], list[float]]
    ) -> Ranking:
        """Return the best *n* of the *candidates* by the scores of their rows; look further when many of them have no row."""
        n_candidates = CANDIDATES * n
        while n > 0:
            item_ids = candidates(n_candidates)
            meta, values = self._fetch(partial(self._item_keys, item_ids))
            rows = [_embedding(meta, "item", item_id, value) for item_id, value in zip(item_ids, values, strict=True)]
            items = [row for row in rows if row is not None]
            if len(items) >= n or len(item_ids) < n_candidates:
                return _best(meta, items, scores(meta, items), n)
            n_candidates *= 2
        return _best(meta, [], [], 0)

    def _refreshed(self, meta: Meta, packed_versions: bytes | None) -> Catalogue:
        """Return the catalogue with the blocks that these versions speak of; the lock is held."""
        if (self._catalogue.rank, self._journal_id) != (meta.rank, meta.journal_id):  # versions of another model may be equal
            self._catalogue, self._journal_id = Catalogue(meta.rank), meta.journal_id
        versions = unpack_versions(packed_versions) if packed_versions else np.zeros(0, VERSIONS)
        outdated = self._catalogue.outdated(versions)
        for first in range(0, len(outdated), _BLOCKS_AT_ONCE):
            numbers = outdated[first : first + _BLOCKS_AT_ONCE]
            values = self._mget([keys.block_key(self.model, number, meta.n_buckets) for number in numbers])
            for number, value in zip(numbers, values, strict=True):
                self._catalogue.put(number, unpack_block(value) if value else None)
        return self._catalogue

    def _pairs(self, user_id: str, item_ids: Sequence[str]) -> tuple[Meta, Embedding | None, list[Embedding | None]]:
        """Return a user and items, and the description that they were read with."""
        meta, values = self._fetch(
            lambda n_buckets: [keys.user_key(self.model, user_id, n_buckets), *self._item_keys(item_ids, n_buckets)]
        )
        user = _embedding(meta, "user", user_id, values[0])
        return meta, user, [_embedding(meta, "item", item_id, value) for item_id, value in zip(item_ids, values[1:], strict=True)]

    def _priors(self, meta: Meta) -> Priors:
        if meta.uncertainty is None:
            raise NoUncertainty(
                f"model {self.model!r} is published without how sure it is: "
                "set publish.uncertainty = true, which model.learner = posterior can"
            )
        return meta.uncertainty

    def _item_keys(self, item_ids: Sequence[str], n_buckets: int) -> list[str]:
        if isinstance(item_ids, str):
            raise TypeError(f"item_ids is {item_ids!r}, whose letters are no ids: give a list of ids")
        return [keys.item_key(self.model, item_id, n_buckets) for item_id in item_ids]

    def _fetch(self, keys_of: Callable[[int], list[str]]) -> tuple[Meta, list[bytes | None]]:
        """Return the model's description and the values of the keys that *keys_of* names for its number of buckets."""
        while True:
            n_buckets = self._n_buckets
            described, *values = self._mget([keys.meta_key(self.model), *keys_of(n_buckets)])
            if described is None:
                raise ModelNotFound(
                    f"no model {self.model!r} at {self._where}: there is no key {keys.meta_key(self.model)!r}. "
                    "Has a worker published it, there and under that name (model.name)?"
                )
            meta = unpack_meta(described)
            if meta.n_buckets == n_buckets:
                return meta, values
            self._n_buckets = meta.n_buckets

    def _mget(self, names: Sequence[str]) -> list[bytes | None]:
        """Return the values of *names*; one command a bucket, as Redis Cluster wants, and one round trip in all."""
        places = defaultdict(list)
        for place, name in enumerate(names):
            places[name[: name.index("}")]].append(place)
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                for bucket in places.values():
                    pipe.mget([names[place] for place in bucket])
                replies = pipe.execute()
        except redis.RedisError as error:
            raise ReaderUnavailable(f"Redis at {self._where} does not answer ({error}): is it up?") from error
        values: list[bytes | None] = [None] * len(names)
        for bucket, reply in zip(places.values(), replies, strict=True):
            for place, value in zip(bucket, cast(list[bytes | None], reply), strict=True):
                values[place] = value
        return values


def _client(url: str, timeout_s: float) -> redis.Redis:
    retry = Retry(NoBackoff(), 1)  # a connection that Redis has closed meanwhile is only found out by using it
    try:
        client = redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=retry)
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing, but minds a parameter that there is not
    except (TypeError, ValueError) as error:
        raise InvalidAddress(f"no address of a Redis ({error}): write redis://HOST:6379/0") from error
    return client


def _embedding(meta: Meta, side: Side, row_id: str, value: bytes | None) -> Embedding | None:
    """Read a row; one of another rank was left by an earlier model, and counts as none."""
    embedding = unpack(row_id, side, value) if value is not None else None
    return embedding if embedding is not None and len(embedding.vector) == meta.rank else None


def _uncertainty(meta: Meta, side: Side, row_id: str, value: bytes | None) -> Uncertainty | None:
    """Read how sure the model is of a row; of another rank it counts as none, too."""
    uncertainty = unpack_uncertainty(row_id, side, value) if value is not None else None
    return uncertainty if uncertainty is not None and len(uncertainty.variances) == meta.rank + 1 else None


def _factors(meta: Meta, rows: Sequence[Embedding | None]) -> F64:
    return _matrix([row.vector if row else np.zeros(meta.rank, np.float32) for row in rows], meta.rank)


def _variances(meta: Meta, prior: tuple[float, float], rows: Sequence[Uncertainty | None]) -> F64:
    """Return the variances of *rows*, ``(n, K + 1)``; those of the *prior*, of a factor and of the bias, where there is none."""
    unknown = np.append(np.full(meta.rank, prior[0], np.float32), np.float32(prior[1]))
    return _matrix([row.variances if row else unknown for row in rows], meta.rank + 1)


def _average(side: Side, rank: int) -> NDArray[np.float32]:
    """Return the row of a user or item of whom nothing is known."""
    row = np.zeros(rank + 2, np.float32)
    row[-1 if side == "user" else -2] = 1
    return row


def _predictions(meta: Meta, user: Embedding | None, items: Sequence[Embedding | None]) -> list[float]:
    return list(map(float, link(meta.link, _scores(meta, user, items), meta.categories, meta.cuts)))


def _scores(meta: Meta, user: Embedding | None, items: Sequence[Embedding | None]) -> F64:
    query = user.augmented if user else _average("user", meta.rank)
    rows = _matrix([item.augmented if item else _average("item", meta.rank) for item in items], meta.rank + 2)
    return meta.intercept + _products(rows, query)


def _cosines(own: Embedding, others: Sequence[Embedding]) -> list[float]:
    rows = _matrix([other.vector for other in others], len(own.vector))
    query = own.vector.astype(np.float64)
    lengths = np.sqrt((rows * rows).sum(axis=1) * (query @ query))
    return list(map(float, np.divide(_products(rows, query), lengths, out=np.zeros(len(rows)), where=lengths > 0)))


def _matrix(rows: Sequence[NDArray[np.float32]], width: int) -> F64:
    return np.array(rows, np.float64).reshape(len(rows), width)


def _products(rows: F64, query: NDArray[np.float32] | F64) -> F64:
    """Return the product of each row with *query*: a sum over the row, so that it never depends on which rows are beside it."""
    products: F64 = (rows * query.astype(np.float64)).sum(axis=1)
    return products


def _best(meta: Meta, rows: Sequence[Embedding], scores: Sequence[float], n: int) -> Ranking:
    """Return the ids and scores of the best *n*, best first; equal scores in order of ids."""
    pairs = [(row.id, score) for row, score in zip(rows, scores, strict=True)]
    return Ranking(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:n], Version(meta.epoch, meta.position))
