"""CoSENT, for encoders and for cross-encoders: one function of scores and labels under both.

Pairs of sentences are compared with each other: one that people call more alike should get the higher
score. Only the order of labels counts, so grades, 0/1 and contradiction < neutral < entailment are all
alike to it. What sentence-transformers has (cosine, softmax, ranking with in-batch negatives, binary
cross-entropy) is used from there, see `BUILDERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as cross_losses
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.util import batch_to_device, cos_sim
from torch import Tensor, nn

from indexes.errors import InputError

ENCODER_SCALE, CROSS_ENCODER_SCALE = 20.0, 1.0
ALIKE = 0.8
"""From this share of a set's range of labels on, a pair is taken as alike where a loss knows only alike and not."""


def cosent_loss(scores: Tensor, labels: Tensor, scale: float = ENCODER_SCALE) -> Tensor:
    """How far scores are from the order of their labels.

    L = log(1 + sum over i, j with label_i > label_j of exp(scale * (score_j - score_i)))

    Parameters
    ----------
    scores : Tensor of shape (n,), floating
        One a pair of texts. Below float32 they are taken to float32 first.
    labels : Tensor of shape (n,), any real dtype
        Only their order counts; equal ones are not compared.
    scale : float, default=20.0
        The lambda of the papers: 20 for cosines, 1 for a cross-encoder's logits.

    Returns
    -------
    Tensor of shape ()
        Between max(0, M) and max(0, M) + log(1 + number of ordered pairs), M the largest exponent; 0, and
        without gradient, if all labels are equal.

    Raises
    ------
    InputError
        If scores and labels are not two rows of the same length.

    References
    ----------
    .. [1] Huang et al., "CoSENT: Consistent Sentence Embedding via Similarity Ranking", TASLP 32, 2024.
    .. [2] Su Jianlin, https://kexue.fm/archives/8847 (encoders), https://kexue.fm/archives/9341 (cross-encoders).

    Examples
    --------
    >>> loss = cosent_loss(torch.tensor([0.9, 0.1]), torch.tensor([1, 0]), scale=1.0)
    >>> round(loss.item(), 4)  # log(1 + exp(0.1 - 0.9))
    0.3711
    """
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise InputError(
            f"scores have shape {tuple(scores.shape)} and labels {tuple(labels.shape)}; expected (n,) both"
        )
    scores = scale * (scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores)
    should_be_below = labels[:, None] < labels[None, :]  # (n, n)
    exponents = (scores[:, None] - scores[None, :])[should_be_below]
    return torch.logsumexp(torch.cat([scores.new_zeros(1), exponents]), dim=0)


class CoSENTLoss(losses.CoSENTLoss):  # type: ignore[misc]
    """`cosent_loss` of cosines: sentence-transformers' loss of this name, over our function.

    Parameters
    ----------
    model : SentenceTransformer
    scale : float, default=20.0
    """

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Any:
        """The loss of n pairs, from two tensors of shape (n, d) and labels of shape (n,)."""
        return cosent_loss(self.similarity_fct(embeddings[0], embeddings[1]), labels.view(-1), self.scale)


class CoSENTWithNegativesLoss(CoSENTLoss):
    """CoSENT, plus ranking each alike pair's second sentence above all others of the batch.

    CoSENT compares annotated pairs only, and so never pushes apart what nobody annotated; multiple negatives
    ranking (Henderson et al. 2017) does, for alike pairs: those with labels from 0 on, see `examples_of`. What the
    batch says is alike to a text, and the text itself, is none of its negatives.
    """

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor) -> Any:
        """Both parts, which the trainer adds, of n pairs: two columns of features, and labels of shape (n,)."""
        columns = list(sentence_features)
        embeddings = [self.model(features)["sentence_embedding"] for features in columns]
        return self.compute_loss_from_embeddings(embeddings, labels, text_numbers(columns))

    def compute_loss_from_embeddings(
        self, embeddings: list[Tensor], labels: Tensor, texts: Tensor | None = None
    ) -> Any:
        """The same of embeddings; `texts` of shape (2, n) has the same number for the same text (None: all differ)."""
        parts = {"cosent": super().compute_loss_from_embeddings(embeddings, labels)}
        alike = labels.view(-1) >= 0
        if alike.any():
            if texts is None:
                texts = torch.arange(2 * len(alike)).view(2, -1)
            logits = self.scale * cos_sim(embeddings[0][alike], embeddings[1])
            own = alike.nonzero().view(-1)
            others = ~torch.eye(len(alike), dtype=torch.bool)[own]
            logits = logits.masked_fill(others & no_negatives(texts, alike), -torch.inf)
            parts["ranking"] = torch.nn.functional.cross_entropy(logits, own)
        return parts


def text_numbers(columns: Sequence[dict[str, Any]]) -> Tensor:
    """A number for each text of some columns of features, of shape (columns, n), the same for the same tokens.

    Embeddings would not tell: dropout makes two of one text.
    """
    numbers: dict[tuple[int, ...], int] = {}
    found = []
    for features in columns:
        ids = features["input_ids"]
        if "offsets" in features:  # all texts in one row, as a StaticEmbedding reads them
            texts = ids.tensor_split(features["offsets"][1:].cpu())
        else:
            texts = [row[mask] for row, mask in zip(ids, features["attention_mask"].bool(), strict=True)]
        found.append([numbers.setdefault(tuple(text.tolist()), len(numbers)) for text in texts])
    return torch.tensor(found)


def no_negatives(texts: Tensor, alike: Tensor) -> Tensor:
    """For each alike pair's first text, which second texts of the batch are not to be pushed away from it.

    Parameters
    ----------
    texts : Tensor of shape (2, n), int
        Numbers of the texts of n pairs.
    alike : Tensor of shape (n,), bool

    Returns
    -------
    Tensor of shape (number of alike pairs, n), bool

    Examples
    --------
    >>> texts = torch.tensor([[0, 0, 4, 5], [1, 2, 3, 0]])  # 0 is alike to 1 and to 2
    >>> no_negatives(texts, torch.tensor([True, True, False, False])).int().tolist()
    [[1, 1, 0, 1], [1, 1, 0, 1]]
    """
    first, second = texts
    same_first = first[alike, None] == first[alike]  # (a, a)
    same_second = second[alike, None] == second  # (a, n)
    return (same_first.float() @ same_second.float() > 0) | (first[alike, None] == second)


class CrossEncoderCoSENTLoss(nn.Module):  # type: ignore[misc]
    """`cosent_loss` of a cross-encoder's raw logits; no library has it.

    Parameters
    ----------
    model : CrossEncoder
        With one output. Its activation function is not applied: a sigmoid saturates.
    scale : float, default=1.0
        As in the code of [1]_, not in its text.

    Raises
    ------
    InputError
        If the model has several outputs.

    References
    ----------
    .. [1] Su Jianlin, https://kexue.fm/archives/9341, and its interact_cosent.py.
    """

    def __init__(self, model: CrossEncoder, scale: float = CROSS_ENCODER_SCALE) -> None:
        super().__init__()
        if model.num_labels != 1:
            raise InputError(f"the cross-encoder has {model.num_labels} outputs; expected one, whose order is trained")
        self.model, self.scale = model, scale

    def forward(
        self, inputs: list[list[str]], labels: Tensor, prompt: str | None = None, task: str | None = None
    ) -> Tensor:
        """The loss of n pairs: two lists of n texts and labels of shape (n,)."""
        pairs = list(zip(*inputs, strict=True))
        features = batch_to_device(self.model.preprocess(pairs, prompt=prompt, task=task), self.model.device)
        return cosent_loss(self.model(features)["scores"].view(-1), labels.view(-1), self.scale)

    def get_config_dict(self) -> dict[str, Any]:
        """What the loss was set to."""
        return {"scale": self.scale}


Builder = Callable[[Any, int, float | None], nn.Module]
"""From a model, the number of different labels and a scale (None: the loss's own)."""

ENCODER_LOSSES: dict[str, Builder] = {
    "cosent": lambda model, classes, scale: CoSENTLoss(model, scale or ENCODER_SCALE),
    "cosine": lambda model, classes, scale: losses.CosineSimilarityLoss(model),
    "softmax": lambda model, classes, scale: losses.SoftmaxLoss(model, model.get_embedding_dimension(), classes),
    "mnrl": lambda model, classes, scale: losses.MultipleNegativesRankingLoss(model, scale=scale or ENCODER_SCALE),
    "cosent+mnrl": lambda model, classes, scale: CoSENTWithNegativesLoss(model, scale or ENCODER_SCALE),
}
CROSS_ENCODER_LOSSES: dict[str, Builder] = {
    "cosent": lambda model, classes, scale: CrossEncoderCoSENTLoss(model, scale or CROSS_ENCODER_SCALE),
    "bce": lambda model, classes, scale: cross_losses.BinaryCrossEntropyLoss(model),
    "mnrl": lambda model, classes, scale: cross_losses.MultipleNegativesRankingLoss(model),
}
