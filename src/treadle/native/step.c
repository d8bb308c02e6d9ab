/* One step of a decoder in one call: rows of several requests in, logits out. */

#include "step_likelihood.h"

#include <stdlib.h>

static char *cut(char **rest, size_t num_bytes) {
    char *found = *rest;
    *rest += (num_bytes + 63) / 64 * 64;
    return found;
}

static Activations cut_activations(char **rest, int64_t count, int64_t cols) {
    int64_t blocks = cols / BLOCK + 1;
    Activations found = {(float *)cut(rest, 4 * count * cols), (int8_t *)cut(rest, count * cols),
                         (float *)cut(rest, 4 * count * blocks), (float *)cut(rest, 4 * count * blocks),
                         (int32_t *)cut(rest, 4 * count * blocks), (int32_t *)cut(rest, 8 * count * blocks)};
    return found;
}

/* Room for what trained heads read of all rows, and for what their first matrix gives. */
static void cut_heads(Step *s, char **rest, int64_t count) {
    const View *view = &s->rows->view;
    int64_t inputs = 0, width = 0;
    for (int segment = 0; segment < s->rows->num_segments; segment++) {
        const Noted *noted = noted_of(view, segment);
        for (int i = 0; noted && noted->note == NOTE_HEADS && i < s->model->num_layers; i++) {
            const Matrix *first = &noted->heads[i].first;
            inputs = first->cols > inputs ? first->cols : inputs;
            width = first->rows > width ? first->rows : width;
        }
    }
    s->has_heads = inputs > 0;
    s->work.read = cut_activations(rest, inputs ? count : 0, inputs);
    s->work.scored = (float *)cut(rest, 4 * count * width);
}

/* Room for the experts of `count` rows, as much as the layer with most of them needs. */
static void cut_routed(Step *s, char **rest, int64_t count) {
    Routed *w = &s->work.routed;
    int64_t experts = 0, top_k = 0, inner = 0, hidden = s->model->hidden, n = count < MOST_ROUTED ? count : MOST_ROUTED, shared = 0;
    for (int i = 0; i < s->model->num_layers; i++) {
        const ExpertLayer *own = s->model->layers[i].experts;
        if (!own) continue;
        experts = own->num_experts > experts ? own->num_experts : experts;
        top_k = own->top_k > top_k ? own->top_k : top_k;
        for (int e = 0; e < own->num_experts; e++)
            inner = own->experts[e].down.cols > inner ? own->experts[e].down.cols : inner;
        if (own->shared_gate) shared = count;
    }
    n = experts ? n : 0;
    w->probabilities = (float *)cut(rest, 4 * n * experts);
    w->chosen = (int32_t *)cut(rest, 4 * n * top_k);
    w->shares = (float *)cut(rest, 4 * n * top_k);
    w->entries = (int32_t *)cut(rest, 4 * n * top_k);
    w->starts = (int32_t *)cut(rest, 4 * (experts + 1));
    w->rows = (int32_t *)cut(rest, 4 * n * top_k);
    w->shared_shares = (float *)cut(rest, 4 * n);
    w->inputs = cut_activations(rest, n > 1 ? n * top_k : 0, hidden);
    w->gate = (float *)cut(rest, 4 * n * top_k * inner);
    w->inner = cut_activations(rest, n * top_k, inner);
    w->out = (float *)cut(rest, 4 * n * top_k * hidden);
    w->shared = (float *)cut(rest, 4 * shared * hidden);
}

/* Lays the workspace out from `memory` on and returns its end; with a null memory, its size. */
static char *lay_out(Step *s, char *memory) {
    const Model *m = s->model;
    const Rows *rows = s->rows;
    char *rest = memory;
    int64_t n = rows->num_rows > 4 ? rows->num_rows : 4, q = 0, kv = 0, inner = 0, room = 0, partial = 0;
    for (int i = 0; i < m->num_layers; i++) {
        const Layer *l = &m->layers[i];
        q = l->q.rows > q ? l->q.rows : q;
        kv = l->k.rows > kv ? l->k.rows : kv;
        inner = l->down.cols > inner ? l->down.cols : inner;
        int64_t own = tiles_room(&l->heads, rows->sharing), each = (int64_t)l->heads.heads * (l->heads.dim + 2);
        room = own > room ? own : room;
        partial = each > partial ? each : partial;
    }
    Workspace *w = &s->work;
    w->x = (float *)cut(&rest, 4 * n * m->hidden);
    w->normed = cut_activations(&rest, n, m->hidden);
    w->q = (float *)cut(&rest, 4 * n * q);
    w->k = (float *)cut(&rest, 4 * n * kv);
    w->v = (float *)cut(&rest, 4 * n * kv);
    w->mixed = cut_activations(&rest, n, q);
    w->gate = (float *)cut(&rest, 4 * n * inner);
    w->inner = cut_activations(&rest, n, inner);
    for (int target = 0; target < NUM_TARGETS && rows->num_runs; target++)
        w->low[target] = (float *)cut(&rest, 4 * n * rows->max_rank);
    cut_routed(s, &rest, n);
    cut_heads(s, &rest, n);
    int32_t groups = rows->shares.num_groups, last = rows->wanted_shares.num_groups;
    int64_t widest = m->hidden > q ? m->hidden : q;
    widest = inner > widest ? inner : widest;
    w->turned = (float *)cut(&rest, 4 * (groups > last ? groups : last) * turned_size(widest));
    w->partials = (float *)cut(&rest, rows->sharing ? 4 * partial * rows->sharing->num_partials : 0);
    for (int id = 0; id < s->team.count; id++)
        w->room[id] = (float *)cut(&rest, 4 * room);
    for (int id = 0; id < s->team.count && rows->targets; id++)
        w->tile[id] = (float *)cut(&rest, 4 * (int64_t)rows->num_wanted * TILE);
    if (rows->targets) w->parts = (Part *)cut(&rest, sizeof(Part) * (int64_t)rows->num_wanted * num_tiles(m));
    return rest;
}

Step *step_open(int32_t num_threads) {
    Step *s = calloc(1, sizeof *s);
    if (s) open_team(&s->team, num_threads, walk);
    return s;
}

/* How packed weights must look: rows that are interleaved, and the offset of 8-bit codes. */
int32_t step_lanes(void) { return LANES; }

int32_t step_offset(void) { return OFFSET; }

int32_t step_threads(const Step *s) { return s->team.count; }

/* Whether to measure what attention takes from now on; begins at 0. */
void step_time(Step *s, int32_t is_timed) {
    s->is_timed = is_timed;
    memset(s->attention_seconds, 0, sizeof s->attention_seconds);
}

double step_attention_seconds(const Step *s) {
    double total = 0;
    for (int id = 0; id < s->team.count; id++) total += s->attention_seconds[id];
    return total;
}

/* Returns 0, or 1 if there is no memory for the workspace. */
int32_t step_run(Step *s, const Model *model, const Rows *rows) {
    s->model = model;
    s->rows = rows;
    size_t needed = (size_t)(lay_out(s, NULL) - (char *)NULL);
    if (needed > s->work.num_bytes) {
        free(s->work.memory);
        s->work.memory = aligned_alloc(64, (needed + 63) / 64 * 64);
        s->work.num_bytes = s->work.memory ? needed : 0;
        if (!s->work.memory) return 1;
    }
    lay_out(s, s->work.memory);
    run_team(&s->team, s);
    return 0;
}

void step_close(Step *s) {
    close_team(&s->team);
    free(s->work.memory);
    free(s);
}

MIRRORS(MIRROR_STRUCT(Matrix, MATRIX_FIELDS);
        MIRROR_STRUCT(Heads, HEADS_FIELDS);
        MIRROR_STRUCT(ExpertMlp, EXPERT_MLP_FIELDS);
        MIRROR_STRUCT(ExpertLayer, EXPERT_LAYER_FIELDS);
        MIRROR_STRUCT(Layer, LAYER_FIELDS);
        MIRROR_STRUCT(Cache, CACHE_FIELDS);
        MIRROR_STRUCT(Model, MODEL_FIELDS);
        MIRROR_STRUCT(Noted, NOTED_FIELDS);
        MIRROR_STRUCT(Retaining, RETAINING_FIELDS);
        MIRROR_STRUCT(HeadTables, HEAD_TABLES_FIELDS);
        MIRROR_STRUCT(View, VIEW_FIELDS);
        MIRROR_STRUCT(Planned, PLANNED_FIELDS);
        MIRROR_STRUCT(Dense, DENSE_FIELDS);
        MIRROR_STRUCT(Sharing, SHARING_FIELDS);
        MIRROR_STRUCT(Probe, PROBE_FIELDS);
        MIRROR_STRUCT(Rows, ROWS_FIELDS);
        MIRROR_STRUCT(LowRank, LOW_RANK_FIELDS);
        MIRROR_STRUCT(Run, RUN_FIELDS);
        MIRROR_STRUCT(Sparse, SPARSE_FIELDS);
        MIRROR_STRUCT(GroupRows, GROUP_ROWS_FIELDS);
        MIRROR_STRUCT(Shares, SHARES_FIELDS))
