"""What a record says, read by its shape; or why it cannot be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from trainers.shapes import Messages, PromptCompletion, Text

ROLES = ("system", "user", "assistant")


class UnusableError(Exception):
    """A record that cannot be trained on; the text is the reason, the same for all such records."""


Turn = dict[str, str]
"""One message of a conversation: its `role` and its `content`."""


class Pair(NamedTuple):
    """A prompt and its completion."""

    prompt: str
    completion: str


def text_of(values: Mapping[str, Any], shape: Text) -> str:
    """Return a record's text, which is empty where it has none."""
    value = values.get(shape.column)
    return "" if value is None else _a_string(value, shape.column)


def pair_of(values: Mapping[str, Any], shape: PromptCompletion) -> Pair:
    """Return a record's prompt and completion, neither of them blank."""
    further = [_a_string(values[column], column) for column in shape.further if values.get(column) is not None]
    prompt = "\n\n".join(text for text in (_filled(values, shape.prompt), *further) if text.strip())
    return Pair(prompt, _filled(values, shape.completion))


def turns_of(values: Mapping[str, Any], shape: Messages) -> list[Turn]:
    """Return a record's conversation, in which somebody asks and the assistant answers."""
    messages = values.get(shape.column)
    if not isinstance(messages, list) or not messages:
        raise UnusableError(f"has no list of messages in {shape.column!r}")
    turns = [_turn(message) for message in messages]
    answers = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not answers:
        raise UnusableError("has no message of the role 'assistant'")
    if answers[0] == 0:
        raise UnusableError("begins with a message of the role 'assistant', which answers nothing")
    return turns


def _turn(message: object) -> Turn:
    if not isinstance(message, dict) or "role" not in message:
        keys = ", ".join(map(repr, message)) if isinstance(message, dict) else type(message).__name__
        raise UnusableError(f"has a message without 'role' and 'content' (it has {keys})")
    role, content = message["role"], message.get("content")
    if role == "tool" or message.get("tool_calls"):  # a turn without its calls would teach to answer without them
        raise UnusableError("has tool_calls, which are not trained on in this version")
    if role not in ROLES:
        raise UnusableError(f"has a message of the role {role!r}; known are {', '.join(ROLES)}")
    if not isinstance(content, str) or (role == "assistant" and not content.strip()):
        raise UnusableError(f"has a message of the role {role!r} without text as its content")
    return {"role": role, "content": content}


def _filled(values: Mapping[str, Any], column: str) -> str:
    value = values.get(column)
    if value is None or value == "" or (isinstance(value, str) and value.isspace()):
        raise UnusableError(f"has nothing in {column!r}")
    return _a_string(value, column)


def _a_string(value: object, column: str) -> str:
    if not isinstance(value, str):
        raise UnusableError(f"has a {type(value).__name__} in {column!r}, where text is needed")
    return value
