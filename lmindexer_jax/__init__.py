"""Semantic IDs learned from text by a language model (LMIndexer, ICML 2024), in JAX."""

__version__ = "0.1.0"
