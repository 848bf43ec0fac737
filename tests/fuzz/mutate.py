"""One change to a document: a value, a key, a list or a whole part of it."""

from __future__ import annotations

from copy import deepcopy
from random import Random
from typing import Any

from tests.fuzz.values import COMMANDS, STRINGS, UNPRINTABLE, Raw, alike, near, odd

Place = tuple[Any, Any]
"""A mapping or list, and the key or index in it."""


def places(data: Any) -> list[Place]:
    """Every place of a document, in its order."""
    found: list[Place] = []
    for key, value in list(data.items()) if isinstance(data, dict) else list(enumerate(data)):
        found.append((data, key))
        if isinstance(value, dict | list):
            found += places(value)
    return found


class Words:
    """What documents of a kind say under each key: where changes take values and keys from that fit their place."""

    def __init__(self, documents: list[Any]) -> None:
        self.values: dict[str, list[Any]] = {}
        self.keys: dict[str, list[str]] = {}
        for document in documents:
            self._read(document, "")

    def _read(self, node: Any, above: str) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            name = key if isinstance(key, str) else above
            known = self.values.setdefault(name, [])
            if value not in known and len(known) < 40:
                known.append(value)
            if isinstance(key, str) and key not in self.keys.setdefault(above, []):
                self.keys[above].append(key)
            if isinstance(value, dict | list):
                self._read(value, name)


FREE = ("name", "title", "sources", "claim", "source", "message", "assumed", "path", "backbone", "label", "explanation")
"""Keys of texts that may say anything, and under which such texts stand."""


def mutated(rng: Random, data: Any, words: Words) -> Any:
    """The document after one change; it itself stays as it is."""
    data = deepcopy(data)
    found = places(data) if isinstance(data, dict | list) else []
    if not found:
        return odd(rng)
    action = rng.choice(ACTIONS)
    if action is _label:
        texts = [place for place in found if isinstance(_at(place), str) and place[1] in FREE]
        heads = [place for place in texts if place[1] in ("title", "name", "claim", "message", "label")]
        found = rng.choice((heads, heads, texts)) or found
    elif action in (_near, _alike, _odd, _known) and rng.randrange(8):
        found = [place for place in found if not isinstance(_at(place), dict | list)] or found
    action(rng, rng.choice(found), words)
    return data


def _at(place: Place) -> Any:
    node, key = place
    return node[key]


def _near(rng: Random, place: Place, words: Words) -> None:
    node, key = place
    node[key] = near(rng, node[key])


def _alike(rng: Random, place: Place, words: Words) -> None:
    node, key = place
    node[key] = alike(rng, node[key])


def _label(rng: Random, place: Place, words: Words) -> None:
    """A text that is printed somewhere."""
    node, key = place
    node[key] = rng.choice(rng.choice((COMMANDS, COMMANDS, UNPRINTABLE, STRINGS)))


def _odd(rng: Random, place: Place, words: Words) -> None:
    node, key = place
    node[key] = odd(rng)


def _known(rng: Random, place: Place, words: Words) -> None:
    """A value that another document has under this key."""
    node, key = place
    node[key] = deepcopy(rng.choice(words.values.get(str(key), [None])))


def _other(rng: Random, place: Place, words: Words) -> None:
    """A value that stands under another key."""
    node, key = place
    node[key] = deepcopy(rng.choice(words.values[rng.choice(list(words.values))]))


def _drop(rng: Random, place: Place, words: Words) -> None:
    node, key = place
    del node[key]


def _add(rng: Random, place: Place, words: Words) -> None:
    """A key that other documents have in this section, or one that none has."""
    node, key = place
    inside = node[key] if isinstance(node[key], dict) else node if isinstance(node, dict) else None
    if inside is None:
        node.insert(key, odd(rng))
        return
    above = str(key) if inside is not node else next((a for a, keys in words.keys.items() if key in keys), "")
    name = rng.choice([*words.keys.get(above, []), rng.choice(STRINGS)])
    inside[name] = deepcopy(rng.choice([*words.values.get(name, []), odd(rng)]))


def _rename(rng: Random, place: Place, words: Words) -> None:
    node, key = place
    if isinstance(node, dict):
        value = node.pop(key)
        node[
            rng.choice((f"{key}s", str(key).upper(), str(key)[1:], rng.choice(STRINGS), rng.choice(list(words.values))))
        ] = value
    else:
        node.append(deepcopy(node[key]))


def _swap(rng: Random, place: Place, words: Words) -> None:
    """Two values of one section change places."""
    node, key = place
    other = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
    node[key], node[other] = node[other], node[key]


def _splice(rng: Random, place: Place, words: Words) -> None:
    """A list cut, doubled, turned round or made long; any other value as a list or mapping of itself."""
    node, key = place
    value = node[key]
    if isinstance(value, list) and value:
        n = rng.randrange(len(value))
        node[key] = rng.choice((value[:n], value + value, value[::-1], [*value[:n], odd(rng), *value[n:]], value * 50))
    else:
        node[key] = rng.choice(([value], [value, value], {"x": value}, Raw("[]"), Raw("{}"), [[value]]))


ACTIONS = (
    *[_near] * 6,
    *[_alike] * 5,
    *[_label] * 4,
    *[_odd] * 2,
    *[_known] * 4,
    _other,
    *[_drop] * 2,
    *[_add] * 2,
    _rename,
    _swap,
    _splice,
)
"""More often what leaves a document that can be read further."""
