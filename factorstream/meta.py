"""The model's description in Redis: one JSON object, so that any language and any person can read it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from factorstream.embedding import LAYOUT
from factorstream.errors import UnreadableValue
from factorstream.prediction import Link


class Priors(msgspec.Struct, frozen=True, kw_only=True):
    """How sure a model is of what it has not seen, in units of the ratings."""

    user: tuple[float, float]
    """Variance of each factor, and of the bias, of a user of whom nothing is known …"""
    item: tuple[float, float]
    """… and of such an item."""
    noise: float
    """Variance of a rating whose rows are known exactly."""
    surprise: float
    """By how much the squares of errors exceed what is expected of them: a rating's variance is
    ``surprise × (noise + deviation²)``, with the deviation of an `Estimate`."""


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader must know of a model. Unknown fields are ignored, so a newer worker may say more."""

    layout: int = LAYOUT
    journal_id: str
    """Which data this model was learned from."""
    epoch: int
    rank: int
    """K: how many factors a row has."""
    dtype: str = "float32"
    loss: str = "squared"
    link: Link = "identity"
    """How a score becomes a prediction."""
    categories: tuple[float, ...] = ()
    """The ratings there are, ascending, where the link is ordinal …"""
    cuts: tuple[float, ...] = ()
    """… and the points between them on the axis of scores: one fewer."""
    intercept: float
    range: tuple[float, float] | None = None
    """Smallest and largest rating, for clients that clip; None when unknown."""
    uncertainty: Priors | None = None
    """There where uncertainties are published."""
    n_users: int
    n_items: int
    n_buckets: int = 1
    position: int
    """Ratings accepted and blocks solved."""
    offsets: Mapping[int, int] = {}
    """Partition → first offset that was not learned; rows and blocks that had to wait may lag behind it."""
    published_ms: int
    """Milliseconds since the epoch, by the worker's clock."""


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Meta)


def pack_meta(meta: Meta) -> bytes:
    """Return *meta* as JSON; what only some models have is left out of others'."""
    said = msgspec.structs.asdict(meta)
    if not meta.cuts:
        del said["categories"], said["cuts"]
    if meta.uncertainty is None:
        del said["uncertainty"]
    return _ENCODER.encode(said)


def unpack_meta(value: bytes) -> Meta:
    """Read a description. Raises `UnreadableValue`, also for a layout that this client does not know."""
    try:
        meta = _DECODER.decode(value)
    except msgspec.MsgspecError as error:
        raise UnreadableValue(f"the model's description is unreadable ({error}): {value[:200]!r}") from error
    if meta.layout != LAYOUT:
        raise UnreadableValue(
            f"the model is published in layout {meta.layout}: this client reads layout {LAYOUT}; upgrade factorstream"
        )
    return meta
