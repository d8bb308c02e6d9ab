"""What was done, in a few plain sentences."""

from collections import Counter

from treadle.core.result import Result
from treadle.page.numbers import clock
from treadle.page.scores import Section
from treadle.page.sources import Run, input_of
from treadle.page.wording import SHORT_HASH, count, facts, listed, spaced

__all__ = ["summary"]


def summary(runs: list[Run], found: list[Section]) -> str:
    """Return a paragraph: what ran, what was evaluated how, on what machine, at what cost."""
    sentences = [*_runs_by_verb(runs, found), *map(_evaluated, found)]
    if len(found) > 1:
        sentences.append("Numbers under different protocols are never compared.")
    machines = dict.fromkeys(_machine(run.result) for run in runs)
    sentences.append(f"{_took(runs)} on {listed(machines)}.")
    return " ".join(sentences)


def _took(runs: list[Run]) -> str:
    wall = clock(sum(run.result.seconds for run in runs))
    cpu = clock(sum(run.result.cpu_seconds for run in runs))
    whole = "It" if len(runs) == 1 else f"All {len(runs):,} runs together"
    resumed = sum(run.is_resumed for run in runs)
    if not resumed:
        return f"{whole} took {wall} ({cpu} of processor time)"
    which = "a resumed run" if resumed == 1 else f"{resumed:,} resumed runs"
    return (
        f"{whole} took at least {wall} (at least {cpu} of processor time; of {which} only the "
        f"last part was counted)"
    )


def _runs_by_verb(runs: list[Run], found: list[Section]) -> list[str]:
    evaluations = {id(run) for section in found for run in section.evaluations}
    verbs: dict[str, list[Run]] = {}
    for run in runs:
        if id(run) not in evaluations:
            verbs.setdefault(run.result.command, []).append(run)
    sentences = []
    for verb, made in verbs.items():
        methods = Counter((run.result.method or run.result.action, run.is_control) for run in made)
        names = listed(_method(*method, number) for method, number in methods.items())
        models = sum(bool(run.made_hash) for run in made)
        done = f" and made {count(models, 'model')}" if models else ""
        told = f": {names}" if names else ""
        sentences.append(f"{verb.capitalize()} ran {count(len(made), 'time')}{done}{told}.")
    return sentences


def _method(name: str, control: bool, number: int) -> str:
    remarks = [remark for remark in ("a control" * control, f"{number}×" * (number > 1)) if remark]
    return f"{name} ({', '.join(remarks)})" if remarks else name


def _evaluated(section: Section) -> str:
    models = {input_of(run.result, "model")[1] for run in section.evaluations}
    data = f" on {section.data}" if section.data else ""
    verb = "was" if len(models) == 1 else "were"
    return (
        f"{count(len(models), 'model')} {verb} evaluated for {spaced(section.task)}{data} "
        f"(protocol {section.protocol[:SHORT_HASH]})."
    )


def _machine(result: Result) -> str:
    known = {fact.name: fact.text for fact in facts(result.hardware)}
    parts = [
        known.get("cpu model", "an unnamed processor"),
        f"{known['physical cores']} cores" if "physical cores" in known else "",
        f"{known['memory']} of memory" if "memory" in known else "",
        known.get("platform", ""),
    ]
    return " with ".join(filter(None, [parts[0], ", ".join(filter(None, parts[1:]))]))
