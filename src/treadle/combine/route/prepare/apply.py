"""The action prepare: every model of a pool answers every question, and is scored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from treadle.combine.route.prepare.account import account_for
from treadle.combine.route.prepare.answers import AnswerFile
from treadle.combine.route.prepare.base import Asking, Member, PoolQuestion, Vacant
from treadle.combine.route.prepare.lm_eval import Sampled, read_samples
from treadle.combine.route.prepare.pool import opened_pool
from treadle.combine.route.prepare.records import STAGED, Records, gathered, read_prices, written
from treadle.combine.route.prepare.remote import Patience
from treadle.combine.route.prepare.scores import PoolScore, score_of
from treadle.combine.route.prepare.tasks import (
    Fractions,
    TaskSet,
    read_tasks,
)
from treadle.core.arguments import checked
from treadle.core.checkpoint.publish import remove, require_apart, require_replaceable
from treadle.core.errors import DataError, SettingsError
from treadle.core.progress import steps
from treadle.core.result import RESULT_FILE, Result, digest, read_result
from treadle.core.run import Recording, recorded

__all__ = ["route_prepare"]

_ANSWERS = "answers"
_FEWEST = 2


@checked
def route_prepare(
    pool: list[str],
    out: Path,
    *,
    data: tuple[str, ...] = (),
    lm_eval: tuple[str, ...] = (),
    samples: int = 10,
    temperature: float = 0.2,
    num_questions: int | None = 200,
    max_tokens: int = 32,
    stop: str = "\n",
    is_chat: bool = False,
    dev_fraction: float = 0.1,
    test_fraction: float = 0.2,
    prices: Path | None = None,
    answers: Path | None = None,
    concurrency: int = 1,
    retries: int = 4,
    timeout_seconds: float = 600.0,
    seed: int = 0,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> Result:
    """Have a pool of models answer questions, and write how well each did as records of routers.

    OUT gets train.jsonl, dev.jsonl and test.jsonl: each question with its score, cost, latency and
    confidence by model. A question's hash says in which split it is, so that it is in the same one
    whatever else is asked. Answers are kept: a killed run goes on, and a further model costs its
    own answers only. An endpoint that does not answer is asked again, more and more slowly, and at
    last left out.

    Args:
        pool: Hugging Face folders, GGUF files or hub ids, as MODEL or NAME=MODEL; OpenAI-style
            endpoints as NAME=http://HOST:PORT/MODEL; or NAME=FILE.jsonl, as for lm_eval.
        out: Folder for the records, result.json and the answers.
        data: What is asked: .jsonl files as treadle evaluate exact or choice reads them, or skills
            such as skills:json, which have splits of their own; train=FILE, dev=FILE and test=FILE
            are a split as they are.
        lm_eval: Samples that lm-eval wrote (--log_samples), as NAME=FILE with the model's name, one
            for each model and task; they join the others by the text that was asked.
        samples: Answers to each question that has one to be written; the score is the share of
            right ones, the confidence the mean probability of their tokens.
        temperature: Of the samples; 0 asks for the one greedy answer, with --samples 1.
        num_questions: Questions of each set over all splits, from its start.
        max_tokens: Most tokens of an answer.
        stop: An answer ends before this; empty: nowhere but where the model ends it.
        is_chat: Ask as a user does, with each model's chat template.
        dev_fraction: Share of a set's questions that choose among routers and calibrate them.
        test_fraction: Share that is kept for the claim.
        prices: JSON of what a million tokens cost, {"MODEL": {"input": 0.1, "output": 0.4}}
            (default: the billions of weights that a token meets, which endpoints do not tell).
        answers: Folder of answers that are asked for once (default: OUT/answers).
        concurrency: Questions that an endpoint is asked at once; latencies are those under load.
        retries: Times that an endpoint is asked again.
        timeout_seconds: Longest silence of an endpoint.
        seed: Of the samples.
        overwrite: Replace the records in `out`; answers stay.
        trust_remote_code: Run code that the checkpoints bring along.

    Returns:
        The account of the run: scores by model and task, costs and latencies, and who was left out.

    Raises:
        SettingsError: A setting is wrong, `out` holds a result already or what is no one's of
            prepare, or lies where something is read.
        DataError: Data are missing or damaged, a question is in two splits, or fewer than two
            models answered.
        CheckpointError: A model cannot be read.
    """
    out = Path(out)
    fractions = _fractions(dev_fraction, test_fraction)
    asking = _asking(samples, temperature, max_tokens, stop, is_chat, seed)
    _require_bounds(retries, concurrency, timeout_seconds, num_questions)
    lm_eval = (*lm_eval, *(entry for entry in pool if _is_file(entry)))
    pool = [entry for entry in pool if not _is_file(entry)]
    _require_something(pool, data, lm_eval)
    places = [*pool, *data, *lm_eval, *([] if prices is None else [str(prices)])]
    require_apart(out, [one for place in places for one in (place, place.partition("=")[2])])
    sets, num_twice = read_tasks(data, num_questions, fractions)
    sampled = [read_samples(entry, fractions) for entry in lm_eval]
    settings: dict[str, Any] = {  # Any: JSON values
        **asking.model_dump(mode="json", exclude={"seed"}),
        **{"data": list(data), "lm_eval": list(lm_eval), "num_questions": num_questions},
        **{"dev_fraction": dev_fraction, "test_fraction": test_fraction},
        **{"prices": None if prices is None else str(prices), "concurrency": concurrency},
    }
    with recorded(
        "route", settings=settings, action="prepare", seed=seed, out=out, overwrite=None
    ) as run:
        _require_vacant(out, overwrite)
        patience = Patience(retries)
        members = opened_pool(pool, patience, concurrency, timeout_seconds, trust_remote_code)
        _note_inputs(run, members, sets, sampled)
        priced = read_prices(prices, {one.name: one.billion_weights for one in members})
        job = _Job(sets, asking, out / _ANSWERS if answers is None else answers)
        scored, left_out = job.all_of(members, run)
        run.notes += left_out
        records = _together(sets, sampled, scored, left_out)
        if num_twice:
            run.notes.append(f"{num_twice} questions stood twice, and count once.")
        counts = written(records, priced, out)
        account_for(run, records, counts, priced)
        run.finish(out)
        remove(out / STAGED)
    return run.result


class _Job(NamedTuple):
    """What all members are asked, and how."""

    sets: list[TaskSet]
    asking: Asking
    answers: Path

    @property
    def posed(self) -> list[PoolQuestion]:
        return [one for task in self.sets for one in task.posed]

    def all_of(
        self, members: Sequence[Member], run: Recording
    ) -> tuple[dict[str, dict[str, PoolScore]], list[str]]:
        """Return the scores by question of all members that answer, and why others do not."""
        found: dict[str, dict[str, PoolScore]] = {}
        left_out = []
        num_kept = 0
        total = len(members) * len(self.posed)
        with steps("questions", total) as bar:
            for member in members:
                bar.show(member.name)
                with AnswerFile(self.answers, member, self.asking) as file:
                    missing = file.missing(self.posed)
                    num_kept += len(self.posed) - len(missing)
                    bar.advance(len(self.posed) - len(missing))
                    by_id = {one.id: one for one in missing}
                    try:
                        for reply in member.replies(missing, self.asking):
                            file.add(by_id[reply.id], reply)
                            bar.advance()
                    except Vacant as error:
                        left_out.append(f"Left out: '{member.name}'. {error}")
                        continue
                    found[member.name] = _scores(file, self.posed)
        if num_kept:
            run.resumed(f"had {num_kept} of {total} replies")
        return found, left_out


def _scores(file: AnswerFile, posed: Sequence[PoolQuestion]) -> dict[str, PoolScore]:
    replies = ((one, file.of(one)) for one in posed)
    return {one.id: score_of(one, reply) for one, reply in replies if reply is not None}


def _together(
    sets: Sequence[TaskSet],
    sampled: Sequence[tuple[str, list[Sampled]]],
    scored: dict[str, dict[str, PoolScore]],
    left_out: Sequence[str],
) -> Records:
    """Return what all models have in common.

    Raises:
        DataError: It is nothing.
    """
    posed = {one.id: one for task in sets for one in task.posed}
    by_model = dict(scored)
    for name, own in sampled:
        by_model[name] = dict(by_model.get(name, {}))
        for one in own:
            posed.setdefault(one.posed.id, one.posed)
            by_model[name].setdefault(one.posed.id, one.scored)
    if len(by_model) < _FEWEST:
        mend = "Mend what was left out" if left_out else "Name further ones"
        told = [
            f"{len(by_model)} models of the pool answered, and a router needs two to choose "
            f"between.",
            *left_out,
            f"{mend}, and run this again (what was answered is kept).",
        ]
        raise DataError(" ".join(told))
    records = gathered(posed, by_model)
    if not records.posed:
        raise DataError(
            f"No question was answered by all of {', '.join(by_model)}; give samples of the same "
            f"tasks for each, asked in the same words."
        )
    return records


def _note_inputs(
    run: Recording,
    members: Sequence[Member],
    sets: Sequence[TaskSet],
    sampled: Sequence[tuple[str, list[Sampled]]],
) -> None:
    for member in members:
        run.read(member.name, member.name, member.identity, "model")
    for task in sets:
        run.read(task.name, task.name, task.content_hash, "data")
    for number, (name, own) in enumerate(sampled, 1):
        content = digest([[*one.posed, *one.scored] for one in own])
        run.read(f"samples {number} of {name}", name, content, "data")


def _require_vacant(out: Path, overwrite: bool) -> None:
    is_result = (out / RESULT_FILE).exists()
    is_ours = _is_prepared(out) if is_result else _is_begun(out)
    require_replaceable(out, True, is_ours, "folder that route prepare made")
    if is_result and not overwrite:
        raise SettingsError(
            f"'{out}' holds a result already; pass --overwrite (what was answered is not asked "
            f"again), or another folder."
        )


def _is_prepared(out: Path) -> bool:
    try:
        found = read_result(out / RESULT_FILE)
    except DataError:
        return False
    return (found.verb, found.action) == ("route", "prepare")


def _is_begun(out: Path) -> bool:
    """Say whether a folder without a result is empty, or what a killed run left to go on with."""
    if not out.is_dir():
        return False
    names = {one.name for one in out.iterdir() if not one.name.startswith(f".{RESULT_FILE}.")}
    return STAGED in names or names <= {_ANSWERS}


def _is_file(entry: str) -> bool:
    """Say whether an entry of the pool means what a model has answered."""
    return "=" in entry and entry.endswith(".jsonl")


def _fractions(dev: float, test: float) -> Fractions:
    if not (0 <= dev < 1 and 0 <= test < 1 and dev + test < 1):
        raise SettingsError(
            f"Found dev_fraction = {dev} and test_fraction = {test}, expected shares from 0 on "
            f"that leave some for training; lower them."
        )
    return Fractions(dev, test)


def _require_bounds(
    retries: int, concurrency: int, timeout_seconds: float, num_questions: int | None
) -> None:
    if retries < 0:
        raise SettingsError(f"retries = {retries}; give 0 or more.")
    if concurrency < 1:
        raise SettingsError(f"concurrency = {concurrency}; give at least 1.")
    if not 0 < timeout_seconds < float("inf"):
        raise SettingsError(f"timeout_seconds = {timeout_seconds:g}; give more than 0.")
    if num_questions is not None and num_questions < 1:
        raise SettingsError(f"num_questions = {num_questions}; give at least 1.")


def _asking(
    samples: int, temperature: float, max_tokens: int, stop: str, is_chat: bool, seed: int
) -> Asking:
    if temperature == 0 and samples > 1:
        raise SettingsError(
            f"Found samples = {samples} at temperature 0, where all are alike; give --samples 1, "
            f"or raise --temperature."
        )
    return Asking(
        samples=samples,
        temperature=temperature,
        max_tokens=max_tokens,
        stop=stop,
        is_chat=is_chat,
        seed=seed,
    )


def _require_something(pool: Sequence[str], data: Sequence[str], lm_eval: Sequence[str]) -> None:
    if pool and not data:
        raise SettingsError("data names no questions; name files or skills, such as skills:json.")
    if data and not pool:
        raise SettingsError("The pool is empty, so nobody answers; name models or endpoints.")
    if not pool and not lm_eval:
        raise SettingsError(
            "There is neither a pool nor samples of lm-eval; name models with --data, or give "
            "NAME=FILE.jsonl, which lm-eval wrote, in their place."
        )
