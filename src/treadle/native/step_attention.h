/* Attention over pages: the rows of a request meet its cached keys and values, page by page. A row adds up its slots in
 * their order and looks at no other row, so that its result does not depend on the batch or on how a prompt was cut. */

#pragma once

#include "step_vector.h"

enum { FP32 = 0, FP16 = 1, INT8 = 2 };
enum { SLOTS = 64, QUERIES = 48, WIDE = LANES == 16 ? 4 : 2 };

typedef struct {
    void *keys;          /* [pages, kv_heads, dim, page_size]: a vector holds one dimension of many slots */
    void *values;        /* [pages, kv_heads, page_size, dim] */
    int32_t *positions;  /* [pages, kv_heads, page_size] */
    float *key_scales, *value_scales;
} Cache;

typedef struct {
    int32_t heads, kv_heads, dim, window; /* window 0: none */
    int32_t first;                        /* the number of the first KV head among those of all layers */
    float scale, softcap;                 /* softcap 0: none */
} Heads;

/* Tables of each layer and KV head, for segments whose heads keep different entries. Their planes lie in the arena, which
 * is a cache whose pages have one plane each. */
typedef struct {
    const int32_t *numbers; /* [segments] the segment's place in the arrays below, or -1; null: no segment has one */
    const int32_t *lengths; /* [kept segments, num_heads] */
    const int32_t *planes;  /* [kept segments, num_heads, most] */
    const Cache *arena;
    int32_t num_heads, most;
} HeadTables;

typedef struct {
    const int32_t *positions, *row_starts, *context_lengths, *page_starts, *pages, *prefix_lengths;
    const uint64_t *ancestors;
    int32_t dtype, page_size;
    HeadTables heads;
} View;

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

/* Stores a vector of `dim` numbers from `at` on, `step` apart; its scale, if it has one, at `slot`. */
static void keep(void *array, float *scales, int64_t at, int64_t step, int64_t slot, const float *x, int dim, int dtype) {
    if (dtype == INT8) {
        float largest = largest_of(x, dim), factor = largest > 0 ? 127.0f / largest : 0;
        int8_t *codes = (int8_t *)array + at;
        for (int i = 0; i < dim; i++) codes[i * step] = (int8_t)lrintf(x[i] * factor);
        scales[slot] = largest / 127.0f;
        return;
    }
    if (dtype == FP32)
        for (int i = 0; i < dim; i++) ((float *)array)[at + i * step] = x[i];
    else
        for (int i = 0; i < dim; i++) ((uint16_t *)array)[at + i * step] = to_half(x[i]);
}

/* Where the keys of up to SLOTS slots lie: a group is LANES slots side by side, and its next dimension follows `stride`
 * numbers later. */
typedef struct {
    const void *groups[SLOTS / LANES];
    int64_t stride;
    int dtype;
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

/* Slots as whole vectors hold them. */
static int whole_vectors(int count) { return (count + LANES - 1) / LANES * LANES; }

/* Turns the scores of whole vectors of slots into weights and returns what they must be multiplied by to add up to one.
 * Hidden slots at the end add zeros, so that they do not change the sum. */
static float soften(float *scores, int count, float largest) {
    floats total = {0};
    for (int c = 0; c < count; c += LANES) {
        floats e = exponential(load(scores + c) - largest);
        store(scores + c, e);
        total += e;
    }
    return 1.0f / sum(total);
}

static float most_of(const float *scores, int count) {
    floats most = spread(-INFINITY);
    float largest = -INFINITY;
    for (int c = 0; c < count; c += LANES) {
        floats v = load(scores + c);
        most = choose(v > most, v, most);
    }
    for (int lane = 0; lane < LANES; lane++) largest = most[lane] > largest ? most[lane] : largest;
    return largest;
}

/* Where the values of up to SLOTS slots lie, and what their numbers are to be multiplied by (null: nothing). */
typedef struct {
    const void *vectors[SLOTS];
    float scales[SLOTS];
    int dtype;
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

INLINE int is_hidden(
    const View *view, const Heads *h, const Cache *cache, int prefix, int row, int slot, int64_t place) {
    if (view->ancestors) {
        int tail = slot - prefix;
        if (tail >= 0 && !(view->ancestors[row] >> tail & 1)) return 1;
    }
    return h->window && view->positions[row] - cache->positions[place] >= h->window;
}

/* Rows that meet the same keys: so many that keys are read seldom, so few that their scores stay in the cache. */
static int tile_rows(const Heads *h) {
    int group = h->heads / h->kv_heads;
    return group > QUERIES / 4 ? 4 : QUERIES / group;
}

/* Scores of a row, in floats. */
static int64_t padded(int64_t context) { return (context + SLOTS - 1) / SLOTS * SLOTS; }

/* Floats that `attend` needs beside its arguments. */
static int64_t attention_room(const Heads *h, int64_t context) {
    return SLOTS * h->dim + (int64_t)tile_rows(h) * (h->heads / h->kv_heads) * (h->dim + padded(context) + 1);
}

/* A head's part of a segment's cache. */
typedef struct {
    const Cache *cache;
    const int32_t *pages;
    int kv_heads, kv_head, size, dim, dtype;
} Plane;

/* Where a head's table of a segment stands among those of all heads, or -1 if the segment has one for all heads. */
INLINE int64_t table_of(const View *view, const Heads *h, int segment, int kv_head) {
    int number = view->heads.numbers ? view->heads.numbers[segment] : -1;
    return number < 0 ? -1 : (int64_t)number * view->heads.num_heads + h->first + kv_head;
}

/* A head's part of a segment's cache; `context` becomes the number of its slots. */
INLINE Plane plane_of(const View *view, const Heads *h, const Cache *cache, int segment, int kv_head, int *context) {
    int64_t table = table_of(view, h, segment, kv_head);
    const int32_t *pages = view->pages + view->page_starts[segment];
    if (table < 0) return (Plane){cache, pages, h->kv_heads, kv_head, view->page_size, h->dim, view->dtype};
    *context = view->heads.lengths[table];
    pages = view->heads.planes + table * view->heads.most;
    return (Plane){view->heads.arena, pages, 1, 0, view->page_size, h->dim, view->dtype};
}

/* Where the key and value of a row go. */
typedef struct {
    const Cache *cache;
    int64_t plane;
    int offset;
} Spot;

INLINE Spot spot_of(const View *view, const Heads *h, const Cache *cache, int segment, int row, int slot, int kv_head) {
    int64_t table = table_of(view, h, segment, kv_head);
    int size = view->page_size;
    if (table < 0) return (Spot){cache, (int64_t)(slot / size) * h->kv_heads + kv_head, slot % size};
    int entry = view->heads.lengths[table] - (view->row_starts[segment + 1] - row);
    return (Spot){view->heads.arena, view->heads.planes[table * view->heads.most + entry / size], entry % size};
}

/* The number of a slot among all slots of all heads. */
INLINE int64_t slot_of(const Plane *p, int slot) {
    return ((int64_t)p->pages[slot / p->size] * p->kv_heads + p->kv_head) * p->size + slot % p->size;
}

/* Where the key of a slot starts; its next dimension follows a page's size later. */
INLINE int64_t key_of(const Plane *p, int slot) {
    return ((int64_t)p->pages[slot / p->size] * p->kv_heads + p->kv_head) * p->size * p->dim + slot % p->size;
}

/* The keys of `count` slots from `first` on: where they lie, or gathered in `room` if pages do not consist of groups. */
static void find_keys(const Plane *p, int first, int count, float *room, Keys *k) {
    if (p->size % LANES == 0) {
        k->dtype = p->dtype;
        k->stride = p->size;
        for (int slot = 0; slot < count; slot += LANES)
            k->groups[slot / LANES] = place_of(p->cache->keys, key_of(p, first + slot), p->dtype);
        return;
    }
    k->dtype = FP32;
    k->stride = SLOTS;
    for (int slot = 0; slot < count; slot++) {
        int64_t at = key_of(p, first + slot);
        k->groups[slot / LANES] = room + slot / LANES * LANES;
        for (int c = 0; c < p->dim; c++)
            room[(int64_t)c * SLOTS + slot] = number_of(p->cache->keys, at + (int64_t)c * p->size, p->dtype);
    }
}

static void find_values(const Plane *p, int first, int count, Values *v) {
    v->dtype = p->dtype;
    for (int slot = 0; slot < count; slot++) {
        int64_t at = slot_of(p, first + slot);
        v->vectors[slot] = place_of(p->cache->values, at * p->dim, p->dtype);
        if (p->dtype == INT8) v->scales[slot] = p->cache->value_scales[at];
    }
}

static int slots_at(int slot, int most) { return most - slot < SLOTS ? most - slot : SLOTS; }

/* scores[i * row + slot] = q[i] . k[slot] for the first `most` slots; a block's last group may write beyond them. */
static void score(const Plane *p, const float *q, int count, int most, float *room, float *scores, int64_t row) {
    Keys found[2];
    find_keys(p, 0, slots_at(0, most), room, &found[0]);
    for (int slot = 0, now = 0; slot < most; slot += SLOTS, now = !now) {
        int n = slots_at(slot, most), later = slot + SLOTS, num_groups = (n + LANES - 1) / LANES;
        const Keys *k = &found[now], *next = k;
        if (later < most && p->size % LANES == 0) {
            find_keys(p, later, slots_at(later, most), room, &found[!now]);
            /* The last block may have fewer groups than this one. */
            for (int g = (slots_at(later, most) + LANES - 1) / LANES; g < num_groups; g++)
                found[!now].groups[g] = found[!now].groups[0];
            next = &found[!now];
        }
        switch (k->dtype) {
        case FP32: dots(q, count, k, next, num_groups, p->dim, FP32, scores + slot, row); break;
        case FP16: dots(q, count, k, next, num_groups, p->dim, FP16, scores + slot, row); break;
        default: dots(q, count, k, next, num_groups, p->dim, INT8, scores + slot, row);
        }
        for (int j = 0; p->dtype == INT8 && j < n; j++)
            for (int i = 0; i < count; i++) scores[i * row + slot + j] *= p->cache->key_scales[slot_of(p, slot + j)];
        if (later < most && p->size % LANES) find_keys(p, later, slots_at(later, most), room, &found[!now]);
    }
}

/* out[i * dim] = the sum of the slots' values by the weights of query i. */
static void gather(const Plane *p, const float *weights, int64_t row, int count, int most, float *out) {
    memset(out, 0, 4 * (size_t)count * p->dim);
    Values found[2];
    find_values(p, 0, slots_at(0, most), &found[0]);
    for (int slot = 0, now = 0; slot < most; slot += SLOTS, now = !now) {
        int n = slots_at(slot, most), later = slot + SLOTS;
        const Values *v = &found[now], *next = v;
        if (later < most) {
            find_values(p, later, slots_at(later, most), &found[!now]);
            for (int j = slots_at(later, most); j < n; j++) found[!now].vectors[j] = found[!now].vectors[0];
            next = &found[!now];
        }
        for (int i = 0; i < count; i += 4, next = v)
            switch (p->dtype) {
            case FP32: mix(weights + i * row + slot, row, v, next, n, p->dim, FP32, count - i, out + i * p->dim); break;
            case FP16: mix(weights + i * row + slot, row, v, next, n, p->dim, FP16, count - i, out + i * p->dim); break;
            default: mix(weights + i * row + slot, row, v, next, n, p->dim, INT8, count - i, out + i * p->dim);
            }
    }
}

/* Attention of up to tile_rows rows from `first` on, all of one segment, in the heads of one kv head.
 * queries, target: [rows, heads, dim]. */
static void attend(
    const View *view, const Heads *h, const Cache *cache, int segment, int first, int num_rows, int kv_head,
    const float *queries, float *target, float *room) {
    int dim = h->dim, group = h->heads / h->kv_heads, count = num_rows * group;
    int longest = view->context_lengths[segment], context = longest, start = view->row_starts[segment];
    int segment_rows = view->row_starts[segment + 1] - start, limits[QUERIES], most = 0;
    const Plane plane = plane_of(view, h, cache, segment, kv_head, &context);
    int prefix = view->ancestors ? view->prefix_lengths[segment] - (longest - context) : 0;
    int64_t row = padded(context);
    float *q = room + SLOTS * dim, *scores = q + (int64_t)count * dim, *inverses = scores + count * row;
    for (int r = 0; r < num_rows; r++) {
        limits[r] = view->ancestors ? context : context - segment_rows + first + r - start + 1;
        most = limits[r] > most ? limits[r] : most;
        const float *from = queries + ((int64_t)(first + r) * h->heads + kv_head * group) * dim;
        for (int i = 0; i < group * dim; i++) q[r * group * dim + i] = from[i] * h->scale;
    }
    score(&plane, q, count, most, room, scores, row);
    int can_hide = view->ancestors || h->window;
    for (int i = 0; i < count; i++) {
        int limit = limits[i / group], whole = whole_vectors(limit);
        float *s = scores + (int64_t)i * row;
        for (int slot = 0; h->softcap > 0 && slot < limit; slot++) s[slot] = h->softcap * tanhf(s[slot] / h->softcap);
        for (int slot = 0; can_hide && slot < limit; slot++)
            if (is_hidden(view, h, plane.cache, prefix, first + i / group, slot, slot_of(&plane, slot))) s[slot] = -INFINITY;
        for (int slot = limit; slot < whole; slot++) s[slot] = -INFINITY;
        inverses[i] = soften(s, whole, most_of(s, whole));
        if (whole < most) memset(s + whole, 0, 4 * (size_t)(most - whole)); /* later slots count nothing */
    }
    gather(&plane, scores, row, count, most, q);
    for (int i = 0; i < count; i++) {
        float *to = target + ((int64_t)(first + i / group) * h->heads + kv_head * group + i % group) * dim;
        for (int c = 0; c < dim; c++) to[c] = q[i * dim + c] * inverses[i];
    }
}
