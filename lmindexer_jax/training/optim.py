"""AdamW over the parameters that move, with learning rates by rules on parameter paths.

The published schedule: linear warm-up over the first tenth, then linear decay to zero; global-norm clipping at 1;
moments start fresh in every stage.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from lmindexer_jax.errors import UserError

Params = dict
Rules = tuple[tuple[str, float], ...]  # (regex on the whole path "a/b/c", factor of the learning rate); 0 freezes


@dataclasses.dataclass
class OptimConfig:
    """AdamW and its schedule."""

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    warmup_share: float = 0.1


def paths(params: Params) -> dict[str, Array]:
    """Leaves by path, as "encoder/layer_0/attention/query/kernel"."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def match_rules(params: Params, rules: Rules) -> dict[str, float]:
    """Learning-rate factor of every parameter; the first rule that matches the whole path wins.

    Raises:
      UserError: a parameter without a rule, or a rule that is no parameter's first match.
    """
    factors: dict[str, float] = {}
    used = set()
    for path in paths(params):
        number = next((i for i, (pattern, _) in enumerate(rules) if re.fullmatch(pattern, path)), None)
        if number is None:
            raise UserError(f"parameter {path!r} has no learning-rate rule; add one that matches it (0 freezes)")
        used.add(number)
        factors[path] = rules[number][1]
    for number, (pattern, _) in enumerate(rules):
        if number not in used:
            raise UserError(f"learning-rate rule {pattern!r} decides for no parameter; remove it or mend the pattern")
    return factors


def split(params: Params, rules: Rules) -> tuple[Params, Params]:
    """Parameters that move and parameters that are frozen, as two trees."""
    factors = match_rules(params, rules)
    leaves = paths(params)
    moving = {path: leaf for path, leaf in leaves.items() if factors[path] != 0}
    frozen = {path: leaf for path, leaf in leaves.items() if factors[path] == 0}
    return nest(moving), nest(frozen)


def merge(moving: Params, frozen: Params) -> Params:
    """One tree from the two that `split` made."""
    return nest(paths(moving) | paths(frozen))


def nest(leaves: dict[str, Array]) -> Params:
    """Nested dicts from leaves by path."""
    tree: Params = {}
    for path in sorted(leaves):
        *parents, name = path.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = leaves[path]
    return tree


def schedule(config: OptimConfig, *, steps: int) -> optax.Schedule:
    """Linear warm-up from 0 over the first `warmup_share` of the steps, then linear decay to 0 at the last.

    A single step has no warm-up: at a rate of 0 it would do nothing.
    """
    warmup = max(1, round(config.warmup_share * steps)) if steps > 1 else 0
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, warmup),
            optax.linear_schedule(config.learning_rate, 0.0, max(1, steps - warmup)),
        ],
        [warmup],
    )


def make_optimiser(config: OptimConfig, rules: Rules, params: Params, *, steps: int) -> optax.GradientTransformation:
    """AdamW over the moving tree of `split(params, rules)`.

    Args:
      config: rates and schedule.
      rules: factors by path.
      params: the whole tree, of which paths are read.
      steps: length of the stage.
    """
    factors = match_rules(params, rules)

    def clip(updates: Params, _: Params | None = None) -> Params:
        # By one factor: optax.clip_by_global_norm divides, and XLA on a CPU writes the quotients out and reads them
        # again, 16 of the 60 bytes that a step moves per parameter.
        norm = optax.tree.norm(updates)
        factor = jnp.where(norm < config.clip_norm, 1.0, config.clip_norm / norm)
        return jax.tree.map(lambda update: update * factor, updates)

    def scale(updates: Params, _: Params | None = None) -> Params:
        return nest({path: update * factors[path] for path, update in paths(updates).items()})

    return optax.chain(
        optax.stateless(clip),
        optax.scale_by_adam(config.b1, config.b2),
        optax.add_decayed_weights(config.weight_decay),
        optax.stateless(scale),
        optax.scale_by_learning_rate(schedule(config, steps=steps)),
    )
