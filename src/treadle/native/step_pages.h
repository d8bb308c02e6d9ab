/* Scores of keys and sums of values over a plane's slots; a unit includes it and makes those of one type of cache. */

#pragma once

#include "step_attention.h"

/* The number at `at` of an array of the cache. */
INLINE float number_of(const void *array, int64_t at, int dtype) {
    if (dtype == FP32) return ((const float *)array)[at];
    return dtype == FP16 ? half_of(((const uint16_t *)array)[at]) : (float)((const int8_t *)array)[at];
}

/* LANES of them. */
INLINE floats numbers_of(const void *array, int64_t at, int dtype) {
    if (dtype == FP32) return load((const float *)array + at);
    if (dtype == FP16) return load_half((const uint16_t *)array + at);
    bytes codes;
    memcpy(&codes, (const int8_t *)array + at, sizeof codes);
    return __builtin_convertvector(__builtin_convertvector(codes, ints), floats);
}

INLINE const void *place_of(const void *array, int64_t at, int dtype) {
    return (const char *)array + at * (dtype == FP32 ? 4 : dtype == FP16 ? 2 : 1);
}

/* Where the keys of up to SLOTS slots lie: a group is LANES slots side by side, and its next dimension follows `stride`
 * numbers later. */
typedef struct {
    const void *groups[SLOTS / LANES];
    int64_t stride;
} Keys;

/* scores[i * row + j] = q[i] . k[j], added up dimension after dimension, for the slots of W groups. What `next` holds is
 * fetched beside: the processor foresees no page by itself. */
INLINE void dot_tile(const float *q, const Keys *k, const Keys *next, int group, int dim, int dtype, int Q, int W,
                     float *scores, int64_t row) {
    floats total[4][WIDE] = {0};
    for (int c = 0; c < dim; c++) {
        floats key[WIDE];
        for (int w = 0; w < W; w++) {
            key[w] = numbers_of(k->groups[group + w], c * k->stride, dtype);
            __builtin_prefetch(place_of(next->groups[group + w], c * next->stride, dtype));
        }
        for (int i = 0; i < Q; i++) {
            floats query = spread(q[i * dim + c]);
            for (int w = 0; w < W; w++) total[i][w] = fused(query, key[w], total[i][w]);
        }
    }
    for (int i = 0; i < Q; i++)
        for (int w = 0; w < W; w++) store(scores + i * row + w * LANES, total[i][w]);
}

INLINE void dot_groups(const float *q, const Keys *k, const Keys *next, int num_groups, int dim, int dtype, int Q,
                       float *scores, int64_t row) {
    int group = 0;
    for (; group + WIDE <= num_groups; group += WIDE)
        dot_tile(q, k, next, group, dim, dtype, Q, WIDE, scores + group * LANES, row);
    for (; group < num_groups; group++)
        dot_tile(q, k, next, group, dim, dtype, Q, 1, scores + group * LANES, row);
}

INLINE void dots(const float *q, int num_queries, const Keys *k, const Keys *next, int num_groups, int dim, int dtype,
                 float *scores, int64_t row) {
    for (int i = 0; i < num_queries; i += 4, q += 4 * dim, scores += 4 * row, next = k)
        switch (num_queries - i) {
        case 1: dot_groups(q, k, next, num_groups, dim, dtype, 1, scores, row); break;
        case 2: dot_groups(q, k, next, num_groups, dim, dtype, 2, scores, row); break;
        case 3: dot_groups(q, k, next, num_groups, dim, dtype, 3, scores, row); break;
        default: dot_groups(q, k, next, num_groups, dim, dtype, 4, scores, row);
        }
}

/* Where the values of up to SLOTS slots lie, and what their numbers are to be multiplied by (null: nothing). */
typedef struct {
    const void *vectors[SLOTS];
    float scales[SLOTS];
} Values;

INLINE float weight_of(const float *weights, const Values *v, int slot, int dtype) {
    return dtype == INT8 ? weights[slot] * v->scales[slot] : weights[slot];
}

/* out[i * dim] += the sum over j of weights[i * row + j] v[j], slot after slot. */
INLINE void mix_tile(const float *weights, int64_t row, const Values *v, const Values *next, int count, int dim, int dtype,
                     int Q, float *out) {
    int c = 0;
    for (; c + WIDE * LANES <= dim; c += WIDE * LANES) {
        floats total[4][WIDE];
        for (int i = 0; i < Q; i++)
            for (int w = 0; w < WIDE; w++) total[i][w] = load(out + i * dim + c + w * LANES);
        for (int j = 0; j < count; j++) {
            floats value[WIDE];
            for (int w = 0; w < WIDE; w++) {
                value[w] = numbers_of(v->vectors[j], c + w * LANES, dtype);
                __builtin_prefetch(place_of(next->vectors[j], c + w * LANES, dtype));
            }
            for (int i = 0; i < Q; i++) {
                floats weight = spread(weight_of(weights + i * row, v, j, dtype));
                for (int w = 0; w < WIDE; w++) total[i][w] = fused(weight, value[w], total[i][w]);
            }
        }
        for (int i = 0; i < Q; i++)
            for (int w = 0; w < WIDE; w++) store(out + i * dim + c + w * LANES, total[i][w]);
    }
    for (; c + LANES <= dim; c += LANES)
        for (int i = 0; i < Q; i++) {
            floats total = load(out + i * dim + c);
            for (int j = 0; j < count; j++) {
                floats weight = spread(weight_of(weights + i * row, v, j, dtype));
                total = fused(weight, numbers_of(v->vectors[j], c, dtype), total);
            }
            store(out + i * dim + c, total);
        }
    for (; c < dim; c++)
        for (int i = 0; i < Q; i++)
            for (int j = 0; j < count; j++) {
                float weight = weight_of(weights + i * row, v, j, dtype);
                out[i * dim + c] = fmaf(weight, number_of(v->vectors[j], c, dtype), out[i * dim + c]);
            }
}

INLINE void mix(const float *weights, int64_t row, const Values *v, const Values *next, int count, int dim, int dtype,
                int num_queries, float *out) {
    switch (num_queries) {
    case 1: mix_tile(weights, row, v, next, count, dim, dtype, 1, out); break;
    case 2: mix_tile(weights, row, v, next, count, dim, dtype, 2, out); break;
    case 3: mix_tile(weights, row, v, next, count, dim, dtype, 3, out); break;
    default: mix_tile(weights, row, v, next, count, dim, dtype, 4, out);
    }
}

/* Where the keys of `count` slots from `first` on lie, in pages that consist of whole groups. */
INLINE void find_keys(const Plane *p, int first, int count, int dtype, Keys *k) {
    k->stride = p->size;
    for (int slot = 0; slot < count; slot += LANES)
        k->groups[slot / LANES] = place_of(p->cache->keys, key_of(p, first + slot), dtype);
}

INLINE void find_values(const Plane *p, int first, int count, int dtype, Values *v) {
    for (int slot = 0; slot < count; slot++) {
        int64_t at = slot_of(p, first + slot);
        v->vectors[slot] = place_of(p->cache->values, at * p->dim, dtype);
        if (dtype == INT8) v->scales[slot] = p->cache->value_scales[at];
    }
}

INLINE int slots_at(int slot, int most) { return most - slot < SLOTS ? most - slot : SLOTS; }

INLINE int groups_at(int slot, int most) { return (slots_at(slot, most) + LANES - 1) / LANES; }

INLINE void scale_scores(const Plane *p, int slot, int n, int count, float *scores, int64_t row) {
    for (int j = 0; j < n; j++)
        for (int i = 0; i < count; i++) scores[i * row + slot + j] *= p->cache->key_scales[slot_of(p, slot + j)];
}

INLINE void score(const Plane *p, const float *q, int count, int most, int dtype, float *scores, int64_t row) {
    Keys found[2];
    find_keys(p, 0, slots_at(0, most), dtype, &found[0]);
    for (int slot = 0, now = 0; slot < most; slot += SLOTS, now = !now) {
        int later = slot + SLOTS, num_groups = groups_at(slot, most);
        const Keys *k = &found[now], *next = k;
        if (later < most) {
            find_keys(p, later, slots_at(later, most), dtype, &found[!now]);
            /* The last block may have fewer groups than this one. */
            for (int g = groups_at(later, most); g < num_groups; g++) found[!now].groups[g] = found[!now].groups[0];
            next = &found[!now];
        }
        dots(q, count, k, next, num_groups, p->dim, dtype, scores + slot, row);
        if (dtype == INT8) scale_scores(p, slot, slots_at(slot, most), count, scores, row);
    }
}

INLINE void gather(const Plane *p, const float *weights, int64_t row, int count, int most, int dtype, float *out) {
    memset(out, 0, 4 * (size_t)count * p->dim);
    Values found[2];
    find_values(p, 0, slots_at(0, most), dtype, &found[0]);
    for (int slot = 0, now = 0; slot < most; slot += SLOTS, now = !now) {
        int n = slots_at(slot, most), later = slot + SLOTS;
        const Values *v = &found[now], *next = v;
        if (later < most) {
            find_values(p, later, slots_at(later, most), dtype, &found[!now]);
            for (int j = slots_at(later, most); j < n; j++) found[!now].vectors[j] = found[!now].vectors[0];
            next = &found[!now];
        }
        for (int i = 0; i < count; i += 4, next = v)
            mix(weights + i * row + slot, row, v, next, n, p->dim, dtype, count - i, out + i * p->dim);
    }
}
