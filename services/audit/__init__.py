"""The audit log: who did what to which record, when, and through which request.

I own: the schema ``audit``. Entries are added and read, never changed: my database role may not.
I publish: nothing.
I consume: every event of ``guardian.crm.events``, ``guardian.identity.events`` and ``guardian.ratelimit.events``; one
event is one entry, and what tells of no act (``usage.recorded``) is none.
Who may call me: the gateway, and health for my status.
"""
