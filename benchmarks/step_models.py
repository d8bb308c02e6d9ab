"""The models whose training steps are planned: five image classifiers, four language models.

The image models follow their papers' tables (AlexNet in its one-tower form), with ReLU, ReLU6 and
SiLU in place as is usual, and without dropout. Run as a script, it prints what each captures to.
"""

import argparse
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, GPT2Config

from treadle.model.graph.capture import Captured, capture_model, capture_step
from treadle.model.graph.measure import UpdateTime, eager_model_peak, eager_peak
from treadle.model.graph.update import OptimizerName

NUM_CLASSES = 1000

# channels, kernel, stride, padding, pooled by 3 / 2
ALEXNET = [
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
]
# channels and convolutions of each stage
VGG16 = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]
# expansion, channels, blocks, stride of the first
MOBILENET_V2 = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]
# expansion, kernel, channels, blocks, stride of the first
EFFICIENTNET_B0 = [
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
]


def perceptron(size: int, hidden: int) -> list[nn.Module]:
    return [
        nn.Flatten(),
        nn.Linear(size, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, NUM_CLASSES),
    ]


def alexnet() -> nn.Module:
    layers: list[nn.Module] = []
    width = 3
    for channels, kernel, stride, padding, is_pooled in ALEXNET:
        layers += [nn.Conv2d(width, channels, kernel, stride, padding), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(3, 2)] if is_pooled else []
        width = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(6), *perceptron(width * 36, 4096))


def vgg16() -> nn.Module:
    layers: list[nn.Module] = []
    width = 3
    for channels, count in VGG16:
        for _ in range(count):
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU(inplace=True)]
            width = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(7), *perceptron(width * 49, 4096))


def normed(
    width: int,
    channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[..., nn.Module] | None = None,
) -> list[nn.Module]:
    found: list[nn.Module] = [
        nn.Conv2d(width, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    ]
    return found + ([] if activation is None else [activation(inplace=True)])


class Excitation(nn.Module):
    """Squeeze and excitation: channels weighted by what the whole image says."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the image, each channel weighted."""
        pooled = functional.adaptive_avg_pool2d(image, 1)
        return image * torch.sigmoid(self.excite(functional.silu(self.squeeze(pooled))))


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; added to the input where the shapes allow."""

    def __init__(
        self,
        width: int,
        channels: int,
        expansion: int,
        kernel: int,
        stride: int,
        activation: Callable[..., nn.Module],
        is_excited: bool,
    ) -> None:
        super().__init__()
        wide = width * expansion
        layers = normed(width, wide, 1, activation=activation) if expansion > 1 else []
        layers += normed(wide, wide, kernel, stride, wide, activation)
        layers += [Excitation(wide, max(1, width // 4))] if is_excited else []
        self.layers = nn.Sequential(*layers, *normed(wide, channels, 1))
        self.is_added = stride == 1 and width == channels

    def forward(self, image: Tensor) -> Tensor:
        """Return the block's result."""
        found: Tensor = self.layers(image)
        return image + found if self.is_added else found


def mobile(
    table: list[tuple[int, int, int, int, int]],
    activation: Callable[..., nn.Module],
    is_excited: bool,
) -> nn.Module:
    layers = normed(3, 32, 3, 2, activation=activation)
    width = 32
    for expansion, kernel, channels, count, first in table:
        for place in range(count):
            stride = 1 if place else first
            layers.append(
                InvertedResidual(width, channels, expansion, kernel, stride, activation, is_excited)
            )
            width = channels
    layers += normed(width, 1280, 1, activation=activation)
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, NUM_CLASSES)
    )


def mobilenet_v2() -> nn.Module:
    return mobile([(t, 3, c, n, s) for t, c, n, s in MOBILENET_V2], nn.ReLU6, False)


def efficientnet_b0() -> nn.Module:
    return mobile(EFFICIENTNET_B0, nn.SiLU, True)


class Attention(nn.Module):
    """Attention over all patches."""

    def __init__(self, dim: int, heads: int, is_fused: bool) -> None:
        super().__init__()
        self.heads, self.is_fused = heads, is_fused
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return what each patch takes from all."""
        batch, seq, dim = tokens.shape
        split = self.qkv(tokens).view(batch, seq, 3, self.heads, dim // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        if self.is_fused:
            found = functional.scaled_dot_product_attention(query, key, value)
        else:
            scores = query @ key.transpose(-2, -1) * (dim // self.heads) ** -0.5
            found = scores.softmax(dim=-1) @ value
        return self.out(found.transpose(1, 2).reshape(batch, seq, dim))


class Block(nn.Module):
    """An encoder block with its norms before."""

    def __init__(self, dim: int, heads: int, is_fused: bool) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, is_fused)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens after the block."""
        tokens = tokens + self.attention(self.attention_norm(tokens))
        return tokens + self.mlp(self.mlp_norm(tokens))


class VisionTransformer(nn.Module):
    """ViT-B/16 at 224 pixels."""

    def __init__(
        self, dim: int = 768, heads: int = 12, depth: int = 12, is_fused: bool = True
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 16, 16)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, 14 * 14 + 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, is_fused) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, NUM_CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of the classes."""
        patches = self.patches(image).flatten(2).transpose(1, 2)
        first = self.class_token.expand(len(image), -1, -1)
        tokens = torch.cat([first, patches], dim=1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def bert() -> nn.Module:
    from transformers import BertForMaskedLM

    config = BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return BertForMaskedLM(config)


def images(batch: int) -> dict[str, Tensor]:
    return {
        "image": torch.zeros(batch, 3, 224, 224),
        "label": torch.zeros(batch, dtype=torch.long),
    }


def image_loss(module: nn.Module, data: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(module(data["image"]), data["label"])


def masked(batch: int) -> dict[str, Tensor]:
    ids = torch.zeros(batch, 128, dtype=torch.long)
    return {"input_ids": ids, "labels": ids.clone()}


def masked_loss(module: nn.Module, data: dict[str, Tensor]) -> Tensor:
    found: Tensor = module(**data).loss
    return found


class StepModel(NamedTuple):
    """One model of the benchmark."""

    build: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, Tensor]]
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]


MODELS = {
    "alexnet": StepModel(alexnet, images, image_loss),
    "vgg16": StepModel(vgg16, images, image_loss),
    "mobilenet_v2": StepModel(mobilenet_v2, images, image_loss),
    "efficientnet_b0": StepModel(efficientnet_b0, images, image_loss),
    "vit_b16": StepModel(VisionTransformer, images, image_loss),
    "vit_b16_unfused": StepModel(lambda: VisionTransformer(is_fused=False), images, image_loss),
    "bert": StepModel(bert, masked, masked_loss),
}
CAUSAL = {
    "gpt2": GPT2Config(),
    "gpt2_xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
    "smollm2": "packaged:smollm2",
}
NAMES = [name for name in (*MODELS, *CAUSAL) if name != "vit_b16_unfused"]
"""Those of the tables; attention in single operators is for running in an arena."""


def capture(
    name: str,
    batch: int,
    *,
    seq: int = 128,
    optimizer: OptimizerName = "adamw",
    chunked_loss: int | None = None,
    attention: Literal["auto", "sdpa", "eager"] = "auto",
) -> Captured:
    """Capture a step; `seq`, `chunked_loss` and `attention` are for causal language models."""
    if name in CAUSAL:
        return capture_model(
            CAUSAL[name],
            batch=batch,
            seq=seq,
            optimizer=optimizer,
            chunked_loss=chunked_loss,
            attention=attention,
        )
    model = MODELS[name]
    return capture_step(
        model.build,
        inputs=lambda: model.inputs(batch),
        loss=model.loss,
        optimizer=optimizer,
        name=f"{name} batch {batch}",
    )


def eager(
    name: str, batch: int, *, seq: int = 128, update: UpdateTime = "after", fake: bool = False
) -> int:
    """Return the peak bytes of temporaries of eager PyTorch; see `eager_peak`."""
    if name in CAUSAL:
        return eager_model_peak(CAUSAL[name], batch=batch, seq=seq, update=update, fake=fake)
    model = MODELS[name]
    return eager_peak(
        model.build,
        inputs=lambda: model.inputs(batch),
        loss=model.loss,
        update=update,
        fake=fake,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--eager", choices=["none", "fake", "real"], default="fake")
    args = parser.parse_args()
    for name in args.names:
        started = time.perf_counter()
        captured = capture(name, args.batch)
        seconds = time.perf_counter() - started
        graph = captured.graph
        parameters = [value for value in graph.values if value.kind == "parameter"]
        line = f"{name:16} {sum(v.num_bytes for v in parameters) / 4e6:8.2f} M parameters  "
        line += f"{len(graph.operators):5} operators  captured in {seconds:5.2f} s"
        for update in ("after", "in_backward") if args.eager != "none" else ():
            peak = eager(name, args.batch, update=update, fake=args.eager == "fake")
            line += f"  eager, {update}: {peak / 2**20:8.1f} MiB"
        print(line, flush=True)


if __name__ == "__main__":
    main()
