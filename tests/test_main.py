"""The command says no where several processes would train alone into one workdir."""

import pytest

from lmindexer_jax.errors import UserError
from lmindexer_jax.main import refuse_company

ALONE = ({}, {"JAX_NUM_PROCESSES": "1", "SLURM_STEP_NUM_TASKS": "1"}, {"TPU_WORKER_HOSTNAMES": "localhost"})
COMPANY = ({"JAX_NUM_PROCESSES": "2"}, {"SLURM_STEP_NUM_TASKS": "8"}, {"TPU_WORKER_HOSTNAMES": "a,b"})


@pytest.mark.parametrize("environment", ALONE)
def test_one_process_is_welcome(environment):
    refuse_company(environment)


@pytest.mark.parametrize("environment", COMPANY)
def test_one_of_several_is_refused(environment):
    with pytest.raises(UserError, match="several processes"):
        refuse_company(environment)
