"""How the platform is doing, part by part, in words people can act on.

I own: nothing yet; I have no schema, because every service measures itself and I ask it.
I publish: nothing.
I consume: nothing.
Who may call me: the gateway. I call every service's ``/internal/status``.
"""
