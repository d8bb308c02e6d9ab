/* See step_retain.h, and step_model.h for what is done with a step's rows. */

#include "step_model.h"

static const float GATE_EPSILON = 1e-6f;

static void activate_scored(float *x, int count, int kind) {
    for (int i = 0; i < count; i++) {
        if (kind == WITH_SILU) x[i] /= 1.0f + expf(-x[i]);
        else if (kind == WITH_GELU) x[i] *= 0.5f * (1.0f + erff(x[i] * 0.70710678f));
        else x[i] = x[i] > 0 ? x[i] : 0;
    }
}

static void norm_part(float *x, const float *weight) {
    float scale = 1.0f / sqrtf(dot(x, x, GATE_WIDTH) / GATE_WIDTH + GATE_EPSILON);
    for (int i = 0; i < GATE_WIDTH; i++) x[i] *= scale * weight[i];
}

static void conclude_gate(const Retaining *own, float *inner, int heads, int kv_heads, float *scores) {
    int group = heads / kv_heads;
    for (int part = 0; part < heads + kv_heads; part++)
        norm_part(inner + part * GATE_WIDTH, own->norms + (part < heads ? 0 : GATE_WIDTH));
    for (int kv = 0; kv < kv_heads; kv++) {
        const float *key = inner + (heads + kv) * GATE_WIDTH;
        float total = 0;
        for (int head = kv * group; head < (kv + 1) * group; head++) {
            const float *query = inner + head * GATE_WIDTH;
            float z = dot(query, key, GATE_WIDTH) / 4 + own->bias[head], others = 1;
            for (int sink = 0; sink < own->num_sinks; sink++)
                others += expf(dot(query, own->sinks + (kv * own->num_sinks + sink) * GATE_WIDTH, GATE_WIDTH) - z);
            total += 1 / others;
        }
        scores[kv] = total / (float)group;
    }
}

void conclude_scores(const Retaining *own, float *inner, int heads, int kv_heads, float *scores) {
    int width = own->first.rows;
    if (own->kind == SCORE_GATE) return conclude_gate(own, inner, heads, kv_heads, scores);
    if (own->kind == SCORE_MLP) activate_scored(inner, width, own->activation);
    for (int kv = 0; kv < kv_heads; kv++) {
        if (own->kind == SCORE_LINEAR) scores[kv] = inner[kv];
        else scores[kv] = dot(own->second + (int64_t)kv * width, inner, width) + (own->second_bias ? own->second_bias[kv] : 0);
    }
}

/* The heads that score a segment's entries in a layer, or null. */
static const Retaining *heads_of(const Step *s, int segment, int layer) {
    const Noted *noted = noted_of(&s->rows->view, segment);
    return noted && noted->note == NOTE_HEADS ? &noted->heads[layer] : NULL;
}

/* Puts what the heads of a layer read of a row together. */
static void gather_row(Step *s, const Retaining *own, const Heads *h, int64_t row) {
    int64_t cols = own->first.cols, q = (int64_t)h->heads * h->dim, kv = (int64_t)h->kv_heads * h->dim;
    float *to = s->work.read.values + row * cols;
    if (own->reads == READ_HIDDEN) memcpy(to, s->work.normed.values + row * cols, sizeof(float) * (size_t)cols);
    else {
        memcpy(to, s->work.q + row * q, sizeof(float) * (size_t)q);
        memcpy(to + q, s->work.k + row * kv, sizeof(float) * (size_t)kv);
        memcpy(to + q + kv, s->work.v + row * kv, sizeof(float) * (size_t)kv);
    }
    if (is_coded(&own->first)) quantise_row(&s->work.read, (int)row, (int)cols, 0, (int)(cols / BLOCK));
}

static void note_row(Step *s, const Retaining *own, int layer, int segment, int row) {
    const Rows *rows = s->rows;
    const Heads *h = &s->model->layers[layer].heads;
    float *inner = s->work.scored + (int64_t)row * own->first.rows, *scores = s->work.read.values + (int64_t)row * own->first.cols;
    conclude_scores(own, inner, h->heads, h->kv_heads, scores);
    for (int head = 0; head < h->kv_heads; head++) {
        const Spot spot = spot_of(&rows->view, h, &s->model->caches[layer], segment, row, rows->slots[row], head);
        spot.cache->scores[spot.plane * rows->view.page_size + spot.offset] = scores[head];
    }
}

void score_entries(Step *s, int id, int layer) {
    const Rows *rows = s->rows;
    const int32_t *starts = rows->view.row_starts;
    const Retaining *own;
    if (!s->has_heads) return;
    for (int segment = 0; segment < rows->num_segments; segment++)
        for (int row = starts[segment]; (own = heads_of(s, segment, layer)) && row < starts[segment + 1]; row++)
            if (row % s->team.count == id) gather_row(s, own, &s->model->layers[layer].heads, row);
    meet(&s->team);
    for (int segment = 0; segment < rows->num_segments; segment++) {
        if (!(own = heads_of(s, segment, layer))) continue;
        int begin, end, width = own->first.rows, first = starts[segment];
        share(width, LANES, id, s->team.count, &begin, &end);
        const Activations read = from_row(&s->work.read, first, own->first.cols);
        multiply(&own->first, &read, starts[segment + 1] - first, begin, end, s->work.scored + (int64_t)first * width, width, 0);
    }
    meet(&s->team);
    for (int segment = 0; segment < rows->num_segments; segment++)
        for (int row = starts[segment]; (own = heads_of(s, segment, layer)) && row < starts[segment + 1]; row++)
            if (row % s->team.count == id) note_row(s, own, layer, segment, row);
}

/* Adds a query and its products with itself to the sums of its head. */
static void add_query(const float *q, int dim, float *sums) {
    for (int i = 0; i < dim; i++) sums[i] += q[i];
    for (int i = 0; i < dim; i++)
        for (int j = 0; j < dim; j++) sums[dim + i * dim + j] = fmaf(q[i], q[j], sums[dim + i * dim + j]);
}

void count_queries(Step *s, int id, int layer) {
    const Rows *rows = s->rows;
    const Layer *l = &s->model->layers[layer];
    const Heads *h = &l->heads;
    int dim = h->dim, first_head = 0, is_counting = 0;
    float *own = s->work.room[id];
    for (int before = 0; before < layer; before++) first_head += s->model->layers[before].heads.heads;
    for (int segment = 0; segment < rows->num_segments; segment++) {
        const Noted *noted = noted_of(&rows->view, segment);
        if (!noted || !noted->queries) continue;
        is_counting = 1;
        for (int head = id; head < h->heads; head += s->team.count)
            for (int r = rows->view.row_starts[segment]; r < rows->view.row_starts[segment + 1]; r++) {
                if (rows->view.positions[r] < noted->first_query) continue;
                const float *q = s->work.q + ((int64_t)r * h->heads + head) * dim;
                if (l->q_norm) normalise(q, l->q_norm, own, dim, s->model);
                add_query(l->q_norm ? own : q, dim, noted->queries + (int64_t)(first_head + head) * dim * (dim + 1));
            }
    }
    if (is_counting) meet(&s->team);
}
