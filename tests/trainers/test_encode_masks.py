"""What is trained on, exactly: the trained tokens of each shape, decoded."""

import pytest
from transformers import PreTrainedTokenizerBase

from ftactors.core.config import DatasetSourceConfig, FineTuningJobConfig, FineTuningTechniqueConfig
from ftactors.core.errors import UnsupportedModelError
from handlers import Record
from tests.tiny import make_tokenizer
from trainers.chat import prompt_text
from trainers.counts import Counts
from trainers.encoding import Encoding
from trainers.rows import Row
from trainers.shapes import Messages, PromptCompletion, Shape, Text

PAIR = PromptCompletion("prompt", "completion")
TURNS = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "what does the fox see ?"},
    {"role": "assistant", "content": "the owl"},
    {"role": "user", "content": "and hear ?"},
    {"role": "assistant", "content": "the bear"},
]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<end>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerBase:
    return make_tokenizer(chat_template=False)


@pytest.fixture
def chat(plain) -> PreTrainedTokenizerBase:
    return make_tokenizer(chat_template=True)


def encoded(tokenizer, shape: Shape, *values: dict, limit: int = 512, overflow=None) -> tuple[list[Row], Counts]:
    config = FineTuningJobConfig(
        job_name="a job",
        base_model_id="tiny",
        new_model_id="tuned",
        dataset_config=DatasetSourceConfig(source_type="file_path", path_or_id="rows.jsonl", overflow=overflow),
        fine_tuning_technique=FineTuningTechniqueConfig(method="full"),
        hyperparameters={"max_seq_length": limit},
    )
    counts = Counts("train")
    rows = (Record(row, f"rows.jsonl:{line}") for line, row in enumerate(values, start=1))
    return list(Encoding.of(config, tokenizer, shape).rows(rows, counts, lambda: None)), counts


def shown(tokenizer, row: Row) -> str:
    """The row's text, what is trained on in brackets."""
    text, was_trained = "", False
    for token, label in zip(row.input_ids, row.labels, strict=True):
        assert label in (-100, token)
        is_trained = label != -100
        text += (
            "]" * (was_trained and not is_trained) + "[" * (is_trained and not was_trained) + tokenizer.decode([token])
        )
        was_trained = is_trained
    return text + "]" * was_trained


def shown_only(tokenizer, shape: Shape, values: dict) -> str:
    (row,), _ = encoded(tokenizer, shape, values)
    return shown(tokenizer, row)


def reason(tokenizer, shape: Shape, values: dict) -> str:
    rows, counts = encoded(tokenizer, shape, values)
    assert rows == []
    (only,) = counts.dropped
    return only


def test_a_completion_and_its_end_are_trained_on_in_the_turns_of_the_chat_template(chat):
    text = shown_only(chat, PAIR, {"prompt": "what ?", "completion": "the owl"})

    assert text == "<|user|>\nwhat ?</s>\n<|assistant|>\n[the owl</s>]\n"


def test_without_a_chat_template_a_completion_follows_on_a_new_line(plain):
    assert shown_only(plain, PAIR, {"prompt": "what ?", "completion": "the owl"}) == "what ?\n[the owl</s>]"


def test_without_a_chat_template_a_prompt_that_ends_with_white_space_is_joined_as_it_is(plain):
    assert shown_only(plain, PAIR, {"prompt": "what ? ", "completion": "the owl"}) == "what ? [the owl</s>]"


def test_further_columns_follow_the_prompt_after_an_empty_line(plain):
    shape = PromptCompletion("instruction", "output", ("input",))

    with_input = {"instruction": "say it", "input": "the owl", "output": "owl"}
    assert shown_only(plain, shape, with_input) == "say it\n\nthe owl\n[owl</s>]"
    assert shown_only(plain, shape, {**with_input, "input": ""}) == "say it\n[owl</s>]"


def test_the_assistants_turns_are_trained_on_and_no_header(chat):
    assert shown_only(chat, Messages("messages"), {"messages": TURNS}) == (
        "<|system|>\nbe short</s>\n<|user|>\nwhat does the fox see ?</s>\n<|assistant|>\n[the owl</s>]\n"
        "<|user|>\nand hear ?</s>\n<|assistant|>\n[the bear</s>]\n"
    )


def test_without_a_chat_template_turns_are_written_plainly_with_no_new_token(plain):
    text = shown_only(plain, Messages("messages"), {"messages": TURNS})

    assert text == (
        "System: be short\nUser: what does the fox see ?\nAssistant:[ the owl</s>]\n"
        "User: and hear ?\nAssistant:[ the bear</s>]"
    )


def test_turns_after_the_last_answer_are_kept_and_not_trained_on(chat):
    text = shown_only(chat, Messages("messages"), {"messages": TURNS[1:4]})

    assert text.endswith("<|assistant|>\n[the owl</s>]\n<|user|>\nand hear ?</s>\n")


def test_an_end_that_the_template_writes_itself_is_trusted(chat):
    chat.chat_template = CHATML

    assert shown_only(chat, PAIR, {"prompt": "what ?", "completion": " the owl "}) == (
        "<|user|>what ?<end>\n<|assistant|>[the owl<end>]\n"
    )


def test_an_end_is_added_where_the_template_writes_none(chat):
    chat.chat_template = CHATML.replace("<end>", "")

    assert shown_only(chat, PAIR, {"prompt": "what ?", "completion": "the owl"}).endswith(
        "<|assistant|>[the owl\n</s>]"
    )


def test_letters_of_several_bytes_at_the_border_are_masked_whole(plain):
    text = {"prompt": "日本é", "completion": "éü日"}
    (row,), _ = encoded(plain, PAIR, text)
    masked = [token for token, label in zip(row.input_ids, row.labels, strict=True) if label == -100]
    trained = [label for label in row.labels if label != -100]

    assert (plain.decode(masked), plain.decode(trained)) == ("日本é\n", "éü日</s>")


def test_no_token_joins_what_is_asked_to_its_answer(plain, chat):
    assert len(plain.encode(" fox")) == 1 < len(plain.encode(" ")) + len(plain.encode("fox"))
    (row,), _ = encoded(plain, PAIR, {"prompt": "see ", "completion": "fox"})

    assert row.input_ids == [*plain.encode("see "), *plain.encode("fox"), plain.eos_token_id]
    assert shown(plain, row) == "see [fox</s>]"

    turns = [{**turn, "content": turn["content"].removeprefix("the ")} for turn in TURNS]
    chat.chat_template = chat.chat_template.replace("|>\n", "|> ")
    text = shown_only(chat, Messages("messages"), {"messages": turns})
    assert text.endswith("<|assistant|> [owl</s>]\n<|user|> and hear ?</s>\n<|assistant|> [bear</s>]\n")


def test_what_is_asked_is_the_row_up_to_its_answer(plain, chat):
    for tokenizer in (plain, chat):
        text = shown_only(tokenizer, PAIR, {"prompt": "what ?", "completion": "the owl"})
        assert text.startswith(f"{prompt_text(tokenizer, 'what ?')}[")


def test_text_is_trained_on_whole_but_for_the_first_token_that_nothing_predicts(plain):
    (row,), _ = encoded(plain, Text("text"), {"text": "the fox sees"})

    assert row.input_ids == [*plain.encode("the fox sees", add_special_tokens=False), plain.eos_token_id]
    assert row.labels == [-100, *row.input_ids[1:]]


def test_documents_are_joined_with_their_ends_and_cut_into_blocks(plain):
    documents = ["the fox sees the owl ." * number for number in (3, 1, 5)]
    rows, counts = encoded(plain, Text("text"), *({"text": text} for text in [*documents, " \n", None]), limit=16)
    tokens = [token for row in rows for token in row.input_ids]

    assert tokens == [token for text in documents for token in (*plain.encode(text), plain.eos_token_id)]
    assert {len(row.input_ids) for row in rows[:-1]} == {16}
    assert (counts.records, counts.blank, counts.dropped_records) == (5, 2, 0)


def test_a_last_block_of_one_token_is_no_row(plain):
    text = "the red fox sees the old owl . the bear hears the wolf"
    limit = len(plain.encode(text))  # the end is one more
    rows, _ = encoded(plain, Text("text"), {"text": text}, limit=limit)

    assert [row.input_ids for row in rows] == [plain.encode(text)]


def test_documents_stay_apart_where_dropping_is_asked_for(plain):
    rows, counts = encoded(
        plain,
        Text("text"),
        {"text": "the fox"},
        {"text": "the owl " * 20},
        {"text": "the bear"},
        limit=8,
        overflow="drop",
    )

    assert [shown(plain, row) for row in rows] == ["the[ fox</s>]", "the[ bear</s>]"]
    assert counts.dropped_records == 1


def test_a_tokenizer_that_begins_texts_begins_each_record_once(plain):
    begins = make_tokenizer(chat_template=False)
    begins.add_bos_token = True
    begins.update_post_processor()
    assert begins.encode("the")[0] == begins.bos_token_id

    assert shown_only(begins, PAIR, {"prompt": "what ?", "completion": "owl"}) == "<s>what ?\n[owl</s>]"
    assert shown_only(begins, Text("text"), {"text": "the fox"}) == "<s>[the fox</s>]"


def test_a_chat_template_that_begins_the_text_itself_is_not_begun_twice(plain):
    begins = make_tokenizer(chat_template=True)
    begins.add_bos_token = True
    begins.update_post_processor()
    begins.chat_template = "{{ bos_token }}" + begins.chat_template

    assert shown_only(begins, PAIR, {"prompt": "what ?", "completion": "owl"}).startswith("<s><|user|>")


def test_a_chat_template_that_rewrites_earlier_turns_is_refused_by_name(chat):
    chat.name_or_path = "forgetful"
    chat.chat_template = (
        "{% for message in messages %}{% if loop.last or message['role'] == 'user' %}"
        "{{ '<|' + message['role'] + '|>' + message['content'] }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )

    with pytest.raises(
        UnsupportedModelError, match="the chat template of forgetful rewrites earlier turns: with turn 3 of 5"
    ):
        encoded(chat, Messages("messages"), {"messages": TURNS})


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ("hello", "has no list of messages in 'messages'"),
        ([], "has no list of messages in 'messages'"),
        (["hello"], "has a message without 'role' and 'content' (it has str)"),
        ([{"from": "human", "value": "hi"}], "has a message without 'role' and 'content' (it has 'from', 'value')"),
        ([{"role": "narrator", "content": "x"}], "has a message of the role 'narrator'"),
        (
            [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "let me look", "tool_calls": [{"id": "1"}]},
            ],
            "has tool_calls, which are not trained on in this version",
        ),
        ([{"role": "tool", "content": "7"}], "has tool_calls, which are not trained on in this version"),
        ([{"role": "user", "content": None}], "has a message of the role 'user' without text as its content"),
        ([{"role": "user", "content": "hi"}], "has no message of the role 'assistant'"),
        ([{"role": "assistant", "content": "hi"}], "begins with a message of the role 'assistant'"),
    ],
)
def test_a_conversation_that_cannot_be_trained_on_is_dropped_with_its_reason(chat, messages, why):
    assert reason(chat, Messages("messages"), {"messages": messages}).startswith(why)


def test_a_conversation_that_the_template_refuses_is_dropped_with_its_words(chat):
    chat.chat_template = "{{ raise_exception('roles must alternate') }}"

    assert (
        reason(chat, PAIR, {"prompt": "a", "completion": "b"})
        == "is refused by the chat template: roles must alternate"
    )
