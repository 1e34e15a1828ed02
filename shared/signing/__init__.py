"""Signatures of requests and answers: what is signed, and how it is checked. Pure rules, without I/O.

``v1`` is a profile of RFC 9421 (HTTP Message Signatures) with digests of RFC 9530; ``v0`` an older scheme that is kept for
those who use it. ``answers`` is the profile for answers. Why, and what neither does, is in docs/adr/0020.
"""
