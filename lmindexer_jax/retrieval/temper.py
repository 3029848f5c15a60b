"""How much the likeness of query and document counts beside the probability of its ID.

Of a log p(ID | query) + b cos(query, document), the a and b that make the right document most probable among what a search
proposes, on queries that training did not see (a conditional logit, McFadden 1974). What orders documents is their ratio, the
temperature of the cosines. Training tells nothing of it: on its own queries the codes are surer than they are on others.
"""

import numpy as np
from jaxtyping import Bool, Float

TEMPERATURE = 0.01  # where there are no such queries
LEAST, MOST = 0.001, 1.0
UNIT = 0.05  # cosines are counted in it, so that both weights are of one size


def fit(
    log_probs: Float[np.ndarray, "Q C"], similarities: Float[np.ndarray, "Q C"], right: Bool[np.ndarray, "Q C"]
) -> float:
    """The temperature, between `LEAST` and `MOST`; `TEMPERATURE` where no query has its document among the candidates.

    Args:
      log_probs: of the candidates' IDs; -inf where there is no candidate.
      similarities: their cosines.
      right: whether it is the query's document.
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp, softmax

    told = right.any(1)
    if not told.any():
        return TEMPERATURE
    there, right = np.isfinite(log_probs[told]), right[told]
    features = np.stack([log_probs[told], similarities[told] / UNIT], axis=-1)
    features = np.where(there[..., None], features, 0.0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = np.where(there, features @ weights, -np.inf)
        of_right = np.where(right, scores, -np.inf)
        value = logsumexp(scores, axis=1) - logsumexp(of_right, axis=1)
        pull = softmax(scores, axis=1) - softmax(of_right, axis=1)
        return float(value.mean()), np.einsum("qc,qcf->f", pull, features) / len(features)

    found = minimize(loss, np.ones(2), jac=True, method="L-BFGS-B", bounds=[(1e-6, None)] * 2)
    return float(np.clip(UNIT * found.x[0] / found.x[1], LEAST, MOST))
