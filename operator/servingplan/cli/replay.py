"""``servingplan replay``: a trace of requests against a plan, before anything is paid for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from servingplan.cli.files import cause, fail, items_of, read_plan, read_text, world_of_plan
from servingplan.cli.options import PlanFile, ProfileFiles, WorldFile
from servingplan.cli.reading import opened, progress_bar
from servingplan.cli.show_replay import remarks, show_replay
from servingplan.cli.solve import Output, OutputOption
from servingplan.errors import InputError
from servingplan.model.names import words

if TYPE_CHECKING:
    from servingplan.model.fleet import Fleet
    from servingplan.planning.situation import Situation
    from servingplan.replay.events import Event
    from servingplan.replay.fleet import Shapes
    from servingplan.replay.gateway import Balancing
    from servingplan.replay.generate import Stream
    from servingplan.replay.trace import Arrival, Reading, Told

PLAN = "plan"
"""The name of the plan's own fleet and routing in the results."""
OPERATOR = "operator"
"""The name of the fleet that the operator keeps."""
LEAST_REQUEST, ROUND_ROBIN, PREFIX_AWARE = "least-request", "round-robin", "prefix-aware"
Json = dict[str, Any]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay")(replay)


def replay(
    plan_file: PlanFile,
    trace: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Log of requests: CSV or JSON, plain or gzip; - is standard input."),
    ] = None,
    generate: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Instead of a log: arrivals of the plan's own classes at their rates, for this time.",
        ),
    ] = None,
    events: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Nodes that are lost or slow and pools that refuse, as YAML or JSON; with --generate also requests that "
            "surge or begin.",
        ),
    ] = None,
    operator: Annotated[
        bool,
        typer.Option(
            "--operator",
            help="Beside the fixed plan: the operator's own loop in a simulated cluster, which answers to events and to the "
            "rates that it measures.",
        ),
    ] = False,
    node_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="With --operator: until a rented node is there.")
    ] = 90.0,
    engine_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="With --operator: until an engine on a node is ready.")
    ] = 60.0,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Compare with fleets by other methods of servingplan solve (homogeneous, melange, ...), with round-robin, "
            "with least-request and prefix-aware: the plan's fleet without weights, and with autoscaler: a fleet on one pool "
            "that follows its queue, by autoscaler:in-flight=20 the requests in flight.",
        ),
    ] = None,
    faster: Annotated[
        float, typer.Option(metavar="FACTOR", help="Multiply the rate of arrivals by this factor.")
    ] = 1.0,
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --generate: the requests of a published mix to --model, in place of the plan's classes: T1, T2 or T3 "
            "of Jiang et al. 2025.",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Requests/s, in place of the times of the log, or of a mix; a mix without it has the rate of its model.",
        ),
    ] = None,
    burstiness: Annotated[
        float, typer.Option(metavar="CV", help="With --rate or --generate: 1 is Poisson, more is burstier (gamma).")
    ] = 1.0,
    day: Annotated[
        float, typer.Option(metavar="PART", help="With --generate: rates swing by this part of their mean in a day.")
    ] = 0.0,
    length_variation: Annotated[
        float, typer.Option(metavar="CV", help="With --generate: how much lengths differ; 0: not at all.")
    ] = 0.0,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Model of the plan that takes requests to models that the plan does not have, and those of a mix; the first "
            "model if it is not given.",
        ),
    ] = None,
    most: Annotated[
        int | None, typer.Option("--requests", metavar="N", min=1, help="Stop after this number of requests.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End at the first wrong row of the log instead of leaving it out.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 1,
    world: WorldFile = None,
    profiles: ProfileFiles = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Serve a trace of requests by the plan's fleet and routing, simulated: latency, service, dollars."""
    from servingplan.cli.imagine import imagined_world, with_profiles
    from servingplan.planning.situation import Situation
    from servingplan.replay.autoscale import rule_of
    from servingplan.replay.events import DemandEvent
    from servingplan.replay.mixes import MIXES

    if (trace is None) == (generate is None):
        fail("give either --trace FILE or --generate SECONDS")
    if faster <= 0:
        fail(f"--faster: {faster:g}: must be above 0")
    if mix is not None and mix not in MIXES:
        fail(f"--mix: {mix!r}: must be one of {', '.join(MIXES)}")
    if mix is not None and generate is None:
        fail("--mix: takes the place of the plan's classes in --generate; give --generate SECONDS in place of --trace")
    if rate is not None and rate <= 0:
        fail(f"--rate: {rate:g}: must be above 0")
    if rate is not None and generate is not None and mix is None:
        fail("--rate: the plan's classes have rates of their own; give --faster FACTOR, or a --mix")
    if operator and world is not None:
        fail("--operator: begins with the plan's own pools, not with a live cluster; leave out --world")
    manifest = read_plan(plan_file)
    seen = imagined_world(manifest) if world is None else world_of_plan(world, manifest)
    situation = Situation(with_profiles(seen, profiles))
    if situation.acting is None:
        fail("\n       ".join(map(str, situation.spec_errors)))
    rivals = _rivals(against)
    happening = _events(events, situation)
    surges = tuple(event for event in happening if isinstance(event, DemandEvent))
    if len(surges) < len(happening) and any(rule_of(name) is not None for name in rivals):
        fail("--against autoscaler: is not replayed with events of pools; leave out one of them")
    if surges and generate is None:
        fail(
            f"--events: {surges[0].event}: changes generated requests, not those of a log; give --generate, or leave it out"
        )
    if (rivals or operator) and trace == "-":
        option = "--against" if rivals else "--operator"
        fail(f"{option}: standard input can be read once; give the trace as a file")
    if generate is not None:
        from servingplan.replay.generate import Stream

        stream = Stream(generate, burstiness, day, length_variation, faster, seed, surges)
        mixture = None if mix is None else _mixture(situation, mix, model, rate)
        source = _Source(situation, stream=stream, mixture=mixture)
    else:
        from servingplan.replay.generate import gaps
        from servingplan.replay.trace import Reading

        assert trace is not None, "one of the two is given"
        if burstiness < 0:
            fail(f"--burstiness: {burstiness:g}: must be 0 or more")

        def reading() -> Reading:
            drawn = None if rate is None else gaps(rate, burstiness, seed=seed)
            return Reading(model, faster, most, strict, drawn)

        source = _Source(situation, log=trace, reading=reading)
    told, fleets = None, []
    times = (node_seconds, engine_seconds)
    for name in (PLAN, *([OPERATOR] if operator else []), *rivals):
        told, figures = _played(situation, source, happening, name, seed=seed, most=most, times=times)
        fleets.append(figures)
        if told.requests == 0:
            wrong = "".join(f"\n       {example}" for example in told.bad_examples)
            fail(f"{source.name}: no row holds a request{wrong}")
    assert told is not None, "the plan's own fleet comes first"
    from servingplan.replay.figures import of_trace

    of = of_trace(told, name=source.name)
    result: Json = {"version": 1, "plan": situation.world.plan.key, "trace": of, "seed": seed, "fleets": fleets}
    result["world"] = situation.world.model_dump(mode="json", exclude_defaults=True)
    for line in (*remarks(of), *_further_remarks(situation, source, told, happening, rivals)):
        typer.echo(f"note: {line}", err=True)
    if output is Output.JSON:
        typer.echo(json.dumps(result, indent=1))
    else:
        show_replay(result)


def _further_remarks(
    situation: Situation, source: _Source, told: Told, events: tuple[Event, ...], rivals: list[str]
) -> Iterator[str]:
    """What a reader of the results may not expect."""
    models = [item.name for item in situation.spec.models]
    if source.mixture is not None:
        of = source.mixture
        yield (
            f"mix {of.name} goes to {of.model} at {of.requests_per_second:g} requests/s; the plan is made for its own classes, "
            f"which together have {_declared(situation, of.model):g}"
        )
    elif told.unnamed and len(models) > 1:
        yield f"{told.unnamed} requests name no model and went to {told.stands_in}; --model NAME gives them to another one"
    if PREFIX_AWARE in rivals and not told.with_prefix:
        yield f"no request names the beginning of its prompt, so {PREFIX_AWARE} balances by queue and memory alone"
    late = sum(event.at > told.seconds for event in events)
    if late:
        yield f"events after the last request, at {told.seconds:.0f} s, change nothing: {late} of {len(events)}"


def _declared(situation: Situation, model: str) -> float:
    """The requests/s of all classes of a model in the plan."""
    of = next(item for item in situation.spec.models if item.name == model)
    return sum(float(item.requests_per_second) for item in of.effective_classes)


@dataclass(frozen=True)
class _Mixture:
    """A published mix, to one model."""

    name: str
    model: str
    requests_per_second: float


def _mixture(situation: Situation, mix: str, model: str | None, rate: float | None) -> _Mixture:
    models = {item.name: item for item in situation.spec.models}
    name = model or next(iter(models))
    if name not in models:
        fail(f"--model: {name!r}: is none of the plan's models; give one of {', '.join(models)}")
    declared = _declared(situation, name)
    if rate is None and declared == 0:
        fail(f"--mix: {mix}: {name} has no rate in the plan; give --rate")
    return _Mixture(mix, name, rate or declared)


@dataclass(frozen=True)
class _Source:
    """Where arrivals come from; each call of ``arrivals`` begins anew."""

    situation: Situation
    stream: Stream | None = None
    mixture: _Mixture | None = None
    log: str | None = None
    reading: Callable[[], Reading] | None = None

    @property
    def name(self) -> str:
        return self.log or (f"generated, {self.mixture.name}" if self.mixture else "generated")

    @contextmanager
    def arrivals(
        self, title: str, most: int | None
    ) -> Iterator[tuple[Iterator[Arrival], Told, Callable[[int, float], None]]]:
        from itertools import islice

        from servingplan.replay.generate import generated, mixed
        from servingplan.replay.mixes import MIXES
        from servingplan.replay.trace import Reading, Told, arrivals_of

        spec = self.situation.spec
        if self.stream is not None:
            told, seconds = Told(self.name), self.stream.seconds
            if self.mixture is not None:
                of = self.mixture
                requests = mixed(MIXES[of.name], of.model, of.requests_per_second, self.stream)
                found = arrivals_of(
                    requests, spec, told, Reading(of.model, most_requests=most, origin=0.0), name=self.name
                )
                with progress_bar(title) as report:
                    yield found, told, lambda _count, now: report(int(now), int(seconds))
                return

            def counted(arrivals: Iterator[Arrival]) -> Iterator[Arrival]:
                for arrival in arrivals:
                    told.requests += 1
                    told.seconds = arrival.at
                    yield arrival

            with progress_bar(title) as report:
                stream = islice(generated(spec, self.stream), most)
                yield counted(stream), told, lambda _count, now: report(int(now), int(seconds))
            return
        assert self.log is not None, "a log, where no stream"
        assert self.reading is not None, "comes with the log"
        from servingplan.classes.log import read_log

        try:
            with opened(self.log) as (chunks, progress):
                log = read_log(chunks, name=self.log)
                told = Told(log.format)
                found = arrivals_of(log.rows, spec, told, self.reading(), name=self.log)
                yield found, told, lambda _count, _now: progress()
        except (OSError, EOFError) as error:
            fail(f"{self.log}: cannot be read: {cause(error)}; name a readable file, or - for standard input")


def _rivals(against: str | None) -> list[str]:
    from servingplan.model.answer import METHOD_NAMES
    from servingplan.replay.autoscale import NAME, rule_of

    names = words(against or "")
    known = (LEAST_REQUEST, PREFIX_AWARE, NAME, *METHOD_NAMES)
    for name in names:
        if name not in known and rule_of(name) is None:
            fail(f"--against: {name!r}: is not known; give some of: {', '.join(known)}")
    return list(dict.fromkeys(names))


def _events(path: str | None, situation: Situation) -> tuple[Event, ...]:
    if path is None:
        return ()
    import yaml

    from servingplan.replay.events import events_of

    text = read_text(path)
    try:
        items = list(items_of(text))
    except yaml.YAMLError:
        items = []
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                items += [(number, json.loads(line))] if line.strip() else []
            except json.JSONDecodeError as error:
                fail(
                    f"{path} line {number}: neither a YAML list nor JSON, one event a line: {error.msg}; correct the line"
                )
    return events_of(items, situation.spec, name=path)


def _played(
    situation: Situation,
    source: _Source,
    events: tuple[Event, ...],
    name: str,
    *,
    seed: int,
    most: int | None,
    times: tuple[float, float],
) -> tuple[Told, Json]:
    """The results of one fleet for the trace. ``times``: the seconds of a node and of an engine, for the operator."""
    from servingplan.replay.autoscale import Autoscaled, rule_of
    from servingplan.replay.figures import of_fleet
    from servingplan.replay.fleet import Shapes
    from servingplan.replay.rivals import autoscaled
    from servingplan.replay.run import Replay

    spec = situation.spec
    rule = rule_of(name)
    run: Replay
    try:
        shapes = Shapes(spec, situation.known.catalogue)
        if name == OPERATOR:
            return _rehearsed(situation, source, events, shapes, seed=seed, most=most, times=times)
        if rule is not None:
            fleet, room = _found(lambda: autoscaled(situation))
            run = Autoscaled(fleet, situation, shapes, room=room, rule=rule, seed=seed)
        else:
            fleet = _fleet(situation, PLAN if name in (LEAST_REQUEST, PREFIX_AWARE) else name)
            balancings: Mapping[str, Balancing] = {
                LEAST_REQUEST: "least-request", PREFIX_AWARE: "prefix-aware", ROUND_ROBIN: "round-robin",
            }  # fmt: skip
            balancing = balancings.get(name, "weights")
            run = Replay(fleet, situation, shapes, balancing=balancing, events=events, seed=seed)
    except InputError as error:
        fail(str(error))
    with source.arrivals(name, most) as (arrivals, told, progress):
        outcome = run.run(arrivals, on_progress=progress)
    return told, of_fleet(outcome, spec, name=name)


def _rehearsed(
    situation: Situation,
    source: _Source,
    events: tuple[Event, ...],
    shapes: Shapes,
    *,
    seed: int,
    most: int | None,
    times: tuple[float, float],
) -> tuple[Told, Json]:
    """What the operator's fleet made of the trace, and its course."""
    from servingplan.answering import solve_with
    from servingplan.rehearse.figures import of_rehearsal
    from servingplan.rehearse.run import Rehearsal
    from servingplan.rehearse.stage import Stage, Times
    from servingplan.replay.figures import of_fleet

    node, engine = times
    stage = Stage(situation, solve_with(), Times(node, engine))
    stage.settle()
    rehearsal = Rehearsal(stage, situation, shapes, events=events, seed=seed)
    with source.arrivals(OPERATOR, most) as (arrivals, told, progress):
        outcome = rehearsal.run(arrivals, on_progress=progress)
    figures = of_fleet(outcome, situation.spec, name=OPERATOR)
    return told, {**figures, "course": of_rehearsal(rehearsal)}


def _found[T](find: Callable[[], T]) -> T:
    """The result of a rule. Ends the command if it has none."""
    try:
        return find()
    except InputError as error:
        fail(f"--against: {error}", 3)


def _fleet(situation: Situation, name: str) -> Fleet:
    """The plan's fleet, or the one that a method finds for the same question. Ends the command if there is none."""
    if name != PLAN:
        from servingplan.replay.rivals import fleet_by

        return _found(lambda: fleet_by(situation, name))
    from servingplan.answering import solve_with
    from servingplan.decide.decide import decide

    decision = decide(situation, solve_with())
    fleet = decision.fleet or decision.waiting
    if fleet is None or not fleet.replica_sets:
        wrong = "; ".join(f"{found.reason}: {found.message}" for found in decision.findings if not found.holds)
        fail(f"there is no plan to replay{f': {wrong}' if wrong else ', it serves nothing'}", 3)
    return fleet


def read_result(path: str) -> Json:
    """A result that this command printed as JSON."""
    try:
        result = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        fail(f"{path}: cannot be read: {cause(error)}; give a file that servingplan replay -o json wrote")
    if not _is_result(result):
        fail(
            f"{path}: is no whole result of servingplan replay; write one by: servingplan replay PLAN.yaml ... -o json > {path}"
        )
    found: Json = result
    return found


def _is_result(value: Any) -> bool:
    """Whether a value has the parts that a page shows."""
    if not isinstance(value, dict) or value.get("version") != 1 or not isinstance(value.get("trace"), dict):
        return False
    fleets = value.get("fleets")
    if not isinstance(fleets, list) or not fleets or not all(isinstance(fleet, dict) for fleet in fleets):
        return False
    classes = [item for fleet in fleets for item in fleet.get("classes") or [None]]
    return all(
        isinstance(item, dict) and {"model", "name", "ttft_seconds", "tpot_seconds"} <= item.keys() for item in classes
    )
