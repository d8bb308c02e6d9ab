/* See step_attention.h. */

#include "step_pass.h"
#include "step_units.h"

enum { HALF_NAN = 0x7e00 };
static const float LARGEST_HALF = 65504.0f;

/* The scale of `count` numbers of 4 bits as float16 holds it. */
static uint16_t scale_of(const float *x, int count) {
    float largest = largest_of(x, count) / MIDDLE;
    return largest <= LARGEST_HALF ? to_half(largest) : HALF_NAN;
}

static int code_of(float x, float factor) {
    float code = rintf(x * factor + MIDDLE);
    return code > 15 ? 15 : code > 0 ? (int)code : 0;
}

/* Stores both halves of a vector in bytes that are `step` apart. */
static void keep_halves(uint8_t *codes, float *scale, int64_t step, const float *x, int half) {
    uint16_t low = scale_of(x, half), high = scale_of(x + half, half);
    uint32_t both = low | (uint32_t)high << 16;
    float below = half_of(low), above = half_of(high);
    memcpy(scale, &both, sizeof both);
    below = below > 0 ? 1 / below : 0;
    above = above > 0 ? 1 / above : 0;
    for (int i = 0; i < half; i++) codes[i * step] = (uint8_t)(code_of(x[i], below) | code_of(x[i + half], above) << 4);
}

void keep(void *array, float *scales, int64_t at, int64_t step, int64_t slot, const float *x, int dim, int dtype) {
    if (dtype == INT8) {
        float largest = largest_of(x, dim), factor = largest > 0 ? 127.0f / largest : 0;
        int8_t *codes = (int8_t *)array + at;
        for (int i = 0; i < dim; i++) codes[i * step] = (int8_t)lrintf(x[i] * factor);
        scales[slot] = largest / 127.0f;
        return;
    }
    if (dtype == INT4) {
        return keep_halves((uint8_t *)array + at, scales + slot, step, x, dim / 2);
    }
    if (dtype == FP32) {
        for (int i = 0; i < dim; i++) ((float *)array)[at + i * step] = x[i];
        return;
    }
    int is_held = largest_of(x, dim) <= LARGEST_HALF;
    for (int i = 0; i < dim; i++) ((uint16_t *)array)[at + i * step] = is_held ? to_half(x[i]) : HALF_NAN;
}

/* Turns a block's scores, in units of log 2, into weights relative to the largest score so far, and returns what those of
 * former blocks must be multiplied by. Hidden slots add zeros, so that they do not change the sum. */
static float soften(float *scores, int count, Seen *seen) {
    if (!count) return 1;
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

/* Whether a row of the tile may see a slot of a block: windows leave whole blocks behind. */
static int is_in_sight(const Pass *p, int first) {
    const Tile *t = p->tile;
    const Heads *h = t->heads;
    int widest = 0;
    for (int head = t->kv_head * p->group; head < (t->kv_head + 1) * p->group; head++) {
        if (!window_of(h, head)) return 1;
        widest = window_of(h, head) > widest ? window_of(h, head) : widest;
    }
    for (int i = 0; i < t->num_rows; i++) {
        const Sight s = sight_at(p, i);
        int position = t->view->positions[s.row], stop = first + SLOTS < s.context ? first + SLOTS : s.context;
        for (int slot = first; slot < stop; slot++)
            if (position - position_of(&s.plane, slot) < widest) return 1;
    }
    return 0;
}

/* Where the block at `first` of a tile that shares all lies, if it is in whole groups. */
static Places *find_block(Pass *p, int first, int size) {
    int turn = first / SLOTS % 2;
    if (p->first_of[turn] != first) find(&p->sights[0].plane, first, size, &p->places[turn]);
    p->first_of[turn] = first;
    return &p->places[turn];
}

static int block_size(const Pass *p, int first) { return p->most - first < SLOTS ? p->most - first : SLOTS; }

/* The block of a tile that shares all, and the next one, if it can be fetched beside. */
static void enter_whole(Pass *p, int first) {
    Found *f = p->found;
    *f = (Found){{0, p->tile->num_rows, 0, 0, block_size(p, first)}, p->places, NULL};
    p->num_found = 1;
    p->is_unpacked = first < p->sights[0].plane.num_packed;
    if (p->is_unpacked) {
        unpack(&p->sights[0].plane, first, p->room, p->places);
        f->piece.num_slots = SLOTS;
        p->first_of[0] = -1;
        return;
    }
    if (p->is_copied) {
        copy(&p->sights[0].plane, first, f->piece.num_slots, p->room, p->places);
        return;
    }
    f->now = find_block(p, first, f->piece.num_slots);
    if (first + SLOTS >= p->most) return;
    f->next = find_block(p, first + SLOTS, block_size(p, first + SLOTS));
    for (int g = f->next->num_groups; g < f->now->num_groups; g++) { /* the last block may be shorter than this one */
        f->next->keys[g] = f->now->keys[g];
        f->next->values[g] = f->now->values[g];
    }
}

/* Looks a piece of the block at `first` up, and what its rows meet after it. */
static void enter_piece(Pass *p, int first, Piece piece) {
    int context = 0, at = first + piece.first_slot, after = at + SLOTS;
    Places *now = p->places + 2 * p->num_found, *next = now + 1;
    for (int r = piece.first_row; r < piece.first_row + piece.num_rows; r++)
        context = p->sights[r].context > context ? p->sights[r].context : context;
    if (piece.num_slots > context - at) piece.num_slots = context - at; /* what lies beyond it holds no numbers */
    if (piece.num_slots <= 0) return;
    find(&p->sights[piece.first_row].plane, at, piece.num_slots, now);
    int has_next = after + piece.num_slots <= p->sights[piece.first_row].context;
    if (has_next) find(&p->sights[piece.first_row].plane, after, piece.num_slots, next);
    p->found[p->num_found++] = (Found){piece, now, has_next ? next : NULL};
}

static void enter_block(Pass *p, int first) {
    const Tile *t = p->tile;
    int block = first / SLOTS;
    p->num_found = 0;
    if (!t->tails) enter_whole(p, first);
    for (int i = 0; t->tails && block < t->num_blocks && i < t->block_starts[block + 1] - t->block_starts[block]; i++)
        enter_piece(p, first, t->pieces[t->block_starts[block] + i]);
    for (int i = 0; t->tails && i < t->num_tails; i++) {
        const Tail *tail = t->tails + i;
        int begin = tail->begin > first ? tail->begin - first : 0;
        if (begin < SLOTS) enter_piece(p, first, (Piece){tail->first_row, tail->num_rows, tail->layout, begin, SLOTS - begin});
    }
    memset(p->extents, 0, sizeof(int32_t) * t->num_rows);
    for (int i = 0; i < p->num_found; i++) {
        const Piece *piece = &p->found[i].piece;
        int extent = piece->first_slot + p->found[i].now->num_groups * LANES;
        for (int r = piece->first_row; r < piece->first_row + piece->num_rows; r++)
            if (p->extents[r] < extent) p->extents[r] = extent;
    }
}

static Queries queries_of(const Pass *p, const Piece *piece) {
    int dim = p->tile->heads->dim;
    return (Queries){p->vectors + (int64_t)piece->layout * p->group * dim, piece->num_rows * p->group, dim};
}

/* The scores of a block, in units of log 2; what a row does not see is minus infinity. */
static void score_block(Pass *p, int first) {
    const Tile *t = p->tile;
    const Heads *h = t->heads;
    for (int i = 0; i < p->num_found; i++) {
        const Found *f = &p->found[i];
        const Queries queries = queries_of(p, &f->piece);
        (p->is_unpacked ? score_fp32 : p->score)(&queries, f->now, f->next, p->scores + f->piece.first_row * p->group * SLOTS + f->piece.first_slot);
    }
    if (p->is_open && p->least >= first + SLOTS) return;
    for (int r = 0; r < t->num_rows; r++) {
        const Sight sight = sight_at(p, r);
        for (int head = 0; head < p->group; head++) {
            float *s = p->scores + (r * p->group + head) * SLOTS;
            for (int j = 0; h->softcap > 0 && j < p->extents[r]; j++) s[j] = h->softcap * LOG2_E * tanhf(s[j] / h->softcap);
            hide(t->view, &sight, window_of(h, t->kv_head * p->group + head), s, first, p->extents[r]);
        }
    }
}

/* Adds a block's values up, piece after piece in the order of slots. */
static void gather_block(Pass *p) {
    int dim = p->tile->heads->dim;
    for (int i = 0; i < p->num_found; i++) {
        const Found *f = &p->found[i];
        const Queries queries = queries_of(p, &f->piece);
        int at = f->piece.first_row * p->group;
        const float *factors = f->piece.first_slot ? p->ones : p->factors + at;
        (p->is_unpacked ? gather_fp32 : p->gather)(p->scores + at * SLOTS + f->piece.first_slot, factors, &queries, f->now, f->next, p->out + at * dim);
    }
}

/* Adds a row's weights of a block to what somebody looks at. */
static void look_at_block(const Pass *p, int query, int row, int first, const float *weights) {
    const Mass *mass = &p->tile->mass;
    float *to = mass->to + query % p->group * mass->head_stride + (row - mass->first_row) * mass->row_stride + first;
    for (int j = 0; j < p->found[0].now->num_slots; j++) to[j] += weights[j];
}

/* Adds a row's weights of a block to the scores of its entries. */
static void count_block(const Pass *p, int first, const float *weights) {
    const Counted *counted = &p->tile->counted;
    for (int j = 0; j < p->found[0].now->num_slots; j++) {
        float *to = counted->scores + slot_of(&p->sights[0].plane, first + j), weight = weights[j];
        *to = !counted->counts_largest ? *to + weight : weight > *to ? weight : *to;
    }
}

/* Adds what the rows gave each slot to what is looked at, when all scores are known. */
static void record(Pass *p) {
    const Tile *t = p->tile;
    for (int first = t->begin; first < p->most; first += SLOTS) {
        if (!is_in_sight(p, first)) continue;
        enter_block(p, first);
        score_block(p, first);
        for (int i = 0; i < p->count; i++) {
            int number = row_of(t, i / p->group) - t->view->row_starts[t->segment];
            float inverse = 1.0f / sum(p->seen[i].total), *weights = p->scores + i * SLOTS;
            int is_seen = t->mass.to && number >= t->mass.first_row, is_counted = t->counted.scores && number >= t->counted.first_row;
            for (int c = 0; (is_seen || is_counted) && c < p->extents[i / p->group]; c += LANES)
                store(weights + c, power_of_two(load(weights + c) - p->seen[i].largest) * inverse);
            if (is_seen) look_at_block(p, i, number, first, weights);
            if (is_counted) count_block(p, first, weights);
        }
    }
}

int tile_rows(const Heads *h) {
    int group = h->heads / h->kv_heads;
    return group > QUERIES ? 1 : QUERIES / group;
}

int64_t attention_room(const Heads *h, const Most *most) {
    Pass p;
    return (lay_out(&p, h, most, NULL) - (char *)NULL) / 4;
}

static void take_sights(Pass *p) {
    const Tile *t = p->tile;
    int count = t->members ? t->num_rows : 1;
    p->most = 0;
    p->least = INT32_MAX;
    for (int i = 0; i < count; i++) {
        int row = row_of(t, i);
        p->sights[i] = sight_of(t, t->members ? t->segments[row] : t->segment, row);
    }
    for (int i = 0; i < t->num_rows; i++) {
        int limit = sight_at(p, i).limit;
        p->most = limit > p->most ? limit : p->most;
        p->least = limit < p->least ? limit : p->least;
        p->is_open &= !p->sights[t->members ? i : 0].is_tree;
    }
    if (t->end && t->end < p->most) p->most = t->end;
}

static Pass open_pass(const Tile *t) {
    static Score *const scores[] = {[FP32] = score_fp32, [FP16] = score_fp16, [INT8] = score_int8, [INT4] = score_int4};
    static Gather *const gathers[] = {[FP32] = gather_fp32, [FP16] = gather_fp16, [INT8] = gather_int8, [INT4] = gather_int4};
    const Heads *h = t->heads;
    const View *view = t->view;
    int is_copied = view->page_size % LANES != 0, dtype = is_copied ? FP32 : view->dtype, group = h->heads / h->kv_heads;
    Pass p = {.tile = t, .group = group, .count = t->num_rows * group, .score = scores[dtype], .gather = gathers[dtype],
              .is_copied = is_copied, .first_of = {-1, -1}};
    p.is_open = !h->window && !h->windows && h->softcap <= 0;
    lay_out(&p, h, t->most, (char *)t->room);
    take_sights(&p);
    take_queries(&p);
    memset(p.out, 0, sizeof(float) * (size_t)p.count * h->dim);
    for (int i = 0; i < p.count; i++) {
        p.seen[i] = (Seen){{0}, -INFINITY};
        p.ones[i] = 1;
    }
    return p;
}

/* Hands out what the rows met: mixed values, or what others can be added to. */
static void deliver(const Pass *p) {
    const Tile *t = p->tile;
    const Heads *h = t->heads;
    for (int i = 0; i < p->count; i++) {
        int head = t->kv_head * p->group + i % p->group;
        float total = sum(p->seen[i].total), inverse = 1.0f / total;
        const float *out = p->out + i * h->dim;
        if (t->partial) {
            float *to = t->partial + ((int64_t)(i / p->group) * h->heads + head) * (h->dim + 2);
            to[0] = p->seen[i].largest;
            to[1] = total;
            memcpy(to + 2, out, sizeof(float) * (size_t)h->dim);
            continue;
        }
        float *to = t->target + ((int64_t)row_of(t, i / p->group) * h->heads + head) * h->dim;
        for (int c = 0; c < h->dim; c++) to[c] = out[c] * inverse;
    }
}

/* Whether the weights of a row of the tile count. */
static int counts_rows(const Pass *p) {
    const Tile *t = p->tile;
    return t->counted.scores && row_of(t, t->num_rows - 1) - t->view->row_starts[t->segment] >= t->counted.first_row;
}

void attend(const Tile *t) {
    Pass p = open_pass(t);
    for (int first = t->begin; first < p.most; first += SLOTS) {
        if (!is_in_sight(&p, first)) continue;
        enter_block(&p, first);
        score_block(&p, first);
        for (int i = 0; i < p.count; i++)
            p.factors[i] = soften(p.scores + i * SLOTS, p.extents[i / p.group], &p.seen[i]);
        gather_block(&p);
    }
    deliver(&p);
    if (t->mass.to || counts_rows(&p)) record(&p);
}

void reduce(const Heads *h, const float *partials, const int32_t *numbers, int count, float *target) {
    int64_t width = h->dim + 2;
    for (int head = 0; head < h->heads; head++) {
        float largest = -INFINITY, total = 0, *to = target + (int64_t)head * h->dim;
        for (int i = 0; i < count; i++) largest = fmaxf(largest, partials[(numbers[i] * (int64_t)h->heads + head) * width]);
        memset(to, 0, sizeof(float) * (size_t)h->dim);
        for (int i = 0; i < count; i++) {
            const float *from = partials + (numbers[i] * (int64_t)h->heads + head) * width;
            float weight = from[0] > -INFINITY ? power_of_two(spread(from[0] - largest))[0] : 0;
            total += weight * from[1];
            for (int c = 0; c < h->dim; c++) to[c] += weight * from[2 + c];
        }
        for (int c = 0; c < h->dim; c++) to[c] /= total;
    }
}
