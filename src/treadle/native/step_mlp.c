/* What an MLP computes between its first matrices and its last one. */

#include "step_model.h"

static float gelu_tanh(float x) { return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x))); }

static float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.7071067812f)); }

static float activated(float x, int kind) {
    switch (kind) {
    case SILU: return x / (1.0f + expf(-x));
    case GELU_TANH: return gelu_tanh(x);
    case GELU: return gelu(x);
    case RELU: return x > 0 ? x : 0;
    default: return x / (1.0f + expf(-1.702f * x));
    }
}

INLINE floats silu(floats gate, floats up) { return up * gate / (exponential(-gate) + 1.0f); }

static void activate_silu(const float *gate, float *up, int count) {
    int i = 0;
    for (; i + LANES <= count; i += LANES) store(up + i, silu(load(gate + i), load(up + i)));
    if (i == count) return;
    float g[LANES] = {0}, u[LANES] = {0};
    memcpy(g, gate + i, 4 * (size_t)(count - i));
    memcpy(u, up + i, 4 * (size_t)(count - i));
    store(u, silu(load(g), load(u)));
    memcpy(up + i, u, 4 * (size_t)(count - i));
}

void activate(const float *gate, float *up, int count, int kind) {
    if (gate && kind == SILU) activate_silu(gate, up, count);
    else if (gate)
        for (int i = 0; i < count; i++) up[i] *= activated(gate[i], kind);
    else
        for (int i = 0; i < count; i++) up[i] = activated(up[i], kind);
}

void run_mlp(Step *s, int id, int layer) {
    const Layer *l = &s->model->layers[layer];
    int begin, end, inner = l->up.rows, num_rows = s->rows->num_rows, has_gate = l->gate.rows > 0;
    share(inner, BLOCK, id, s->team.count, &begin, &end);
    narrow(s, id, layer, has_gate ? ON_GATE : ON_UP, 1 + has_gate, &s->work.normed, l->up.cols);
    if (has_gate) {
        multiply(&l->gate, &s->work.normed, num_rows, begin, end, s->work.gate, inner, 0);
        widen(s, layer, ON_GATE, l->gate.cols, begin, end, s->work.gate, inner);
    }
    multiply(&l->up, &s->work.normed, num_rows, begin, end, s->work.inner.values, inner, 0);
    widen(s, layer, ON_UP, l->up.cols, begin, end, s->work.inner.values, inner);
    for (int r = 0; r < num_rows && begin < end; r++) {
        const float *gate = has_gate ? s->work.gate + (int64_t)r * inner + begin : NULL;
        activate(gate, s->work.inner.values + (int64_t)r * inner + begin, end - begin, s->model->activation);
        if (is_coded(&l->down)) quantise_row(&s->work.inner, r, inner, begin / BLOCK, end / BLOCK);
    }
}
