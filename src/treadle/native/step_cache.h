/* The cache of keys and values, and where in it the slots of a request lie. */

#pragma once

#include "mirror.h"
#include "step_vector.h"

enum { FP32 = 0, FP16 = 1, INT8 = 2, INT4 = 3 };
/* Codes of 4 bits stand for (code - MIDDLE) * scale; each half of a vector has a scale of 16 bits, both in one float. */
#define MIDDLE 7.5f
/* Slots of a block, query vectors that meet it together, and of a tile of both: what the machine has registers for. */
enum { UNIT = 256 }; /* entries that are packed together */
enum { SLOTS = 128, QUERIES = 48, GROUPS = SLOTS / LANES, TALL = 6, WIDE = LANES == 16 ? 4 : 2 };

#define CACHE_FIELDS(F)                                                                                                    \
    F(void *, keys)        /* [pages, kv_heads, dim, page_size]: a vector holds one dimension of many slots; of 4 bits     \
                            * [.., dim / 2, page_size], where a byte holds dimensions c and, above it, c + dim / 2 */      \
    F(void *, values)      /* [pages, kv_heads, page_size, dim], or [.., dim / 2] */                                                         \
    F(int32_t *, positions) /* [pages, kv_heads, page_size] */                                                             \
    F(float *, key_scales)                                                                                                 \
    F(float *, value_scales)                                                                                               \
    F(float *, scores) /* [planes, page_size] what was noted of entries; of the arena, or null */
MIRRORED(Cache, CACHE_FIELDS);

#define HEADS_FIELDS(F)                                                                                                    \
    F(int32_t, heads)                                                                                                      \
    F(int32_t, kv_heads)                                                                                                   \
    F(int32_t, dim)                                                                                                        \
    F(int32_t, window) /* 0: none */                                                                                       \
    F(int32_t, first)  /* the number of the first KV head among those of all layers */                                     \
    F(float, scale)                                                                                                        \
    F(float, softcap)             /* 0: none */                                                                            \
    F(const int32_t *, windows) /* [heads] instead of the layer's window, or null */                                       \
    F(const float *, factors)   /* [kv_heads, dim] what keys of 4 bits are divided by, and queries multiplied; or null */
MIRRORED(Heads, HEADS_FIELDS);

/* What is noted of the entries of a segment, beside them, for who chooses which of them stay. */
enum { NOTE_NOTHING, NOTE_ZERO, NOTE_KEY_NORM, NOTE_HEADS };

#define NOTED_FIELDS(F)                                                                                                    \
    F(const struct Retaining *, heads) /* [layers] that score entries, of NOTE_HEADS */                                    \
    F(float *, queries)         /* [heads of all layers, dim + dim * dim] sums of queries and of their products; or null */ \
    F(int32_t, note)            /* what a new entry's score is */                                                          \
    F(int32_t, first_counted)   /* row of the segment from which on weights of attention add up to scores */               \
    F(int32_t, counts_largest)  /* they do not add up: the largest one stays */                                            \
    F(int32_t, first_query)     /* position from which on queries count */
MIRRORED(Noted, NOTED_FIELDS);

/* Tables of each layer and KV head, for segments whose heads keep different entries. Their planes lie in the arena, which
 * is a cache whose pages have one plane each. */
#define HEAD_TABLES_FIELDS(F)                                                                                              \
    F(const int32_t *, numbers) /* [segments] the segment's place below, or -1; null: no segment has one */                \
    F(const int32_t *, lengths) /* [kept segments, num_heads] */                                                           \
    F(const int32_t *, planes)  /* [kept segments, num_heads, most] */                                                     \
    F(const Cache *, arena)                                                                                                \
    F(const Noted *, noted) /* [kept segments], or null */                                                                 \
    F(const int32_t *, packed) /* [kept segments, 3] units, bits and first position of packed entries, or null */          \
    F(int32_t, num_heads)                                                                                                  \
    F(int32_t, most)
MIRRORED(HeadTables, HEAD_TABLES_FIELDS);

#define VIEW_FIELDS(F)                                                                                                     \
    F(const int32_t *, positions)                                                                                          \
    F(const int32_t *, row_starts)                                                                                         \
    F(const int32_t *, context_lengths)                                                                                    \
    F(const int32_t *, page_starts)                                                                                        \
    F(const int32_t *, pages)                                                                                              \
    F(const int32_t *, prefix_lengths) /* -1: the segment is causal, and its bits are not read */                          \
    F(const uint64_t *, ancestors) /* [rows, ancestor_words] */                                                            \
    F(int32_t, ancestor_words)                                                                                             \
    F(int32_t, dtype)                                                                                                      \
    F(int32_t, page_size)                                                                                                  \
    F(HeadTables, heads)
MIRRORED(View, VIEW_FIELDS);

/* Units of 256 entries in planes that others of the cache fill with fewer (runtime/cache/units.py). */
typedef struct {
    const int32_t *pages; /* the first unit's; each has `planes` of codes and one of scales */
    int count, bits, planes, first_position;
} Units;

/* A head's part of a segment's cache; `pages` are those of the slots behind the units. */
typedef struct {
    const Cache *cache;
    const int32_t *pages;
    int kv_heads, kv_head, size, dim, dtype;
    int num_packed; /* slots of the units, which come first */
    Units units;
} Plane;

/* Where a head's table of a segment stands among those of all heads, or -1 if the segment has one for all heads. */
INLINE int64_t table_of(const View *view, const Heads *h, int segment, int kv_head) {
    int number = view->heads.numbers ? view->heads.numbers[segment] : -1;
    return number < 0 ? -1 : (int64_t)number * view->heads.num_heads + h->first + kv_head;
}

/* What is noted of a segment's entries, or null. */
INLINE const Noted *noted_of(const View *view, int segment) {
    int number = view->heads.numbers && view->heads.noted ? view->heads.numbers[segment] : -1;
    return number < 0 ? NULL : &view->heads.noted[number];
}

INLINE int bytes_of(int dtype) { return dtype == FP32 ? 4 : dtype == FP16 ? 2 : 1; }

/* The units of a head whose table begins at `pages`. */
INLINE Units units_of(const View *view, const Heads *h, int segment, const int32_t *pages) {
    if (!view->heads.packed) return (Units){0};
    const int32_t *own = view->heads.packed + 3 * view->heads.numbers[segment];
    int plane_bytes = view->page_size * h->dim * bytes_of(view->dtype);
    int planes = own[1] ? UNIT * h->dim * own[1] / 8 / plane_bytes : 0;
    return (Units){pages, own[0], own[1], planes, own[2]};
}

INLINE int pages_of_units(const Units *u) { return u->count * (u->planes + 1); }

/* A head's part of a segment's cache; `context` becomes the number of its slots. */
INLINE Plane plane_of(const View *view, const Heads *h, const Cache *cache, int segment, int kv_head, int *context) {
    int64_t table = table_of(view, h, segment, kv_head);
    const int32_t *pages = view->pages + view->page_starts[segment];
    if (table < 0) return (Plane){cache, pages, h->kv_heads, kv_head, view->page_size, h->dim, view->dtype, 0, {0}};
    *context = view->heads.lengths[table];
    pages = view->heads.planes + table * view->heads.most;
    const Units units = units_of(view, h, segment, pages);
    return (Plane){view->heads.arena, pages + pages_of_units(&units), 1, 0, view->page_size, h->dim, view->dtype,
                   UNIT * units.count, units};
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
    const int32_t *pages = view->heads.planes + table * view->heads.most;
    const Units units = units_of(view, h, segment, pages);
    int entry = view->heads.lengths[table] - (view->row_starts[segment + 1] - row) - UNIT * units.count;
    return (Spot){view->heads.arena, pages[pages_of_units(&units) + entry / size], entry % size};
}

/* The number at `at` of an array of the cache. */
INLINE float number_of(const void *array, int64_t at, int dtype) {
    if (dtype == FP32) return ((const float *)array)[at];
    return dtype == FP16 ? half_of(((const uint16_t *)array)[at]) : (float)((const int8_t *)array)[at];
}

/* Columns of an array that a vector of `dim` numbers takes. */
INLINE int columns_of(int dim, int dtype) { return dtype == INT4 ? dim / 2 : dim; }

/* The scale of a half of a vector of 4 bits. */
INLINE float half_scale(const float *scale, int is_high) {
    uint32_t both;
    memcpy(&both, scale, sizeof both);
    return half_of((uint16_t)(is_high ? both >> 16 : both & 0xffff));
}

/* Dimension c of a vector of `dim` numbers whose columns begin at `at`, `step` apart; of 4 bits with its scale. */
INLINE float dimension_of(const void *array, const float *scale, int64_t at, int64_t step, int c, int dim, int dtype) {
    if (dtype != INT4) return number_of(array, at + c * step, dtype);
    int code = ((const uint8_t *)array)[at + c % (dim / 2) * step], is_high = c >= dim / 2;
    return ((float)(is_high ? code >> 4 : code & 15) - MIDDLE) * half_scale(scale, is_high);
}

/* The number of a slot that is not packed among all slots of all heads. */
INLINE int64_t slot_of(const Plane *p, int slot) {
    int page = (slot - p->num_packed) / p->size;
    return ((int64_t)p->pages[page] * p->kv_heads + p->kv_head) * p->size + (slot - p->num_packed - page * p->size);
}

/* The position of a slot's token. */
INLINE int32_t position_of(const Plane *p, int slot) {
    return slot < p->num_packed ? p->units.first_position + slot : p->cache->positions[slot_of(p, slot)];
}
