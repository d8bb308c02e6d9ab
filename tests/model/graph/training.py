"""Plain eager training, to compare with."""

import copy

import torch

OPTIMIZERS = {
    "adamw": lambda parameters, rate: torch.optim.AdamW(parameters, lr=rate, fused=True),
    "adamw_foreach": lambda parameters, rate: torch.optim.AdamW(parameters, lr=rate, foreach=True),
    "sgd": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
}


def causal_loss(module, data):
    return module(**data, labels=data["input_ids"], use_cache=False).loss


def trained(
    module, batches, optimizer="adamw", clip_norm=None, loss=causal_loss, learning_rate=1e-2
):
    """Return the losses, and the module and the optimizer after one step a batch."""
    module = copy.deepcopy(module)
    by = OPTIMIZERS[optimizer](list(module.parameters()), learning_rate)
    losses = []
    for batch in batches:
        value = loss(module, batch)
        value.backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
        by.step()
        by.zero_grad()
        losses.append(value.detach())
    return losses, module, by


def require_same(step, module, expected, batches):
    """Run `step`, which trains `module`, and require the bits of `trained`'s result."""
    losses, trained_module, optimizer = expected
    for batch, loss in zip(batches, losses, strict=True):
        assert torch.equal(step(**batch), loss)
    wanted = dict(trained_module.named_parameters())
    assert wanted
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, wanted[name]), name
        for key, state in optimizer.state.get(wanted[name], {}).items():
            if key != "step":
                assert torch.equal(step.tensors[f"{name}.{key}"], state), f"{name}.{key}"


def token_batches(count=3, batch=2, seq=16, vocab=320):
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_ids": torch.randint(0, vocab, (batch, seq), generator=generator)}
        for _ in range(count)
    ]
