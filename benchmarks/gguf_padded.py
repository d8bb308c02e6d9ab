"""SmolLM2 with zeros up to widths of 256, as a GGUF of float32: real weights for K-quants.

Zeros in the residual stream, in heads and in the MLP change no logit, and norms are scaled by what
the mean over more columns takes from them. Beside it go windows of token ids of a text, so that
`gguf_peer.py --model OUT/f32.gguf --tokens OUT/tokens.json` quantises it and compares perplexities.

Usage: python benchmarks/gguf_padded.py OUT TEXT.txt [--num-windows 8]
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np

from treadle.core.codec import Array
from treadle.model.load import load_tokenizer, resolve
from treadle.model.source import open_model
from treadle.model.text import windows

WIDTH, HEADS, KV_HEADS, DIM = 768, 12, 4, 64
NAMES = {
    "self_attn.q_proj": ("attn_q", HEADS * DIM),
    "self_attn.k_proj": ("attn_k", KV_HEADS * DIM),
    "self_attn.v_proj": ("attn_v", KV_HEADS * DIM),
    "self_attn.o_proj": ("attn_output", WIDTH),
    "mlp.gate_proj": ("ffn_gate", 1536),
    "mlp.up_proj": ("ffn_up", 1536),
    "mlp.down_proj": ("ffn_down", WIDTH),
    "input_layernorm": ("attn_norm", WIDTH),
    "post_attention_layernorm": ("ffn_norm", WIDTH),
}
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
}


def padded(values: Array, rows: int, norm_scale: float) -> Array:
    """Return a matrix of more rows and columns, or a norm of more entries."""
    if values.ndim == 1:
        return np.pad(values * np.float32(norm_scale), (0, WIDTH - len(values)))
    columns = -(-values.shape[1] // 256) * 256
    return np.pad(values, ((0, rows - len(values)), (0, columns - values.shape[1])))


def interleaved(values: Array) -> Array:
    """Order the rows of queries and keys as llama.cpp does."""
    halves = values.reshape(-1, 2, DIM // 2, values.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def write(folder: Path, out: Path) -> None:
    """Write the padded model."""
    writer = gguf.GGUFWriter(out, "llama")
    with open_model(folder) as reader:
        config, hidden = reader.config, int(reader.config["hidden_size"])
        norm_scale, vocab = (hidden / WIDTH) ** 0.5, int(config["vocab_size"])
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(vocab)
        writer.add_context_length(2048)
        writer.add_embedding_length(WIDTH)
        writer.add_block_count(int(config["num_hidden_layers"]))
        writer.add_feed_forward_length(1536)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KV_HEADS)
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"] * hidden / WIDTH)
        writer.add_rope_dimension_count(DIM)
        rope = config.get("rope_parameters") or config
        writer.add_rope_freq_base(float(rope["rope_theta"]))
        for name in reader.tensors:
            values = np.asarray(reader.array(name), np.float32)
            parts = name.split(".")
            if name in OUTER:
                writer.add_tensor(OUTER[name], padded(values, vocab, norm_scale))
                continue
            own, rows = NAMES[".".join(parts[3:-1])]
            found = padded(values, rows, norm_scale)
            found = interleaved(found) if own in ("attn_q", "attn_k") else found
            writer.add_tensor(f"blk.{parts[2]}.{own}.weight", found)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("text")
    parser.add_argument("--num-windows", type=int, default=8)
    arguments = parser.parse_args()
    folder = resolve("packaged:smollm2")
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(folder, arguments.out / "f32.gguf")
    cut = windows(arguments.text, load_tokenizer(folder), arguments.num_windows, 512)
    (arguments.out / "tokens.json").write_text(json.dumps(cut.tokens.tolist()))
    print(arguments.out)


if __name__ == "__main__":
    main()
