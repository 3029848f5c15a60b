"""One training step of the published structure (section 3 of the LMIndexer paper) with transformers' PyTorch T5.

Two separate passes of the whole language model for the two dropout views (with same-prefix negatives beside the second
from position 2 on), a one-block reconstructor made of T5's own layers, the head on every text slot, contrast,
commitment, global-norm clipping and AdamW. Hint masks are drawn in one call: the published code makes them token by
token in Python, which would only be measured as Python. Written from the paper's description.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import T5Config, T5Model
from transformers.models.t5.modeling_t5 import T5Attention, T5LayerFF, T5LayerNorm

Rows = dict[str, torch.Tensor]


class Reconstructor(nn.Module):
    """One block that asks with a code vector at every slot; keys are the codes and the token embeddings."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.norm = T5LayerNorm(config.d_model, config.layer_norm_epsilon)
        self.attention = T5Attention(config, has_relative_attention_bias=True)
        self.feed_forward = T5LayerFF(config)
        self.final_norm = T5LayerNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, queries: torch.Tensor, codes: torch.Tensor, words: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """(B, P, D) queries and codes, (B, L, D) words, (B, 1, S, S) additive mask -> (B, S, D)."""
        keys = self.norm(torch.cat([codes, words], dim=1))
        total = 0.0
        for query in queries.unbind(dim=1):
            stream = query[:, None].expand(-1, keys.shape[1], -1)
            stream = stream + self.attention(self.norm(stream), mask=bias, key_value_states=keys)[0]
            total = total + self.final_norm(self.feed_forward(stream))
        return total


class Published(nn.Module):
    """Language model, codebooks and reconstructor; every parameter trains."""

    def __init__(self, config: T5Config, *, books: tuple[int, ...]) -> None:
        super().__init__()
        self.model = T5Model(config)
        self.reconstructor = Reconstructor(self.model.encoder.config)
        self.books = nn.ParameterList(torch.randn(size, config.d_model) * config.d_model**-0.5 for size in books)

    def vectors(self, rows: Rows) -> torch.Tensor:
        """h of every slot (B, P+1, D): the decoder reads the start token and the codes so far."""
        start = self.model.shared.weight[self.model.config.decoder_start_token_id].expand(len(rows["tokens"]), -1)
        read = [start] + [self.books[p][rows["codes"][:, p]] for p in range(rows["codes"].shape[1])]
        out = self.model(
            input_ids=rows["tokens"],
            attention_mask=rows["mask"],
            decoder_inputs_embeds=torch.stack(read, dim=1),
            use_cache=False,
        )
        return out.last_hidden_state

    def loss(self, batch: Rows, neighbours: Rows | None, *, hidden: float) -> torch.Tensor:
        """Reconstruction + contrast + commitment, all of weight 1."""
        outputs = self.vectors(batch)
        vector, book, prefix = outputs[:, -1], self.books[batch["codes"].shape[1]], batch["codes"]
        scores = vector @ book.T
        soft = scores.softmax(dim=-1) @ book
        quantised = soft + (book[scores.argmax(dim=-1)] - soft).detach()
        earlier = [self.books[p][prefix[:, p]] for p in range(prefix.shape[1])]
        codes = torch.stack([*earlier, quantised], dim=1)
        queries = torch.stack([*earlier, vector], dim=1) if earlier else codes
        loss = self.reconstruction(batch, queries, codes, hidden=hidden)
        if neighbours is None:
            products = vector @ self.vectors(batch)[:, -1].T
            return loss + F.cross_entropy(products, torch.arange(len(products)))
        candidates = self.vectors({name: torch.cat([batch[name], neighbours[name]]) for name in neighbours})[:, -1]
        positive, negatives = candidates[: len(vector)], candidates[len(vector) :].reshape(len(vector), -1, vector.shape[-1])
        products = torch.einsum("bd,bcd->bc", vector, torch.cat([positive[:, None], negatives], dim=1))
        loss = loss + F.cross_entropy(products, torch.zeros(len(vector), dtype=torch.long))
        for p in range(prefix.shape[1]):
            loss = loss + F.cross_entropy(outputs[:, p] @ self.books[p].T, prefix[:, p]) / prefix.shape[1]
        return loss

    def reconstruction(self, batch: Rows, queries: torch.Tensor, codes: torch.Tensor, *, hidden: float) -> torch.Tensor:
        """Mean cross-entropy of the labelled tokens given the codes and the hints."""
        labelled, count = batch["labelled"], codes.shape[1]
        size, length = labelled.shape
        seen = (torch.rand(size, length, length) >= hidden) & labelled[:, None] & ~torch.eye(length, dtype=torch.bool)
        mask = torch.ones(size, count + length, count + length, dtype=torch.bool)
        mask[:, count:, count:] = seen
        bias = torch.where(mask[:, None], 0.0, -1e9)
        out = self.reconstructor(queries, codes, self.model.shared(batch["tokens"]), bias)
        logits = F.linear(out[:, count:], self.model.shared.weight)
        labels = batch["tokens"].masked_fill(~labelled, -100)
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


def make_step(size: dict, batch: dict[str, np.ndarray], *, books: tuple[int, ...], hidden: float) -> Callable[[torch.dtype], float]:
    """A function that takes one training step in the named precision and returns the loss.

    Args:
      size: fields of transformers' T5Config.
      batch: arrays as the objective of `lmindexer_jax` reads them.
      books: K of each position.
      hidden: share of the other tokens that a slot does not see.
    """
    torch.manual_seed(0)
    module = Published(T5Config(**size), books=books).train()
    used = [p for name, p in module.named_parameters() if name != f"books.{len(books) - 1}" or batch["codes"].shape[1]]
    optimiser = torch.optim.AdamW(used, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    rows, others = tensors(batch), tensors(batch["neighbours"]) if "neighbours" in batch else None

    def step(dtype: torch.dtype) -> float:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = module.loss(rows, others, hidden=hidden)
        loss.backward()
        nn.utils.clip_grad_norm_(used, 1.0)
        optimiser.step()
        return loss.item()

    return step


def tensors(rows: dict) -> Rows:
    """The arrays that the rival reads, as tensors."""
    kinds = {"tokens": torch.long, "codes": torch.long, "mask": torch.bool, "labelled": torch.bool}
    return {name: torch.as_tensor(np.asarray(rows[name])).to(kind) for name, kind in kinds.items()}
