"""Why a signature is refused, in words: which component, what was expected, and which mistake explains it.

Pure rules, without I/O. ``explain`` asks the gateway's own rules (``shared.signing``) for the verdict, and works out by
itself what a person needs to know to mend it: ``rfc9421`` for v1, ``older`` for v0.
"""
