"""What an entry of the audit log is found by, and what a search asks for: pure rules.

An id is one word, without its dashes: PostgreSQL would take one with dashes apart into half a dozen, which
is what most of the full-text index, and of the work of recording, would then be about.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

LONGEST_TEXT = 100_000
"""Characters of an entry that can be searched; PostgreSQL takes no more than 1 MB of distinct words."""

_ID_BEGUN = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{0,12}){1,4}", re.IGNORECASE)


def words_of(entry: Mapping[str, Any]) -> str:
    """The text an entry is found by: its action, its ids, the texts and numbers of its payload."""
    action: str = entry["action"]
    found = [action, action.replace(".", " ").replace("_", " "), entry["target_id"].hex]
    _gather((entry["actor_id"], entry["request_id"], entry["trace_id"], entry["changes"], entry["data"]), found)
    # PostgreSQL's parser would take what stands behind '<' for markup, across values.
    return " ".join(found).replace("<", " ")[:LONGEST_TEXT]


def prefix_query(text: str) -> str:
    """A tsquery in which every word must begin a word of the entry (``simple`` configuration)."""
    return " & ".join(_prefix(word) for word in text.split())


def _prefix(word: str) -> str:
    quoted = "'" + word.replace("'", "''").replace("\\", "\\\\") + "':*"
    if _ID_BEGUN.fullmatch(word):
        # Entries of the first releases hold ids as PostgreSQL takes them apart.
        return f"('{word.replace('-', '')}':* | {quoted})"
    return quoted


def _gather(values: Iterable[Any], found: list[str]) -> None:
    for value in values:
        if isinstance(value, str):
            # Told by where the punctuation is: this is done for every text of every event.
            if len(value) == 36 and value[8:24:5] == "----":
                found.append(value.replace("-", ""))
            elif value[10:17:3] != "T::":  # a moment is not searched for as a word
                found.append(value)
        elif isinstance(value, dict):
            _gather(value.values(), found)
        elif isinstance(value, list):
            _gather(value, found)
        elif value is not None and value is not True and value is not False:
            found.append(str(value))
