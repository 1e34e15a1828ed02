"""The only public door of the platform.

One fused ASGI pipeline: edge guard, route, authenticate, verify signature, take a quota, trace, forward,
headers. It owns no data: credentials are resolved by calling two functions of the identity service's
schema as ``svc_gateway``, and are kept in memory; limits are enforced and usage is written by functions of the
ratelimit service's schema. That role may do nothing else. It publishes and consumes no events; it hears of changed
credentials on the channel ``guardian_credentials``, of changed limits on ``guardian_limits``.
"""
