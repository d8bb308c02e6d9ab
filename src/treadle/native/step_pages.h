/* Scores of keys and sums of values over a block of slots; a unit includes it and makes those of one type of cache. */

#pragma once

#include "step_attention.h"

enum { LINE_BYTES = 64 };

/* LANES numbers of an array of the cache. */
INLINE floats numbers_of(const void *array, int64_t at, int dtype) {
    if (dtype == FP32) return load((const float *)array + at);
    return dtype == FP16 ? load_half((const uint16_t *)array + at) : floats_of((const int8_t *)array + at);
}

/* How many vectors of numbers come with one line of memory. */
INLINE int vectors_of_line(int dtype) { return LINE_BYTES / (LANES * bytes_of(dtype)); }

/* Fetches the line of a number. The processor foresees no page by itself; the second cache has more requests under way. */
INLINE void will_need(const void *array, int64_t at, int dtype) {
    __builtin_prefetch((const char *)array + at * bytes_of(dtype), 0, 2);
}

/* Adds one dimension of Q queries and the slots of W groups. */
INLINE void dot_step(const float *q, const Places *now, int group, int c, int dtype, int Q, int W, floats total[TALL][WIDE]) {
    floats key[WIDE];
    for (int w = 0; w < W; w++) key[w] = numbers_of(now->keys[group + w], c * now->stride, dtype);
    for (int i = 0; i < Q; i++) {
        floats query = spread(q[i]);
        for (int w = 0; w < W; w++) total[i][w] = fused(query, key[w], total[i][w]);
    }
}

/* The same of 4 bits: dimension c of `dim`, which shares bytes with another one. */
INLINE void dot_half(const float *q, const Places *now, int group, int c, int dim, int Q, int W, floats total[TALL][WIDE]) {
    int half = dim / 2, is_high = c >= half;
    floats key[WIDE], other;
    for (int w = 0; w < W; w++) {
        const uint8_t *from = (const uint8_t *)now->keys[group + w] + (is_high ? c - half : c) * now->stride;
        if (is_high) halves_of(from, &other, &key[w]);
        else halves_of(from, &key[w], &other);
        key[w] = (key[w] - MIDDLE) * half_scales(now->key_scales[group + w], is_high);
    }
    for (int i = 0; i < Q; i++) {
        floats query = spread(q[i]);
        for (int w = 0; w < W; w++) total[i][w] = fused(query, key[w], total[i][w]);
    }
}

/* For Q queries and the slots of W groups, dimension after dimension. */
INLINE void dot_tile(const float *q, const Places *now, const Places *next, int group, int dim, int dtype, int Q, int W,
                     float *scores) {
    enum { RUN = 4 };
    floats total[TALL][WIDE] = {0};
    int c = 0;
    for (; dtype == INT4 && c < dim; c++) {
        for (int w = 0; next && 2 * c < dim && w < W; w++) will_need(next->keys[group + w], c * next->stride, dtype);
        dot_half(q + c * Q, now, group, c, dim, Q, W, total);
    }
    for (; dtype != INT4 && c + RUN <= dim; c += RUN) {
        for (int ahead = 0; next && ahead < RUN; ahead += vectors_of_line(dtype))
            for (int w = 0; w < W; w++) will_need(next->keys[group + w], (c + ahead) * next->stride, dtype);
        for (int step = 0; step < RUN; step++) dot_step(q + (c + step) * Q, now, group, c + step, dtype, Q, W, total);
    }
    for (; dtype != INT4 && c < dim; c++) dot_step(q + c * Q, now, group, c, dtype, Q, W, total);
    for (int w = 0; w < W; w++) {
        if (now->has_scales && dtype != INT4)
            for (int i = 0; i < Q; i++) total[i][w] *= load(now->key_scales[group + w]);
        for (int i = 0; i < Q; i++) store(scores + i * SLOTS + w * LANES, total[i][w]);
    }
}

INLINE void dots(const Queries *q, const Places *now, const Places *next, int group, int dtype, int W, float *scores) {
    const float *from = q->vectors;
    int i = 0, dim = q->dim;
    for (; i + TALL <= q->count; i += TALL, from += TALL * dim, scores += TALL * SLOTS, next = 0)
        dot_tile(from, now, next, group, dim, dtype, TALL, W, scores);
    switch (q->count - i) {
    case 1: dot_tile(from, now, next, group, dim, dtype, 1, W, scores); break;
    case 2: dot_tile(from, now, next, group, dim, dtype, 2, W, scores); break;
    case 3: dot_tile(from, now, next, group, dim, dtype, 3, W, scores); break;
    case 4: dot_tile(from, now, next, group, dim, dtype, 4, W, scores); break;
    case 5: dot_tile(from, now, next, group, dim, dtype, 5, W, scores); break;
    }
}

INLINE void score(const Queries *q, const Places *now, const Places *next, int dtype, float *scores) {
    int group = 0;
    for (; group + WIDE <= now->num_groups; group += WIDE) dots(q, now, next, group, dtype, WIDE, scores + group * LANES);
    for (; group < now->num_groups; group++) dots(q, now, next, group, dtype, 1, scores + group * LANES);
}

/* For Q queries and W vectors of dimensions from c on, slot after slot. */
INLINE void mix_tile(const float *weights, const float *factors, const Places *now, const Places *next, int dim, int c,
                     int dtype, int Q, int W, float *out) {
    floats total[TALL][WIDE];
    for (int i = 0; i < Q; i++)
        for (int w = 0; w < W; w++) total[i][w] = load(out + i * dim + c + w * LANES) * factors[i];
    for (int group = 0; group < now->num_groups; group++) {
        int first = group * LANES, n = now->num_slots - first < LANES ? now->num_slots - first : LANES;
        for (int j = 0; j < n; j++) {
            floats value[WIDE];
            int64_t at = (int64_t)j * dim + c;
            for (int w = 0; w < W; w++) value[w] = numbers_of(now->values[group], at + w * LANES, dtype);
            if (next)
                for (int w = 0; w < W; w += vectors_of_line(dtype)) will_need(next->values[group], at + w * LANES, dtype);
            for (int i = 0; i < Q; i++) {
                floats weight = spread(weights[i * SLOTS + first + j]);
                for (int w = 0; w < W; w++) total[i][w] = fused(weight, value[w], total[i][w]);
            }
        }
    }
    for (int i = 0; i < Q; i++)
        for (int w = 0; w < W; w++) store(out + i * dim + c + w * LANES, total[i][w]);
}

/* The same of 4 bits: bytes from c on, whose upper halves are dimensions `half` later. */
INLINE void mix_pairs(const float *weights, const float *factors, const Places *now, const Places *next, int half, int c,
                      int Q, float *out) {
    floats low[TALL], high[TALL];
    for (int i = 0; i < Q; i++) {
        low[i] = load(out + 2 * i * half + c) * factors[i];
        high[i] = load(out + (2 * i + 1) * half + c) * factors[i];
    }
    for (int group = 0; group < now->num_groups; group++) {
        int first = group * LANES, n = now->num_slots - first < LANES ? now->num_slots - first : LANES;
        for (int j = 0; j < n; j++) {
            floats below, above;
            int64_t at = (int64_t)j * half + c;
            halves_of((const uint8_t *)now->values[group] + at, &below, &above);
            if (next) will_need(next->values[group], at, INT4);
            below = (below - MIDDLE) * half_scale(now->value_scales[group] + j, 0);
            above = (above - MIDDLE) * half_scale(now->value_scales[group] + j, 1);
            for (int i = 0; i < Q; i++) {
                floats weight = spread(weights[i * SLOTS + first + j]);
                low[i] = fused(weight, below, low[i]);
                high[i] = fused(weight, above, high[i]);
            }
        }
    }
    for (int i = 0; i < Q; i++) {
        store(out + 2 * i * half + c, low[i]);
        store(out + (2 * i + 1) * half + c, high[i]);
    }
}

INLINE void mix_all_pairs(const float *weights, const float *factors, const Queries *q, const Places *now, const Places *next,
                          int c, float *out) {
    int i = 0, half = q->dim / 2;
    for (; i + TALL <= q->count; i += TALL, weights += TALL * SLOTS, factors += TALL, out += TALL * q->dim, next = 0)
        mix_pairs(weights, factors, now, next, half, c, TALL, out);
    for (; i < q->count; i++, weights += SLOTS, factors++, out += q->dim) mix_pairs(weights, factors, now, next, half, c, 1, out);
}

INLINE void mix(const float *weights, const float *factors, const Queries *q, const Places *now, const Places *next, int c,
                int dtype, int W, float *out) {
    int i = 0, dim = q->dim;
    for (; i + TALL <= q->count; i += TALL, weights += TALL * SLOTS, factors += TALL, out += TALL * dim, next = 0)
        mix_tile(weights, factors, now, next, dim, c, dtype, TALL, W, out);
    switch (q->count - i) {
    case 1: mix_tile(weights, factors, now, next, dim, c, dtype, 1, W, out); break;
    case 2: mix_tile(weights, factors, now, next, dim, c, dtype, 2, W, out); break;
    case 3: mix_tile(weights, factors, now, next, dim, c, dtype, 3, W, out); break;
    case 4: mix_tile(weights, factors, now, next, dim, c, dtype, 4, W, out); break;
    case 5: mix_tile(weights, factors, now, next, dim, c, dtype, 5, W, out); break;
    }
}

/* One dimension that fills no vector. */
INLINE void mix_one(const float *weights, const float *factors, const Queries *q, const Places *now, int c, int dtype,
                    float *out) {
    for (int i = 0; i < q->count; i++) {
        float total = out[i * q->dim + c] * factors[i];
        for (int j = 0; j < now->num_slots; j++) {
            int64_t at = (int64_t)(j % LANES) * columns_of(q->dim, dtype);
            total = fmaf(weights[i * SLOTS + j], dimension_of(now->values[j / LANES], now->value_scales[j / LANES] + j % LANES, at, 1,
                                                                c, q->dim, dtype), total);
        }
        out[i * q->dim + c] = total;
    }
}

INLINE void gather(float *weights, const float *factors, const Queries *q, const Places *now, const Places *next,
                   int dtype, float *out) {
    int c = 0;
    for (int i = 0; now->has_scales && dtype != INT4 && i < q->count; i++)
        for (int group = 0; group < now->num_groups; group++) {
            float *at = weights + i * SLOTS + group * LANES;
            store(at, load(at) * load(now->value_scales[group]));
        }
    if (dtype == INT4) {
        int half = q->dim / 2;
        for (; c + LANES <= half; c += LANES) mix_all_pairs(weights, factors, q, now, next, c, out);
        for (; c < half; c++) {
            mix_one(weights, factors, q, now, c, dtype, out);
            mix_one(weights, factors, q, now, c + half, dtype, out);
        }
        return;
    }
    for (; c + WIDE * LANES <= q->dim; c += WIDE * LANES) mix(weights, factors, q, now, next, c, dtype, WIDE, out);
    for (; c + LANES <= q->dim; c += LANES) mix(weights, factors, q, now, next, c, dtype, 1, out);
    for (; c < q->dim; c++) mix_one(weights, factors, q, now, c, dtype, out);
}
