"""A tiny instance of P2's model whose answers can be worked out by hand."""

from papers.p2.instance import Instance, Model, QueryType, Tier

WORK_TFLOP = 360.0
"""36 GFLOP x 10 tokens x 1000 queries an hour."""


def kind(**changes) -> QueryType:
    """10 tokens and 1000 queries an hour; 1 $ per second of delay, 10 $ for serving nobody."""
    fields = {
        "name": "A",
        "arrivals_per_hour": 1000.0,
        "input_tokens": 4,
        "output_tokens": 6,
        "stored_kb_per_token": 0.0,
        "delay_slo_seconds": 10.0,
        "error_slo": 1.0,
        "delay_penalty_per_ms": 1e-3,
        "unmet_penalty": 10.0,
    }
    return QueryType(**{**fields, **changes})


def tier(name: str, price_per_hour: float, *, memory_gb: float = 24.0, gpus_for_all: float = 2.0) -> Tier:
    """A tier of which so many GPUs carry all of one query type."""
    return Tier(
        name=name,
        memory_gb=memory_gb,
        peak_tflops=WORK_TFLOP / 3600.0 / gpus_for_all,
        price_per_hour=price_per_hour,
    )


def tiny(
    *kinds: QueryType, tiers=None, seconds=None, errors=None, budget=100.0, weights_gb=10.0, parallel=(1, 2)
) -> Instance:
    """One hour, free storage, one model; `seconds` and `errors` by tier: D on one GPU, and e."""
    kinds = kinds or (kind(),)
    tiers = tiers or (tier("cheap", 1.0),)
    seconds = seconds or [1.0] * len(tiers)
    errors = errors or [0.1] * len(tiers)

    def grid(of):
        return tuple((tuple(of(i, k) for k in range(len(tiers))),) for i in range(len(kinds)))

    return Instance(
        query_types=kinds,
        models=(Model(name="M", weights_gb=weights_gb, kv_gb_per_token=0.0, gflop_per_token=36.0),),
        tiers=tiers,
        compute_seconds_per_token=grid(lambda i, k: seconds[k] / kinds[i].tokens),
        link_seconds_per_token=grid(lambda i, k: 0.0),
        residence_seconds=grid(lambda i, k: 0.0),
        error_rate=grid(lambda i, k: errors[k]),
        storage_price_per_gb_hour=0.0,
        budget=budget,
        storage_cap_gb=1000.0,
        tensor_parallel=parallel,
        pipeline_parallel=(1,),
        horizon_hours=1.0,
        utilisation=1.0,
    )
