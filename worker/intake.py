"""Records to deliveries: decode what can be decoded; what cannot is a value that goes to the dead letters."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from factorstream.codec import Decoded, decode_many
from factorstream.rating import RATING_MAX, RATING_MIN
from factorstream.worker.errors import TooManyRejects
from factorstream.worker.ports import Records, Reject

JSON = "application/json"
RECENT = 10_000
"""Records over which the share of rejects is watched."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One poll, decoded; partitions one after another, each in its own order."""

    decoded: Decoded
    rejects: Sequence[Reject]
    offsets: Mapping[int, int]
    """Partition → next offset once this is learned."""
    n_records: int
    oldest_record_ms: int | None
    """None when empty."""


class Intake:
    """Decodes polls and watches how much of the stream is unreadable."""

    def __init__(
        self, *, rating_min: float | None, rating_max: float | None, rating_step: float | None = None, max_reject_share: float
    ) -> None:
        """Accept ratings from *rating_min* to *rating_max*, at steps of *rating_step* where that is given."""
        self._range = (RATING_MIN if rating_min is None else rating_min, RATING_MAX if rating_max is None else rating_max)
        self._step = rating_step
        self._max_reject_share = max_reject_share
        self._recent: deque[tuple[int, int]] = deque()
        self._n_recent = self._n_rejects = 0

    def read(self, polled: Sequence[Records]) -> Delivery:
        """Decode *polled*; never raises for what a record holds."""
        values: list[bytes | None] = []
        times: list[int] = []
        foreign: list[Reject] = []
        for records in polled:
            batch = records if records.content_types is None else _only_json(records, foreign)
            values += batch.values
            times += batch.timestamps_ms
        decoded = decode_many(values, times, rating_min=self._range[0], rating_max=self._range[1], rating_step=self._step)
        rejects = foreign + (_located(decoded, polled, foreign) if decoded.rejects else [])
        n_records = sum(len(records.offsets) for records in polled)
        self._count(n_records, rejects)
        return Delivery(
            decoded,
            rejects,
            {records.partition: records.offsets[-1] + 1 for records in polled if len(records.offsets)},
            n_records,
            min((time for time in times if time >= 0), default=None),
        )

    def _count(self, n_records: int, rejects: Sequence[Reject]) -> None:
        if n_records:
            self._recent.append((n_records, len(rejects)))
        self._n_recent += n_records
        self._n_rejects += len(rejects)
        while self._recent and self._n_recent - self._recent[0][0] >= RECENT:
            old_records, old_rejects = self._recent.popleft()
            self._n_recent -= old_records
            self._n_rejects -= old_rejects

    def too_many(self, delivery: Delivery) -> TooManyRejects | None:
        """Return why not to go on after *delivery*, the one read last; None while enough of the stream can be read."""
        if self._n_recent < RECENT or self._n_rejects <= self._max_reject_share * self._n_recent:
            return None
        last = delivery.rejects[-1] if delivery.rejects else None
        return TooManyRejects(
            f"{self._n_rejects} of the last {self._n_recent} records could not be read"
            + (f" (the last: partition {last.partition}, offset {last.offset}: {last.detail})" if last else "")
            + f"; more than intake.max_reject_share = {self._max_reject_share}. They are in the dead-letter topic. "
            "Mend the producer, or raise intake.max_reject_share to go on"
        )


def _only_json(records: Records, foreign: list[Reject]) -> Records:
    """Return *records* without those of another content type, which are added to *foreign*."""
    types = records.content_types or []
    keep = [j for j, kind in enumerate(types) if kind is None or kind.partition(";")[0].strip().lower() == JSON]
    kept = set(keep)
    for j, kind in enumerate(types):
        if j not in kept:
            detail = f"content-type {kind!r} is not understood; send {JSON}"
            foreign.append(Reject(records.partition, records.offsets[j], "unknown_content_type", detail, records.values[j]))
    return Records(
        records.partition,
        [records.offsets[j] for j in keep],
        [records.timestamps_ms[j] for j in keep],
        [records.values[j] for j in keep],
        None,
    )


def _located(decoded: Decoded, polled: Sequence[Records], foreign: Sequence[Reject]) -> list[Reject]:
    """Return the rejects of *decoded* with where their records were."""
    elsewhere = {(reject.partition, reject.offset) for reject in foreign}
    places = [
        (records.partition, offset, value)
        for records in polled
        for offset, value in zip(records.offsets, records.values, strict=True)
        if (records.partition, offset) not in elsewhere
    ]
    return [Reject(*places[index][:2], reason, detail, places[index][2]) for index, reason, detail in decoded.rejects]
