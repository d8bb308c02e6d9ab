/* The way of a step's rows through the blocks of the model. */

#include "step_likelihood.h"

/* A vector that a row has of its own, or else the model's. */
static const float *vector_of(const Step *s, int row, int place, const float *usual) {
    const float *const *own = s->rows->vectors ? s->rows->vectors[row] : NULL;
    return own && own[place] ? own[place] : usual;
}

static const Sparse *expert_of(const Step *s, const GroupRows *group, int place) {
    return &s->rows->experts[group->expert][place];
}

static void embed(Step *s, int id) {
    const Model *m = s->model;
    const Shares *shares = &s->rows->shares;
    for (int r = id; r < s->rows->num_rows; r += s->team.count) {
        float *x = s->work.x + (int64_t)r * m->hidden;
        expand_row(&m->embedding, s->rows->tokens[r], x);
        if (m->embedding_scale != 1.0f)
            for (int i = 0; i < m->hidden; i++) x[i] *= m->embedding_scale;
    }
    for (int g = 0; g < shares->num_groups; g++) {
        const GroupRows *group = &shares->groups[g];
        const Sparse *change = expert_of(s, group, m->num_layers * NUM_TARGETS);
        for (int i = group->first; change->rows && i < group->first + group->count; i++)
            if (shares->rows[i] % s->team.count == id) {
                float *x = s->work.x + (int64_t)shares->rows[i] * m->hidden;
                add_row(change, s->rows->tokens[shares->rows[i]], shares->weights[i] * m->embedding_scale, x);
            }
    }
}

static const LowRank *change_of(const Step *s, const Run *run, int layer, int target) {
    return &s->rows->adapters[run->adapter][layer * NUM_TARGETS + target];
}

/* Whether a group's expert changes one of `count` matrices. */
static int is_changed(const Step *s, const GroupRows *group, int place, int count) {
    for (int i = 0; i < count; i++)
        if (expert_of(s, group, place + i)->rows) return 1;
    return 0;
}

/* Lays the rows whose experts change one of `count` matrices column by column. */
static void turn(Step *s, int id, const Shares *shares, int place, int count, const Activations *x, int cols) {
    for (int g = id; g < shares->num_groups; g += s->team.count)
        if (is_changed(s, &shares->groups[g], place, count))
            turn_group(shares, &shares->groups[g], x->values, cols, s->work.turned + g * turned_size(cols));
}

/* Adds the experts' parts to the columns [begin, end) of a product with `cols` columns. */
static void add_experts(
    Step *s, const Shares *shares, int place, int cols, int begin, int end, float *out, int64_t stride) {
    for (int g = 0; g < shares->num_groups; g++) {
        const Sparse *change = expert_of(s, &shares->groups[g], place);
        const float *turned = s->work.turned + g * turned_size(cols);
        if (change->rows) add_group(change, shares, &shares->groups[g], turned, begin, end, out, stride);
    }
}

/* Prepares the common input of `count` targets for the rows that have adapters or take parts of experts; then `widen` may
 * follow. */
static void narrow(Step *s, int id, int layer, int target, int count, const Activations *x, int cols) {
    const Rows *rows = s->rows;
    if (!rows->num_runs && !rows->shares.num_groups) return;
    turn(s, id, &rows->shares, layer * NUM_TARGETS + target, count, x, cols);
    for (int task = id; task < rows->num_runs * count; task += s->team.count) {
        const Run *run = &rows->runs[task / count];
        int on = target + task % count;
        const LowRank *change = change_of(s, run, layer, on);
        if (change->rank) narrow_run(change, run, x, cols, s->work.low[on] + (int64_t)run->first * rows->max_rank);
    }
    meet(&s->team);
}

/* Adds the adapters' and the experts' part to the columns [begin, end) of a target's product. */
static void widen(Step *s, int layer, int target, int cols, int begin, int end, float *out, int64_t stride) {
    const Rows *rows = s->rows;
    for (int r = 0; r < rows->num_runs; r++) {
        const Run *run = &rows->runs[r];
        const LowRank *change = change_of(s, run, layer, target);
        if (change->rank)
            widen_run(change, run, s->work.low[target] + (int64_t)run->first * rows->max_rank, begin, end, out, stride);
    }
    add_experts(s, &rows->shares, layer * NUM_TARGETS + target, cols, begin, end, out, stride);
    for (int r = 0; rows->vectors && r < rows->num_rows; r++) {
        const float *bias = vector_of(s, r, layer * NUM_VECTORS + NUM_NORMS + target, NULL);
        for (int c = begin; bias && c < end; c++) out[r * stride + c] += bias[c];
    }
}

/* Normalises this member's rows for a branch whose first matrix is `next`. */
static void enter_branch(Step *s, int id, int place, const float *norm, const Matrix *next) {
    int hidden = s->model->hidden;
    for (int r = id; r < s->rows->num_rows; r += s->team.count) {
        float *target = s->work.normed.values + (int64_t)r * hidden;
        normalise(s->work.x + (int64_t)r * hidden, vector_of(s, r, place, norm), target, hidden, s->model);
        if (is_coded(next)) quantise_row(&s->work.normed, r, hidden, 0, hidden / BLOCK);
    }
}

static void rotate(float *x, const float *cosines, const float *sines, int dim) {
    int half = dim / 2;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosines[i] - b * sines[i];
        x[i + half] = b * cosines[i] + a * sines[i];
    }
}

static float length_of(const float *x, int count) {
    float squares = 0;
    for (int i = 0; i < count; i++) squares = fmaf(x[i], x[i], squares);
    return sqrtf(squares);
}

/* A key as it is stored: of 4 bits divided by its head's factors, so that no dimension is much larger than others. */
static const float *divided(const Step *s, int id, const Heads *h, int head, const float *key) {
    const float *factors = s->model->kv_dtype == INT4 ? h->factors : NULL;
    float *to = s->work.room[id];
    if (!factors) return key;
    for (int c = 0; c < h->dim; c++) to[c] = key[c] / factors[head * h->dim + c];
    return to;
}

/* Turns queries and keys to their positions and stores keys and values. */
static void place(Step *s, int id, int layer) {
    const Model *m = s->model;
    const Rows *rows = s->rows;
    const Layer *l = &m->layers[layer];
    const Heads *h = &l->heads;
    const Cache *cache = &m->caches[layer];
    int dim = h->dim, half = dim / 2, segment = 0, place = layer * NUM_VECTORS, columns = columns_of(dim, m->kv_dtype);
    for (int r = id; r < rows->num_rows; r += s->team.count) {
        while (r >= rows->view.row_starts[segment + 1]) segment++;
        const Noted *noted = noted_of(&rows->view, segment);
        const float *cosines = rows->cosines[l->rope] + (int64_t)r * half;
        const float *sines = rows->sines[l->rope] + (int64_t)r * half;
        const float *q_norm = vector_of(s, r, place + Q_NORM, l->q_norm), *k_norm = vector_of(s, r, place + K_NORM, l->k_norm);
        for (int head = 0; head < h->heads; head++) {
            float *q = s->work.q + ((int64_t)r * h->heads + head) * dim;
            if (q_norm) normalise(q, q_norm, q, dim, m);
            rotate(q, cosines, sines, dim);
        }
        for (int head = 0; head < h->kv_heads; head++) {
            const Spot spot = spot_of(&rows->view, h, cache, segment, r, rows->slots[r], head);
            const Cache *to = spot.cache;
            int64_t from = ((int64_t)r * h->kv_heads + head) * dim;
            int64_t plane = spot.plane * m->page_size, at = plane + spot.offset;
            if (k_norm) normalise(s->work.k + from, k_norm, s->work.k + from, dim, m);
            rotate(s->work.k + from, cosines, sines, dim);
            const float *key = divided(s, id, h, head, s->work.k + from);
            keep(to->keys, to->key_scales, plane * columns + spot.offset, m->page_size, at, key, dim, m->kv_dtype);
            keep(to->values, to->value_scales, at * columns, 1, at, s->work.v + from, dim, m->kv_dtype);
            if (noted && noted->note == NOTE_ZERO) to->scores[at] = 0;
            if (noted && noted->note == NOTE_KEY_NORM) to->scores[at] = -length_of(s->work.k + from, dim);
            to->positions[at] = rows->view.positions[r];
        }
    }
}

/* x += m . in, or x += norm(m . in) where the architecture normalises a branch's end. */
static void leave_branch(
    Step *s, int id, int layer, int target, const Matrix *m, const Activations *in, const float *after) {
    int begin, end, hidden = s->model->hidden, num_rows = s->rows->num_rows;
    share(hidden, LANES, id, s->team.count, &begin, &end);
    float *out = after ? s->work.normed.values : s->work.x;
    narrow(s, id, layer, target, 1, in, m->cols);
    multiply(m, in, num_rows, begin, end, out, hidden, !after);
    widen(s, layer, target, m->cols, begin, end, out, hidden);
    meet(&s->team);
    if (!after) return;
    int place = layer * NUM_VECTORS + (target == ON_O ? ATTENTION_AFTER : MLP_AFTER);
    for (int r = id; r < num_rows; r += s->team.count) {
        float *branch = s->work.normed.values + (int64_t)r * hidden, *x = s->work.x + (int64_t)r * hidden;
        normalise(branch, vector_of(s, r, place, after), branch, hidden, s->model);
        for (int i = 0; i < hidden; i++) x[i] += branch[i];
    }
    meet(&s->team);
}

static void activate(const float *gate, float *up, int count, int kind) {
    for (int i = 0; i < count; i++) {
        float g = gate[i];
        if (kind == GELU) g = 0.5f * g * (1.0f + tanhf(0.7978845608f * (g + 0.044715f * g * g * g)));
        up[i] *= g;
    }
}

INLINE floats silu(floats gate, floats up) { return up * gate / (exponential(-gate) + 1.0f); }

static void activate_silu(const float *gate, float *up, int count) {
    int i = 0;
    for (; i + LANES <= count; i += LANES) store(up + i, silu(load(gate + i), load(up + i)));
    if (i == count) return;
    float g[LANES] = {0}, u[LANES] = {0};
    memcpy(g, gate + i, 4 * (size_t)(count - i));
    memcpy(u, up + i, 4 * (size_t)(count - i));
    store(u, silu(load(g), load(u)));
    memcpy(up + i, u, 4 * (size_t)(count - i));
}

static void mlp(Step *s, int id, int layer) {
    const Layer *l = &s->model->layers[layer];
    int begin, end, inner = l->gate.rows, num_rows = s->rows->num_rows;
    share(inner, BLOCK, id, s->team.count, &begin, &end);
    narrow(s, id, layer, ON_GATE, 2, &s->work.normed, l->gate.cols);
    multiply(&l->gate, &s->work.normed, num_rows, begin, end, s->work.gate, inner, 0);
    multiply(&l->up, &s->work.normed, num_rows, begin, end, s->work.inner.values, inner, 0);
    widen(s, layer, ON_GATE, l->gate.cols, begin, end, s->work.gate, inner);
    widen(s, layer, ON_UP, l->up.cols, begin, end, s->work.inner.values, inner);
    for (int r = 0; r < num_rows && begin < end; r++) {
        const float *gate = s->work.gate + (int64_t)r * inner + begin;
        float *up = s->work.inner.values + (int64_t)r * inner + begin;
        if (s->model->activation == SILU) activate_silu(gate, up, end - begin);
        else activate(gate, up, end - begin, s->model->activation);
        if (is_coded(&l->down)) quantise_row(&s->work.inner, r, inner, begin / BLOCK, end / BLOCK);
    }
}

static void project(Step *s, int id, int layer, int target, const Matrix *m, float *out) {
    int begin, end;
    share(m->rows, LANES, id, s->team.count, &begin, &end);
    multiply(m, &s->work.normed, s->rows->num_rows, begin, end, out, m->rows, 0);
    widen(s, layer, target, m->cols, begin, end, out, m->rows);
}

/* out[w, i] = the logits of the tokens [begin, end), which begin at a multiple of LANES. */
static void compute_logits(Step *s, int begin, int end, float *out, int64_t stride) {
    const Model *m = s->model;
    const Rows *rows = s->rows;
    multiply(&m->head, &s->work.normed, rows->num_wanted, begin, end, out, stride, 0);
    add_experts(s, &rows->wanted_shares, m->num_layers * NUM_TARGETS + 1, m->hidden, begin, end, out, stride);
    for (int w = 0; m->softcap > 0 && w < rows->num_wanted; w++)
        for (int i = begin; i < end; i++) {
            float *at = out + w * stride + i;
            *at = m->softcap * tanhf(*at / m->softcap);
        }
}

/* The log-probabilities of the rows' targets: a tile's logits are gone when the next one comes. */
static void compute_likelihoods(Step *s, int id) {
    int begin, end, size = s->model->head.rows, tiles = num_tiles(s->model);
    float *logits = s->work.tile[id];
    share(size, TILE, id, s->team.count, &begin, &end);
    for (int first = begin; first < end; first += TILE) {
        int stop = first + TILE < end ? first + TILE : end;
        compute_logits(s, first, stop, logits - first, TILE);
        fold_tile(s->rows, logits, first, stop - first, s->work.parts, tiles);
    }
    meet(&s->team);
    for (int w = id; w < s->rows->num_wanted; w += s->team.count)
        conclude(s->rows, w, s->work.parts + (int64_t)w * tiles, tiles);
}

static void finish(Step *s, int id) {
    const Model *m = s->model;
    const Rows *rows = s->rows;
    int hidden = m->hidden, begin, end;
    for (int w = id; w < rows->num_wanted; w += s->team.count) {
        float *target = rows->wants_hidden ? rows->out + (int64_t)w * hidden : s->work.normed.values + (int64_t)w * hidden;
        const float *norm = vector_of(s, rows->wanted[w], m->num_layers * NUM_VECTORS, m->norm);
        normalise(s->work.x + (int64_t)rows->wanted[w] * hidden, norm, target, hidden, m);
        if (!rows->wants_hidden && is_coded(&m->head)) quantise_row(&s->work.normed, w, hidden, 0, hidden / BLOCK);
    }
    meet(&s->team);
    if (rows->wants_hidden) return;
    if (rows->wanted_shares.num_groups) {
        turn(s, id, &rows->wanted_shares, m->num_layers * NUM_TARGETS + 1, 1, &s->work.normed, hidden);
        meet(&s->team);
    }
    if (rows->targets) return compute_likelihoods(s, id);
    share(m->head.rows, LANES, id, s->team.count, &begin, &end);
    compute_logits(s, begin, end, rows->out, m->head.rows);
}

/* Keeps this member's rows of the residual stream for who looks at them. */
static void record_states(const Step *s, int id, int layer) {
    const Probe *p = s->rows->probe;
    if (!p || !p->states) return;
    int64_t hidden = s->model->hidden;
    for (int64_t r = id; r < s->rows->num_rows; r += s->team.count)
        memcpy(p->states + (layer * s->rows->num_rows + r) * hidden, s->work.x + r * hidden, 4 * (size_t)hidden);
}

/* Numbers that a row has among the inputs of a layer: queries, keys, values, what these come from, turned queries and keys. */
static int64_t inputs_of(const Step *s, int layer) {
    const Heads *h = &s->model->layers[layer].heads;
    return 2 * (int64_t)h->heads * h->dim + 3 * (int64_t)h->kv_heads * h->dim + s->model->hidden;
}

/* Keeps this member's rows of what attention works with, [rows, width] for each part: before, or after it is turned. */
static void record_inputs(const Step *s, int id, int layer, int is_turned) {
    const Probe *p = s->rows->probe;
    if (!p || !p->inputs) return;
    const Heads *h = &s->model->layers[layer].heads;
    int64_t q = (int64_t)h->heads * h->dim, kv = (int64_t)h->kv_heads * h->dim, n = s->rows->num_rows;
    const float *from[] = {s->work.q, s->work.k, s->work.v, s->work.normed.values, s->work.q, s->work.k};
    int64_t widths[] = {q, kv, kv, s->model->hidden, q, kv};
    float *to = p->inputs;
    for (int before = 0; before < layer; before++) to += n * inputs_of(s, before);
    for (int part = 0; part < 6; to += n * widths[part++])
        for (int64_t r = id; (part >= 4) == is_turned && r < n; r += s->team.count)
            memcpy(to + r * widths[part], from[part] + r * widths[part], sizeof(float) * (size_t)widths[part]);
}

void walk(Team *team, int id) {
    Step *s = team->job;
    embed(s, id);
    meet(team);
    for (int layer = 0; layer < s->model->num_layers; layer++) {
        const Layer *l = &s->model->layers[layer];
        record_states(s, id, layer);
        enter_branch(s, id, layer * NUM_VECTORS + ATTENTION_NORM, l->attention_norm, &l->q);
        meet(team);
        narrow(s, id, layer, ON_Q, 3, &s->work.normed, l->q.cols);
        project(s, id, layer, ON_Q, &l->q, s->work.q);
        project(s, id, layer, ON_K, &l->k, s->work.k);
        project(s, id, layer, ON_V, &l->v, s->work.v);
        meet(team);
        record_inputs(s, id, layer, 0);
        score_entries(s, id, layer);
        count_queries(s, id, layer);
        place(s, id, layer);
        meet(team);
        record_inputs(s, id, layer, 1);
        attend_all(s, id, layer);
        meet(team);
        leave_branch(s, id, layer, ON_O, &l->o, &s->work.mixed, l->attention_after);
        enter_branch(s, id, layer * NUM_VECTORS + MLP_NORM, l->mlp_norm, &l->gate);
        meet(team);
        mlp(s, id, layer);
        meet(team);
        leave_branch(s, id, layer, ON_DOWN, &l->down, &s->work.inner, l->mlp_after);
    }
    record_states(s, id, s->model->num_layers);
    finish(s, id);
}
