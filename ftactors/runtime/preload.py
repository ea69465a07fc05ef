"""What a template loads before it forks, and how it is known to be fit for forking.

bitsandbytes asks for the CUDA device while it is imported, which nothing may do before a fork; peft imports it where it
finds it. So it is hidden while the rest is loaded, and each child imports it for itself.
"""

from __future__ import annotations

import gc
import re
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

NEEDED = (
    "ftactors.runtime.process",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "peft",
    "peft.utils.transformers_weight_conversion",
    "trl.trainer.sft_trainer",
    "datasets",
    "torch.utils.serialization",
    "numpy.ctypeslib",
    "trainers.sft",
    "trainers.encode",
    "handlers.files",
    "handlers.hub",
)
"""The leaf modules: transformers, peft and trl load next to nothing when only their top is imported."""
BEYOND = ("functorch.compile", "torch._inductor.lowering")
"""What bitsandbytes spends its import on. A template without them is as good, and a second slower at each LoRA job."""
SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's allocator
}
"""The environment in which loading starts no thread. A child sets the number that its work may have."""
READ_AT_IMPORT = ("HF_", "TRANSFORMERS_", "TOKENIZERS_", "TORCH_", "ACCELERATE_", "PEFT_", "TRL_", "BNB_", "LD_")
"""How the names of variables begin that libraries read once: a child cannot have others than its template."""
_HIDDEN = "bitsandbytes"


def preload(modules: tuple[str, ...]) -> None:
    """Load modules, with bitsandbytes hidden from them until `reveal`.

    Raises:
        ImportError: one cannot be loaded.
    """
    hidden: dict[str, Any] = sys.modules
    hidden[_HIDDEN] = None  # nobody finds it, and nobody remembers that it is not there
    for module in modules:
        import_module(module)
    settle()


def preload_architecture(model_type: str | None) -> bool:
    """Load what a model of a type is made of; return whether something was loaded that was not there."""
    if model_type is None or re.fullmatch(r"[a-z0-9_]+", model_type) is None or "transformers" not in sys.modules:
        return False
    module = f"transformers.models.{model_type}.modeling_{model_type}"
    if module in sys.modules:
        return False
    with suppress(Exception):  # whatever ends the import of another's code: the child will meet it, and tell
        import_module(module)
    settle()
    return True


def settle() -> None:
    """Take all that is loaded out of the garbage collector's sight, so that children share its pages."""
    gc.collect()
    gc.freeze()


def unfitness() -> str | None:
    """Return why this process must not fork, None where it may."""
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    if len(threads) > 1:
        return f"it has {len(threads)} threads ({', '.join(sorted(threads))}), and a fork would stop all but one"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "it has initialized CUDA, which no fork can use"
    devices = [opened for opened in _open_files() if opened.startswith("/dev/nvidia")]
    if devices:
        return f"it has opened {', '.join(sorted(devices))}: CUDA's driver is loaded, which no fork can use"
    return None


def reveal() -> None:
    """Let bitsandbytes be found again, by those too who have asked and remember the answer."""
    if _HIDDEN in sys.modules and sys.modules[_HIDDEN] is None:
        del sys.modules[_HIDDEN]
    for module, names in (
        ("peft.import_utils", ("is_bnb_available", "is_bnb_4bit_available")),
        ("transformers.utils.import_utils", ("is_bitsandbytes_available",)),
    ):
        for name in names:
            asked: Any = getattr(sys.modules.get(module), name, None)
            if asked is not None:
                asked.cache_clear()


def _open_files() -> list[str]:
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(descriptor.readlink()))
    return found
