"""The tokenizer of a base model: where it is, and of which revision."""

import pytest

from ftactors.core.errors import UnsupportedModelError
from ftactors.core.events import ModelRef
from tests.tiny import make_tokenizer
from trainers.tokenizer import digest_of_tokenizer, leading_tokens, load_tokenizer, pinned

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_model_of_the_hub_is_pinned_to_the_commit_that_its_branch_names(hub_cache):
    repository = hub_cache / "models--someone--something"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "snapshots" / COMMIT / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    base = ModelRef(model_id="m", path="someone/something", source="hub")

    assert pinned(base) == base.model_copy(update={"revision": COMMIT})


def test_a_model_that_the_hub_cannot_give_is_refused_by_name(hub_cache):
    with pytest.raises(UnsupportedModelError, match=r"config\.json of 'someone/nothing' cannot be fetched"):
        pinned(ModelRef(model_id="m", path="someone/nothing", source="hub"))


def test_a_model_in_a_directory_has_no_revision(tmp_path):
    base = ModelRef(model_id="m", path=str(tmp_path), source="directory")

    assert pinned(base) is base


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)

    with pytest.raises(UnsupportedModelError, match=r"'m' .* has no end-of-sequence token"):
        load_tokenizer(ModelRef(model_id="m", path=str(tmp_path), source="directory"))


def test_leading_tokens_are_those_that_the_tokenizer_adds_itself():
    tokenizer = make_tokenizer()
    assert leading_tokens(tokenizer) == []

    tokenizer.add_bos_token = True
    tokenizer.update_post_processor()
    assert leading_tokens(tokenizer) == [tokenizer.bos_token_id]


def test_the_digest_follows_the_chat_template():
    assert digest_of_tokenizer(make_tokenizer()) == digest_of_tokenizer(make_tokenizer())
    assert digest_of_tokenizer(make_tokenizer()) != digest_of_tokenizer(make_tokenizer(chat_template=False))
