/* Attention of a tree without fusion: what it takes to write everything down. */

#include "step_pass.h"
#include "step_tiles.h"

static Score *const scores_of[] = {[FP32] = score_fp32, [FP16] = score_fp16, [INT8] = score_int8, [INT4] = score_int4};
static Gather *const gathers_of[] = {[FP32] = gather_fp32, [FP16] = gather_fp16, [INT8] = gather_int8, [INT4] = gather_int4};

/* A tree in one KV head: its slots as one text, and its numbers [queries, slots]. */
typedef struct {
    Tile tile;
    Pass pass;
    Plane plane;
    const float *mask;
    float *written, *read;
    int num_slots, dtype;
} Unfused;

static void turn(Unfused *u) {
    float *written = u->written;
    u->written = u->read;
    u->read = written;
}

/* Where a block of the flattened slots lies. */
static void find_flat(Unfused *u, int first, Places *found) {
    int count = u->num_slots - first < SLOTS ? u->num_slots - first : SLOTS;
    if (u->pass.is_copied) copy(&u->plane, first, count, u->pass.room, found);
    else find(&u->plane, first, count, found);
}

static void write_scores(Unfused *u, int first_row, int num_rows) {
    Pass *p = &u->pass;
    int count = num_rows * p->group;
    lay_queries(p, first_row, num_rows, 1, p->vectors);
    const Queries queries = {p->vectors, count, u->tile.heads->dim};
    for (int first = 0; first < u->num_slots; first += SLOTS) {
        find_flat(u, first, p->places);
        p->score(&queries, p->places, NULL, p->scores);
        for (int i = 0; i < count; i++)
            memcpy(u->written + ((int64_t)first_row * p->group + i) * u->num_slots + first, p->scores + i * SLOTS,
                   sizeof(float) * (size_t)p->places->num_slots);
    }
}

static void scale_scores(Unfused *u) {
    const Heads *h = u->tile.heads;
    int64_t count = (int64_t)u->pass.count * u->num_slots;
    turn(u);
    for (int64_t i = 0; i < count; i++) u->written[i] = u->read[i] * h->scale;
    for (int64_t i = 0; h->softcap > 0 && i < count; i++)
        u->written[i] = h->softcap * tanhf(u->written[i] / h->softcap);
}

static void mask_scores(Unfused *u) {
    const Tile *t = &u->tile;
    int group = u->pass.group, size = u->plane.size;
    turn(u);
    for (int i = 0; i < u->pass.count; i++) {
        const float *mask = u->mask + (int64_t)(i / group) * u->num_slots, *from = u->read + (int64_t)i * u->num_slots;
        float *to = u->written + (int64_t)i * u->num_slots;
        int window = window_of(t->heads, t->kv_head * group + i % group), position = t->view->positions[row_of(t, i / group)];
        for (int j = 0; j < u->num_slots; j++) to[j] = from[j] + mask[j];
        for (int j = 0; window && j < u->num_slots; j += size) /* a page's slots beyond its text are masked */
            for (int k = j; k < j + size && k < u->num_slots; k++)
                if (position - position_of(&u->plane, k) >= window) to[k] = -INFINITY;
    }
}

static void soften_scores(Unfused *u) {
    turn(u);
    for (int i = 0; i < u->pass.count; i++) {
        const float *from = u->read + (int64_t)i * u->num_slots;
        float *to = u->written + (int64_t)i * u->num_slots, largest = -INFINITY, total = 0;
        for (int j = 0; j < u->num_slots; j++) largest = from[j] > largest ? from[j] : largest;
        int j = 0;
        floats sums = {0};
        for (; j + LANES <= u->num_slots; j += LANES) {
            floats e = power_of_two((load(from + j) - largest) * LOG2_E);
            store(to + j, e);
            sums += e;
        }
        for (; j < u->num_slots; j++) total += to[j] = power_of_two(spread((from[j] - largest) * LOG2_E))[0];
        float inverse = 1.0f / (total + sum(sums));
        for (j = 0; j < u->num_slots; j++) to[j] *= inverse;
    }
}

static void mix_values(Unfused *u, int first_row, int num_rows) {
    Pass *p = &u->pass;
    const Heads *h = u->tile.heads;
    int count = num_rows * p->group;
    const Queries queries = {p->vectors, count, h->dim};
    memset(p->out, 0, sizeof(float) * (size_t)count * h->dim);
    for (int i = 0; i < count; i++) p->ones[i] = 1;
    for (int first = 0; first < u->num_slots; first += SLOTS) {
        find_flat(u, first, p->places);
        for (int i = 0; i < count; i++)
            memcpy(p->scores + i * SLOTS, u->written + ((int64_t)first_row * p->group + i) * u->num_slots + first,
                   sizeof(float) * (size_t)p->places->num_slots);
        p->gather(p->scores, p->ones, &queries, p->places, NULL, p->out);
    }
    for (int i = 0; i < count; i++) {
        int64_t row = row_of(&u->tile, first_row + i / p->group);
        float *to = u->tile.target + (row * h->heads + u->tile.kv_head * p->group + i % p->group) * h->dim;
        memcpy(to, p->out + i * h->dim, sizeof(float) * (size_t)h->dim);
    }
}

void attend_dense(const Tile *tile, const Sharing *sharing, const Dense *tree) {
    const Heads *h = tile->heads;
    const View *view = tile->view;
    int group = h->heads / h->kv_heads, rows = tile_rows(h);
    int64_t numbers = (int64_t)tree->num_rows * group * tree->num_slots;
    Unfused u = {.tile = *tile, .mask = sharing->mask + tree->first_mask, .num_slots = tree->num_slots};
    u.tile.num_rows = tree->num_rows;
    u.tile.ranges = NULL;
    u.pass = (Pass){.tile = &u.tile, .group = group, .count = tree->num_rows * group};
    u.pass.is_copied = view->page_size % LANES != 0;
    u.dtype = u.pass.is_copied ? FP32 : view->dtype;
    u.pass.score = scores_of[u.dtype];
    u.pass.gather = gathers_of[u.dtype];
    float *rest = (float *)lay_out(&u.pass, h, tile->most, (char *)tile->room);
    u.written = rest;
    u.read = rest + numbers;
    u.plane = (Plane){tile->cache, sharing->dense_pages + tree->first_page, h->kv_heads, tile->kv_head, view->page_size, h->dim,
                      view->dtype};
    for (int first = 0; first < tree->num_rows; first += rows)
        write_scores(&u, first, tree->num_rows - first < rows ? tree->num_rows - first : rows);
    scale_scores(&u);
    mask_scores(&u);
    soften_scores(&u);
    for (int first = 0; first < tree->num_rows; first += rows)
        mix_values(&u, first, tree->num_rows - first < rows ? tree->num_rows - first : rows);
}
