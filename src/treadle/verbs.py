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
            "curate",
            "text",
            "Clean a corpus: may this document stay, is it a copy?",
            "treadle.text.curate:curate",
            "treadle.text.curate:METHODS",
            (
                Verb(
                    "pack",
                    "text",
                    "Tokenise and pack a corpus, with a ledger of its exact order.",
                    "treadle.text.curate:pack",
                ),
                Verb(
                    "replay",
                    "text",
                    "Say what training steps see, and compare digests.",
                    "treadle.text.curate:replay",
                ),
                Verb(
                    "trial",
                    "text",
                    "Train small models on packed corpora and compare them on other text.",
                    "treadle.text.curate:trial",
                ),
            ),
        ),
        Verb(
            "tune",
            "learn",
            "Teach a model: by answers, by preferences, or by another model.",
            "treadle.learn.tune:tune",
            "treadle.learn.tune:METHODS",
            (
                Verb(
                    "fresh",
                    "learn",
                    "Make a small base model, taught on text and on skills' looks.",
                    "treadle.learn.tune:fresh",
                ),
            ),
        ),
        Verb(
            "plan",
            "learn",
            "Plan a training step: where does each operator and tensor live, when?",
            "treadle.learn.plan:plan",
            "treadle.learn.plan:PLANNERS",
        ),
        Verb(
            "prune",
            "shrink",
            "Remove weights: which stay, with what values?",
            "treadle.shrink.prune:prune",
            "treadle.shrink.prune:METRICS",
            (
                Verb(
                    "blocks",
                    "shrink",
                    "Drop the decoder blocks that change their input least.",
                    "treadle.shrink.prune:prune_blocks",
                ),
            ),
        ),
        Verb(
            "quantize",
            "shrink",
            "Round weights to few bits: to which code does each one go?",
            "treadle.shrink.quantize:quantize",
            "treadle.shrink.quantize:QUANTIZERS",
        ),
        Verb(
            "sparsify",
            "shrink",
            "Train heads that say which entries of the cache stay.",
            "treadle.shrink.sparsify:sparsify",
            "treadle.shrink.sparsify:METHODS",
        ),
        Verb(
            "merge",
            "combine",
            "Make one model of several: what is the merged tensor?",
            "treadle.combine.merge:merge",
            "treadle.combine.merge:METHODS",
            (
                Verb(
                    "yaml",
                    "combine",
                    "Merge as a mergekit configuration says.",
                    "treadle.combine.merge:merge_yaml",
                ),
                Verb(
                    "moe",
                    "combine",
                    "Make one mixture of experts of dense models.",
                    "treadle.combine.merge:merge_moe",
                ),
                Verb(
                    "inspect",
                    "combine",
                    "Say how alike models are, and how to merge them.",
                    "treadle.combine.merge:merge_inspect",
                ),
                Verb(
                    "glue",
                    "combine",
                    "Make one model of a zoo: cluster, search each merge, mix the rest.",
                    "treadle.combine.merge:merge_glue",
                ),
                Verb(
                    "conflict",
                    "combine",
                    "Merge where models agree; keep sparse experts, and route, where they do not.",
                    "treadle.combine.merge:merge_conflict",
                ),
                Verb(
                    "materialise",
                    "combine",
                    "Write one expert, or one mixture, of such a bundle as a plain model.",
                    "treadle.combine.merge:merge_materialise",
                ),
                Verb(
                    "extract-lora",
                    "combine",
                    "Write what a model learned as a LoRA adapter of its base.",
                    "treadle.combine.merge:merge_extract_lora",
                ),
            ),
        ),
        Verb(
            "route",
            "combine",
            "Make a router of scored questions: which model answers this query?",
            "treadle.combine.route:route",
            "treadle.combine.route:METHODS",
            (
                Verb(
                    "evaluate",
                    "combine",
                    "Say what a router is worth beside single models and oracles.",
                    "treadle.combine.route:route_evaluate",
                ),
                Verb(
                    "prepare",
                    "combine",
                    "Have a pool of models answer questions: the records of routers.",
                    "treadle.combine.route:route_prepare",
                ),
            ),
        ),
        Verb(
            "serve",
            "deploy",
            "Serve models behind OpenAI's and Anthropic's HTTP interfaces, with a status page.",
            "treadle.deploy.serve:serve",
            actions=(
                Verb(
                    "probe",
                    "deploy",
                    "Start a server, ask it once with OpenAI's client, look at its page, stop it.",
                    "treadle.deploy.serve:probe",
                ),
            ),
        ),
        Verb(
            "evaluate",
            "judge",
            "Measure quality under a named protocol, with intervals, paired with a baseline.",
            "treadle.judge.evaluate:evaluate",
            "treadle.judge.evaluate:TASKS",
            (
                Verb(
                    "grid",
                    "judge",
                    "Ask several models several sets of questions; one heat map.",
                    "treadle.judge.evaluate:evaluate_grid",
                ),
            ),
        ),
        Verb(
            "bench",
            "judge",
            "Measure what a model costs on this machine, and what it answers.",
            "treadle.judge.bench:bench",
            "treadle.judge.bench:BENCHMARKS",
            (
                Verb(
                    "load",
                    "judge",
                    "Load a server with drawn requests and measure its latencies.",
                    "treadle.judge.bench:bench_load",
                ),
                Verb(
                    "replay",
                    "judge",
                    "Replay a recorded trace of requests against a server.",
                    "treadle.judge.bench:bench_replay",
                ),
            ),
        ),
    )
}
