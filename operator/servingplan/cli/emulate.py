"""``servingplan emulate``: a replica without a GPU."""

from __future__ import annotations

from typing import Annotated

import typer

ENVIRONMENT = "SERVINGPLAN_EMULATE_"

_ENGINE = "Engine (as vLLM's options)"
_REPLICA = "Replica"
_EMULATOR = "Emulator"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "emulate",
        context_settings={
            "ignore_unknown_options": True,
            "allow_extra_args": True,
            # vLLM accepts underscores for dashes.
            "token_normalize_func": lambda name: name.replace("_", "-"),
        },
    )(emulate)


def emulate(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(envvar=ENVIRONMENT + "MODEL", help="Model, as vLLM's --model.", rich_help_panel=_ENGINE)
    ] = "",
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="Name that clients use; may be repeated.", rich_help_panel=_ENGINE)
    ] = None,
    tensor_parallel: Annotated[
        int, typer.Option("--tensor-parallel", "--tensor-parallel-size", "-tp", min=1, rich_help_panel=_ENGINE)
    ] = 1,
    pipeline_parallel: Annotated[
        int, typer.Option("--pipeline-parallel", "--pipeline-parallel-size", "-pp", min=1, rich_help_panel=_ENGINE)
    ] = 1,
    max_model_len: Annotated[int, typer.Option(min=2, rich_help_panel=_ENGINE)] = 8192,
    max_num_seqs: Annotated[
        int | None, typer.Option(min=1, help="Default: vLLM's for this GPU.", rich_help_panel=_ENGINE)
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(min=1, help="Default: vLLM's for this GPU.", rich_help_panel=_ENGINE)
    ] = None,
    gpu_memory_utilization: Annotated[float, typer.Option(rich_help_panel=_ENGINE)] = 0.9,
    kv_cache_dtype: Annotated[str, typer.Option(rich_help_panel=_ENGINE)] = "auto",
    quantization: Annotated[str | None, typer.Option("--quantization", "-q", rich_help_panel=_ENGINE)] = None,
    expert_parallel: Annotated[
        bool,
        typer.Option(
            "--enable-expert-parallel/--no-enable-expert-parallel",
            "-ep",
            help="Spread the experts over the GPUs.",
            rich_help_panel=_ENGINE,
        ),
    ] = False,
    speculative_config: Annotated[
        str | None, typer.Option("--speculative-config", "-sc", help="JSON.", rich_help_panel=_ENGINE)
    ] = None,
    shutdown_timeout: Annotated[
        float,
        typer.Option(
            envvar=ENVIRONMENT + "SHUTDOWN_TIMEOUT",
            min=0,
            help="Seconds that running requests get after SIGTERM; 0: they are cut at once.",
            rich_help_panel=_ENGINE,
        ),
    ] = 0.0,
    headless: Annotated[
        bool,
        typer.Option(
            "--headless",
            help="A worker of an engine over several nodes: it takes no requests.",
            rich_help_panel=_ENGINE,
        ),
    ] = False,
    host: Annotated[str, typer.Option(envvar=ENVIRONMENT + "HOST", rich_help_panel=_ENGINE)] = "0.0.0.0",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.", rich_help_panel=_ENGINE)] = 8000,
    gpu: Annotated[
        str,
        typer.Option(envvar=ENVIRONMENT + "GPU", help="GPU, or POOL=GPU,POOL=GPU.", rich_help_panel=_REPLICA),
    ] = "H100-SXM-80GB",
    pool: Annotated[
        str | None,
        typer.Option(envvar=ENVIRONMENT + "POOL", help="Pool that selects the GPU.", rich_help_panel=_REPLICA),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            envvar=ENVIRONMENT + "PRECISION",
            help="Precision of the weights. Default: what the model's name says, or bf16.",
            rich_help_panel=_REPLICA,
        ),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            envvar=ENVIRONMENT + "CARD",
            help="Model in the catalogue, if --model is a path.",
            rich_help_panel=_REPLICA,
        ),
    ] = None,
    prefix_cache_hit_share: Annotated[
        float,
        typer.Option(
            envvar=ENVIRONMENT + "PREFIX_CACHE_HIT_SHARE",
            min=0,
            max=1,
            help="Share of each prompt that is found in the prefix cache.",
            rich_help_panel=_REPLICA,
        ),
    ] = 0.0,
    acceptance: Annotated[
        float,
        typer.Option(
            envvar=ENVIRONMENT + "ACCEPTANCE",
            min=0,
            max=1,
            help="Probability that a token of speculative decoding is accepted.",
            rich_help_panel=_REPLICA,
        ),
    ] = 0.0,
    speed: Annotated[
        float,
        typer.Option(
            envvar=ENVIRONMENT + "SPEED", help="Engine seconds that pass in one second.", rich_help_panel=_EMULATOR
        ),
    ] = 1.0,
    startup_seconds: Annotated[
        float, typer.Option(envvar=ENVIRONMENT + "STARTUP_SECONDS", min=0, rich_help_panel=_EMULATOR)
    ] = 0.0,
    output_tokens: Annotated[
        int,
        typer.Option(
            envvar=ENVIRONMENT + "OUTPUT_TOKENS",
            min=1,
            help="Tokens of an answer without max_tokens.",
            rich_help_panel=_EMULATOR,
        ),
    ] = 128,
    copies: Annotated[
        int, typer.Option(min=1, help="Engines in this process, on consecutive ports.", rich_help_panel=_EMULATOR)
    ] = 1,
    ports_file: Annotated[
        str | None, typer.Option(help="Write names and ports to this file, as JSON.", rich_help_panel=_EMULATOR)
    ] = None,
    fail_mode: Annotated[
        str, typer.Option(help="hang, crash, error, slow or unready.", rich_help_panel=_EMULATOR)
    ] = "crash",
    fail_after: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which it fails.", rich_help_panel=_EMULATOR)
    ] = None,
) -> None:
    """Serve as a replica would, without a GPU: OpenAI's API, vLLM's metrics, times by the profile.

    vLLM's command line works unchanged (`servingplan emulate serve MODEL --max-model-len 8192 ...`). Options of vLLM that
    change nothing here are ignored with a warning. All seconds are engine seconds.
    """
    import asyncio
    import logging
    import math

    from servingplan.emulate.arguments import shape
    from servingplan.emulate.launch import Options, serve
    from servingplan.emulate.live import Failure, Mode
    from servingplan.errors import InputError

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    positional, ignored = split_extra(context.args)
    if ignored:
        logging.warning("ignored: %s", " ".join(ignored))
    model = model or (positional[0] if positional else "")
    if not model:
        raise InputError("model", model, "name one: --model, or `serve MODEL`")
    if not (math.isfinite(speed) and speed > 0):
        raise InputError("speed", speed, "must be above 0")
    if fail_mode not in list(Mode):
        raise InputError("fail-mode", fail_mode, f"must be one of {', '.join(Mode)}")
    if port and port + copies - 1 > 65535:
        raise InputError("copies", copies, f"at most {65536 - port} fit from port {port} on")
    one = shape(
        model=model,
        card=card,
        gpu=gpu,
        pool=pool,
        precision=precision,
        quantization=quantization,
        kv_cache_dtype=kv_cache_dtype,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        served_model_names=tuple(served_model_name or ()),
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        memory_fraction=gpu_memory_utilization,
        expert_parallel=expert_parallel,
        prefix_cache_hit_share=prefix_cache_hit_share,
        speculative_config=speculative_config,
        acceptance=acceptance,
    )
    if headless:
        _work_for_a_leader(one.told)
        raise typer.Exit(0)
    options = Options(
        host=host,
        speed=speed,
        startup_seconds=startup_seconds,
        shutdown_seconds=shutdown_timeout,
        default_output_tokens=output_tokens,
    )
    status = asyncio.run(
        serve(
            [one] * copies,
            options,
            first_port=port,
            ports_file=ports_file,
            failure=None if fail_after is None else Failure(Mode(fail_mode)),
            fail_after_seconds=fail_after or 0.0,
        )
    )
    raise typer.Exit(status)


def _work_for_a_leader(told: str) -> None:
    """Wait until SIGTERM. The leader answers by the times of all workers, so a worker has nothing to do."""
    import logging
    import signal
    import threading

    told_to_end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_end.set())
    logging.info("a worker of %s: it takes no requests, and ends with SIGTERM", told)
    told_to_end.wait()


def split_extra(arguments: list[str]) -> tuple[list[str], list[str]]:
    """vLLM's positional model, and the options unknown here with their values."""
    from servingplan.render.flags import model_first

    model, others = model_first(arguments)
    return ([] if model is None else [model]), list(others)
