"""The loop's whole memory: the model, what ids mean, how far the log is learned, and what readers have not seen yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

import numpy as np

from factorstream.codec import Decoded
from factorstream.worker.checkpoint import Checkpoint, Facts, Snapshot, restored_model
from factorstream.worker.identities import Identities
from factorstream.worker.learn.learner import Learned, adopt
from factorstream.worker.learn.settings import Learning
from factorstream.worker.model.journal import Entries, Events
from factorstream.worker.model.level import Level
from factorstream.worker.model.model import Model, Sweep
from factorstream.worker.pending import Pending
from factorstream.worker.shadows import Shadows


class State:
    """The loop's whole memory. One owner: the loop's thread."""

    def __init__(self, model: Model, learning: Learning, *, journal_id: str, key: bytes, shape: Mapping[str, object]) -> None:
        self.model = model
        self.learning = learning
        self.journal_id = journal_id
        self.key = key
        self.shape = shape
        """``name, loss, learner, seed``: what a checkpoint must agree on, besides the rank."""
        self.identities = Identities.new(key)
        self.range = (model.level.lowest, model.level.highest)
        """What was configured when the history began; the journal does not tell."""
        self.offsets: dict[int, int] = {}
        self.epoch = 0
        self.pending = Pending()
        self._entries: list[Entries] = []
        self._shadows = Shadows()

    # --- learning

    def events(self, decoded: Decoded) -> Iterator[Events]:
        """Yield what was decoded, ids turned into rows; learn each part before drawing the next."""
        return self.identities.events(decoded, self.model.ratings, self.pending)

    def absorb(self, learned: Learned) -> None:
        """Remember for the journal and for readers what *learned* changed."""
        self._entries.append(learned.entries)
        if learned.accepted is not None:
            self.pending.add_users(learned.accepted.user_rows)
            self.pending.add_items(learned.accepted.item_rows)
        if len(learned.touched_users) or len(learned.touched_items):
            self.pending.add_users(learned.touched_users)
            self.pending.add_items(learned.touched_items)
        if learned.solved is not None:
            self.pending.add_solved(learned.solved)
        self._shadows.follow(self.model.users.n, self.model.items.n, self.model.tables)

    # --- surviving

    def standing(self) -> tuple[object, ...]:
        """Return what differs as soon as a checkpoint would hold anything new for a restart.

        Without records and blocks solved, pending rows only become fewer, or all of them. The publish sequence is left out: it
        goes on with every heartbeat, and only a worker that settled leaves the one in its checkpoint.
        """
        model, pending = self.model, self.pending
        n_pending = (pending.n_rows(model.users.n, model.items.n), np.count_nonzero(pending.seen[: model.users.n]))
        n_others = (len(pending.blocks), len(pending.removed_users), len(pending.removed_items))
        return (model.position, tuple(sorted(self.offsets.items())), *n_pending, *n_others, pending.renewal is None)

    def snapshot(
        self, *, sequence: int, source: tuple[str, str, str], seen_items: int, platform: str, created_ms: int
    ) -> Snapshot:
        """Copy what a checkpoint needs. Only when no other snapshot is being written: the copies' memory is used again."""
        model, ratings = self.model, self.model.ratings
        n_users, n_items = len(self.identities.users.names), len(self.identities.items.names)
        ratings.grow(n_users, n_items)
        arrays = self._shadows.copy(model.tables())
        arrays["users.pending"] = np.flatnonzero(self.pending.users[:n_users])
        arrays["items.pending"] = np.flatnonzero(self.pending.items[:n_items])
        arrays["seen.pending"] = np.flatnonzero(self.pending.seen[:n_users])
        arrays["blocks.pending"] = np.array(list(self.pending.blocks), np.int64)
        arrays.update(self.identities.arrays())
        facts = Facts(
            journal_id=self.journal_id,
            name=str(self.shape["name"]),
            key=self.key.hex(),
            epoch=self.epoch,
            sequence=sequence,
            offsets=dict(self.offsets),
            cluster_id=source[0],
            topic=source[1],
            topic_id=source[2],
            n_accepted=model.n_accepted,
            n_blocks=model.n_blocks,
            n_users=n_users,
            n_items=n_items,
            n_ratings=ratings.n_ratings,
            removed_users=list(self.pending.removed_users),
            removed_items=list(self.pending.removed_items),
            seen_items=seen_items,
            anew=self.pending.renewal is not None,
            range=self.range,
            level=Level(**asdict(model.level)),
            sweep=Sweep(**asdict(model.sweep)),
            learning=self.learning,
            platform=platform,
            created_ms=created_ms,
            rank=model.rank,
            loss=str(self.shape["loss"]),
            learner=str(self.shape["learner"]),
            seed=int(str(self.shape["seed"])),
        )
        entries, self._entries = self._entries, []
        return Snapshot(facts, arrays, self.identities.take_chunks(), entries)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what *checkpoint* says."""
        facts, arrays = checkpoint.facts, checkpoint.arrays
        self.journal_id, self.key = facts.journal_id, bytes.fromhex(facts.key)
        self.offsets, self.epoch, self.range = dict(facts.offsets), facts.epoch, facts.range
        self.identities = Identities.restored(self.key, checkpoint.names, arrays)
        self.model = restored_model(checkpoint)
        adopt(self.learning, self.model)
        self.pending.removed_users = dict.fromkeys(facts.removed_users)
        self.pending.removed_items = dict.fromkeys(facts.removed_items)
        self.pending.add_users(arrays["users.pending"].astype(np.int32))
        self.pending.add_items(arrays["items.pending"].astype(np.int32))
        self.pending.seen[arrays.get("seen.pending", arrays["users.pending"])] = True
        self.pending.blocks.update(dict.fromkeys(arrays["blocks.pending"].tolist()))
        self._shadows.copy(self.model.tables())  # now, so that the first checkpoint finds memory to copy into
