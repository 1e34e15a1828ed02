"""A Redis for benches: what other limiters ask on every call. The platform itself needs none."""

from deploy.redis.packages import RedisError
from deploy.redis.server import Redis

__all__ = ["Redis", "RedisError"]
