"""Records as one text each, with the parts of it that are trained on.

The parts are found by rendering prefixes of a conversation with its chat template: what an answer adds to the text that
the model was asked with (generation prompt included) is the answer, its end marker included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ftactors.core.errors import UnsupportedModelError
from trainers.readings import Pair, Turn, UnusableError

PLAIN_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ ('' if loop.first else '\n') + message['role'] | capitalize + ': ' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}"
    "{% endfor %}"
    "{{ '\nAssistant:' if add_generation_prompt else '' }}"
)
"""How conversations are written for a tokenizer without a chat template; it adds no token to the vocabulary:

    User: What does the fox see?
    Assistant: The owl.</s>
"""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text, and which of its characters are trained on."""

    text: str
    trained: tuple[tuple[int, int], ...] | None = None
    """From where to where, in order; None: all of it."""


def render_text(tokenizer: PreTrainedTokenizerBase, text: str) -> Rendered:
    """Return a document with its end, all of it trained on."""
    return Rendered(text + tokenizer.eos_token)


def render_pair(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> Rendered:
    """Return a prompt with its completion and the end, the prompt not trained on.

    With a chat template they are a turn of the user and one of the assistant. Without one, the completion follows the
    prompt on a new line, or directly where the prompt ends with white space.
    """
    if tokenizer.chat_template is not None:
        turns = [{"role": "user", "content": pair.prompt}, {"role": "assistant", "content": pair.completion}]
        return render_turns(tokenizer, turns)
    asked = prompt_text(tokenizer, pair.prompt)
    text = asked + pair.completion + tokenizer.eos_token
    return Rendered(text, ((len(asked), len(text)),))


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """Return what a model tuned on prompts and completions is asked with: all that comes before the completion."""
    if tokenizer.chat_template is not None:
        return _render(tokenizer, [{"role": "user", "content": prompt}], ask=True)
    return prompt if prompt[-1:].isspace() else f"{prompt}\n"


def render_turns(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> Rendered:
    """Return a conversation, the assistant's turns trained on.

    Raises:
        UnusableError: the chat template refuses the conversation.
        UnsupportedModelError: the chat template rewrites earlier turns, so that what was trained on is never asked.
    """
    text = _render(tokenizer, turns)
    trained = []
    for number, turn in enumerate(turns):
        if turn["role"] == "assistant":
            asked = _render(tokenizer, turns[:number], ask=True)
            answered = _render(tokenizer, turns[: number + 1])
            if not (answered.startswith(asked) and text.startswith(answered)):
                raise UnsupportedModelError(
                    f"the chat template of {tokenizer.name_or_path} rewrites earlier turns: with turn {number + 1} of"
                    f" {len(turns)}, what came before it, or what was asked, is written in another way",
                    hint="take a chat template that writes each turn once and leaves it as it is",
                )
            trained.append((len(asked), _end_of_answer(answered, turn)))
    return _ended(tokenizer, Rendered(text, tuple(trained)), turns[-1])


def _end_of_answer(answered: str, turn: Turn) -> int:
    """Return where an answer ends: after its end marker, for the model never writes the white space that follows it."""
    stripped = answered.rstrip()
    has_marker = not stripped.endswith(turn["content"].rstrip())
    return len(stripped) if has_marker else len(answered)


def _ended(tokenizer: PreTrainedTokenizerBase, rendered: Rendered, last: Turn) -> Rendered:
    """Return the conversation with an end where its template writes nothing after the last answer."""
    if last["role"] != "assistant" or not rendered.text.rstrip().endswith(last["content"].rstrip()):
        return rendered
    *before, (start, _) = rendered.trained or ()
    text = rendered.text + tokenizer.eos_token
    return Rendered(text, (*before, (start, len(text))))


def _render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, ask: bool = False) -> str:
    template = None if tokenizer.chat_template is not None else PLAIN_CHAT_TEMPLATE
    try:
        return str(
            tokenizer.apply_chat_template(
                list(turns), tokenize=False, add_generation_prompt=ask, chat_template=template
            )
        )
    except TemplateError as error:
        raise UnusableError(f"is refused by the chat template: {error.message}") from error
