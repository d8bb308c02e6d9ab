"""Optimizers written out and cases for them; not a test itself."""

import math

import torch
from torch.nn import functional

from treadle.core.seed import torch_stream
from treadle.model import tiny
from treadle.model.fit import FitSettings, fit, random_batches

TOKENS = torch.randint(0, 320, (400,), generator=torch_stream(0, "tokens"))
BATCHES = random_batches(TOKENS, 4, 16, seed=1)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def trained(model_type, settings, optimizer):
    """Return the weights that the loop arrives at."""
    model = tiny.model(model_type)
    fit(model, BATCHES, settings, optimizer=optimizer)
    return weights(model)


def gradients(model, step, clip_norm):
    """Return the clipped gradient of each parameter."""
    rows = BATCHES(step, ())
    logits = model(input_ids=rows).logits[:, :-1].flatten(0, 1)
    model.zero_grad()
    functional.cross_entropy(logits, rows[:, 1:].flatten()).backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    scale = min(1.0, clip_norm / (norm + 1e-6)) if clip_norm else 1.0
    return {name: p.grad * scale for name, p in model.named_parameters()}


def adamw_step(parameter, gradient, averages, step, rate, optimizer):
    """AdamW from its paper; `averages` is a list of two that changes in place."""
    first, second = optimizer.betas
    averages[0] = first * averages[0] + (1 - first) * gradient
    averages[1] = second * averages[1] + (1 - second) * gradient**2
    mean = averages[0] / (1 - first ** (step + 1))
    variance = averages[1] / (1 - second ** (step + 1))
    decay = optimizer.weight_decay if parameter.dim() > 1 else 0.0
    parameter.mul_(1 - rate * decay)
    parameter.sub_(rate * mean / (variance.sqrt() + optimizer.epsilon))


SETTINGS = FitSettings(steps=4, learning_rate=1e-3, clip_norm=0.5)
