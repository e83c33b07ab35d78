"""How plans look to people: the phases, each as a strip of layers, what they cost, and what may be a mistake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from thaw.cli import strip, text
from thaw.cli.output import Output

if TYPE_CHECKING:
    from thaw.records import LayerPlan, PhasePlan, Plan, TimePlan

_INDENT = "  "
_WIDEST = 100
"""Strips are not drawn wider, however wide the terminal is."""
_ORIGINS = {
    "jobs": "measured in an earlier job",
    "probe": "reckoned from the passes that were timed when the source was registered",
}


def show_plan(out: Output, plan: Plan, *, layers: bool = False) -> None:
    """The plan; with `layers` the table of every layer in every phase."""
    _facts(out, plan)
    for phase in plan.phases:
        _phase(out, phase)
        if layers:
            _layer_table(out, phase)
    if any(phase.layers for phase in plan.phases):
        _legend(out, plan)
    _footer(out, plan)
    for warning in plan.warnings:
        out.note(f"Warning: {text.plain(warning)}")


def _facts(out: Output, plan: Plan) -> None:
    dropped = len(plan.dropped_layers)
    out.facts(
        {
            "cut": f"after {plan.cut_layer}, {dropped} {'layer' if dropped == 1 else 'layers'} dropped"
            if plan.cut_layer
            else None,
            "output": plan.output or None,
            "seed": plan.spec.get("seed") if plan.spec else None,
        }
    )


# === A phase ===


def _phase(out: Output, phase: PhasePlan) -> None:
    from rich.text import Text

    out.wrapped(Text.assemble((text.plain(phase.name), "bold"), f"  {_summary(phase)}"))
    if not phase.layers:  # of a service from before
        return
    out.console().print(Text(_INDENT) + strip.drawn(phase.layers, _width(out)))
    for line in _sentences(phase):
        out.wrapped(line, indent=_INDENT)


def _summary(phase: PhasePlan) -> str:
    """`8 epochs, adam 0.001; 1,542 weights train; 108.1 MB of memory; about 7 s`."""
    words = [f"{phase.epochs} {'epoch' if phase.epochs == 1 else 'epochs'}, {text.plain(phase.optimizer)}"]
    words[0] += f" {text.measured(phase.learning_rate)}"
    words[0] += "" if phase.learning_rate_schedule == "constant" else f" {text.plain(phase.learning_rate_schedule)}"
    words.append(f"{text.number(phase.trainable_parameters)} weights train")
    if phase.memory:
        words.append(f"{text.size(phase.memory.total_bytes)} of memory")
    if phase.time:
        words.append(f"about {text.duration(phase.time.seconds)}")
    return "; ".join(words)


def _sentences(phase: PhasePlan) -> Iterator[str]:
    """What the strip cannot say."""
    if phase.cache and phase.cache.applies:
        room = f", {text.size(phase.cache.bytes)} cached" if phase.cache.bytes is not None else ""
        yield f"Runs once up to {_listed(phase.boundary)}{room}."
    elif phase.cache:
        yield f"No cache: {text.plain(phase.cache.because)}."
    unfrozen = [name for name in phase.unfrozen_layers if name not in set(phase.held_layers)]
    if unfrozen:
        yield f"Trains {_ends(unfrozen)}, and the head{_rates(phase.layers)}."


def _rates(layers: Sequence[LayerPlan]) -> str:
    rates = sorted({layer.learning_rate for layer in layers if layer.learning_rate is not None})
    return f", at rates from {text.measured(rates[0])} to {text.measured(rates[-1])}" if len(rates) > 1 else ""


def _ends(names: Sequence[str]) -> str:
    """All by name, or the ends of a long list."""
    if len(names) <= 3:
        return _listed(names)
    return f"{len(names)} layers from {text.plain(names[0])} to {text.plain(names[-1])}"


def _listed(names: Sequence[str]) -> str:
    known = [text.plain(name) for name in names]
    return ", ".join(known[:3]) + (f" and {len(known) - 3} more" if len(known) > 3 else "")


def _layer_table(out: Output, phase: PhasePlan) -> None:
    out.table(
        ("", "LAYER", "CLASS", "PARAMETERS", "TRAINED", "RATE", "WHY"),
        [
            (
                " " if layer.state == "weightless" and layer.part != "head" else strip.symbol(layer),
                layer.path,
                layer.class_name,
                text.number(layer.parameters) if layer.parameters else "-",
                text.number(layer.trained_parameters) if layer.trained_parameters else "-",
                "-" if layer.learning_rate is None else text.measured(layer.learning_rate),
                layer.because,
            )
            for layer in phase.layers
        ],
        numbers=("PARAMETERS", "TRAINED", "RATE"),
    )


# === The rest ===


def _legend(out: Output, plan: Plan) -> None:
    from rich.text import Text

    used = {mark for phase in plan.phases for mark in strip.cells(phase.layers, _width(out))}
    parts = [(mark, words) for mark, words in strip.LEGEND if mark in used]
    line = Text("  ").join(Text.assemble((mark, strip.STYLES[mark]), f" {words} ") for mark, words in parts)
    several = max((strip.layers_for_a_cell(phase.layers, _width(out)) for phase in plan.phases), default=1)
    unit = "a layer with weights" if several == 1 else f"up to {several} neighbouring layers with weights"
    out.console().print(Text.assemble(line, "\n", (f"Each cell is {unit}.", "dim")))


def _footer(out: Output, plan: Plan) -> None:
    times = [phase.time for phase in plan.phases if phase.time]
    if plan.seconds is not None:
        out.wrapped(f"About {text.duration(plan.seconds)} of training, {_origin(times)}.")
    elif plan.phases and plan.phases[0].layers:
        out.wrapped("Nothing was measured yet that times could be told from.")


def _origin(times: list[TimePlan]) -> str:
    told = list(dict.fromkeys((time.origin, time.device) for time in times))
    return "; ".join(f"{_ORIGINS.get(origin, text.plain(origin))}, on {text.plain(device)}" for origin, device in told)


def _width(out: Output) -> int:
    return min(out.console().width, _WIDEST) - len(_INDENT)
