/* See step_attention.h. */

#include "step_attention.h"

#define LOG2_E 1.44269504f

enum { HALF_NAN = 0x7e00 };
static const float LARGEST_HALF = 65504.0f;

void keep(void *array, float *scales, int64_t at, int64_t step, int64_t slot, const float *x, int dim, int dtype) {
    if (dtype == INT8) {
        float largest = largest_of(x, dim), factor = largest > 0 ? 127.0f / largest : 0;
        int8_t *codes = (int8_t *)array + at;
        for (int i = 0; i < dim; i++) codes[i * step] = (int8_t)lrintf(x[i] * factor);
        scales[slot] = largest / 127.0f;
        return;
    }
    if (dtype == FP32) {
        for (int i = 0; i < dim; i++) ((float *)array)[at + i * step] = x[i];
        return;
    }
    int is_held = largest_of(x, dim) <= LARGEST_HALF;
    for (int i = 0; i < dim; i++) ((uint16_t *)array)[at + i * step] = is_held ? to_half(x[i]) : HALF_NAN;
}

/* What a query has seen so far: the largest score, and what the weights relative to it add up to. */
typedef struct {
    floats total;
    float largest;
} Seen;

/* Turns a block's scores, in units of log 2, into weights relative to the largest score so far, and returns what those of
 * former blocks must be multiplied by. Hidden slots add zeros, so that they do not change the sum. */
static float soften(float *scores, int count, Seen *seen) {
    floats peak = load(scores);
    for (int c = LANES; c < count; c += LANES) peak = larger(peak, load(scores + c));
    float before = seen->largest, now = most(peak), factor = 1;
    if (now > before) {
        seen->largest = now;
        factor = power_of_two(spread(before - now))[0];
        seen->total *= factor;
    }
    float base = seen->largest > -INFINITY ? seen->largest : 0;
    for (int c = 0; c < count; c += LANES) {
        floats e = power_of_two(load(scores + c) - base);
        store(scores + c, e);
        seen->total += e;
    }
    return factor;
}

/* What decides which slots a row sees. */
typedef struct {
    const Tile *tile;
    Plane plane;
    int context; /* slots of this head */
    int prefix;  /* those that every row sees, where rows say what they see behind */
} Sight;

static Sight sight_of(const Tile *t) {
    const View *view = t->view;
    int longest = view->context_lengths[t->segment];
    Sight s = {t, {0}, longest, 0};
    s.plane = plane_of(view, t->heads, t->cache, t->segment, t->kv_head, &s.context);
    if (view->ancestors) s.prefix = view->prefix_lengths[t->segment] - (longest - s.context);
    return s;
}

/* The number of slots that a row sees at most. */
static int limit_of(const Sight *s, int row) {
    const View *view = s->tile->view;
    return view->ancestors ? s->context : s->context - view->row_starts[s->tile->segment + 1] + row + 1;
}

static int window_of(const Heads *h, int head) { return h->windows ? h->windows[head] : h->window; }

/* Hides what a row does not see of a block of slots from `first` on. */
static void hide(const Sight *s, int row, int window, float *scores, int first, const Places *block) {
    const View *view = s->tile->view;
    int limit = limit_of(s, row) - first;
    for (int j = limit < 0 ? 0 : limit; j < block->num_groups * LANES; j++) scores[j] = -INFINITY;
    for (int j = s->prefix > first ? s->prefix - first : 0; view->ancestors && j < block->num_slots; j++)
        if (!(view->ancestors[row] >> (first + j - s->prefix) & 1)) scores[j] = -INFINITY;
    for (int j = 0; window && j < block->num_slots; j++)
        if (view->positions[row] - s->plane.cache->positions[slot_of(&s->plane, first + j)] >= window)
            scores[j] = -INFINITY;
}

/* Whether a row of the tile may see a slot of a block: windows leave whole blocks behind. */
static int is_in_sight(const Sight *s, int first) {
    const Tile *t = s->tile;
    const Heads *h = t->heads;
    int group = h->heads / h->kv_heads, widest = 0, earliest = INT32_MAX;
    for (int head = t->kv_head * group; head < (t->kv_head + 1) * group; head++) {
        if (!window_of(h, head)) return 1;
        widest = window_of(h, head) > widest ? window_of(h, head) : widest;
    }
    for (int r = t->first; r < t->first + t->num_rows; r++)
        earliest = t->view->positions[r] < earliest ? t->view->positions[r] : earliest;
    int stop = first + SLOTS < s->context ? first + SLOTS : s->context;
    for (int slot = first; slot < stop; slot++)
        if (earliest - s->plane.cache->positions[slot_of(&s->plane, slot)] < widest) return 1;
    return 0;
}

/* Where up to SLOTS slots from `first` on lie, in pages that consist of whole groups. */
static void find(const Plane *p, int first, int count, Places *found) {
    int bytes = bytes_of(p->dtype);
    found->stride = p->size;
    found->num_slots = count;
    found->num_groups = (count + LANES - 1) / LANES;
    found->has_scales = p->dtype == INT8;
    for (int group = 0; group < found->num_groups; group++) {
        int64_t at = slot_of(p, first + group * LANES);
        int offset = (first + group * LANES) % p->size;
        found->keys[group] = (const char *)p->cache->keys + ((at - offset) * p->dim + offset) * bytes;
        found->values[group] = (const char *)p->cache->values + at * p->dim * bytes;
        if (!found->has_scales) continue;
        found->key_scales[group] = p->cache->key_scales + at;
        found->value_scales[group] = p->cache->value_scales + at;
    }
}

/* The same in pages of other sizes: their numbers are copied to `room`, as floats. */
static void copy(const Plane *p, int first, int count, float *room, Places *found) {
    float *keys = room, *values = keys + SLOTS * p->dim, *key_scales = values + SLOTS * p->dim, *value_scales = key_scales + SLOTS;
    *found = (Places){
        .stride = SLOTS, .num_slots = count, .num_groups = (count + LANES - 1) / LANES, .has_scales = p->dtype == INT8};
    for (int j = 0; j < count; j++) {
        int64_t at = slot_of(p, first + j);
        int offset = (first + j) % p->size;
        for (int c = 0; c < p->dim; c++) {
            keys[c * SLOTS + j] = number_of(p->cache->keys, (at - offset) * p->dim + offset + (int64_t)c * p->size, p->dtype);
            values[j * p->dim + c] = number_of(p->cache->values, at * p->dim + c, p->dtype);
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

/* A tile on its way through the blocks. */
typedef struct {
    Sight sight;
    Queries queries;
    Score *score;
    Gather *gather;
    int most, is_copied; /* slots that a row sees; whether blocks are copied to `room` */
    float *room, *scores, *factors, *out;
    Seen *seen;
    Places places[2];
    int found[2]; /* the first slots of their blocks */
} Pass;

static int block_size(const Pass *p, int first) { return p->most - first < SLOTS ? p->most - first : SLOTS; }

/* Where the block at `first` lies, if it is in whole groups. */
static Places *find_block(Pass *p, int first) {
    Places *found = &p->places[first / SLOTS % 2];
    if (p->found[first / SLOTS % 2] != first) find(&p->sight.plane, first, block_size(p, first), found);
    p->found[first / SLOTS % 2] = first;
    return found;
}

/* Where the block at `first` lies, and the next one, if it can be fetched beside. */
static const Places *enter_block(Pass *p, int first, const Places **next) {
    *next = NULL;
    if (p->is_copied) {
        copy(&p->sight.plane, first, block_size(p, first), p->room, p->places);
        return p->places;
    }
    const Places *now = find_block(p, first);
    if (first + SLOTS >= p->most) return now;
    Places *later = find_block(p, first + SLOTS);
    for (int g = later->num_groups; g < now->num_groups; g++) { /* the last block may be shorter than this one */
        later->keys[g] = now->keys[g];
        later->values[g] = now->values[g];
    }
    *next = later;
    return now;
}

/* The scores of a block, in units of log 2; what a row does not see is minus infinity. */
static void score_block(Pass *p, int first, const Places *now, const Places *next) {
    const Tile *t = p->sight.tile;
    const Heads *h = t->heads;
    int group = h->heads / h->kv_heads, count = p->queries.count;
    p->score(&p->queries, now, next, p->scores);
    int is_open = !t->view->ancestors && !h->window && !h->windows;
    if (is_open && h->softcap <= 0 && limit_of(&p->sight, t->first) >= first + now->num_groups * LANES) return;
    for (int i = 0; i < count; i++) {
        float *s = p->scores + i * SLOTS;
        for (int j = 0; h->softcap > 0 && j < now->num_slots; j++) s[j] = h->softcap * LOG2_E * tanhf(s[j] / h->softcap);
        hide(&p->sight, t->first + i / group, window_of(h, t->kv_head * group + i % group), s, first, now);
    }
}

/* Adds what the rows gave each slot to what is looked at, when all scores are known. */
static void record(Pass *p) {
    const Tile *t = p->sight.tile;
    int group = t->heads->heads / t->heads->kv_heads;
    const Places *next;
    for (int first = 0; first < p->most; first += SLOTS) {
        if (!is_in_sight(&p->sight, first)) continue;
        const Places *now = enter_block(p, first, &next);
        score_block(p, first, now, next);
        for (int i = 0; i < p->queries.count; i++) {
            int number = t->first + i / group - t->view->row_starts[t->segment];
            if (number < t->mass.first_row) continue;
            float inverse = 1.0f / sum(p->seen[i].total);
            float *to = t->mass.to + i % group * t->mass.head_stride + (number - t->mass.first_row) * t->mass.row_stride + first;
            for (int j = 0; j < now->num_slots; j++)
                to[j] += power_of_two(spread(p->scores[i * SLOTS + j] - p->seen[i].largest))[0] * inverse;
        }
    }
}

/* Scales the tile's queries and lays them out for `Score`. */
static void take_queries(const Tile *t, float factor, float *to, int count) {
    const Heads *h = t->heads;
    int dim = h->dim, group = h->heads / h->kv_heads;
    for (int i = 0; i < count; i++) {
        int first = i / TALL * TALL, width = count - first < TALL ? count - first : TALL;
        const float *from = t->queries + ((int64_t)(t->first + i / group) * h->heads + t->kv_head * group + i % group) * dim;
        for (int c = 0; c < dim; c++) to[first * dim + c * width + i - first] = from[c] * factor;
    }
}

int tile_rows(const Heads *h) {
    int group = h->heads / h->kv_heads;
    return group > QUERIES ? 1 : QUERIES / group;
}

/* Cuts the room of a tile of `count` queries; with a null room, returns its floats. */
static float *lay_out(Pass *p, const Heads *h, int64_t count, float *room) {
    p->seen = (Seen *)room;
    p->out = room + count * (int64_t)(sizeof(Seen) / sizeof(float));
    p->scores = p->out + count * h->dim;
    p->factors = p->scores + count * SLOTS;
    p->queries.vectors = p->factors + count;
    p->room = p->factors + count + count * h->dim;
    return p->room + 2 * SLOTS * (h->dim + 1);
}

int64_t attention_room(const Heads *h) {
    Pass p;
    return lay_out(&p, h, (int64_t)tile_rows(h) * (h->heads / h->kv_heads), NULL) - (float *)NULL;
}

static Pass open_pass(const Tile *t, const Sight *sight) {
    static Score *const scores[] = {[FP32] = score_fp32, [FP16] = score_fp16, [INT8] = score_int8};
    static Gather *const gathers[] = {[FP32] = gather_fp32, [FP16] = gather_fp16, [INT8] = gather_int8};
    const Heads *h = t->heads;
    int is_copied = sight->plane.size % LANES != 0, dtype = is_copied ? FP32 : sight->plane.dtype;
    int count = t->num_rows * (h->heads / h->kv_heads);
    Pass p = {.sight = *sight, .found = {-1, -1}, .score = scores[dtype], .gather = gathers[dtype], .is_copied = is_copied,
              .most = limit_of(sight, t->first + t->num_rows - 1)};
    lay_out(&p, h, count, t->room);
    take_queries(t, h->softcap > 0 ? h->scale : h->scale * LOG2_E, (float *)p.queries.vectors, count);
    p.queries.count = count;
    p.queries.dim = h->dim;
    memset(p.out, 0, sizeof(float) * (size_t)count * h->dim);
    for (int i = 0; i < count; i++) p.seen[i] = (Seen){{0}, -INFINITY};
    return p;
}

void attend(const Tile *t) {
    const Heads *h = t->heads;
    const Sight sight = sight_of(t);
    Pass p = open_pass(t, &sight);
    int group = h->heads / h->kv_heads, count = p.queries.count;
    const Places *next;
    for (int first = 0; first < p.most; first += SLOTS) {
        if (!is_in_sight(&sight, first)) continue;
        const Places *now = enter_block(&p, first, &next);
        score_block(&p, first, now, next);
        for (int i = 0; i < count; i++)
            p.factors[i] = soften(p.scores + i * SLOTS, now->num_groups * LANES, &p.seen[i]);
        p.gather(p.scores, p.factors, &p.queries, now, next, p.out);
    }
    for (int i = 0; i < count; i++) {
        float inverse = 1.0f / sum(p.seen[i].total);
        float *to = t->target + ((int64_t)(t->first + i / group) * h->heads + t->kv_head * group + i % group) * h->dim;
        for (int c = 0; c < h->dim; c++) to[c] = p.out[i * h->dim + c] * inverse;
    }
    if (t->mass.to) record(&p);
}
