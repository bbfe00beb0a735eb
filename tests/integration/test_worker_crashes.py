"""The real worker on real services: killed at any moment, stopped, started again, and nothing is lost or learned twice."""

import random
import struct
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import redis

from factorstream.blocks import unpack_block
from factorstream.fence import unpack_fence
from factorstream.keys import block_key, fence_key, item_key, meta_key, user_key
from factorstream.meta import unpack_meta
from factorstream.worker.history import read
from factorstream.worker.local import generated
from tests.integration.real_worker import await_true, check_all, command, rate, rates

MOVIETWEETINGS = Path(__file__).parents[3] / "shared/data/movietweetings/ratings.dat.gz"
N_EVENTS = 60_000
N_KILLS = 10
RANK = 8


def replay():
    """Return events as they happened, with what real producers add: repetitions, late arrivals, changed minds, forgettings."""
    if MOVIETWEETINGS.exists():
        history = read(MOVIETWEETINGS, N_EVENTS)
        columns = (history.user_codes, history.item_codes, history.ratings, history.timestamps_ms)
    else:
        history = generated.ratings(N_EVENTS, 4_000, 2_000)
        columns = (history.users, history.items, history.ratings, history.timestamps_ms)
    events = [rate(*entry) for entry in zip(*(column.tolist() for column in columns), strict=True)]
    random_ = random.Random(5)
    for _ in range(N_EVENTS // 20):
        at = random_.randrange(N_EVENTS)
        event = events[at]
        if "item_id" in event:
            events.insert(min(len(events), at + random_.randrange(5_000)), random_.choices(AGAIN, WEIGHTS)[0](event))
    return events


AGAIN = [
    lambda event: event,
    lambda event: event | {"rating": 1.0},
    lambda event: event | {"rating": 2.0, "timestamp_ms": event["timestamp_ms"] + 60_000},
    lambda event: event | {"type": "unrate", "timestamp_ms": event["timestamp_ms"] + 30_000},
    lambda event: {"type": "forget_user", "user_id": event["user_id"], "timestamp_ms": event["timestamp_ms"]},
]
"""What may come of an event a while later."""
WEIGHTS = [10, 5, 5, 5, 1]


def send_steadily(place, events, seconds):
    """Publish *events* over about so many *seconds*."""
    began = time.monotonic()
    for start in range(0, len(events), 2_000):
        place.send(events[start : start + 2_000])
        time.sleep(max(0.0, began + seconds * start / len(events) - time.monotonic()))


class Watcher(threading.Thread):
    """A reader that never stops looking: whatever it sees must be whole, and nothing may go back."""

    def __init__(self, place, events):
        super().__init__(daemon=True)
        self.place = place
        ratings = [event for event in events if "rating" in event]
        self.n_rated = {"u": Counter(event["user_id"] for event in ratings), "i": Counter(event["item_id"] for event in ratings)}
        self.keys = [user_key(place.model, name) for name, _ in self.n_rated["u"].most_common(60)]
        self.keys += [item_key(place.model, name) for name, _ in self.n_rated["i"].most_common(60)]
        self.seen, self.wrong, self.n_looks, self.enough = {}, [], 0, False

    def run(self):
        special = [fence_key(self.place.model, 0), meta_key(self.place.model), block_key(self.place.model, 0)]
        with redis.Redis.from_url(self.place.redis_url) as client:
            while not self.enough:
                fence, meta, block, *rows = client.mget([*special, *self.keys])
                self.look_at_fence(fence)
                self.expect(meta is None or unpack_meta(meta), "meta")
                self.expect(block is None or np.isfinite(unpack_block(block).vectors).all(), "block")
                for key, value in zip(self.keys, rows, strict=True):
                    if value is not None:
                        self.look_at(key, value)
                self.n_looks += 1
                time.sleep(0.003)

    def expect(self, true, what):
        if not true:
            self.wrong.append(what)

    def look_at_fence(self, value):
        if value is not None:
            fence = unpack_fence(value)
            self.expect((fence.epoch, fence.sequence) >= self.seen.get("fence", (0, 0)), f"the fence went back to {fence}")
            self.seen["fence"] = (fence.epoch, fence.sequence)

    def look_at(self, key, value):
        self.expect(len(value) == 40 + 4 * (RANK + 2), f"{key}: {len(value)} bytes")
        magic, layout, dtype, flags, rank, n_ratings, position, _, epoch, zero = struct.unpack_from("<4sBBHIIQqII", value)
        self.expect((magic, layout, dtype, flags, rank, zero) == (b"FSE1", 1, 1, 0, RANK, 0), f"{key}: header {value[:40]!r}")
        self.expect(np.isfinite(np.frombuffer(value, "<f4", offset=40)).all(), f"{key}: numbers")
        side, _, name = key.partition("}:")[2].partition(":")
        self.expect(0 <= n_ratings <= self.n_rated[side][name], f"{key}: {n_ratings} ratings")
        version, before = (epoch, position), self.seen.get(key, ((0, 0), b""))
        self.expect(version >= before[0], f"{key}: from {before[0]} back to {version}")
        self.expect(version != before[0] or value == before[1], f"{key}: two values of version {version}")
        self.seen[key] = (version, value)


def test_killed_ten_times_every_rating_is_learned_exactly_once_and_readers_see_no_torn_value(make_place):
    place = make_place(n_partitions=4, settings={"model_calibrate": True})
    events, random_ = replay(), random.Random(11)
    watcher = Watcher(place, events)
    sender = threading.Thread(target=send_steadily, args=(place, events, 2.0 * N_KILLS))
    watcher.start()
    sender.start()
    for number in range(N_KILLS):
        worker = place.start(checkpoint_interval_s=0.5)
        worker.said("metrics and health" if number % 4 == 3 else "running")  # some are killed while they start
        time.sleep(random_.uniform(0.0, 2.0))
        worker.kill()
    sender.join()
    answer = place.run().settled()
    watcher.enough = True
    watcher.join()
    assert watcher.wrong == []
    assert watcher.n_looks > 100
    truth = check_all(place)
    assert answer["n_ratings"] == len(truth.held)
    assert max(epoch for (epoch, _), _ in (seen for key, seen in watcher.seen.items() if key != "fence")) > N_KILLS // 2
    verified = command("checkpoint", "verify", place.folder, "--json")
    assert verified.code == 0, verified.errors
    assert verified.answer["ok"]
    assert verified.answer["comparable"]
    assert verified.answer["max_difference"] == 0.0


def test_a_worker_told_to_stop_settles_and_the_next_one_publishes_only_what_is_new(place):
    place.send(rates(20, 15))
    worker = place.start(checkpoint_interval_s=60)
    worker.has_learned(300)
    answer = worker.stop().settled()
    assert (answer["n_accepted"], answer["n_ratings"], answer["n_pending"]) == (300, 300, 0)
    check_all(place)
    before = place.keys()
    worker = place.start(sweep_visits_per_rating=0)
    worker.said("running")
    await_true(lambda: worker.get("/health/ready")[0] == 200)
    time.sleep(0.3)
    writes = {name: value for name, value in worker.metrics().items() if "redis_writes_total" in name and value}
    assert writes == {}, "what Redis holds already is not written again"
    place.send([rate(3, 99)])
    worker.has_learned(1)
    answer = worker.stop().settled()
    assert (answer["n_records"], answer["n_ratings"]) == (1, 301)
    after = place.keys()
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"u:u3", "s:u3", "i:m99", "block:0", "blocks", "meta", "fence"}
    check_all(place)


def test_an_empty_topic_is_idle_too(place):
    began = time.monotonic()
    answer = place.run(until_idle=0.5).settled()
    assert time.monotonic() - began > 0.5
    assert (answer["n_records"], answer["n_ratings"], answer["rmse"]) == (0, 0, None)
    place.send(rates(2, 3))
    assert place.run().settled()["n_accepted"] == 6
    check_all(place)


def test_until_idle_waits_for_as_long_as_something_comes(place):
    worker = place._started([*place.arguments(), "--until-idle", "3"])
    worker.said("running")
    for user in range(4):
        place.send(rates(1, 5, first=user))
        time.sleep(0.8)
        assert worker.process.poll() is None
    answer = worker.ended().settled()
    assert answer["n_accepted"] == 20
    check_all(place)


def test_partitions_added_while_running_are_read(place):
    place.send(rates(5, 5))
    worker = place.start(kafka_timeout_s=2)
    worker.has_learned(25)
    place.log.add_partition()
    place.send(rates(20, 5, first=100))
    worker.has_learned(125)
    worker.stop().settled()
    check_all(place)
