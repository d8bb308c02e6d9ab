/* A tile of rows on its way through the blocks of slots that it meets. */

#pragma once

#include "step_attention.h"

#define LOG2_E 1.44269504f

/* What decides which slots a row sees. */
typedef struct {
    Plane plane;
    int row;
    int context; /* slots of this head */
    int prefix;  /* those that every row sees, where rows say what they see behind */
    int limit;   /* slots that it sees at most */
    int is_tree; /* whether bits say what it sees behind the prefix */
} Sight;

INLINE Sight sight_of(const Tile *t, int segment, int row) {
    const View *view = t->view;
    int longest = view->context_lengths[segment];
    Sight s = {.row = row, .context = longest};
    s.plane = plane_of(view, t->heads, t->cache, segment, t->kv_head, &s.context);
    s.is_tree = view->ancestors && view->prefix_lengths[segment] >= 0;
    if (s.is_tree) s.prefix = view->prefix_lengths[segment] - (longest - s.context);
    s.limit = s.is_tree ? s.context : s.context - view->row_starts[segment + 1] + row + 1;
    return s;
}

INLINE int window_of(const Heads *h, int head) { return h->windows ? h->windows[head] : h->window; }

INLINE int sees(const View *view, int row, int behind) {
    return view->ancestors[(int64_t)row * view->ancestor_words + behind / 64] >> (behind % 64) & 1;
}

/* Hides what a row does not see of `count` slots from `first` on. */
INLINE void hide(const View *view, const Sight *s, int window, float *scores, int first, int count) {
    int limit = s->limit - first, known = limit < count ? limit : count;
    for (int j = limit < 0 ? 0 : limit; j < count; j++) scores[j] = -INFINITY;
    for (int j = s->prefix > first ? s->prefix - first : 0; s->is_tree && j < known; j++)
        if (!sees(view, s->row, first + j - s->prefix)) scores[j] = -INFINITY;
    for (int j = 0; window && j < known; j++)
        if (view->positions[s->row] - position_of(&s->plane, first + j) >= window)
            scores[j] = -INFINITY;
}

/* Where `count` slots from `first` on lie, in pages that consist of whole groups. */
INLINE void find(const Plane *p, int first, int count, Places *found) {
    int bytes = bytes_of(p->dtype), columns = columns_of(p->dim, p->dtype);
    found->stride = p->size;
    found->num_slots = count;
    found->num_groups = (count + LANES - 1) / LANES;
    found->has_scales = p->dtype >= INT8;
    for (int group = 0; group < found->num_groups; group++) {
        int64_t at = slot_of(p, first + group * LANES);
        int offset = (first + group * LANES) % p->size;
        found->keys[group] = (const char *)p->cache->keys + ((at - offset) * columns + offset) * bytes;
        found->values[group] = (const char *)p->cache->values + at * columns * bytes;
        if (!found->has_scales) continue;
        found->key_scales[group] = p->cache->key_scales + at;
        found->value_scales[group] = p->cache->value_scales + at;
    }
}

/* The same in pages of other sizes: their numbers are copied to `room`, as floats. */
INLINE void copy(const Plane *p, int first, int count, float *room, Places *found) {
    float *keys = room, *values = keys + SLOTS * p->dim, *key_scales = values + SLOTS * p->dim, *value_scales = key_scales + SLOTS;
    *found = (Places){
        .stride = SLOTS, .num_slots = count, .num_groups = (count + LANES - 1) / LANES, .has_scales = p->dtype == INT8};
    int columns = columns_of(p->dim, p->dtype);
    for (int j = 0; j < count; j++) {
        int64_t at = slot_of(p, first + j);
        int offset = (first + j) % p->size;
        for (int c = 0; c < p->dim; c++) {
            keys[c * SLOTS + j] = dimension_of(p->cache->keys, p->cache->key_scales + at, (at - offset) * columns + offset,
                                                    p->size, c, p->dim, p->dtype);
            values[j * p->dim + c] = dimension_of(p->cache->values, p->cache->value_scales + at, at * columns, 1, c, p->dim, p->dtype);
        }
        if (!found->has_scales) continue;
        key_scales[j] = p->cache->key_scales[at];
        value_scales[j] = p->cache->value_scales[at];
    }
    for (int group = 0; group < found->num_groups; group++) {
        found->keys[group] = keys + group * LANES;
        found->values[group] = values + group * LANES * p->dim;
        found->key_scales[group] = key_scales + group * LANES;
        found->value_scales[group] = value_scales + group * LANES;
    }
}

/* What a query has seen so far: the largest score, and what the weights relative to it add up to. */
typedef struct {
    floats total;
    float largest;
} Seen;

/* A piece of the block that is looked at, and what may be fetched beside it. */
typedef struct {
    Piece piece;
    Places *now, *next;
} Found;

/* A tile on its way through the blocks. */
typedef struct {
    const Tile *tile;
    int group, count;      /* queries of a row, and of the tile */
    Score *score;
    Gather *gather;
    int most, least;       /* slots that some row sees, and that all do */
    int is_copied;         /* whether blocks are copied to `room` */
    int is_unpacked;       /* whether the block that is looked at is one of packed entries, copied to `room` as floats */
    int is_open;           /* whether rows see all up to their limits */
    float *room, *vectors, *scores, *factors, *ones, *out;
    int32_t *extents;      /* slots of the block that a row meets, by rows */
    Sight *sights;         /* by rows; one where all are of one segment */
    Seen *seen;
    Found *found;          /* the pieces of the block */
    int num_found;
    Places *places;        /* two of each piece; of a whole tile's blocks by turns */
    int first_of[2];       /* the first slots of these */
} Pass;

INLINE int row_of(const Tile *t, int i) { return t->members ? t->members[i] : t->first + i; }

INLINE Sight sight_at(const Pass *p, int i) {
    if (p->tile->members) return p->sights[i];
    Sight s = p->sights[0];
    s.row += i;
    s.limit += s.is_tree ? 0 : i;
    return s;
}

/* Scales the queries of some of the tile's rows and lays them out for `Score`. */
INLINE void lay_queries(const Pass *p, int first_row, int num_rows, float factor, float *to) {
    const Tile *t = p->tile;
    const Heads *h = t->heads;
    int dim = h->dim, group = p->group, count = num_rows * group;
    for (int i = 0; i < count; i++) {
        int first = i / TALL * TALL, width = count - first < TALL ? count - first : TALL;
        int64_t row = row_of(t, first_row + i / group);
        const float *from = t->queries + (row * h->heads + t->kv_head * group + i % group) * dim;
        const float *own = t->view->dtype == INT4 && h->factors ? h->factors + t->kv_head * dim : NULL;
        for (int c = 0; c < dim; c++) to[first * dim + c * width + i - first] = from[c] * factor * (own ? own[c] : 1);
    }
}

INLINE void take_queries(const Pass *p) {
    const Tile *t = p->tile;
    const Heads *h = t->heads;
    float factor = h->softcap > 0 ? h->scale : h->scale * LOG2_E, *to = p->vectors;
    if (!t->ranges) lay_queries(p, 0, t->num_rows, factor, to);
    for (int i = 0; t->ranges && i < t->num_ranges; i++) {
        lay_queries(p, t->ranges[2 * i], t->ranges[2 * i + 1], factor, to);
        to += (int64_t)t->ranges[2 * i + 1] * p->group * h->dim;
    }
}

INLINE char *cut(char **rest, int64_t num_bytes) {
    char *found = *rest;
    *rest += (num_bytes + 63) / 64 * 64;
    return found;
}

/* Cuts the room of a tile and returns its end; with a null room, its bytes. */
INLINE char *lay_out(Pass *p, const Heads *h, const Most *most, char *room) {
    int64_t group = h->heads / h->kv_heads, own = tile_rows(h);
    int64_t rows = most->rows > own ? most->rows : own, count = rows * group;
    int64_t layouts = most->layouts > rows ? most->layouts : rows, pieces = most->pieces > 1 ? most->pieces : 1;
    p->seen = (Seen *)cut(&room, count * (int64_t)sizeof(Seen));
    p->out = (float *)cut(&room, 4 * count * h->dim);
    p->scores = (float *)cut(&room, 4 * count * SLOTS);
    p->factors = (float *)cut(&room, 4 * count);
    p->ones = (float *)cut(&room, 4 * count);
    p->extents = (int32_t *)cut(&room, 4 * rows);
    p->sights = (Sight *)cut(&room, rows * (int64_t)sizeof(Sight));
    p->found = (Found *)cut(&room, pieces * (int64_t)sizeof(Found));
    p->places = (Places *)cut(&room, 2 * pieces * (int64_t)sizeof(Places));
    p->vectors = (float *)cut(&room, 4 * layouts * group * h->dim);
    p->room = (float *)cut(&room, 4 * 2 * SLOTS * (h->dim + 1));
    return room;
}
