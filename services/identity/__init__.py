"""Identity: organisations, users, memberships and roles, sessions, invitations, API keys.

I own: the schema ``identity``. Its tables are *global*: they are asked before the organisation is known,
so they have no row-level security and every statement here carries the organisation itself. Secrets are
stored as hashes only (argon2id for passwords, SHA-256 for tokens and keys); mails wait encrypted.
I publish: ``guardian.identity.events`` (``organization.created``, ``user.signed_in``, ``api_key.revoked``,
…; see ``events.py``).
I consume: nothing.
Who may call me: the gateway, and health to ask whether I am ready. The gateway also resolves credentials
by two SQL functions of my schema, as a role that may do nothing else.
"""
