"""Training loops, and what they share: encoding, evaluation, publishing."""

from collections.abc import Mapping

from trainers.base import BaseTrainer

TRAINERS: Mapping[str, str] = dict.fromkeys(("full", "lora", "qlora"), "trainers.sft:SftTrainer")
"""The import path of each method's trainer; read without loading torch."""

__all__ = ["TRAINERS", "BaseTrainer"]
