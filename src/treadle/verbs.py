"""The public verbs, one line each: the only place that sees all wings."""

from treadle.core.verb import Verb

__all__ = ["VERBS", "WINGS"]

WINGS = {
    "text": "text - which documents, in what mix?",
    "learn": "learn - train, grow and tune",
    "shrink": "shrink - fewer weights, fewer bits, less work",
    "combine": "combine - merge, route and edit",
    "deploy": "deploy - serve one model or many",
    "judge": "judge - how good is it, what does it cost?",
}
"""Wing -> heading of its group in the help."""

VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "prune",
            "shrink",
            "Remove weights: which stay, with what values?",
            "treadle.shrink.prune:prune",
            "treadle.shrink.prune:METRICS",
        ),
        Verb(
            "evaluate",
            "judge",
            "Measure quality: perplexity and multiple choice, with intervals.",
            "treadle.judge.evaluate:evaluate",
            "treadle.judge.evaluate:TASKS",
        ),
    )
}
