"""Graphs to plan: drawn ones, built ones, and training steps of made-up layers."""

import numpy as np
from hypothesis import strategies as st

from treadle.model.graph.schema import Graph, GraphValue, Operator


class Builder:
    """Lists operators and values by name."""

    def __init__(self, name="built"):
        self.name, self.operators, self.values = name, [], []
        self.index = {}

    def value(self, name, num_bytes, kind="temporary", is_output=False):
        self.index[name] = len(self.values)
        self.values.append(
            GraphValue(num_bytes, "float32", (num_bytes // 4,), kind, name, is_output)
        )
        return name

    def run(
        self,
        name,
        reads=(),
        makes=(),
        *,
        phase="forward",
        after=(),
        scratch=0,
        flops=0,
        in_place=(),
        outputs=(),
    ):
        """Add an operator; `makes` lists (name, bytes), `in_place` pairs of names."""
        for value, num_bytes in makes:
            self.value(value, num_bytes, is_output=value in outputs)
        known = {operator.name: place for place, operator in enumerate(self.operators)}
        self.operators.append(
            Operator(
                name,
                f"test.{name.rstrip('0123456789')}",
                phase,
                tuple(self.index[value] for value in reads),
                tuple(self.index[value] for value, _ in makes),
                tuple(known[other] for other in after),
                scratch,
                flops,
                tuple((self.index[i], self.index[o]) for i, o in in_place),
            )
        )

    def graph(self):
        return Graph(self.name, tuple(self.operators), tuple(self.values))


def drawn_graph(rng, num_operators, *, max_inputs=3, num_sizes=9, scratch=True):
    """Return a random graph: any number of readers, donations, outputs, orders without data."""
    built = Builder(f"drawn-{num_operators}")
    built.value("w", 64 * 5, "parameter")
    made = []
    for number in range(num_operators):
        num_reads = int(rng.integers(0, max_inputs + 1)) if made else 0
        reads = sorted({made[int(rng.integers(len(made)))] for _ in range(num_reads)})
        makes = [
            (f"t{number}_{k}", 64 * int(rng.integers(1, num_sizes)))
            for k in range(int(rng.integers(0, 3)) if number else 1)
        ]
        sizes = {v: built.values[built.index[v]].num_bytes for v in reads}
        pairs = [
            (r, m) for r in reads for m, size in makes if sizes[r] == size and rng.random() < 0.7
        ]
        after = [f"op{int(rng.integers(number))}"] if number and rng.random() < 0.15 else []
        built.run(
            f"op{number}",
            [*reads, "w"],
            makes,
            after=after,
            scratch=64 * int(rng.integers(0, 3)) if scratch else 0,
            in_place=pairs,
            outputs=[m for m, _ in makes if rng.random() < 0.1],
        )
        made += [m for m, _ in makes]
    return built.graph()


def graphs(max_operators=9):
    """Return a strategy of drawn graphs."""
    return st.builds(
        lambda seed, num: drawn_graph(np.random.default_rng(seed), num),
        st.integers(0, 2**32 - 1),
        st.integers(1, max_operators),
    )


def training_step(num_layers=4, width=8, batch=4, *, clip=False, scratch=0, helpers=True):
    """Return a step of linear layers with a nonlinearity that has a helper, and their updates.

    Sizes are in units of 64 bytes: a weight has width², an activation batch · width. Updates stand
    at the end, as they are traced.
    """
    unit, weight, act = 64, 64 * width * width, 64 * batch * width
    built = Builder(f"step-{num_layers}x{width}")
    built.value("x0", act, "data")
    for layer in range(num_layers):
        built.value(f"w{layer}", weight, "parameter")
        built.value(f"m{layer}", weight, "state")
    for layer in range(num_layers):
        built.run(
            f"mm{layer}", [f"x{layer}", f"w{layer}"], [(f"z{layer}", act)], flops=weight * batch
        )
        built.run(f"act{layer}", [f"z{layer}"], [(f"x{layer + 1}", act)], flops=act)
    last = f"x{num_layers}"
    built.run("loss", [last], [("loss", unit)], outputs=["loss"])
    back = {"phase": "backward"}
    built.run("seed", [last, "loss"], [(f"g{num_layers}", act)], **back)
    for layer in reversed(range(num_layers)):
        grad = f"g{layer + 1}"
        if helpers:
            built.run(f"slope{layer}", [f"z{layer}"], [(f"s{layer}", act)], **back)
            reads, pairs = [grad, f"s{layer}"], [(grad, f"d{layer}"), (f"s{layer}", f"d{layer}")]
        else:
            reads, pairs = [grad, f"z{layer}"], [(grad, f"d{layer}")]
        built.run(f"dact{layer}", reads, [(f"d{layer}", act)], in_place=pairs, flops=act, **back)
        built.run(
            f"dw{layer}",
            [f"d{layer}", f"x{layer}"],
            [(f"gw{layer}", weight)],
            flops=weight * batch,
            **back,
        )
        if layer:
            built.run(
                f"dx{layer}",
                [f"d{layer}", f"w{layer}"],
                [(f"g{layer}", act)],
                flops=weight * batch,
                **back,
            )
    grads = {layer: f"gw{layer}" for layer in range(num_layers)}
    if clip:
        built.run("norm", [*grads.values()], [("norm", unit)], **back)
        for layer, grad in grads.items():
            built.run(
                f"scale{layer}",
                [grad, "norm"],
                [(f"cw{layer}", weight)],
                in_place=[(grad, f"cw{layer}")],
                **back,
            )
            grads[layer] = f"cw{layer}"
    for layer, grad in grads.items():
        readers = [f"mm{layer}"] + ([f"dx{layer}"] if layer else [])
        built.run(
            f"update{layer}",
            [grad, f"w{layer}", f"m{layer}"],
            phase="update",
            after=readers,
            scratch=scratch,
        )
    return built.graph()
