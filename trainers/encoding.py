"""From records to rows: rendered, tokenized, masked, and made to fit, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from ftactors.core.config import FineTuningJobConfig
from trainers.chat import Rendered, render_pair, render_text, render_turns
from trainers.counts import Counts
from trainers.readings import UnusableError, pair_of, text_of, turns_of
from trainers.rows import Blocks, Overflow, Row, fit, tokenize
from trainers.shapes import Messages, PromptCompletion, Shape, Text
from trainers.tokenizer import leading_tokens

if TYPE_CHECKING:
    from handlers import Record

_DEFAULT_MAX_SEQ_LENGTH = 1024
_RECORDS_AT_ONCE = 1000
_CHARACTERS_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Encoding:
    """How records become rows."""

    tokenizer: PreTrainedTokenizerBase
    shape: Shape
    limit: int
    overflow: Overflow
    leading: tuple[int, ...]
    """Tokens before each record; a chat template writes its own."""

    @classmethod
    def of(cls, config: FineTuningJobConfig, tokenizer: PreTrainedTokenizerBase, shape: Shape) -> Encoding:
        """Return the encoding that a job asks for."""
        is_text = isinstance(shape, Text)
        return cls(
            tokenizer=tokenizer,
            shape=shape,
            limit=config.hyperparameters.max_seq_length or _DEFAULT_MAX_SEQ_LENGTH,
            overflow=config.dataset_config.overflow or ("split" if is_text else "drop"),
            leading=tuple(leading_tokens(tokenizer)) if is_text or tokenizer.chat_template is None else (),
        )

    def rows(self, records: Iterable[Record], counts: Counts, after_batch: Callable[[], None]) -> Iterator[Row]:
        """Yield the rows that a split's records become, and count what does not become one."""
        blocks = Blocks(self.limit) if isinstance(self.shape, Text) and self.overflow == "split" else None
        for batch in self._batches(records, counts):
            rows = tokenize(self.tokenizer, [rendered for _, rendered in batch], self.leading)
            for (record, _), row in zip(batch, rows, strict=True):
                yield from self._fitting(record, row, counts) if blocks is None else blocks.add(row)
            after_batch()
        if blocks is not None:
            yield from blocks.rest()

    def _fitting(self, record: Record, row: Row, counts: Counts) -> list[Row]:
        try:
            fitting = fit(row, self.limit, self.overflow)
        except UnusableError as error:
            counts.drop(record.where, str(error))
            return []
        counts.truncated += self.overflow == "truncate" and len(row.input_ids) > self.limit
        return fitting

    def _batches(self, records: Iterable[Record], counts: Counts) -> Iterator[list[tuple[Record, Rendered]]]:
        """Yield the usable records with their texts, as many at once as fit well into memory."""
        batch: list[tuple[Record, Rendered]] = []
        taken = characters = 0
        for record in records:
            counts.records += 1
            taken += 1
            rendered = self._rendered(record, counts)
            if rendered is not None:
                batch.append((record, rendered))
                characters += len(rendered.text)
            if taken == _RECORDS_AT_ONCE or characters >= _CHARACTERS_AT_ONCE:
                yield batch
                batch, taken, characters = [], 0, 0
        yield batch

    def _rendered(self, record: Record, counts: Counts) -> Rendered | None:
        """Return a record as a text, or None where it has none that can be trained on."""
        try:
            match self.shape:
                case Text():
                    text = text_of(record.values, self.shape)
                    if text.strip():
                        return render_text(self.tokenizer, text)
                    counts.blank += 1
                case PromptCompletion():
                    return render_pair(self.tokenizer, pair_of(record.values, self.shape))
                case Messages():
                    return render_turns(self.tokenizer, turns_of(record.values, self.shape))
        except UnusableError as error:
            counts.drop(record.where, str(error))
        return None
