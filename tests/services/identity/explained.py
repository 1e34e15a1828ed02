"""What is told about a request made by hand."""

import dataclasses

from services.identity.signatures.domain.explain import Policy, explain
from services.identity.signatures.domain.explanation import Explanation, Keys
from services.identity.signatures.domain.request import request_of, target_of
from shared.signing.keys import SharedSecret
from tests.services.identity.handmade import API_KEY_ID, KEY_ID, NOW, SECRET, Handmade

KEYS = Keys(API_KEY_ID, [SharedSecret(KEY_ID, SECRET.encode())])
RIGHT = "The signature itself is right"
"""Of a signature that holds where something else is wrong."""


def told(request: Handmade, keys: Keys = KEYS, at: float = NOW, policy: Policy = "v1") -> Explanation:
    """What is said of it; never the secret, nor a signature."""
    sent = request_of(request.method, target_of(request.url), request.fields(), request.content)
    found = explain(sent, policy, keys, at)
    everything = repr(dataclasses.asdict(found))
    assert SECRET not in everything
    assert SECRET[5:] not in everything
    assert (found.code is None) == found.valid
    assert found.detail
    return found


def one_hint(found: Explanation) -> str:
    (hint,) = found.hints
    return hint


def problems(found: Explanation) -> dict[str, str]:
    """What is wrong with components and parameters, by name."""
    components = {each.name: each.problem for each in found.components if each.problem}
    return components | {each.name: each.problem for each in found.parameters if each.problem}
