"""Two-stage rivals of the learned indexer at equal K and T: embed the documents, then code the embeddings.

    python -m lmindexer_jax.main --config configs/two_stage.py:residual --config.corpus.path=my.jsonl --workdir runs/residual

Variants: residual, hierarchical, product (k-means), rqvae (TIGER), and the controls random and atomic; each also with
-tiny. The vectors are the mean of MiniLM's states; others are

    --config.two_stage.vectors.source=words                                      # averaged token embeddings
    --config.two_stage.vectors.source=file --config.two_stage.vectors.path=my_vectors.parquet      # columns id, vector

On 2 CPU cores Amazon Beauty (12,101 items) takes a minute or two after its encoding; the rq-VAE takes some minutes more.
"""

from lmindexer_jax.recipes import two_stage as get_config

__all__ = ["get_config"]
