"""Names of the keys in Redis, and which bucket an id lives in.

``{MODEL.B}`` is a Redis Cluster hash tag: all keys of one bucket are on one node.
"""

from __future__ import annotations

import re
import zlib

from factorstream.errors import InvalidModelName

_MODEL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_model_name(model: str) -> str:
    """Return *model*. Raises `InvalidModelName` unless it matches ``[A-Za-z0-9_-]{1,64}``."""
    if not _MODEL_NAME.fullmatch(model):
        raise InvalidModelName(f"model name {model!r} cannot be part of a key: use 1 to 64 letters, digits, '_' and '-'")
    return model


def bucket_of(key_id: str, n_buckets: int) -> int:
    """Return the bucket of a user or item: zlib's CRC-32 of its UTF-8, modulo *n_buckets*."""
    return zlib.crc32(key_id.encode()) % n_buckets if n_buckets > 1 else 0


def user_prefix(model: str, bucket: int) -> str:
    """Return what stands before a user's id in its key."""
    return f"fs:{{{model}.{bucket}}}:u:"


def item_prefix(model: str, bucket: int) -> str:
    """Return what stands before an item's id in its key."""
    return f"fs:{{{model}.{bucket}}}:i:"


def seen_prefix(model: str, bucket: int) -> str:
    """Return what stands before a user's id in the key of that user's seen items."""
    return f"fs:{{{model}.{bucket}}}:s:"


def user_uncertainty_prefix(model: str, bucket: int) -> str:
    """Return what stands before a user's id in the key of that user's uncertainty."""
    return f"fs:{{{model}.{bucket}}}:vu:"


def item_uncertainty_prefix(model: str, bucket: int) -> str:
    """Return what stands before an item's id in the key of that item's uncertainty."""
    return f"fs:{{{model}.{bucket}}}:vi:"


def user_key(model: str, user_id: str, n_buckets: int = 1) -> str:
    """Return the key of a user's embedding."""
    return user_prefix(model, bucket_of(user_id, n_buckets)) + user_id


def item_key(model: str, item_id: str, n_buckets: int = 1) -> str:
    """Return the key of an item's embedding."""
    return item_prefix(model, bucket_of(item_id, n_buckets)) + item_id


def seen_key(model: str, user_id: str, n_buckets: int = 1) -> str:
    """Return the key of a user's seen items."""
    return seen_prefix(model, bucket_of(user_id, n_buckets)) + user_id


def user_uncertainty_key(model: str, user_id: str, n_buckets: int = 1) -> str:
    """Return the key of a user's uncertainty."""
    return user_uncertainty_prefix(model, bucket_of(user_id, n_buckets)) + user_id


def item_uncertainty_key(model: str, item_id: str, n_buckets: int = 1) -> str:
    """Return the key of an item's uncertainty."""
    return item_uncertainty_prefix(model, bucket_of(item_id, n_buckets)) + item_id


def block_key(model: str, number: int, n_buckets: int = 1) -> str:
    """Return the key of a block of items."""
    return f"fs:{{{model}.{number % n_buckets}}}:block:{number}"


def blocks_key(model: str) -> str:
    """Return the key of all block versions."""
    return f"fs:{{{model}.0}}:blocks"


def meta_key(model: str) -> str:
    """Return the key of the model's description."""
    return f"fs:{{{model}.0}}:meta"


def fence_key(model: str, bucket: int) -> str:
    """Return the key of a bucket's fence."""
    return f"fs:{{{model}.{bucket}}}:fence"
