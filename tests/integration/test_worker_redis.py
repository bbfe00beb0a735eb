"""The real worker, and a real Redis that dies, forgets or belongs to somebody else: readers get everything back."""

import pytest
import redis

from factorstream import NoUncertainty, Reader
from factorstream.fence import unpack_fence
from factorstream.keys import block_key, blocks_key, fence_key, item_key, meta_key, seen_key, user_key
from tests.integration.real_worker import PrivateRedis, await_true, check_all, rate, rates


def learned(worker, n_records):
    return lambda: worker.metrics()["factorstream_records_total"] >= n_records


def test_redis_may_die_while_the_worker_learns_and_gets_everything_when_it_is_back(make_place, private_redis):
    place = make_place(redis_url=private_redis.url)
    place.send(rates(10, 10))
    worker = place.start()
    worker.has_learned(100)
    private_redis.kill()
    place.send(rates(10, 10, first=10))
    await_true(learned(worker, 200))
    await_true(lambda: worker.get("/health/ready")[0] == 503)
    assert "Redis does not answer" in worker.get("/health/ready")[1]
    assert worker.get("/health/live")[0] == 200
    assert worker.metrics()["factorstream_publisher_up"] == 0
    assert worker.metrics()["factorstream_pending_rows"] > 0
    private_redis.start()
    await_true(lambda: worker.get("/health/ready")[0] == 200)
    worker.has_learned(200)
    ended = worker.stop()
    assert ended.settled()["n_accepted"] == 200
    assert [line["level"] for line in ended.logged("redis is away")] == ["warning"], "said once"
    assert len(ended.logged("redis is back")) == 1
    check_all(place)


def test_a_worker_stopped_while_redis_is_away_leaves_the_rest_to_the_next(make_place, private_redis):
    place = make_place(redis_url=private_redis.url)
    place.send(rates(10, 10))
    worker = place.start()
    worker.has_learned(100)
    private_redis.kill()
    place.send(rates(10, 10, first=5))
    await_true(learned(worker, 200))
    answer = worker.stop().settled()
    assert answer["n_accepted"] == 150
    assert answer["n_pending"] > 0
    private_redis.start()
    assert place.run().settled()["n_records"] == 0
    check_all(place)


@pytest.mark.parametrize("busy", [True, False], ids=["while it learns", "while it is idle"])
def test_a_redis_that_is_emptied_gets_every_row_again(make_place, private_redis, busy):
    place = make_place(redis_url=private_redis.url)
    place.send(rates(20, 10))
    worker = place.start()
    worker.has_learned(200)
    assert place.redis.exists(f"fs:{{{place.model}.0}}:u:u1")
    place.redis.flushall()
    if busy:
        place.send(rates(20, 10, first=20))
        worker.has_learned(400)
    await_true(lambda: place.redis.exists(f"fs:{{{place.model}.0}}:u:u1"))
    ended = worker.stop()
    ended.settled()
    assert ended.logged("redis lost its memory")
    check_all(place)


def test_a_redis_that_comes_late_is_waited_for(make_place, tmp_path):
    late = PrivateRedis(tmp_path / "late")
    place = make_place(redis_url=late.url)
    place.send(rates(2, 2))
    worker = place.start(redis_timeout_s=30)
    worker.said("waiting for redis")
    late.start()
    try:
        worker.has_learned(4)
        worker.stop().settled()
        check_all(place)
    finally:
        late.kill()


def test_another_journals_keys_are_refused_and_replaced_only_when_that_is_asked_for(make_place, tmp_path):
    first, second = make_place(), make_place()
    second.model = first.model
    first.send(rates(6, 5))
    first.run().settled()
    before = first.keys()
    second.send(rates(4, 4, first=4))
    second.run().refused(1, first.model, "journal", "redis.replace = true")
    assert first.keys() == before, "nothing was touched"
    ended = second.run(redis_replace=True)
    ended.settled()
    check_all(second)
    strangers = {"u:u0", "u:u1", "u:u2", "u:u3", "s:u0", "s:u1", "s:u2", "s:u3", "i:m4"}
    assert strangers <= before.keys()
    assert [line["n_removed"] for line in ended.logged("removed")] == [len(strangers)]


def test_a_second_worker_on_the_same_folder_is_turned_away(place):
    place.send(rates(4, 4))
    worker = place.start()
    worker.has_learned(16)
    place.run().refused(1, str(place.folder), f"process {worker.process.pid}", "model.name")
    place.send(rates(4, 4, first=4))
    worker.has_learned(32)
    worker.stop().settled()
    check_all(place)


def test_a_worker_whose_model_was_taken_over_writes_nothing_more_and_ends(make_place):
    zombie, heir = make_place(), make_place()
    heir.model, heir.log, heir.topic = zombie.model, zombie.log, zombie.topic
    zombie.send(rates(5, 5))
    old = zombie.start()
    old.has_learned(25)
    new = heir.start(redis_replace=True)
    new.said("running")
    zombie.send([rate(1, 77)])
    old.ended().refused(1, "another worker", "epoch", "model.name")
    new.has_learned(26)
    new.stop().settled()
    assert unpack_fence(heir.keys()["fence"]).epoch == 2
    check_all(heir)


def test_a_redis_that_is_full_is_like_one_that_is_away(make_place, private_redis):
    place = make_place(redis_url=private_redis.url)
    place.send(rates(10, 10))
    worker = place.start()
    worker.has_learned(100)
    with redis.Redis.from_url(private_redis.url) as client:
        client.config_set("maxmemory", 1)
    place.send(rates(10, 10, first=10))
    await_true(learned(worker, 200))
    await_true(lambda: worker.get("/health/ready")[0] == 503)
    with redis.Redis.from_url(private_redis.url) as client:
        client.config_set("maxmemory", 0)
    worker.has_learned(200)
    worker.stop().settled()
    check_all(place)


IDS = ["0111161", "111161", "ü", "a b", "a:b{c}*", "x" * 256, "😀" * 64, "\n", "\x7f", "-0", "1e5", '"', "\\", "'; --", "u:1"]


def test_ids_of_every_kind_are_found_by_readers_in_any_number_of_buckets(place):
    times = iter(range(1_600_000_000_000, 1_700_000_000_000))
    place.send(
        {"user_id": user, "item_id": item, "rating": len(user + item) % 5, "timestamp_ms": next(times)}
        for user in IDS
        for item in IDS
    )
    for n_buckets in (1, 3):
        assert place.run(redis_n_buckets=n_buckets).settled()["n_pending"] == 0
        found = {key.decode() for key in place.redis.scan_iter(f"fs:{{{place.model}.*", count=10_000)}
        wanted = {key(place.model, name, n_buckets) for name in IDS for key in (user_key, item_key, seen_key)}
        wanted |= {fence_key(place.model, bucket) for bucket in range(n_buckets)}
        assert found == wanted | {meta_key(place.model), blocks_key(place.model), block_key(place.model, 0, n_buckets)}
        with Reader(place.redis_url, place.model) as reader:
            assert [reader.user(name).n_ratings for name in IDS] == [len(IDS)] * len(IDS)
            assert [name for name, _ in reader.top_n("nobody", len(IDS))] != []
            assert reader.top_n("ü", 10) == [], "seen them all"
    check_all(place)


def test_readers_learn_how_sure_the_worker_is_until_the_setting_is_turned_off(place):
    place.send(rates(10, 10))
    place.settings["model_learner"] = "posterior"
    place.run(publish_uncertainty=True).settled()
    with Reader(place.redis_url, place.model) as reader:
        known, unknown = reader.predict_with_uncertainty("u1", ["m1", "?"])
        assert known.mean == reader.predict("u1", ["m1"])[0]
        assert 0 < known.deviation < unknown.deviation
        assert reader.user_uncertainty("u1").version == reader.user("u1").version
        place.run().settled()
        with pytest.raises(NoUncertainty):
            reader.predict_with_uncertainty("u1", ["m1"])
    left = place.keys()
    assert not [name for name in left if name.startswith(("vu:", "vi:"))]
