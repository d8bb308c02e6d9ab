/* Attention over pages: the rows of a request meet its cached keys and values, page by page. A row adds up its slots in
 * their order and looks at no other row, so that its result does not depend on the batch or on how a prompt was cut. */

#pragma once

#include "step_vector.h"

enum { FP32 = 0, FP16 = 1, INT8 = 2 };
enum { TILE_ROWS = 4 };

typedef struct {
    void *keys, *values; /* [pages, kv_heads, page_size, dim] */
    int32_t *positions;  /* [pages, kv_heads, page_size] */
    float *key_scales, *value_scales;
} Cache;

typedef struct {
    int32_t heads, kv_heads, dim, window; /* window 0: none */
    float scale, softcap;                 /* softcap 0: none */
} Heads;

typedef struct {
    const int32_t *positions, *row_starts, *context_lengths, *page_starts, *pages, *prefix_lengths;
    const uint64_t *ancestors;
    int32_t dtype, page_size;
} View;

/* Stores a vector of `dim` numbers at slot `at`. */
static void keep(void *array, float *scales, int64_t at, const float *x, int dim, int dtype) {
    if (dtype == FP32) memcpy((float *)array + at * dim, x, 4 * (size_t)dim);
    else if (dtype == FP16)
        for (int i = 0; i < dim; i++) ((uint16_t *)array)[at * dim + i] = to_half(x[i]);
    else {
        float largest = largest_of(x, dim);
        round_to_codes(x, (int8_t *)array + at * dim, dim, largest > 0 ? 127.0f / largest : 0);
        scales[at] = largest / 127.0f;
    }
}

/* Returns `count` vectors from slot `at` on as float32: where they lie, or expanded into `room`. */
static const float *fetch(const void *array, const float *scales, int64_t at, int count, int dim, int dtype, float *room) {
    if (dtype == FP32) return (const float *)array + at * dim;
    for (int64_t slot = 0; slot < count; slot++)
        for (int i = 0; i < dim; i++) {
            int64_t from = (at + slot) * dim + i;
            room[slot * dim + i] = dtype == FP16 ? half_of(((const uint16_t *)array)[from])
                                                 : scales[at + slot] * (float)((const int8_t *)array)[from];
        }
    return room;
}

INLINE void dot_tile(const float *q, const float *k, int dim, int Q, int K, float out[4][4]) {
    floats total[4][4] = {0};
    int c = 0;
    for (; c + LANES <= dim; c += LANES) {
        floats key[4];
        for (int j = 0; j < K; j++) key[j] = load(k + j * dim + c);
        for (int i = 0; i < Q; i++) {
            floats query = load(q + i * dim + c);
            for (int j = 0; j < K; j++) total[i][j] = fused(query, key[j], total[i][j]);
        }
    }
    for (int i = 0; i < Q; i++)
        for (int j = 0; j < K; j++) {
            float rest = 0;
            for (int d = c; d < dim; d++) rest = fmaf(q[i * dim + d], k[j * dim + d], rest);
            out[i][j] = sum(total[i][j]) + rest;
        }
}

/* scores[i * stride + j] = q[i] . k[j] */
static void dots(const float *q, int num_queries, const float *k, int num_keys, int dim, float *scores, int64_t stride) {
    float out[4][4];
    for (int i = 0; i < num_queries; i += 4) {
        int Q = num_queries - i < 4 ? 1 : 4;
        int last = Q == 4 ? i + 1 : num_queries;
        for (int at = i; at < last; at += Q)
            for (int j = 0; j < num_keys; j += 4) {
                int K = num_keys - j < 4 ? 1 : 4, stop = K == 4 ? j + 1 : num_keys;
                for (int key = j; key < stop; key += K) {
                    if (Q == 4 && K == 4) dot_tile(q + at * dim, k + key * dim, dim, 4, 4, out);
                    else if (Q == 4) dot_tile(q + at * dim, k + key * dim, dim, 4, 1, out);
                    else if (K == 4) dot_tile(q + at * dim, k + key * dim, dim, 1, 4, out);
                    else dot_tile(q + at * dim, k + key * dim, dim, 1, 1, out);
                    for (int a = 0; a < Q; a++)
                        for (int b = 0; b < K; b++) scores[(at + a) * stride + key + b] = out[a][b];
                }
            }
    }
}

/* Turns the scores of `count` slots into weights that add up to one. */
static void soften(float *scores, int count, float largest) {
    floats total = {0};
    int c = 0;
    for (; c + LANES <= count; c += LANES) {
        floats e = exponential(load(scores + c) - largest);
        store(scores + c, e);
        total += e;
    }
    float rest = 0;
    if (c < count) {
        float buffer[LANES] = {0};
        memcpy(buffer, scores + c, 4 * (size_t)(count - c));
        store(buffer, exponential(load(buffer) - largest));
        for (int i = c; i < count; i++) {
            scores[i] = buffer[i - c];
            rest += scores[i];
        }
    }
    float inverse = 1.0f / (sum(total) + rest);
    for (int i = 0; i < count; i++) scores[i] *= inverse;
}

/* Multiplies `count` scores and returns the largest. */
static float scale_all(float *scores, int count, float scale) {
    floats most = spread(-INFINITY);
    float largest = -INFINITY;
    int c = 0;
    for (; c + LANES <= count; c += LANES) {
        floats v = load(scores + c) * scale;
        store(scores + c, v);
        most = choose(v > most, v, most);
    }
    for (int lane = 0; lane < LANES; lane++) largest = most[lane] > largest ? most[lane] : largest;
    for (; c < count; c++) {
        scores[c] *= scale;
        largest = scores[c] > largest ? scores[c] : largest;
    }
    return largest;
}

/* out[i] += the sum over j of weights[i * stride + j] v[j], slot after slot. */
INLINE void mix(const float *weights, int64_t stride, const float *v, int count, int dim, int Q, float *const out[4]) {
    enum { WIDE = 2 };
    int c = 0;
    for (; c + WIDE * LANES <= dim; c += WIDE * LANES) {
        floats total[4][WIDE];
        for (int i = 0; i < Q; i++)
            for (int w = 0; w < WIDE; w++) total[i][w] = load(out[i] + c + w * LANES);
        for (int j = 0; j < count; j++) {
            floats value[WIDE];
            for (int w = 0; w < WIDE; w++) value[w] = load(v + (int64_t)j * dim + c + w * LANES);
            for (int i = 0; i < Q; i++) {
                floats weight = spread(weights[i * stride + j]);
                for (int w = 0; w < WIDE; w++) total[i][w] = fused(weight, value[w], total[i][w]);
            }
        }
        for (int i = 0; i < Q; i++)
            for (int w = 0; w < WIDE; w++) store(out[i] + c + w * LANES, total[i][w]);
    }
    for (; c < dim; c++)
        for (int i = 0; i < Q; i++)
            for (int j = 0; j < count; j++) out[i][c] = fmaf(weights[i * stride + j], v[(int64_t)j * dim + c], out[i][c]);
}

INLINE int is_hidden(const View *view, const Heads *h, const Cache *cache, int segment, int row, int slot, int64_t place) {
    if (view->ancestors) {
        int tail = slot - view->prefix_lengths[segment];
        if (tail >= 0 && !(view->ancestors[row] >> tail & 1)) return 1;
    }
    return h->window && view->positions[row] - cache->positions[place] >= h->window;
}

/* Attention of up to TILE_ROWS rows from `first` on, all of one segment, in the heads of one kv head.
 * queries, target: [rows, heads, dim]; room: page_size * dim + TILE_ROWS * group * (dim + context) floats. */
static void attend(
    const View *view, const Heads *h, const Cache *cache, int segment, int first, int num_rows, int kv_head,
    const float *queries, float *target, float *room) {
    int dim = h->dim, group = h->heads / h->kv_heads, size = view->page_size, count = num_rows * group;
    int context = view->context_lengths[segment], start = view->row_starts[segment];
    int segment_rows = view->row_starts[segment + 1] - start;
    const int32_t *pages = view->pages + view->page_starts[segment];
    float *block = room, *q = block + (int64_t)size * dim, *scores = q + (int64_t)count * dim;
    int limits[TILE_ROWS], most = 0;
    for (int r = 0; r < num_rows; r++) {
        limits[r] = view->ancestors ? context : context - segment_rows + first + r - start + 1;
        most = limits[r] > most ? limits[r] : most;
        for (int g = 0; g < group; g++)
            memcpy(q + (int64_t)(r * group + g) * dim,
                   queries + ((int64_t)(first + r) * h->heads + kv_head * group + g) * dim, 4 * (size_t)dim);
    }
    for (int slot = 0; slot < most; slot += size) {
        int64_t at = ((int64_t)pages[slot / size] * h->kv_heads + kv_head) * size;
        int n = most - slot < size ? most - slot : size;
        const float *k = fetch(cache->keys, cache->key_scales, at, n, dim, view->dtype, block);
        dots(q, count, k, n, dim, scores + slot, context);
    }
    for (int i = 0; i < count; i++) {
        int r = i / group;
        float *s = scores + (int64_t)i * context, largest;
        if (view->ancestors || h->window || h->softcap > 0) {
            largest = -INFINITY;
            for (int slot = 0; slot < limits[r]; slot++) {
                int64_t place = ((int64_t)pages[slot / size] * h->kv_heads + kv_head) * size + slot % size;
                s[slot] *= h->scale;
                if (h->softcap > 0) s[slot] = h->softcap * tanhf(s[slot] / h->softcap);
                if (is_hidden(view, h, cache, segment, first + r, slot, place)) s[slot] = -INFINITY;
                largest = s[slot] > largest ? s[slot] : largest;
            }
        } else
            largest = scale_all(s, limits[r], h->scale);
        soften(s, limits[r], largest);
        memset(s + limits[r], 0, 4 * (size_t)(most - limits[r])); /* later slots count nothing */
        memset(target + ((int64_t)(first + r) * h->heads + kv_head * group + i % group) * dim, 0, 4 * (size_t)dim);
    }
    for (int slot = 0; slot < most; slot += size) {
        int64_t at = ((int64_t)pages[slot / size] * h->kv_heads + kv_head) * size;
        int n = most - slot < size ? most - slot : size;
        const float *v = fetch(cache->values, cache->value_scales, at, n, dim, view->dtype, block);
        for (int i = 0; i < count;) {
            int Q = count - i < 4 ? 1 : 4;
            float *out[4];
            for (int a = 0; a < Q; a++)
                out[a] = target + ((int64_t)(first + (i + a) / group) * h->heads + kv_head * group + (i + a) % group) * dim;
            const float *p = scores + (int64_t)i * context + slot;
            if (Q == 4) mix(p, context, v, n, dim, 4, out);
            else mix(p, context, v, n, dim, 1, out);
            i += Q;
        }
    }
}
