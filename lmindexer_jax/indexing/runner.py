"""Walks the stages: skips what is done, resumes what is not, and leaves a checkpoint behind after each.

A checkpoint holds the whole state (parameters, moments, memory, codes) and says how many steps of which stage it
stands after. Whatever a stage needs besides is a function of that and the seed, so a killed run that is started
again ends with the same bits as one that was left alone.
"""

import contextlib
import dataclasses
import pathlib
import time
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from lmindexer_jax.console import Console
from lmindexer_jax.data.groups import group_by_prefix
from lmindexer_jax.data.pipeline import steps_per_epoch, training_batches
from lmindexer_jax.indexing.assign import corpus_codes, corpus_vectors, start_vectors
from lmindexer_jax.indexing.assigners import Assigners
from lmindexer_jax.indexing.balance import distinct_within_groups
from lmindexer_jax.indexing.centres import prefix_centres
from lmindexer_jax.indexing.inputs import Inputs
from lmindexer_jax.indexing.kmeans import kmeans
from lmindexer_jax.indexing.objective import make_objective, start_memory
from lmindexer_jax.indexing.recipe import RecipeConfig, Stage, StageKind
from lmindexer_jax.models.indexer import IndexerFunctions, Params, codebook
from lmindexer_jax.models.quantiser import Similarity, similarities
from lmindexer_jax.training import hosts
from lmindexer_jax.training.checkpoint import Checkpoints
from lmindexer_jax.training.journal import Journal
from lmindexer_jax.training.loop import train
from lmindexer_jax.training.optim import make_optimiser, paths, split
from lmindexer_jax.training.sharding import describe, free, here, own_rows, place, put_batch, replicate, tree_shardings
from lmindexer_jax.training.steps import State, make_step
from lmindexer_jax.training.trace import Trace


class Moment(NamedTuple):
    """What an observer sees when an epoch or a stage ends."""

    stage: Stage
    params: Params
    step: int  # within the stage
    finished: bool  # the stage, not only an epoch
    codes: Int[np.ndarray, "N T"] | None  # after assignment
    drift: tuple[float, ...]  # share of documents whose code at each earlier position would change now


Observer = Callable[[Moment], dict[str, Any]]


@dataclasses.dataclass
class Run:
    """Everything the stages need; made once by `main`."""

    workdir: pathlib.Path
    functions: IndexerFunctions
    recipe: RecipeConfig
    stages: list[Stage]
    inputs: Inputs
    params: Params
    mesh: Any
    seed: int
    console: Console
    observe: Observer
    checkpoint_seconds: float
    fingerprint: str
    profile: int = 0  # steps of each training stage whose trace is kept in profile/<stage>
    spent: dict[str, float] = dataclasses.field(default_factory=dict)  # seconds per stage, of one in work until it began here

    def number(self, stage: int, step: int = 0) -> int:
        """Position in the run as one increasing integer: steps so far, and one for every finished stage."""
        return sum(s.steps + 1 for s in self.stages[:stage]) + step

    def key(self, stage: Stage, stream: str) -> PRNGKeyArray:
        """Randomness as a function of (seed, stage, stream)."""
        return jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(f"{stage.name}/{stream}".encode()))


def walk(run: Run) -> Params:
    """Run all stages that are not done yet; afterwards `run.inputs.codes` is complete.

    Returns:
      the parameters after the last stage.
    """
    assigners = Assigners(run.workdir / "assigners")
    with contextlib.ExitStack() as open_files:
        checkpoints = open_files.enter_context(Checkpoints(run.workdir / "checkpoints"))
        first, state, iterator = restore(run, checkpoints, assigners)
        journal = Journal(run.workdir, resume_at=run.number(first, 0 if state is None else int(state.step)))
        open_files.callback(journal.close)
        for number in range(first, len(run.stages)):
            do_stage(run, number, state, iterator, checkpoints=checkpoints, journal=journal, assigners=assigners)
            state = iterator = None
            save(run, checkpoints, number + 1, resting(run), iterator=None, spent=run.spent)
    return run.params


def do_stage(
    run: Run,
    number: int,
    state: State | None,
    iterator: dict | None,
    *,
    checkpoints: Checkpoints,
    journal: Journal,
    assigners: Assigners,
) -> None:
    """One stage from its beginning, or on from `state`, and what the observer makes of its end."""
    stage = run.stages[number]
    started = time.monotonic()
    drift = ()
    if stage.kind.trains:
        run.params = train_stage(run, number, state, iterator, checkpoints=checkpoints, journal=journal)
    elif stage.kind == StageKind.CLUSTER:
        run.params = cluster(run, stage)
    else:
        drift = assign(run, stage, assigners)
    codes = run.inputs.codes if stage.kind == StageKind.ASSIGN else None
    seen = observe(run, Moment(stage, run.params, stage.steps, True, codes, drift))
    run.spent[stage.name] = run.spent.get(stage.name, 0.0) + time.monotonic() - started
    at = run.number(number + 1)
    for finding in seen.pop("findings", []):
        journal.write(at, {"event": "finding", **finding})
    row = {"stage": stage.name, "kind": str(stage.kind), "position": stage.position + 1}
    journal.write(at, {"event": "stage", **row, "seconds": run.spent[stage.name], **seen})


def observe(run: Run, moment: Moment) -> dict[str, Any]:
    """What the observer makes of a moment; of several processes, the first alone asks it and the others wait."""
    moment = moment._replace(params=here(moment.params))
    seen = {}
    if hosts.first():
        with hosts.alone():
            seen = run.observe(moment)
    hosts.barrier()
    return seen


def tree(run: Run, state: State) -> dict[str, Any]:
    """The checkpointed tree."""
    return {**state._asdict(), "codes": run.inputs.codes}


def save(
    run: Run, checkpoints: Checkpoints, number: int, state: State, *, iterator: dict | None, spent: dict[str, float]
) -> None:
    """One atomic checkpoint that stands in stage `number`."""
    step = int(state.step)
    meta = {
        "stage": number,
        "step": step,
        "iterator": iterator,
        "fingerprint": run.fingerprint,
        "spent": spent,
    }
    checkpoints.save(run.number(number, step), tree(run, state), meta=meta)


def restore(run: Run, checkpoints: Checkpoints, assigners: Assigners) -> tuple[int, State | None, dict | None]:
    """Stand where the newest whole checkpoint stands: stage, its state if it is in the middle, its iterator.

    Raises:
      UserError: there are checkpoints, but none can be read, or they belong to other settings.
    """
    hosts.barrier()

    def like(meta: dict) -> dict[str, Any]:
        shapes = outline(run, run.stages[meta["stage"]]) if meta["step"] else describe(resting(run), run.mesh)
        free(run.params)  # or the devices would hold parameters twice
        return tree(run, shapes)

    found = checkpoints.newest(like, fingerprint=run.fingerprint, warn=run.console.warn)
    if found is None:
        return 0, None, None
    _, restored, meta = found
    number, step = meta["stage"], meta["step"]
    run.inputs.codes[:] = np.asarray(restored.pop("codes"))
    run.spent.update(meta["spent"])
    state = State(**restored)
    run.params = state.params
    if run.inputs.centres:
        assigned = sum(stage.kind == StageKind.ASSIGN for stage in run.stages[:number])
        known = min(assigned + 1, run.inputs.codes.shape[1])
        run.inputs.centres = [assigners.load_centres(position) for position in range(known)]
    where = run.stages[number].name if number < len(run.stages) else "the end"
    run.console.note(f"resuming at {where}" + (f", step {step}" if step else ""))
    return number, state if step else None, meta["iterator"]


def resting(run: Run) -> State:
    """The state between two stages: parameters alone."""
    return State(run.params, {}, {}, replicate(np.zeros((), np.int32), run.mesh))


def start(run: Run, stage: Stage, state: State | None = None) -> tuple[State, Any, Any]:
    """A stage's state, fresh (new moments, empty memory) where none is given, its optimiser and rules."""
    fresh, optimiser, rules = parts(run, stage)
    if state is None:
        # Compiled, so that every device makes its own part alone.
        shardings = tree_shardings(jax.eval_shape(fresh, run.params), run.mesh)
        state = State(run.params, *jax.jit(fresh, out_shardings=shardings)(run.params))
    return state, optimiser, rules


def outline(run: Run, stage: Stage) -> State:
    """Shapes and shardings of a stage's state."""
    return describe(State(run.params, *jax.eval_shape(parts(run, stage)[0], run.params)), run.mesh)


def parts(run: Run, stage: Stage) -> tuple[Callable, Any, Any]:
    """What makes the rest of a stage's fresh state from parameters, its optimiser and rules."""
    rules = stage.rules(paths=tuple(paths(run.params)))
    optimiser = make_optimiser(stage.optim, rules, run.params, steps=stage.steps)

    def fresh(params: Params) -> tuple[Any, dict, Int[jax.Array, ""]]:
        return optimiser.init(split(params, rules)[0]), start_memory(params, stage, run.recipe), jnp.zeros((), jnp.int32)

    return fresh, optimiser, rules


def batches(run: Run, stage: Stage, iterator: dict | None) -> grain.DatasetIterator:
    """Training batches of a stage, from its beginning or from where a checkpointed iterator stood."""
    settings = stage.settings
    wants_neighbours = stage.position > 0 and settings.contrast.weight > 0 and stage.kind != StageKind.TOGETHER
    fetch = run.inputs.training_fetch(
        position=stage.position, neighbours=settings.contrast.neighbours if wants_neighbours else 0
    )
    order = int(jax.random.randint(run.key(stage, "order"), (), 0, 2**31 - 1))
    data = training_batches(
        fetch,
        documents=len(run.inputs),
        batch_size=settings.batch_size,
        seed=order,
        steps=stage.steps,
        rows=own_rows(settings.batch_size, run.mesh),
    )
    out = iter(data.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
    if iterator is not None:
        out.set_state(iterator)
    return out


def train_stage(
    run: Run,
    number: int,
    state: State | None,
    iterator: dict | None,
    *,
    checkpoints: Checkpoints,
    journal: Journal,
) -> Params:
    """Train one stage from its beginning, or on from `state`."""
    stage = run.stages[number]
    state, optimiser, rules = start(run, stage, state)
    objective = make_objective(run.functions, stage, run.recipe)
    step = make_step(objective, optimiser, rules, layout=tree_shardings(state, run.mesh))
    begin, started = int(state.step), time.monotonic()
    due = hosts.Due(run.checkpoint_seconds, step=begin)
    source = batches(run, stage, iterator)
    per_epoch = steps_per_epoch(len(run.inputs), stage.settings.batch_size)
    row = {"stage": stage.name, "kind": str(stage.kind), "position": stage.position + 1, "steps": stage.steps}

    with run.console.progress(stage.name, total=stage.steps, start=begin) as progress:

        def before(taken: int, state: State, catch_up: Callable[[], None]) -> None:
            if taken % per_epoch == 0 and begin < taken < stage.steps:
                seen = observe(run, Moment(stage, state.params, taken, False, None, ()))
                journal.write(run.number(number, taken), {"event": "epoch", **row, "step": taken, **seen})
            if begin < taken < stage.steps and due(taken):
                catch_up()
                spent = run.spent | {stage.name: run.spent.get(stage.name, 0.0) + time.monotonic() - started}
                save(run, checkpoints, number, state, iterator=source.get_state(), spent=spent)

        def record(taken: int, metrics: dict) -> None:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            journal.write(run.number(number, taken), {**row, "step": taken, **values})
            shown = {name: values[name] for name in ("loss", "perplexity") if name in values}
            progress.advance(1, **shown)

        state = train(
            state,
            step=step,
            batches=(put_batch(batch, run.mesh) for batch in source),
            key=run.key(stage, "train"),
            start=begin,
            steps=stage.steps,
            before=before,
            record=record,
            trace=Trace(run.workdir / "profile" / stage.name, start=begin, steps=run.profile, console=run.console),
        )
    return state.params


def cluster(run: Run, stage: Stage) -> Params:
    """k-means of the document vectors; the centres become the codebook of the stage's position.

    Where several positions are in work each is clustered given the codes of those before it, which count until assignment.
    """
    inputs = run.inputs
    for position in range(stage.position) if stage.several else ():
        run.params = cluster_position(run, stage, position)
        similarity = run.recipe.of(position).quantiser.similarity
        wanted = {"position": position, "similarity": similarity, "frozen": stage.frozen, "console": run.console}
        inputs.codes[:, position] = corpus_codes(run.functions, run.params, inputs, **wanted)[:, position]
    return cluster_position(run, stage, stage.position)


def cluster_position(run: Run, stage: Stage, position: int) -> Params:
    """The parameters with a position's codebook at the centres of its vectors."""
    vectors = corpus_vectors(
        run.functions, run.params, run.inputs, position=position, frozen=stage.frozen, console=run.console
    )
    size = run.functions.module.config.codebook_sizes[position]
    similarity = run.recipe.of(position).quantiser.similarity
    found = kmeans(
        vectors,
        size,
        key=run.key(stage, "kmeans" if position == stage.position else f"kmeans-{position + 1}"),
        similarity=clustering(similarity),
        restarts=stage.settings.cluster_restarts,
    )
    rows = jnp.asarray(found.centres)
    if similarity == Similarity.COSINE:
        # Unit centres say nothing of length; rows as long as the vectors keep the straight-through step small.
        rows = rows * np.linalg.norm(vectors, axis=1).mean()
    return run.params | place({f"codebook_{position}": rows.astype(jnp.float32)}, run.mesh)


def clustering(similarity: Similarity) -> Similarity:
    """The similarity that k-means uses so that it agrees with assignment.

    Inner products have no k-means of their own; the published pipeline clusters by distance and assigns by product.
    """
    return Similarity.L2 if similarity == Similarity.INNER else similarity


def assign(run: Run, stage: Stage, assigners: Assigners) -> tuple[float, ...]:
    """A code for every document, the snapshot that new documents will be coded by, and the next position's centres.

    Returns:
      drift: for every earlier position, the share of documents whose code would be another one now.
    """
    position, inputs = stage.position, run.inputs
    asked = {"position": position, "frozen": stage.frozen, "console": run.console}
    by = tuple(run.recipe.of(p).quantiser.similarity for p in range(position + 1))
    derived = corpus_codes(run.functions, run.params, inputs, similarity=by, label=stage.name, **asked)
    drift = tuple(float(np.mean(derived[:, p] != inputs.codes[:, p])) for p in range(position))
    inputs.codes[:, position] = derived[:, position]
    params = here(run.params)
    assigners.save(position, params, codes=derived[:, position])
    last = position + 1 == inputs.codes.shape[1]
    if last and run.recipe.distinct_last:
        vectors = corpus_vectors(run.functions, params, inputs, **asked)
        distinct = spread(vectors, params, inputs.codes, position=position, similarity=by[-1])
        inputs.codes[:, position] = hosts.of_first(distinct)
    if inputs.centres and not last:
        starts = start_vectors(run.functions, params, inputs, console=run.console)
        del inputs.centres[position + 1 :]
        inputs.centres.append(
            prefix_centres(starts, inputs.codes[:, : position + 1], inputs.centres, shrinkage=run.recipe.shrinkage)
        )
        assigners.save_centres(position + 1, inputs.centres[-1])
    return drift


def spread(
    vectors: Float[np.ndarray, "N D"],
    params: Params,
    codes: Int[np.ndarray, "N T"],
    *,
    position: int,
    similarity: Similarity,
) -> Int[np.ndarray, " N"]:
    """Last codes that differ within every prefix group, at the least total loss of similarity."""
    score = jax.jit(similarities, static_argnames="similarity")
    rows = codebook(params, position)
    groups = group_by_prefix(codes[:, :position]).group

    def scores(documents: Int[np.ndarray, " M"]) -> Float[np.ndarray, "M K"]:
        return np.asarray(score(vectors[documents], rows, similarity=similarity))

    return distinct_within_groups(scores, codes[:, position], groups)[0]
