"""Forgetting a user in a real worker: gone from Redis, nowhere on the disk, and not brought back by what arrives late."""

import numpy as np

from factorstream.worker.model.journal import ratings_of
from tests.integration.real_worker import await_true, command, rate, rates

ALICE = "alice-who-wants-to-be-forgotten"
T0 = 1_600_000_000_000


def alice(item, timestamp_ms=T0):
    return {"user_id": ALICE, "item_id": f"m{item}", "rating": 5.0, "timestamp_ms": timestamp_ms}


def forget(timestamp_ms):
    return {"type": "forget_user", "user_id": ALICE, "timestamp_ms": timestamp_ms}


def held_by_alice(place):
    """Return her ratings in the newest checkpoint, by item; None when she is nobody."""
    checkpoint = place.checkpoint()
    if ALICE not in checkpoint.names["users"]:
        return None
    facts = checkpoint.facts
    entries = ratings_of(checkpoint.base, checkpoint.journal, facts.n_users, facts.n_items).entries()
    mine = (entries[0] == checkpoint.names["users"].index(ALICE)) & ~np.isnan(entries[2])
    return {checkpoint.names["items"][item] for item in entries[1][mine]}


def files_that_name_alice(place):
    return [path.name for path in place.folder.rglob("*") if path.is_file() and ALICE.encode() in path.read_bytes()]


def keys_that_name_alice(place):
    found = [key for key in place.redis.scan_iter(f"fs:{{{place.model}.*", count=10_000) if ALICE.encode() in key]
    return found + [name for name, value in place.keys().items() if ALICE.encode() in value]


def test_a_forgotten_user_is_gone_from_redis_at_once_and_from_the_disk_with_the_next_checkpoints(make_place):
    place = make_place(settings={"checkpoint_keep": 2})
    place.send([*rates(10, 8), *(alice(item) for item in range(6))])
    worker = place.start()
    worker.has_learned(86)
    assert keys_that_name_alice(place)
    worker.stop().settled()
    assert files_that_name_alice(place)
    worker = place.start()
    place.send([forget(T0 + 10_000)])
    worker.has_learned(1)
    await_true(lambda: not keys_that_name_alice(place))
    for number in range(2):  # as many new checkpoints as are kept
        before = worker.metrics()["factorstream_checkpoint_position"]
        place.send([rate(1, 50 + number)])
        await_true(lambda before=before: worker.metrics()["factorstream_checkpoint_position"] > before)
    worker.kill()
    assert files_that_name_alice(place) == []
    late = [alice(6, T0 + 9_999), alice(7, T0 + 10_000)]  # from before she asked
    place.send([*late, alice(8, T0 + 10_001), *late])  # she came back
    assert place.run().settled()["n_accepted"] == 1
    assert keys_that_name_alice(place)
    place.send(late)
    assert place.run().settled()["n_accepted"] == 0
    assert held_by_alice(place) == {"m8"}
    assert command("checkpoint", "verify", place.folder).code == 0


def test_a_user_forgotten_while_redis_takes_no_writes_is_deleted_by_the_worker_that_starts_after(make_place, private_redis):
    place = make_place(redis_url=private_redis.url)
    place.send([*rates(5, 5), *(alice(item) for item in range(3))])
    worker = place.start()
    worker.has_learned(28)
    place.redis.config_set("maxmemory", 1)
    place.send([forget(T0 + 10_000)])
    await_true(lambda: worker.metrics()["factorstream_records_total"] == 29)
    worker.stop().settled()
    assert keys_that_name_alice(place)
    place.redis.config_set("maxmemory", 0)
    assert place.run().settled()["n_records"] == 0
    assert keys_that_name_alice(place) == []
