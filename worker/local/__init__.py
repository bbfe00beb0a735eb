"""A laptop's Kafka and Redis, and demonstration data; no part of a worker in production."""
