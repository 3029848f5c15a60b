"""From a finished run to what a person takes away: ID table, exports, closing table, report."""

import dataclasses
import json
import pathlib
import resource

import jax
import numpy as np
from jaxtyping import Float

from lmindexer_jax.config import Config
from lmindexer_jax.console import Console, PlannedStage
from lmindexer_jax.data.corpus import Corpus
from lmindexer_jax.evaluation import health
from lmindexer_jax.evaluation.bow import Bags, bags
from lmindexer_jax.evaluation.id_quality import collisions
from lmindexer_jax.evaluation.report import write_report
from lmindexer_jax.evaluation.table import Evidence, evaluate_table
from lmindexer_jax.files import replacing
from lmindexer_jax.indexing import export, id_table, journal
from lmindexer_jax.indexing.assigners import Assigners
from lmindexer_jax.indexing.kmeans import kmeans
from lmindexer_jax.indexing.runner import Run
from lmindexer_jax.data.interactions import read_interactions
from lmindexer_jax.prepare import Prepared


def conclude(config: Config, prepared: Prepared, run: Run, *, planned: list[PlannedStage], console: Console) -> None:
    """Write everything that a workdir holds besides checkpoints, and print the closing table."""
    table = write_table(config, prepared, run)
    export.to_json(table, run.workdir / "ids.json")
    summary = summarise(config, prepared, run, planned=planned)
    findings = table_findings(summary)
    summary["findings"] = [dataclasses.asdict(finding) for finding in findings]
    with replacing(run.workdir / "summary.json") as path:
        path.write_text(json.dumps(summary, indent=1))
    write_plan(config, prepared, run, planned=planned, summary=summary)
    corpus = prepared.corpus
    report = write_report(
        run.workdir, codes=table.codes, ids=corpus.ids().to_pylist(), text=corpus.text, paths=corpus.path if corpus.depth() else None
    )
    for finding in findings:
        console.warn(f"{finding.evidence}. Remedy: {finding.remedy}")
    show(summary, console=console)
    console.success(f"IDs in {run.workdir / 'ids'}, report in {report}")


def write_table(config: Config, prepared: Prepared, run: Run) -> id_table.IdTable:
    """The artefact that all else loads."""
    positions = len(config.indexer.codebook_sizes)
    manifest = id_table.Manifest(
        config=json.loads(json.dumps(dataclasses.asdict(config))),
        corpus_hash=prepared.corpus.hash,
        model_hash=Assigners(run.workdir / "assigners").model_hash(positions),
        codebook_sizes=tuple(config.indexer.codebook_sizes),
    )
    table = id_table.build(prepared.corpus.ids().to_pylist(), prepared.inputs.codes, manifest)
    table.save(run.workdir / "ids")
    return table


def summarise(config: Config, prepared: Prepared, run: Run, *, planned: list[PlannedStage]) -> dict:
    """Every number of the closing table and of docs/results."""
    inputs, sizes = prepared.inputs, tuple(config.indexer.codebook_sizes)
    words = bags(inputs.store.flat, inputs.offsets, unlabelled=inputs.unlabelled)
    evidence = evidence_of(prepared.corpus, words, interactions=config.interactions)
    measures = evaluate_table(inputs.codes, sizes, evidence)
    seen = {row["position"]: row for row in journal.read(run.workdir / "metrics.jsonl") if row.get("kind") == "assign"}
    before = {
        row["position"]: row["perplexity"]
        for row in journal.read(run.workdir / "metrics.jsonl")
        if row.get("kind") == "quantised" and "perplexity" in row
    }
    rows = []
    for use, prefix in zip(measures["positions"], measures["prefixes"]):
        watched = seen[use["position"]]
        rows.append(
            {
                **{name: use[name] for name in ("position", "codes", "usage", "perplexity")},
                "perplexity_after_training": before.get(use["position"]),
                "perplexity_within_prefix": use["perplexity_within"],
                **{name: use[name] for name in ("dead", "largest_share", "gini")},
                "bow_gain": prefix["bow_gain"],
                **{name: watched[name] for name in ("accuracy", "shuffled_accuracy", "macro_f1", "shuffled_macro_f1")},
                "nats": watched["nats"],
                "shuffled_nats": watched["shuffled_nats"],
                "drift": watched["drift"],
            }
        )
    learned = inputs.codes.copy()
    learned[:, -1] = Assigners(run.workdir / "assigners").learned_codes(len(sizes) - 1)
    summary = {
        "documents": len(inputs),
        "rows": rows,
        "collisions": measures["collisions"],
        "collisions_as_learned": dataclasses.asdict(collisions(learned)),
        "prefixes": measures["prefixes"],
        "ami": measures["agreement"],
        "repetition": measures["repetition"],
        "seconds": run.spent,
        "estimated_minutes": sum(stage.minutes or 0.0 for stage in planned),
        "minutes": sum(run.spent.values()) / 60,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "device": jax.devices()[0].device_kind,
    }
    if evidence.interactions is not None:
        summary["co_occurrence"] = measures["prefixes"][0]["co_occurrence"]
    if config.baseline and inputs.pooled is not None:
        summary["baseline"] = baseline(np.asarray(inputs.pooled), evidence, size=sizes[0], seed=config.seed)
    return summary


def baseline(embeddings: Float[np.ndarray, "N D"], evidence: Evidence, *, size: int, seed: int) -> dict:
    """k-means of the frozen encoder's embeddings at the same K: what the first code has to beat."""
    measures = evaluate_table(kmeans(embeddings, size, key=jax.random.key(seed)).codes[:, None], (size,), evidence)
    first = measures["prefixes"][0]
    return {
        "what": f"k-means of the frozen encoder's pooled embeddings, K={size}",
        "perplexity": first["perplexity"],
        "bow_gain": first["bow_gain"],
        "prefixes": measures["prefixes"],
        "ami": measures["agreement"],
    } | ({"co_occurrence": first["co_occurrence"]} if evidence.interactions is not None else {})


def evidence_of(corpus: Corpus, words: Bags, *, interactions: str) -> Evidence:
    """All that is known about a corpus, for `evaluate_table`; `interactions` is a file, or "" where there is none."""
    users = read_interactions(pathlib.Path(interactions), corpus.ids().to_pylist()) if interactions else None
    evidence = Evidence(labels=labels_of(corpus), words=words, interactions=users)
    return evidence.with_texts(text for batch in corpus.batches() for text in batch)


def labels_of(corpus: Corpus) -> list[np.ndarray]:
    """A label per document for every depth of the category tree."""
    return [corpus.labels(depth) for depth in range(1, corpus.depth() + 1)]


def table_findings(summary: dict) -> list[health.Finding]:
    """What the finished table gives cause to say."""
    rows, distinct = summary["rows"], summary["collisions"]
    return health.diagnose_table(
        documents=summary["documents"],
        sizes=tuple(row["codes"] for row in rows),
        distinct_share=distinct["distinct_share"],
        largest_group=distinct["largest_group"],
        usage=tuple(row["usage"] for row in rows),
        repetition=tuple(summary["repetition"]),
        drift=tuple(rows[-1]["drift"]),
    )


def write_plan(
    config: Config, prepared: Prepared, run: Run, *, planned: list[PlannedStage], summary: dict
) -> None:
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
        }
        for stage, plan in zip(run.stages, planned, strict=True)
    ]
    about = {
        "corpus": config.corpus.name or pathlib.Path(config.corpus.path).name,
        "documents": len(prepared.corpus),
        "language model": config.language_model.name,
        "positions": len(config.indexer.codebook_sizes),
        "codebook sizes": list(config.indexer.codebook_sizes),
        "seed": config.seed,
        "device": summary["device"],
        "jax": jax.__version__,
    }
    with replacing(run.workdir / "plan.json") as path:
        path.write_text(json.dumps({"run": about, "stages": stages}, indent=1))


def show(summary: dict, *, console: Console) -> None:
    """The closing tables."""
    columns = ("position", "codes", "usage", "perplexity", "bow_gain", "nats", "shuffled_nats", "macro_f1", "shuffled_macro_f1")
    console.table("codes", columns, [[row[name] for name in columns] for row in summary["rows"]])
    learned, final = summary["collisions_as_learned"], summary["collisions"]
    console.note(
        f"distinct IDs: {learned['distinct_share']:.1%} as learned, {final['distinct_share']:.1%} in the table;"
        f" largest group {final['largest_group']}"
    )
    base = summary.get("baseline")
    if base:
        first = summary["rows"][0]
        console.note(f"beside it: {base['what']}: bag-of-words gain {base['bow_gain']:.3f} (first code: {first['bow_gain']:.3f})")
    if summary["ami"]:
        beside = {(row["codes"], row["labels"]): row["ami"] for row in (base or {}).get("ami", [])}
        rows = [
            [row["codes"], row["labels"], row["labels_count"], row["ami"], beside.get((row["codes"], row["labels"]))]
            for row in summary["ami"]
        ]
        console.table("agreement with the categories (AMI)", ("codes", "against", "labels", "learned", "k-means"), rows)
