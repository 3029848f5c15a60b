"""A workdir with a retriever that was never trained: it finds what exists, in an order that means nothing."""

import json
import pathlib

import jax
import numpy as np
import runs
from finished import finish, places

from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.tokenizer import train_tokenizer
from lmindexer_jax.data.tokens import open_tokens
from lmindexer_jax.indexing import id_table
from lmindexer_jax.models.retriever import Retriever, RetrieverConfig, RetrieverFunctions
from lmindexer_jax.models.t5 import T5Config
from lmindexer_jax.retrieval import kept

DOCUMENTS, SIZES, COUNTERS = 60, (4, 3, 4), 12
MODEL = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}


def make(home: pathlib.Path, *, gist: bool = False) -> pathlib.Path:
    """`home/run`: documents of four topics, three subtopics each, with markup in their texts; some share all their codes."""
    path, cache = runs.write_corpus(home / "corpus.jsonl", documents=DOCUMENTS), home / "cache"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"text": row["text"] + ". <b>bold</b> </script>"}) + "\n" for row in rows))
    corpus = open_corpus(runs.ours(path, cache).corpus)
    codes = np.column_stack([places(corpus), np.arange(DOCUMENTS) % 4])
    finish(home / "run", path, cache, codes=codes, sizes=SIZES)
    table = id_table.load(home / "run" / "ids")
    assert 0 < table.counter.max() < COUNTERS
    tokenizer = train_tokenizer(corpus, vocab_size=384)
    model = T5Config(vocab_size=384, **MODEL)
    functions = RetrieverFunctions(Retriever(RetrieverConfig(gist=gist), model, (*SIZES, COUNTERS + 1)))
    params = jax.jit(functions.init)(jax.random.key(0))
    vectors = None
    if gist:
        store = open_tokens(corpus, tokenizer, max_length=16, cache_dir=cache)
        vectors = np.asarray(jax.jit(functions.encode)(params, *store.batch(np.arange(DOCUMENTS), length=16)).gist)
    kept.save(home / "run", functions, params, tokenizer, table=table, query_length=16, vectors=vectors)
    return home / "run"
