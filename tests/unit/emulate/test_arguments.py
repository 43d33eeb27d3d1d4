"""What is planned is what is emulated: from the flags of a rendered replica back to its settings."""

import pytest

from servingplan.emulate.arguments import shape, shape_of
from servingplan.errors import InputError
from servingplan.planning.question import pose
from servingplan.profiles.catalogue import find_model
from servingplan.profiles.steps import step_times
from servingplan.render.deployment import replica_template
from servingplan.simulate.pace import BLOCK_TOKENS
from tests.unit.planning.test_shapes import plan, pool, pools_of

SOURCE = "hf://neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8"


@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"kvCacheDtype": "fp8", "maxNumSeqs": 48, "gpuMemoryUtilization": "0.5"},
        {"extraArgs": ["--max_num_seqs", "48", "--kv-cache-dtype=fp8", "--max-num-batched-tokens", "4k"]},
    ],
)
@pytest.mark.parametrize("source", [SOURCE, "hf://meta-llama/Llama-3.1-8B-Instruct"])
def test_an_emulated_replica_runs_as_it_was_planned(engine, source):
    variants = [{"name": "fp8", "source": source, "precision": "fp8"}]
    spec, pools = pools_of(plan(pool("l40s", "L40S", gpus=2), model="llama-3.1-8b", variants=variants, engine=engine))
    found, _ = pose(spec=spec, pools=pools, incumbent=None)
    assert found.shapes
    for planned in found.shapes.values():
        template = replica_template(
            model=planned.model,
            variant=planned.variant,
            pool=planned.pool.spec,
            tensor_parallel=planned.tensor_parallel,
            pipeline_parallel=planned.pipeline_parallel,
            settings=planned.settings,
        )
        emulated = shape_of(template["spec"]["containers"][0]["args"], gpu="l40s=L40S", pool="l40s")
        room = step_times(
            model=find_model(SOURCE),
            precision="fp8",
            gpu=planned.pool.gpu,
            tensor_parallel=planned.tensor_parallel,
            pipeline_parallel=planned.pipeline_parallel,
            settings=planned.settings,
        ).kv_room_tokens
        assert emulated.max_num_seqs == planned.settings.max_num_seqs
        assert emulated.max_num_batched_tokens == planned.settings.max_num_batched_tokens
        assert emulated.pace.max_model_len == planned.settings.max_model_len
        assert emulated.pace.kv_blocks == int(room) // BLOCK_TOKENS


def test_speculation_of_a_rendered_replica_is_emulated_with_the_acceptance_that_was_declared():
    speculative = {"method": "ngram", "tokens": 4, "acceptance": "0.6"}
    spec, pools = pools_of(
        plan(pool("l40s", "L40S", gpus=1), model="llama-3.1-8b", engine={"speculative": speculative})
    )
    found, _ = pose(spec=spec, pools=pools, incumbent=None)
    planned = next(iter(found.shapes.values()))
    template = replica_template(
        model=planned.model,
        variant=planned.variant,
        pool=planned.pool.spec,
        tensor_parallel=planned.tensor_parallel,
        pipeline_parallel=planned.pipeline_parallel,
        settings=planned.settings,
    )
    arguments = template["spec"]["containers"][0]["args"]
    emulated = shape_of(arguments, gpu="L40S", acceptance=0.6).pace
    assert emulated.positions_per_step == 5
    assert emulated.tokens_per_step == planned.settings.tokens_per_step > 2
    assert shape_of(arguments, gpu="L40S").pace.tokens_per_step == 1


def test_weights_have_the_precision_of_their_repository_where_nothing_says_another():
    assert " fp8 on " in shape(model="deepseek-ai/DeepSeek-V3", gpu="H200-SXM-141GB", tensor_parallel=8).told


def test_speculation_is_read_as_vllm_reads_it():
    config = {"model": "llama-3.1-8b", "gpu": "L40S", "max_model_len": 4096}
    assert shape(**config, speculative_config='{"method":"ngram","num_speculative_tokens":3}', acceptance=0.5)
    with pytest.raises(InputError, match="num_speculative_tokens"):
        shape(**config, speculative_config='{"method":"ngram"}')
    with pytest.raises(InputError, match="JSON object"):
        shape(**config, speculative_config="ngram")
