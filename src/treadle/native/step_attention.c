/* Attention over pages: the rows of a request meet its cached keys and values, page by page. A row adds up its slots in
 * their order and looks at no other row, so that its result does not depend on the batch or on how a prompt was cut. */

#include "step_attention.h"

void keep(void *array, float *scales, int64_t at, int64_t step, int64_t slot, const float *x, int dim, int dtype) {
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

static void hide(const Sight *s, int row, int window, float *scores, int limit) {
    const View *view = s->tile->view;
    if (!view->ancestors && !window) return;
    for (int slot = 0; slot < limit; slot++) {
        int tail = slot - s->prefix;
        int is_hidden = view->ancestors && tail >= 0 && !(view->ancestors[row] >> tail & 1);
        if (!is_hidden && window) {
            int position = s->plane.cache->positions[slot_of(&s->plane, slot)];
            is_hidden = view->positions[row] - position >= window;
        }
        if (is_hidden) scores[slot] = -INFINITY;
    }
}

/* Adds what a row gave each slot to what is looked at. */
static void record(const Tile *t, int row, int head, const float *weights, float inverse, int limit) {
    int number = row - t->view->row_starts[t->segment];
    if (!t->mass.to || number < t->mass.first_row) return;
    float *to = t->mass.to + head * t->mass.head_stride + (number - t->mass.first_row) * t->mass.row_stride;
    for (int slot = 0; slot < limit; slot++) to[slot] += weights[slot] * inverse;
}

static void score(const Plane *p, const float *q, int count, int most, float *room, float *scores, int64_t row) {
    if (p->size % LANES) return score_gathered(p, q, count, most, room, scores, row);
    switch (p->dtype) {
    case FP32: return score_fp32(p, q, count, most, scores, row);
    case FP16: return score_fp16(p, q, count, most, scores, row);
    default: return score_int8(p, q, count, most, scores, row);
    }
}

static void gather(const Plane *p, const float *weights, int64_t row, int count, int most, float *out) {
    switch (p->dtype) {
    case FP32: return gather_fp32(p, weights, row, count, most, out);
    case FP16: return gather_fp16(p, weights, row, count, most, out);
    default: return gather_int8(p, weights, row, count, most, out);
    }
}

int tile_rows(const Heads *h) {
    int group = h->heads / h->kv_heads;
    return group > QUERIES / 4 ? 4 : QUERIES / group;
}

int64_t attention_room(const Heads *h, int64_t context) {
    return SLOTS * h->dim + (int64_t)tile_rows(h) * (h->heads / h->kv_heads) * (h->dim + padded(context) + 1);
}

void attend(const Tile *t) {
    const Heads *h = t->heads;
    int dim = h->dim, group = h->heads / h->kv_heads, count = t->num_rows * group, first_head = t->kv_head * group;
    const Sight sight = sight_of(t);
    int64_t row = padded(sight.context);
    float *q = t->room + SLOTS * dim, *scores = q + (int64_t)count * dim, *inverses = scores + count * row;
    int most = limit_of(&sight, t->first + t->num_rows - 1);
    for (int r = 0; r < t->num_rows; r++) {
        const float *from = t->queries + ((int64_t)(t->first + r) * h->heads + first_head) * dim;
        for (int i = 0; i < group * dim; i++) q[r * group * dim + i] = from[i] * h->scale;
    }
    score(&sight.plane, q, count, most, t->room, scores, row);
    for (int i = 0; i < count; i++) {
        int at = t->first + i / group, head = i % group, limit = limit_of(&sight, at), whole = whole_vectors(limit);
        float *s = scores + (int64_t)i * row;
        for (int slot = 0; h->softcap > 0 && slot < limit; slot++) s[slot] = h->softcap * tanhf(s[slot] / h->softcap);
        hide(&sight, at, window_of(h, first_head + head), s, limit);
        for (int slot = limit; slot < whole; slot++) s[slot] = -INFINITY;
        inverses[i] = soften(s, whole, most_of(s, whole));
        if (whole < most) memset(s + whole, 0, 4 * (size_t)(most - whole)); /* later slots count nothing */
        record(t, at, head, s, inverses[i], limit);
    }
    gather(&sight.plane, scores, row, count, most, q);
    for (int i = 0; i < count; i++) {
        float *to = t->target + ((int64_t)(t->first + i / group) * h->heads + first_head + i % group) * dim;
        for (int c = 0; c < dim; c++) to[c] = q[i * dim + c] * inverses[i];
    }
}
