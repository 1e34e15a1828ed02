"""Limits and quotas: how much an organisation may call the platform, how much it does, and what another limit would do.

I own: the schema ``ratelimit``: plans and policies, their exceptions and history, the counters that limits are decided
by, and usage. Whoever meters calls my functions in the database (``check_rate_limit``, ``hold_slots``,
``resolve_limits``) through ``shared.limits``, and reads no table.
I publish: ``guardian.ratelimit.events`` (``limit_policy.updated``, ``limit_override.created``, …; see ``events.py``).
I consume: nothing.
Who may call me: the gateway, and health for my status.
"""
