"""Batches in which some tokens are answers, and their loss; not a test itself."""

import torch
from torch.nn import functional

from treadle.core.seed import torch_stream
from treadle.model.fit import Objective, random_batches

TOKENS = torch.randint(0, 16, (400,), generator=torch_stream(0, "tokens")).repeat(5)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def answer_loss(model, batch):
    """Mean cross-entropy of the tokens that are marked as answers."""
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
    labels = torch.where(batch["is_answer"], batch["input_ids"], -100)[:, 1:]
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


ANSWERS = Objective(answer_loss, lambda batch: float(batch["is_answer"][:, 1:].sum()))


def answers(step, _losses):
    """Rows of which one has three answer tokens, one has none, and the others have many."""
    ids = random_batches(TOKENS, 5, 16, seed=1)(step, ())
    ends = torch.tensor([3, 0, 14, 9, 16])[:, None]
    return {"is_answer": torch.arange(16)[None] < ends, "input_ids": ids}
