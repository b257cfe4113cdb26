"""Programs of the networks for accelerators, made on a machine that has none."""

import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax import networks
import workloads


@pytest.mark.parametrize("model", networks.NETWORKS)
def test_a_network_is_exported_for_gpus_and_tpus_with_their_code(model):
    run = workloads.untrained_run(model=model)
    images = jnp.asarray(workloads.random_split(2).images, jnp.float32) / 255

    @jax.jit
    def activity(params, images):
        return run.network.apply({"params": params}, images).activity

    def exported(*platforms):
        anywhere = [export.DisabledSafetyCheck.platform()]
        return export.export(activity, platforms=platforms, disabled_checks=anywhere)(run.params, images)

    programs = {platform: exported(platform) for platform in ("cpu", "cuda", "tpu")}
    layers = 2 if model == "cnn" else 1  # after the first, which is a product over patches
    convolutions = {name: program.mlir_module().count("stablehlo.convolution") for name, program in programs.items()}
    assert convolutions == {"cpu": 0, "cuda": layers, "tpu": layers}
    assert exported("cuda", "tpu").platforms == ("cuda", "tpu")
    # The program for a TPU holds nothing of a TPU's own, so a CPU can run it.
    np.testing.assert_allclose(programs["tpu"].call(run.params, images), activity(run.params, images), atol=1e-5)
