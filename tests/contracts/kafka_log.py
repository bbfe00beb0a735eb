"""A topic in a real Kafka, handled as a `MemoryLog` is, so that one suite runs on both."""

import time
import uuid

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic
from kafka.errors import RetriableError

from factorstream.worker.adapters.kafka_source import KafkaSource


class KafkaLog:
    """A topic of its own for one test."""

    def __init__(self, address, n_partitions=1, *, compacted=False, topic=None):
        self.address = address
        self.topic = topic or f"test-{uuid.uuid4()}"
        self.group_id = f"group-{self.topic}"
        self.policy = "compact" if compacted else "delete"
        self.admin = KafkaAdminClient(bootstrap_servers=address)
        self.producer = KafkaProducer(bootstrap_servers=address, acks="all", linger_ms=2)
        self.create(n_partitions)

    def create(self, n_partitions):
        new = NewTopic(self.topic, n_partitions, 1, topic_configs={"cleanup.policy": self.policy})
        self.admin.create_topics([new], wait_for_metadata=True)

    def delete(self):
        self.admin.delete_topics([self.topic])
        while self.topic in self.admin.list_topics():
            time.sleep(0.05)

    def add_partition(self):
        n_partitions = len(self.admin.describe_topics([self.topic])[0]["partitions"])
        self.admin.create_partitions({self.topic: NewPartitions(n_partitions + 1)})
        while len(self.admin.describe_topics([self.topic])[0]["partitions"]) == n_partitions:
            time.sleep(0.05)

    def append(self, partition, value, timestamp_ms=None, content_type=None):
        return self.append_all(partition, [(value, timestamp_ms, content_type)])[0]

    def append_all(self, partition, records):
        """Send many at once; return their offsets."""
        futures = [
            self.producer.send(
                self.topic,
                key=b"key",
                value=value,
                partition=partition,
                timestamp_ms=timestamp_ms,
                headers=[("content-type", content_type.encode())] if content_type else None,
            )
            for value, timestamp_ms, content_type in records
        ]
        self.producer.flush()
        return [future.get(10).offset for future in futures]

    def delete_before(self, partition, offset):
        self.admin.delete_records({TopicPartition(self.topic, partition): offset})

    @property
    def committed(self):
        """What lag tools see: offsets of this log's group; nothing while a new broker makes their topic."""
        try:
            found = self.admin.list_group_offsets([self.group_id])[self.group_id]
        except RetriableError:
            return {}
        return {tp.partition: at.offset for tp, at in found.items()}

    def limit(self, topic, max_message_bytes):
        """Have the broker refuse larger batches of records in *topic*."""
        settings = {"max.message.bytes": str(max_message_bytes)}
        self.admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])

    def records(self, topic):
        """Return all records that *topic* holds now."""
        reader = KafkaConsumer(bootstrap_servers=self.address, auto_offset_reset="earliest", enable_auto_commit=False)
        partitions = [TopicPartition(topic, number) for number in reader.partitions_for_topic(topic)]
        reader.assign(partitions)
        ends = reader.end_offsets(partitions)
        found = []
        while any(reader.position(partition) < end for partition, end in ends.items()):
            found += [record for records in reader.poll(200).values() for record in records]
        reader.close()
        return found

    def source(self, **settings):
        settings = {"group_id": self.group_id, "timeout_s": 10.0, **settings}
        return KafkaSource(self.address, self.topic, **settings)

    def close(self):
        self.producer.close()
        self.admin.close()
