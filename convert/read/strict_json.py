"""JSON from untrusted files: an object of limited length and depth, in which no key comes twice."""

import json
from typing import Any

LONGEST_JSON = 1 << 21
LONGEST_VERSION = 50  # of Keras, as a file has it


def parse_json(text: str | bytes, name: str) -> dict[str, Any]:
    """Parses a JSON object. A ValueError tells of anything else, and of what is longer or deeper than Keras writes it."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key that comes twice")
        return dict(pairs)

    if len(text) > LONGEST_JSON:
        raise ValueError(f"{name}: longer than Keras writes it")
    try:
        found = json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ValueError(f"{name}: deeper than Keras writes it") from None
    except ValueError as error:
        raise ValueError(f"{name}: no JSON that Keras writes ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{name}: no JSON object")
    return found
