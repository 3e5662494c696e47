"""Tokens that say who somebody is: JSON Web Tokens (RFC 7519), signed with a shared secret or with a key of a JWKS.

``verifier`` judges one; ``keys`` are what signs, of which ``jwks`` keeps a set that others may change; ``claims`` is
what a good one says; ``signing`` makes one for trying. Nothing here keeps, logs or repeats a token.
"""
