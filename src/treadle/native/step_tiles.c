/* See step_tiles.h, and step_model.h for attend_all. */

#include "step_model.h"

#include <time.h>

static double processor_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Where the weights of a KV head go, if somebody looks at this segment. */
static Mass mass_of(const Step *s, int layer, int segment, int kv_head) {
    const Probe *p = s->rows->probe;
    if (!p || !p->mass || p->segment != segment) return (Mass){0};
    const Heads *h = &s->model->layers[layer].heads;
    int head = kv_head * (h->heads / h->kv_heads);
    for (int before = 0; before < layer; before++) head += s->model->layers[before].heads.heads;
    int64_t row_stride = p->is_by_row ? p->num_heads * p->num_slots : 0;
    return (Mass){p->mass + head * p->num_slots, p->num_slots, row_stride, p->first_row};
}

/* Where they stay beside the entries of a segment, if somebody asks for that. */
static Counted counted_of(const Step *s, int segment) {
    const View *view = &s->rows->view;
    const Noted *noted = noted_of(view, segment);
    int num_rows = view->row_starts[segment + 1] - view->row_starts[segment];
    if (!noted || noted->first_counted >= num_rows) return (Counted){0};
    return (Counted){view->heads.arena->scores, noted->first_counted, noted->counts_largest};
}

static Most most_of(const Sharing *sharing) {
    if (!sharing) return (Most){0};
    return (Most){sharing->most_rows, sharing->most_layouts, sharing->most_pieces};
}

int64_t tiles_room(const Heads *h, const Sharing *sharing) {
    const Most most = most_of(sharing);
    int64_t dense = sharing ? 2 * (int64_t)sharing->dense_numbers * (h->heads / h->kv_heads) : 0;
    return attention_room(h, &most) + dense;
}

/* Rounds the mixed values of a row and KV head, if their blocks are the head's own. */
static void round_mixed(Step *s, const Heads *h, int row, int kv_head) {
    int group = h->heads / h->kv_heads, from = kv_head * group * h->dim / BLOCK, to = (kv_head + 1) * group * h->dim / BLOCK;
    quantise_row(&s->work.mixed, row, h->heads * h->dim, from, to);
}

/* Attends with a share of the tiles of each segment. Where weights add up, all tiles of a head are one member's. */
static void attend_apart(Step *s, int id, int layer, Tile tile, int rounds) {
    const Rows *rows = s->rows;
    const Heads *h = tile.heads;
    int task = 0;
    for (tile.segment = 0; tile.segment < rows->num_segments; tile.segment++) {
        int stop = rows->view.row_starts[tile.segment + 1];
        tile.counted = counted_of(s, tile.segment);
        for (int first = rows->view.row_starts[tile.segment], end; first < stop; first = end) {
            end = first + tile_rows(h) < stop ? first + tile_rows(h) : stop;
            tile.first = first;
            tile.num_rows = end - first;
            for (int head = 0; head < h->kv_heads; head++, task++) {
                tile.kv_head = head;
                tile.mass = mass_of(s, layer, tile.segment, head);
                if ((tile.mass.to || tile.counted.scores ? head : task) % s->team.count != id) continue;
                attend(&tile);
                for (int r = first; rounds && r < end; r++) round_mixed(s, h, r, head);
            }
        }
    }
}

/* Puts partial results together, with a share of the rows. */
static void reduce_all(Step *s, int id, const Heads *h) {
    const Sharing *sharing = s->rows->sharing;
    const int32_t *starts = sharing->partial_starts;
    if (!starts) return;
    meet(&s->team);
    for (int r = id; r < s->rows->num_rows; r += s->team.count) {
        int count = starts[r + 1] - starts[r];
        float *target = s->work.mixed.values + (int64_t)r * h->heads * h->dim;
        if (count) reduce(h, s->work.partials, sharing->partials + starts[r], count, target);
    }
}

/* Attends as the plan says, with a share of its tiles. */
static void attend_together(Step *s, int id, Tile tile) {
    const Sharing *sharing = s->rows->sharing;
    const Heads *h = tile.heads;
    int task = 0;
    tile.segments = sharing->segments;
    for (int i = 0; i < sharing->num_tiles; i++) {
        const Planned *planned = &sharing->tiles[i];
        int64_t partial = (int64_t)planned->partial * h->heads * (h->dim + 2);
        tile.members = sharing->members + planned->first;
        tile.segment = tile.segments[tile.members[0]];
        tile.num_rows = planned->num_rows;
        tile.num_ranges = planned->num_ranges;
        tile.ranges = planned->num_ranges ? sharing->ranges + 2 * planned->first_range : NULL;
        tile.block_starts = sharing->block_starts + planned->first_block;
        tile.num_blocks = planned->num_blocks;
        tile.pieces = sharing->pieces;
        tile.num_tails = planned->num_tails;
        tile.tails = planned->num_tails ? sharing->tails + planned->first_tail : NULL;
        tile.begin = planned->begin;
        tile.end = planned->end;
        tile.partial = planned->partial < 0 ? NULL : s->work.partials + partial;
        for (tile.kv_head = 0; tile.kv_head < h->kv_heads; tile.kv_head++, task++)
            if (task % s->team.count == id) attend(&tile);
    }
    for (int i = 0; i < sharing->num_dense; i++) {
        tile.members = sharing->members + sharing->dense[i].first;
        for (tile.kv_head = 0; tile.kv_head < h->kv_heads; tile.kv_head++, task++)
            if (task % s->team.count == id) attend_dense(&tile, sharing, &sharing->dense[i]);
    }
    reduce_all(s, id, h);
}

static void attend_layer(Step *s, int id, int layer) {
    const Rows *rows = s->rows;
    const Layer *l = &s->model->layers[layer];
    const Heads *h = &l->heads;
    int group = h->heads / h->kv_heads, width = h->heads * h->dim;
    int rounds = is_coded(&l->o) && group * h->dim % BLOCK == 0 && !rows->sharing;
    const Most most = most_of(rows->sharing);
    Tile tile = {&rows->view, h, &s->model->caches[layer], .queries = s->work.q, .target = s->work.mixed.values,
                 .room = s->work.room[id], .most = &most};
    if (rows->sharing) attend_together(s, id, tile);
    else attend_apart(s, id, layer, tile, rounds);
    if (is_coded(&l->o) && !rounds) {
        meet(&s->team);
        for (int r = id; r < rows->num_rows; r += s->team.count) quantise_row(&s->work.mixed, r, width, 0, width / BLOCK);
    }
}

void attend_all(Step *s, int id, int layer) {
    double begin = s->is_timed ? processor_seconds() : 0;
    attend_layer(s, id, layer);
    if (s->is_timed) s->attention_seconds[id] += processor_seconds() - begin;
}
