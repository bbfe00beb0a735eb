"""Addresses of brokers, as people write them."""

import pytest

from factorstream.worker.adapters.kafka_topics import brokers
from factorstream.worker.errors import UserMistake


def test_addresses_are_hosts_with_or_without_a_port():
    assert brokers("a:9092, b.example:1,c,[::1]:9092") == ["a:9092", "b.example:1", "c", "[::1]:9092"]


@pytest.mark.parametrize("wrong", ["", "a:9092,", "broker:nine", "broker:0", "broker:99999"])
def test_what_is_no_address_is_called_so(wrong):
    with pytest.raises(UserMistake, match=f"'{wrong}' is no address of Kafka brokers; write HOST:PORT"):
        brokers(wrong)
