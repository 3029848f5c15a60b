"""From a finished run to what a person takes away: ID table, exports, closing table, report."""

import dataclasses
import json
import pathlib
import resource

import jax
import numpy as np
from jaxtyping import Float, Int

from lmindexer_jax.config import Config
from lmindexer_jax.console import Console, PlannedStage
from lmindexer_jax.data.corpus import Corpus
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation import health
from lmindexer_jax.evaluation.bow import Bags, bags
from lmindexer_jax.evaluation.id_quality import collisions
from lmindexer_jax.evaluation.report import write_report
from lmindexer_jax.evaluation.table import Evidence, evaluate_table
from lmindexer_jax.files import replacing
from lmindexer_jax.indexing import export, id_table, residual
from lmindexer_jax.indexing.inputs import Inputs
from lmindexer_jax.indexing.recipe import Stage
from lmindexer_jax.indexing.two_stage import IndexerKind
from lmindexer_jax.data.interactions import read_interactions
from lmindexer_jax.training import journal

# What the reconstructor of a learned run was seen to do at each position, and how its codes moved.
WATCHED = ("accuracy", "shuffled_accuracy", "macro_f1", "shuffled_macro_f1", "nats", "shuffled_nats", "drift")

TWO_STAGE_REMEDIES = {
    health.Mode.COLLISIONS: "add a position or larger books to indexer.codebook_sizes",
    health.Mode.DEAD: "give smaller books in indexer.codebook_sizes, or an rq-VAE more two_stage.training.epochs",
    health.Mode.REPETITION: "choose another indexer_kind: residual codes are taken relative to what the prefix explains",
}


@dataclasses.dataclass
class Ended:
    """What a run of any kind ends with.

    Attributes:
      workdir: of the run.
      corpus: N documents.
      inputs: their tokens and their codes.
      sizes: K of every position.
      last: (N,) codes of the last position as learned, before any reassignment for distinctness.
      model_hash: of what assigned the codes.
      stages: that the run went through, in order.
      planned: what each stage was thought to cost.
      spent: seconds by name of stage.
    """

    workdir: pathlib.Path
    corpus: Corpus
    inputs: Inputs
    sizes: tuple[int, ...]
    last: Int[np.ndarray, " N"]
    model_hash: str
    stages: list[Stage]
    planned: list[PlannedStage]
    spent: dict[str, float]


def conclude(config: Config, run: Ended, *, console: Console) -> None:
    """Write everything that a workdir holds besides checkpoints, and print the closing table."""
    table = write_table(config, run)
    export.to_json(table, run.workdir / "ids.json")
    summary = summarise(config, run)
    findings = table_findings(config.indexer_kind, summary)
    summary["findings"] = [dataclasses.asdict(finding) for finding in findings]
    with replacing(run.workdir / "summary.json") as path:
        path.write_text(json.dumps(summary, indent=1))
    write_plan(config, run, summary=summary)
    corpus = run.corpus
    report = write_report(
        run.workdir, codes=table.codes, ids=corpus.ids().to_pylist(), text=corpus.text, paths=corpus.path if corpus.depth() else None
    )
    for finding in findings:
        console.warn(f"{finding.evidence}. Remedy: {finding.remedy}")
    show(summary, console=console)
    console.success(f"IDs in {run.workdir / 'ids'}, report in {report}")


def write_table(config: Config, run: Ended) -> id_table.IdTable:
    """The artefact that all else loads; one that stands there already and holds further documents, added later, stays."""
    manifest = id_table.Manifest(
        config=json.loads(json.dumps(dataclasses.asdict(config))),
        corpus_hash=run.corpus.hash,
        model_hash=run.model_hash,
        codebook_sizes=run.sizes,
    )
    table = id_table.build(run.corpus.ids().to_pylist(), run.inputs.codes, manifest)
    if not has_grown(run.workdir / "ids", table):
        table.save(run.workdir / "ids")
    return table


def has_grown(directory: pathlib.Path, table: id_table.IdTable) -> bool:
    """Whether a folder holds this very table and documents that joined it since."""
    try:
        old = id_table.load(directory, corpus_hash=table.manifest.corpus_hash, model_hash=table.manifest.model_hash)
    except UserError:  # there is none, or of another run; a damaged one is made anew
        return False
    rows = len(table)
    return len(old) > rows and old.ids[:rows].equals(table.ids) and np.array_equal(old.codes[:rows], table.codes)


def summarise(config: Config, run: Ended) -> dict:
    """Every number of the closing table and of docs/results; what a kind of run does not have is left out.

    What the codes mean is measured as they were learned: spreading the last ones makes IDs distinct at a price.
    """
    inputs, sizes = run.inputs, run.sizes
    learned = inputs.codes.copy()
    learned[:, -1] = run.last
    words = bags(inputs.store.flat, inputs.offsets, unlabelled=inputs.unlabelled)
    evidence = evidence_of(run.corpus, words, interactions=config.interactions)
    measures = evaluate_table(learned, sizes, evidence)
    seen = {row["position"]: row for row in journal.read(run.workdir / "metrics.jsonl") if row.get("kind") == "assign"}
    before = {
        row["position"]: {"perplexity_after_training": row["perplexity"]}
        for row in journal.read(run.workdir / "metrics.jsonl")
        if row.get("kind") == "quantised" and "perplexity" in row
    }
    rows = []
    for use, prefix in zip(measures["positions"], measures["prefixes"]):
        watched = seen.get(use["position"], {})
        rows.append(
            {
                **{name: use[name] for name in ("position", "codes", "usage", "perplexity")},
                **before.get(use["position"], {}),
                "perplexity_within_prefix": use["perplexity_within"],
                **{name: use[name] for name in ("dead", "largest_share", "gini")},
                "bow_gain": prefix["bow_gain"],
                **{name: watched[name] for name in WATCHED if name in watched},
            }
        )
    summary = {
        "indexer": str(config.indexer_kind),
        "documents": len(inputs),
        "rows": rows,
        "collisions": dataclasses.asdict(collisions(inputs.codes)),
        "collisions_as_learned": measures["collisions"],
        "prefixes": measures["prefixes"],
        "ami": measures["agreement"],
        "repetition": measures["repetition"],
        "seconds": run.spent,
        "estimated_minutes": sum(stage.minutes or 0.0 for stage in run.planned),
        "minutes": sum(run.spent.values()) / 60,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "device": jax.devices()[0].device_kind,
    }
    if evidence.interactions is not None:
        summary["co_occurrence"] = measures["prefixes"][0]["co_occurrence"]
    if config.baseline and inputs.pooled is not None and len(inputs) >= max(sizes):
        rivals = {
            "baseline": ("the frozen encoder's embeddings", inputs.pooled),
            "word_baseline": ("averaged word vectors", inputs.lexical),
        }
        for name, (what, vectors) in rivals.items():
            summary[name] = baseline(what, np.asarray(vectors), evidence, sizes=sizes, seed=config.seed)
    return summary


def baseline(what: str, vectors: Float[np.ndarray, "N D"], evidence: Evidence, *, sizes: tuple[int, ...], seed: int) -> dict:
    """Residual k-means of document vectors at the same K: what the learned codes have to beat."""
    books = []
    for position, size in enumerate(sizes):
        books.append(residual.fit(vectors, books, size=size, key=jax.random.fold_in(jax.random.key(seed), position)))
    measures = evaluate_table(residual.code(vectors, books)[0], sizes, evidence)
    first = measures["prefixes"][0]
    return {
        "what": f"residual k-means of {what}, K={', '.join(map(str, sizes))}",
        "perplexity": first["perplexity"],
        "bow_gain": first["bow_gain"],
        "prefixes": measures["prefixes"],
        "ami": measures["agreement"],
        "collisions": measures["collisions"],
    } | ({"co_occurrence": first["co_occurrence"]} if evidence.interactions is not None else {})


def evidence_of(corpus: Corpus, words: Bags, *, interactions: str) -> Evidence:
    """All that is known about a corpus, for `evaluate_table`; `interactions` is a file, or "" where there is none."""
    users = read_interactions(pathlib.Path(interactions), corpus.ids().to_pylist()) if interactions else None
    evidence = Evidence(labels=labels_of(corpus), words=words, interactions=users)
    return evidence.with_texts(text for batch in corpus.batches() for text in batch)


def labels_of(corpus: Corpus) -> list[np.ndarray]:
    """A label per document for every depth of the category tree."""
    return [corpus.labels(depth) for depth in range(1, corpus.depth() + 1)]


def table_findings(kind: IndexerKind, summary: dict) -> list[health.Finding]:
    """What the finished table gives cause to say."""
    rows, distinct = summary["rows"], summary["collisions"]
    found = health.diagnose_table(
        documents=summary["documents"],
        sizes=tuple(row["codes"] for row in rows),
        distinct_share=distinct["distinct_share"],
        largest_group=distinct["largest_group"],
        usage=tuple(row["usage"] for row in rows),
        repetition=tuple(summary["repetition"]),
        drift=tuple(rows[-1].get("drift", ())),
    )
    if kind == IndexerKind.LEARNED:
        return found
    return [dataclasses.replace(finding, remedy=TWO_STAGE_REMEDIES[finding.mode]) for finding in found]


def write_plan(config: Config, run: Ended, *, summary: dict) -> None:
    """plan.json: what was to be done, what it was thought to cost and what it did cost."""
    stages = [
        {
            "name": stage.name,
            "kind": str(stage.kind),
            "position": stage.position + 1,
            "epochs": stage.epochs,
            "steps": stage.steps,
            "estimated_seconds": None if plan.minutes is None else 60 * plan.minutes,
            "seconds": run.spent.get(stage.name),
            "peak_memory_mb": plan.memory_mb,
            "flops": plan.flops,
        }
        for stage, plan in zip(run.stages, run.planned, strict=True)
    ]
    about = {
        "corpus": config.corpus.name or pathlib.Path(config.corpus.path).name,
        "indexer": str(config.indexer_kind),
        "documents": len(run.corpus),
        "language model": config.language_model.name,
        "positions": len(run.sizes),
        "codebook sizes": list(run.sizes),
        "seed": config.seed,
        "device": summary["device"],
        "jax": jax.__version__,
    }
    with replacing(run.workdir / "plan.json") as path:
        path.write_text(json.dumps({"run": about, "stages": stages}, indent=1))


def show(summary: dict, *, console: Console) -> None:
    """The closing tables."""
    wanted = ("position", "codes", "usage", "perplexity", "bow_gain", "nats", "shuffled_nats", "macro_f1", "shuffled_macro_f1")
    columns = [name for name in wanted if name in summary["rows"][0]]
    console.table("codes", columns, [[row[name] for name in columns] for row in summary["rows"]])
    learned, final = summary["collisions_as_learned"], summary["collisions"]
    console.note(
        f"distinct IDs: {learned['distinct_share']:.1%} as learned, {final['distinct_share']:.1%} in the table;"
        f" largest group {final['largest_group']}"
    )
    gain = summary["rows"][0]["bow_gain"]
    for base in (summary[name] for name in ("baseline", "word_baseline") if name in summary):
        console.note(f"beside it: {base['what']}: bag-of-words gain {base['bow_gain']:.3f} (first code: {gain:.3f})")
    if summary["ami"]:
        rivals = {"k-means": "baseline", "of words": "word_baseline"}
        beside = {
            title: {(row["codes"], row["labels"]): row["ami"] for row in summary[name]["ami"]}
            for title, name in rivals.items()
            if name in summary
        }
        rows = []
        for row in summary["ami"]:
            theirs = (base.get((row["codes"], row["labels"])) for base in beside.values())
            rows.append([row["codes"], row["labels"], row["labels_count"], row["ami"], *theirs])
        columns = ["codes", "against", "labels", summary["indexer"], *beside]
        console.table("agreement with the categories (AMI)", columns, rows)
