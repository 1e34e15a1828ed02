"""A Redis for benches: what other limiters ask on every call. The platform itself needs none."""

from deploy.redis.server import REDIS, Redis

__all__ = ["REDIS", "Redis"]
