"""What is asked of a chat server, and what comes back: identities, reading, named rules.

An answer is kept as it came. What is wrong with it has a name:

    refusal, empty, unfinished, broken_json, wrong_schema      the model's doing: final
    html, not_chat, bad_request, picture_too_large, no_answer  the server's: no answer to keep, so
                                                               whoever asks next asks anew

A refusal by a content filter is the model's doing, whether it comes as an answer or as status 400.

Schemas are the part of JSON Schema that servers compile to grammars; other words are refused,
so that nothing is promised that is not checked here as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from launch.errors import ConfigError
from launch.manifest import canonical_json

MODEL_RULES: Final = ("refusal", "empty", "unfinished", "broken_json", "wrong_schema")
"""What a model, or the filter before it, may do wrong; it is not asked for again."""
SERVER_RULES: Final = ("html", "not_chat", "bad_request", "picture_too_large", "no_answer")
"""What a server may do wrong; nothing was paid for it, the server may be mended, and whoever needs
the answer still asks again."""
LOST_RULES: Final = ("html", "not_chat", "no_answer")
"""Those of them that say nothing about the question: what needs the answer waits until there is
one. The others would come again with the same question, and stand as a result."""


class Sampling(NamedTuple):
    """How a model chooses its words; None leaves it to the server."""

    temperature: float | None
    seed: int | None


@dataclass(frozen=True)
class Request:
    """One question."""

    key: str
    """Name of the item that is asked about, unique in one call."""

    instruction: str
    """What the model is told to do; the same for many items."""

    text: str = ""
    """What is particular to this item."""

    picture: bytes | None = None
    """PNG, JPEG, WebP or GIF file, sent as it is."""

    schema: dict[str, Any] | None = None
    """JSON schema of the answer, an object; None takes free text."""

    sampling: Sampling | None = None
    """Of this question alone; None is that of the server's settings."""


@dataclass(frozen=True)
class Answer:
    """What came of one question."""

    key: str
    """Of the request."""

    text: str
    """The model's words as they came, or what the server said where it has none."""

    value: dict[str, Any] | None = None
    """The words read under the schema; None without one, or where a rule is broken."""

    rule: str | None = None
    """Rule that the answer breaks; None is a good answer."""

    input_tokens: int = 0
    """Counted by the server; the most it may be, where the server counted none."""

    output_tokens: int = 0
    """The same for what was answered."""

    is_old: bool = False
    """True where the ledger had it and nobody was asked."""

    served_by: str | None = None
    """Model that the server says has answered, often with a version; None where it says nothing."""


class Identity(NamedTuple):
    """What makes two questions one: whoever has the answer to it never asks again."""

    model: str
    """Name of the model."""

    instruction: str
    """Digest of the instruction, the schema and the settings of sampling."""

    item: str
    """Digest of key, text and picture."""


def identity(
    request: Request, *, model: str, temperature: float | None, seed: int | None, max_tokens: int
) -> Identity:
    """Return the identity of a question to a model under settings of sampling."""
    told = [request.instruction, request.schema, temperature, seed, max_tokens]
    picture = None if request.picture is None else digest(request.picture)
    item = [request.key, request.text, picture]
    return Identity(model, digest(canonical_json(told)), digest(canonical_json(item)))


def digest(data: bytes) -> str:
    """Return 32 hexadecimal digits of some bytes."""
    return blake2b(data, digest_size=16, person=b"captionmix.asked").hexdigest()


class Body(NamedTuple):
    """What a server's successful reply holds."""

    text: str
    rule: str | None
    input_tokens: int | None
    output_tokens: int | None
    model: str | None = None


def read_body(raw: str) -> Body:
    """Read the reply of a chat server, without trust."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        is_page = raw.lstrip()[:1] == "<"
        return Body(raw, "html" if is_page else "not_chat", None, None)
    try:
        choice = body["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return Body(raw, "not_chat", None, None)
    if isinstance(content, list):  # parts, as some servers send them
        content = "".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
    text = whole_letters(content) if isinstance(content, str) else ""
    rule = None
    if refusal or finish == "content_filter":
        text, rule = text or str(refusal or ""), "refusal"
    elif finish == "length":
        rule = "unfinished"
    elif not text.strip():
        rule = "empty"
    usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
    counts = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    model = body.get("model")
    return Body(text, rule, *counts, model[:200] if isinstance(model, str) else None)


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    found = usage.get(name)
    return found if isinstance(found, int) and found >= 0 else None


def whole_letters(text: str) -> str:
    """Replace halves of letters, which a server may send and no file can hold, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_objects(text: str) -> Iterator[dict[str, Any]]:
    """Give the JSON objects in a text: alone, fenced, or among other words."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            found, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place = text.find("{", place + 1)
            continue
        yield _whole(found)
        place = text.find("{", end)


def _whole(value: Any) -> Any:
    """Return a value with whole letters in all its texts: JSON may escape half of one."""
    if isinstance(value, dict):
        return {whole_letters(key): _whole(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_whole(below) for below in value]
    return whole_letters(value) if isinstance(value, str) else value


def judged(key: str, body: Body, *, schema: Mapping[str, Any] | None) -> tuple[Any, str | None]:
    """Return the value of an answer and the rule that it breaks."""
    if body.rule is not None or schema is None:
        return None, body.rule
    rule = "broken_json"
    # Without its form it is a refusal in words or broken: the gates know words, this does not. A
    # model that thinks aloud may write braces before its answer.
    for value in read_objects(body.text):
        if fits(value, schema):
            return value, None
        rule = "wrong_schema"
    return None, rule


_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_KNOWN: Final = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "enum", "minimum"}
    | {"maximum", "minItems", "maxItems", "minLength", "maxLength", "anyOf", "title", "description"}
)


def refuse_schema(schema: Mapping[str, Any], *, where: str = "schema") -> None:
    """Refuse a schema with words that are not checked here.

    Raises:
        ConfigError: It names the word and its place.
    """
    for word in schema:
        if word not in _KNOWN:
            raise ConfigError(
                f"{where}: {word!r} is not checked here; expected some of "
                f"{', '.join(sorted(_KNOWN))}"
            )
    for name, below in schema.get("properties", {}).items():
        refuse_schema(below, where=f"{where}.{name}")
    for below in [schema[w] for w in ("items",) if w in schema] + list(schema.get("anyOf", [])):
        refuse_schema(below, where=f"{where}[]")


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Say whether a value is what a schema asks for."""
    if "anyOf" in schema and not any(fits(value, below) for below in schema["anyOf"]):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    wanted = schema.get("type")
    names = [wanted] if isinstance(wanted, str) else wanted
    if names is not None and not any(_is(value, name) for name in names):
        return False
    if isinstance(value, dict):
        known = schema.get("properties", {})
        if not value.keys() >= set(schema.get("required", [])):
            return False
        if schema.get("additionalProperties") is False and not value.keys() <= known.keys():
            return False
        return all(fits(value[name], below) for name, below in known.items() if name in value)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return False
        return all(fits(entry, schema.get("items", {})) for entry in value)
    if isinstance(value, str):
        return schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return True


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):  # which Python counts among the whole numbers
        return name == "boolean"
    return isinstance(value, _TYPES.get(name, ()))
