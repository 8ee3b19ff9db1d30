"""A real model with two small layers and random weights, for tests of what is done with models."""

from __future__ import annotations

from pathlib import Path

WORDS = [
    "a",
    "the",
    "man",
    "woman",
    "dog",
    "cat",
    "bird",
    "plays",
    "sings",
    "runs",
    "sleeps",
    "eats",
    "jumps",
    "guitar",
    "piano",
    "song",
    "street",
    "garden",
    "house",
    "red",
    "blue",
    "small",
    "big",
    "fast",
    "slow",
    "old",
    "young",
]


def tiny_encoder(folder: Path, seed: int = 0) -> Path:
    """A SentenceTransformer of 2 layers x 32 with mean pooling over a vocabulary of `WORDS`."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    from retrieval.encoder import quiet_transformers

    with quiet_transformers():
        plain = folder / "plain"
        plain.mkdir(parents=True)
        (plain / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
        tokenizer = BertTokenizerFast(str(plain / "vocab.txt"), model_max_length=32)
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=len(WORDS) + 5, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=32,
        )  # fmt: skip
        BertModel(config).save_pretrained(plain)
        tokenizer.save_pretrained(plain)
        transformer = Transformer(str(plain), max_seq_length=32)
        pooling = Pooling(32, pooling_mode="mean")
        model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
        model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"
