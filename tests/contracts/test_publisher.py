"""What every publisher promises: the memory twin and Redis."""

import uuid
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.blocks import unpack_block, unpack_versions
from factorstream.embedding import unpack
from factorstream.fence import Fence, pack_fence, unpack_fence
from factorstream.keys import (
    block_key,
    blocks_key,
    fence_key,
    item_key,
    item_uncertainty_key,
    meta_key,
    seen_key,
    user_key,
    user_uncertainty_key,
)
from factorstream.meta import Priors, unpack_meta
from factorstream.seen import unpack_seen
from factorstream.uncertainty import unpack_uncertainty
from factorstream.worker.adapters.memory import MemoryPublisher, MemoryTable
from factorstream.worker.adapters.redis import RedisPublisher
from factorstream.worker.errors import Fenced, ForeignJournal, PublisherUnavailable
from factorstream.worker.ports import Block, Embeddings, Publication, SeenItems, Takeover

RANK = 3
JOURNAL = "journal-1"


class Twin:
    """A `MemoryTable` and a model of its own."""

    def __init__(self):
        self.model = "twin"
        self.table = MemoryTable()

    def publisher(self, **settings):
        return MemoryPublisher(self.table, self.model, **settings)

    def all(self):
        return dict(self.table.values)

    def set(self, values):
        self.table.values.update((key.encode() if isinstance(key, str) else key, value) for key, value in values.items())

    def flush(self):
        self.table.values.clear()


class Real:
    """A model of its own in a real Redis."""

    def __init__(self, url):
        self.url = url
        self.model = f"test-{uuid.uuid4().hex[:8]}"
        self.client = redis.Redis.from_url(url)

    def publisher(self, **settings):
        return RedisPublisher(self.url, self.model, **settings)

    def all(self):
        keys = list(self.client.scan_iter(f"fs:{{{self.model}.*", count=1000))
        return dict(zip(keys, self.client.mget(keys), strict=True)) if keys else {}

    def set(self, values):
        self.client.mset(values)

    def flush(self):
        keys = list(self.client.scan_iter(f"fs:{{{self.model}.*", count=1000))
        if keys:
            self.client.delete(*keys)


@pytest.fixture(params=["memory", "redis"])
def store(request):
    if request.param == "memory":
        yield Twin()
        return
    made = Real(request.getfixturevalue("redis_url"))
    yield made
    made.flush()
    made.client.close()


def rows(ids, position=1):
    """Embeddings whose numbers tell the id and, where *ids* has none for it, the position."""
    told = ids if isinstance(ids, dict) else dict.fromkeys(ids, position)
    ids = list(ids)
    vectors = np.array([[len(name), told[name], 0.5, 0.25, 1] for name in ids], np.float32).reshape(len(ids), RANK + 2)
    return Embeddings(ids, vectors, np.arange(len(ids), dtype=np.uint32), np.full(len(ids), 1_000 + position, np.int64))


def seen(histories):
    lengths = [len(slots) for slots in histories.values()]
    slots = np.array([slot for of_user in histories.values() for slot in of_user], np.uint32)
    return SeenItems(list(histories), np.cumsum([0, *lengths], dtype=np.int64), slots)


def publication(position, users=(), items=(), *, histories=None, blocks=(), removed_users=(), removed_items=(), journal=JOURNAL):
    meta = {
        "journal_id": journal,
        "rank": RANK,
        "intercept": 3.5,
        "n_users": len(users),
        "n_items": len(items),
        "position": position,
        "offsets": {0: position},
    }
    return Publication(
        position,
        rows(users, position),
        rows(items, position),
        seen(histories or {}),
        [Block(number, ["m1", None], np.full((2, RANK + 2), position, np.float32)) for number in blocks],
        list(removed_users),
        list(removed_items),
        meta,
    )


def started(store, epoch=1, *, left=None, journal=JOURNAL, **settings):
    publisher = store.publisher(**settings)
    publisher.take(epoch, journal, left)
    return publisher


def user(store, name, n_buckets=1):
    value = store.all().get(user_key(store.model, name, n_buckets).encode())
    return None if value is None else unpack(name, "user", value)


def fences(store, n_buckets=1):
    return [unpack_fence(store.all()[fence_key(store.model, bucket).encode()]) for bucket in range(n_buckets)]


@pytest.mark.parametrize("n_buckets", [1, 3])
def test_everything_published_is_there_to_read(store, n_buckets):
    publisher = started(store, 7, n_buckets=n_buckets)
    users = [f"u{number}" for number in range(20)] + ["ü }:{ \n"]
    histories = {name: list(range(number)) for number, name in enumerate(users)}
    assert publisher.publish(publication(5, users, ["m1", "m2"], histories=histories, blocks=[0, 2]))
    found = store.all()
    for number, name in enumerate(users):
        embedding = unpack(name, "user", found[user_key(store.model, name, n_buckets).encode()])
        assert embedding.version == (7, 5)
        assert embedding.n_ratings == number
        assert embedding.timestamp_ms == 1_005
        assert embedding.augmented.tolist() == [len(name), 5, 0.5, 0.25, 1]
        slots = found.get(seen_key(store.model, name, n_buckets).encode())
        assert (None if slots is None else unpack_seen(slots).tolist()) == (list(range(number)) or None)
    assert unpack("m2", "item", found[item_key(store.model, "m2", n_buckets).encode()]).version == (7, 5)
    for number in (0, 2):
        block = unpack_block(found[block_key(store.model, number, n_buckets).encode()])
        assert (block.number, block.version, list(block.ids)) == (number, (7, 5), ["m1", None])
    versions = unpack_versions(found[blocks_key(store.model).encode()])
    assert [(v["epoch"], v["position"]) for v in versions] == [(7, 5), (0, 0), (7, 5)]
    meta = unpack_meta(found[meta_key(store.model).encode()])
    assert (meta.journal_id, meta.epoch, meta.n_buckets, meta.position, meta.offsets) == (JOURNAL, 7, n_buckets, 5, {0: 5})


def test_what_is_removed_is_gone_unless_it_came_back(store):
    publisher = started(store)
    publisher.publish(publication(1, ["u1", "u2", "u3"], ["m1"], histories={"u1": [1], "u2": [1]}))
    publisher.publish(publication(2, ["u2"], removed_users=["u1", "u2"], removed_items=["m1"]))
    keys = set(store.all())
    gone = {user_key(store.model, "u1"), seen_key(store.model, "u1"), seen_key(store.model, "u2"), item_key(store.model, "m1")}
    assert not {key.encode() for key in gone} & keys
    assert user(store, "u2").version == (1, 2)
    assert user(store, "u3").version == (1, 1)


PRIORS = {"user": (1.0, 0.5), "item": (1.0, 0.5), "noise": 1.0, "surprise": 1.0}


def uncertain(position, users=(), items=(), **others):
    """A publication that says how sure the model is; the id's length is each variance."""
    told = publication(position, users, items, **others)
    sure = [
        replace(rows, variances=np.array([[len(name)] * (RANK + 1) for name in rows.ids], np.float32).reshape(-1, RANK + 1))
        for rows in (told.users, told.items)
    ]
    return replace(told, users=sure[0], items=sure[1], meta={**told.meta, "uncertainty": PRIORS})


def uncertainty_keys(store):
    return {key for key in store.all() if b"}:vu:" in key or b"}:vi:" in key}


@pytest.mark.parametrize("n_buckets", [1, 3])
def test_how_sure_the_model_is_of_rows_is_beside_them_and_goes_with_them(store, n_buckets):
    publisher = started(store, 7, n_buckets=n_buckets, uncertainty=True)
    users, items = [f"u{number}" for number in range(8, 12)], ["m1", "m22"]
    publisher.publish(uncertain(5, users, items))
    found = store.all()
    for name, side, key in [(name, "user", user_uncertainty_key) for name in users] + [
        (name, "item", item_uncertainty_key) for name in items
    ]:
        read = unpack_uncertainty(name, side, found[key(store.model, name, n_buckets).encode()])
        assert (read.version, read.variances.tolist()) == ((7, 5), [len(name)] * (RANK + 1))
    assert unpack_meta(found[meta_key(store.model).encode()]).uncertainty == msgspec.convert(PRIORS, Priors)
    publisher.publish(uncertain(6, removed_users=users, removed_items=["m1"]))
    assert uncertainty_keys(store) == {item_uncertainty_key(store.model, "m22", n_buckets).encode()}


@pytest.mark.parametrize("n_buckets", [1, 3])
def test_a_table_that_says_more_or_less_than_it_should_is_published_anew(store, n_buckets):
    without = started(store, 1, n_buckets=n_buckets)
    without.publish(publication(1, ["u1", "u2"], ["m1"]))
    sure = store.publisher(n_buckets=n_buckets, uncertainty=True)
    assert not sure.take(2, JOURNAL, without.sequence).intact
    sure.publish(uncertain(1, ["u1", "u2"], ["m1"]))
    assert sum(sure.remove_other_epochs()) == 0
    assert len(uncertainty_keys(store)) == 3
    assert store.publisher(n_buckets=n_buckets, uncertainty=True).take(3, JOURNAL, sure.sequence).intact
    again = store.publisher(n_buckets=n_buckets)
    assert not again.take(4, JOURNAL, sure.sequence).intact
    again.publish(publication(1, ["u1", "u2"], ["m1"]))
    assert sum(again.remove_other_epochs()) == 3
    assert not uncertainty_keys(store)


def test_an_empty_publication_says_that_the_worker_is_there(store):
    publisher = started(store)
    assert publisher.publish(publication(9))
    assert unpack_meta(store.all()[meta_key(store.model).encode()]).position == 9


def test_a_list_of_seen_items_that_became_empty_is_deleted(store):
    publisher = started(store)
    publisher.publish(publication(1, ["u1", "u2"], histories={"u1": [1], "u2": [2]}))
    publisher.publish(publication(2, ["u1", "u2"], histories={"u1": [], "u2": [3]}))
    found = store.all()
    assert seen_key(store.model, "u1").encode() not in found
    assert unpack_seen(found[seen_key(store.model, "u2").encode()]).tolist() == [3]


def test_a_table_that_nobody_wrote_has_no_epoch_and_no_journal(store):
    assert store.publisher().peek() == (0, None)


def test_peeking_finds_who_published_last(store):
    publisher = started(store, 4)
    publisher.publish(publication(1, ["u1"]))
    assert store.publisher().peek() == (4, JOURNAL)


@pytest.mark.parametrize("n_buckets", [1, 3])
def test_a_worker_that_comes_back_finds_the_table_as_it_left_it(store, n_buckets):
    first = started(store, 1, n_buckets=n_buckets)
    for position in range(1, 4):
        assert first.publish(publication(position, ["u1", "u2"][: position % 3]))
    second = store.publisher(n_buckets=n_buckets)
    assert second.take(2, JOURNAL, first.sequence) == Takeover(2, True)
    assert store.publisher(n_buckets=n_buckets).take(3, JOURNAL, first.sequence).intact
    assert second.sequence == first.sequence


@pytest.mark.parametrize("n_buckets", [1, 3])
def test_a_worker_that_published_after_its_checkpoint_must_publish_all(store, n_buckets):
    first = started(store, n_buckets=n_buckets)
    first.publish(publication(1, ["u1"]))
    in_checkpoint = first.sequence
    first.publish(publication(2, ["u1"]))
    takeover = store.publisher(n_buckets=n_buckets).take(2, JOURNAL, in_checkpoint)
    assert takeover.epoch == 2
    assert not takeover.intact


def test_another_workers_fence_of_the_same_number_is_not_what_was_left(store):
    first = started(store, 1)
    first.publish(publication(1, ["u1"]))
    store.set({fence_key(store.model, 0): pack_fence(Fence(1, first.sequence))})
    assert not store.publisher().take(3, JOURNAL, first.sequence).intact  # 3: the checkpoint is of epoch 2


def test_a_worker_without_a_checkpoint_must_publish_all(store):
    assert not store.publisher().take(1, JOURNAL, None).intact
    started(store, 2).publish(publication(1, ["u1"]))
    assert not store.publisher().take(3, JOURNAL, None).intact


def test_a_table_with_fewer_buckets_is_not_what_was_left(store):
    first = started(store, n_buckets=1)
    first.publish(publication(1, ["u1"]))
    assert not store.publisher(n_buckets=2).take(2, JOURNAL, first.sequence).intact


def test_a_paused_worker_writes_nothing_after_another_has_taken_over(store):
    old = started(store, 1)
    old.publish(publication(1, ["u1"]))
    new = started(store, 2)
    new.publish(publication(2, ["u1"]))
    before = store.all()
    with pytest.raises(Fenced, match="epoch is 2"):
        old.publish(publication(3, ["u1", "u9"], removed_users=["u1"]))
    assert store.all() == before
    assert new.publish(publication(4, ["u1"]))


def test_a_worker_with_a_lower_or_equal_epoch_cannot_take_over(store):
    started(store, 5)
    for epoch in (4, 5):
        with pytest.raises(Fenced):
            store.publisher().take(epoch, JOURNAL, None)
    started(store, 6)


def test_taking_again_with_the_same_epoch_is_fine_for_the_same_worker(store):
    publisher = started(store, 5)
    publisher.publish(publication(1, ["u1"]))
    assert publisher.take(5, JOURNAL, publisher.sequence).intact


@pytest.mark.parametrize("n_buckets", [1, 3])
def test_a_table_that_lost_its_memory_is_taken_again_and_said_once(store, n_buckets):
    publisher = started(store, n_buckets=n_buckets)
    assert publisher.publish(publication(1, ["u1", "u2"], blocks=[0, 1]))
    store.flush()
    assert not publisher.publish(publication(2, ["u1"]))
    assert publisher.publish(publication(3, ["u1", "u2"], blocks=[0]))
    assert user(store, "u2", n_buckets).version == (1, 3)
    assert publisher.publish(publication(4))
    versions = unpack_versions(store.all()[blocks_key(store.model).encode()])
    assert versions["position"].tolist() == [3]  # not the block that was lost


def test_a_table_that_was_restored_is_taken_again(store):
    publisher = started(store)
    publisher.publish(publication(1, ["u1"]))
    copy = store.all()
    publisher.publish(publication(2, ["u1", "u2"]))
    store.flush()
    store.set(copy)
    assert not publisher.publish(publication(3, ["u1"]))
    assert publisher.publish(publication(4, ["u1", "u2"]))


@pytest.mark.parametrize("found", [Fence(3, 999_999), Fence(2, 5), Fence(3, 0)], ids=["unknown", "lower epoch", "lower sequence"])
def test_any_fence_but_the_one_left_and_higher_epochs_is_taken_again(store, found):
    publisher = started(store, 3)
    publisher.publish(publication(1, ["u1"]))
    store.set({fence_key(store.model, 0): pack_fence(found)})
    assert not publisher.publish(publication(2, ["u1"]))
    assert publisher.publish(publication(3, ["u1"]))
    assert fences(store)[0].epoch == 3


def test_another_journals_model_is_refused_unless_it_is_to_be_replaced(store):
    started(store, 1, journal="theirs").publish(publication(1, ["u1", "u2"], blocks=[0, 1], journal="theirs"))
    before = store.all()
    for refused in (lambda: store.publisher().peek(JOURNAL), lambda: store.publisher().take(2, JOURNAL, None)):
        with pytest.raises(ForeignJournal, match=r"theirs.*redis\.replace"):
            refused()
    assert store.all() == before
    assert store.publisher().peek("theirs") == (1, "theirs")
    publisher = store.publisher(replace=True)
    assert publisher.peek(JOURNAL) == (1, "theirs")
    assert not publisher.take(2, JOURNAL, None).intact
    publisher.publish(publication(1, ["u1"], blocks=[0]))
    assert store.publisher().peek() == (2, JOURNAL)
    assert len(unpack_versions(store.all()[blocks_key(store.model).encode()])) == 1


@pytest.mark.parametrize("n_buckets", [1, 2])
def test_what_others_left_is_removed_after_everything_is_published(store, n_buckets):
    theirs = started(store, 1, journal="theirs", n_buckets=3)
    names = [f"u{number}" for number in range(30)]
    theirs.publish(
        publication(9, names, ["m1", "m2"], histories={name: [1] for name in names}, blocks=[0, 1, 2], journal="theirs")
    )
    ours = store.publisher(replace=True, n_buckets=n_buckets)
    ours.take(2, JOURNAL, None)
    ours.publish(publication(1, ["u1", "new"], ["m1"], histories={"u1": [3]}, blocks=[0]))
    n_removed = sum(ours.remove_other_epochs())
    assert n_removed > 30
    expected = {user_key(store.model, name, n_buckets) for name in ("u1", "new")}
    expected |= {seen_key(store.model, "u1", n_buckets), item_key(store.model, "m1", n_buckets)}
    expected |= {block_key(store.model, 0, n_buckets), blocks_key(store.model), meta_key(store.model)}
    expected |= {fence_key(store.model, bucket) for bucket in range(n_buckets)}
    assert set(store.all()) == {key.encode() for key in expected}
    assert sum(ours.remove_other_epochs()) == 0
    assert ours.publish(publication(2, ["u1"]))
    assert store.publisher(n_buckets=n_buckets).take(3, JOURNAL, ours.sequence).intact


def test_what_a_restored_table_brought_back_is_removed_too(store):
    publisher = started(store)
    publisher.publish(publication(1, ["kept", "forgotten"], histories={"forgotten": [1]}))
    copy = store.all()
    publisher.publish(publication(2, removed_users=["forgotten"]))
    store.flush()
    store.set(copy)
    assert not publisher.publish(publication(3))
    publisher.publish(publication(3, ["kept"]))
    assert sum(publisher.remove_other_epochs()) == 2
    assert user(store, "forgotten") is None
    assert user(store, "kept").version == (1, 3)


def test_an_empty_model_leaves_nothing_of_the_one_it_replaces(store):
    started(store, 1, journal="theirs").publish(publication(9, ["u1"], ["m1"], blocks=[0, 1], journal="theirs"))
    ours = store.publisher(replace=True)
    ours.take(2, JOURNAL, None)
    assert sum(ours.remove_other_epochs()) == 0, "readers have nothing else yet"
    ours.publish(publication(0))
    assert sum(ours.remove_other_epochs()) == 5
    assert set(store.all()) == {meta_key(store.model).encode(), fence_key(store.model, 0).encode()}
    assert store.publisher().peek() == (2, JOURNAL)


def test_a_block_that_is_removed_is_announced_no_longer(store):
    publisher = started(store)
    publisher.publish(publication(1, blocks=[0, 1]))
    assert not store.publisher().take(2, JOURNAL, None).intact
    ours = started(store, 3)
    ours.publish(publication(2, blocks=[0]))
    assert sum(ours.remove_other_epochs()) == 1
    assert unpack_versions(store.all()[blocks_key(store.model).encode()]).tolist() == [(2, 3, 0)]


@pytest.mark.parametrize("n_buckets", [1, 3])
def test_many_keys_are_removed_a_bounded_number_a_step_beside_publications_and_crashes(store, n_buckets):
    theirs = started(store, 1, journal="theirs", n_buckets=n_buckets)
    theirs.publish(publication(9, [f"u{number}" for number in range(5_000)], journal="theirs"))
    ours = store.publisher(replace=True, n_buckets=n_buckets)
    ours.take(2, JOURNAL, None)
    ours.publish(publication(1, ["u1", "new"]))
    _, *left_early = zip(range(3), ours.remove_other_epochs(), strict=False)
    removed = [n_removed for _, n_removed in left_early]
    for step, n_removed in enumerate(ours.remove_other_epochs()):
        removed.append(n_removed)
        assert ours.publish(publication(2 + step, [f"u{step}", f"late{step}"]))
    assert max(removed) < 2_000
    names = {key.rpartition(b":")[2].decode() for key in store.all() if b":u:" in key}
    assert names == {"u1", "new", *(f"{name}{n}" for n in range(step + 1) for name in ("u", "late"))}


def test_a_table_that_loses_its_memory_while_keys_are_removed_is_published_anew(store):
    started(store, 1, journal="theirs").publish(publication(9, ["u1", "u2"], journal="theirs"))
    copy = store.all()
    ours = store.publisher(replace=True)
    ours.take(2, JOURNAL, None)
    ours.publish(publication(1, ["u1"]))
    removal = ours.remove_other_epochs()
    next(removal)
    store.set(copy)
    with pytest.raises(PublisherUnavailable, match="lost its memory"):
        list(removal)
    assert not ours.publish(publication(2))
    ours.publish(publication(3, ["u1"]))
    list(ours.remove_other_epochs())
    assert user(store, "u2") is None
    assert user(store, "u1").version == (2, 3)


def test_nothing_is_removed_when_the_table_was_found_as_left(store):
    first = started(store)
    first.publish(publication(1, ["u1", "u2"]))
    second = started(store, 2, left=first.sequence)
    assert sum(second.remove_other_epochs()) == 0
    second.publish(publication(2, ["u1"]))
    assert sum(second.remove_other_epochs()) == 0
    assert user(store, "u2").version == (1, 1)


def test_another_models_keys_are_left_alone(store):
    publisher = started(store)
    alike = f"fs:{{{store.model}.old}}:u:u1".encode()
    foreign = {user_key(f"{store.model}x", "u1").encode(): b"FSE1", b"fs:other": b"1", alike: b"1"}
    store.set(foreign)
    publisher.publish(publication(1, ["u1"]))
    assert sum(publisher.remove_other_epochs()) == 0
    assert user(store, "u1") is not None
    if isinstance(store, Twin):
        assert foreign.items() <= store.all().items()
    else:
        assert store.client.mget(list(foreign)) == list(foreign.values())
        store.client.delete(*foreign)


def test_a_publication_larger_than_a_transaction_arrives_whole(store):
    publisher = started(store)
    names = [f"user-{number}" for number in range(20_000)]
    began = publisher.sequence
    assert publisher.publish(publication(1, names, histories={"user-1": range(256)}))
    assert publisher.sequence > began + 1
    assert sum(b":u:" in key for key in store.all()) == 20_000


class Worker:
    """What a worker must remember to publish right: the rules of `Publisher`, and nothing else."""

    def __init__(self, store, n_buckets):
        self.store = store
        self.n_buckets = n_buckets
        self.epoch = 0
        self.checkpoint = (None, {}, {})
        self.start()

    def start(self):
        """Begin at the checkpoint, as after a crash."""
        sequence, model, pending = self.checkpoint
        self.epoch += 1
        self.publisher = self.store.publisher(n_buckets=self.n_buckets)
        intact = self.publisher.take(self.epoch, JOURNAL, sequence).intact
        self.model = dict(model)
        self.pending = dict(pending if intact else model)

    def save(self):
        self.checkpoint = (self.publisher.sequence, dict(self.model), dict(self.pending))

    def publish(self, position):
        try:
            self.pending = {} if self.publisher.publish(publication(position, self.pending)) else dict(self.model)
        except PublisherUnavailable:
            return


EVENTS = ["learn", "publish", "save", "crash", "flush", "copy", "restore", "cut off"]


@given(st.lists(st.sampled_from(EVENTS), max_size=20), st.sampled_from([1, 2]))
@settings(max_examples=200, deadline=None)
def test_a_worker_that_follows_the_rules_leaves_every_row_at_its_last_value(events, n_buckets):
    store = Twin()
    worker = Worker(store, n_buckets)
    copy = store.all()
    for position, event in enumerate(events):
        if event == "learn":
            name = f"u{position % 5}"
            worker.model[name] = worker.pending[name] = position
        elif event == "publish":
            worker.publish(position)
        elif event == "save":
            worker.save()
        elif event == "crash":
            store.table.available = True
            worker.start()
        elif event == "copy":
            copy = store.all()
        elif event == "cut off":
            store.table.available = not store.table.available
        else:
            store.flush()
            store.set(copy if event == "restore" else {})
    store.table.available = True
    worker.publish(98)
    worker.publish(99)
    assert {name: user(store, name, n_buckets).augmented[1] for name in worker.model} == worker.model


class SilentTable(MemoryTable):
    """Writes, and when told to, does not answer."""

    silent = False

    def write(self, *arguments):
        found = super().write(*arguments)
        if self.silent:
            raise PublisherUnavailable("no answer")
        return found


@pytest.mark.parametrize("n_buckets", [1, 3])
def test_a_write_without_an_answer_is_no_reason_to_publish_all(n_buckets):
    table = SilentTable()
    publisher = MemoryPublisher(table, n_buckets=n_buckets)
    table.silent = True
    with pytest.raises(PublisherUnavailable):
        publisher.take(1, JOURNAL, None)
    table.silent = False
    publisher.take(1, JOURNAL, None)
    publisher.publish(publication(1, ["u1"]))
    table.silent = True
    for position in (2, 3):
        with pytest.raises(PublisherUnavailable):
            publisher.publish(publication(position, ["u1"]))
    table.silent = False
    assert publisher.publish(publication(4, ["u1"]))


@pytest.mark.parametrize("n_buckets", [1, 3])
def test_a_crash_after_a_write_without_an_answer_is_a_reason_to_publish_all(n_buckets):
    table = SilentTable()
    publisher = MemoryPublisher(table, n_buckets=n_buckets)
    publisher.take(1, JOURNAL, None)
    publisher.publish(publication(1, ["u1"]))
    table.silent = True
    with pytest.raises(PublisherUnavailable):
        publisher.publish(publication(2, ["u1"]))
    table.silent = False
    assert not MemoryPublisher(table, n_buckets=n_buckets).take(2, JOURNAL, publisher.sequence).intact
