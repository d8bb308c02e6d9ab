/* The way of a step's rows through the blocks of the model. */

#include "step_likelihood.h"

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
        if (!m->positions) continue;
        const float *position = m->positions + (int64_t)s->rows->view.positions[r] * m->hidden;
        for (int i = 0; i < m->hidden; i++) x[i] += position[i];
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

void narrow(Step *s, int id, int layer, int target, int count, const Activations *x, int cols) {
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

void widen(Step *s, int layer, int target, int cols, int begin, int end, float *out, int64_t stride) {
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

/* A vector less its mean, divided by the root of its variance, times a weight, plus a shift. */
static void centre(const float *x, const float *weight, const float *shift, float *target, int size, float epsilon) {
    floats sums = {0}, squares = {0};
    float rest = 0, own = 0;
    int c = 0;
    for (; c + LANES <= size; c += LANES) sums += load(x + c);
    for (int i = c; i < size; i++) rest += x[i];
    float mean = (sum(sums) + rest) / (float)size;
    for (c = 0; c + LANES <= size; c += LANES) {
        floats apart = load(x + c) - mean;
        squares = fused(apart, apart, squares);
    }
    for (int i = c; i < size; i++) own = fmaf(x[i] - mean, x[i] - mean, own);
    float scale = 1.0f / sqrtf((sum(squares) + own) / (float)size + epsilon);
    for (int i = 0; i < size; i++) target[i] = (x[i] - mean) * scale * weight[i] + (shift ? shift[i] : 0.0f);
}

/* A norm of the whole residual stream. */
static void norm_stream(const Model *m, const float *x, const float *weight, const float *shift, float *target) {
    if (m->is_centred) centre(x, weight, shift, target, m->hidden, m->epsilon);
    else normalise(x, weight, target, m->hidden, m);
}

/* Normalises this member's rows for a branch, before which stands the norm `norm`. */
static void enter_branch(Step *s, int id, int layer, int norm, int is_rounded) {
    const Layer *l = &s->model->layers[layer];
    int hidden = s->model->hidden, place = layer * NUM_VECTORS + norm, shift_place = place + ATTENTION_SHIFT - ATTENTION_NORM;
    const float *usual = norm == MLP_NORM ? l->mlp_norm : l->attention_norm;
    const float *usual_shift = norm == MLP_NORM ? l->mlp_shift : l->attention_shift;
    for (int r = id; r < s->rows->num_rows; r += s->team.count) {
        const float *weight = vector_of(s, r, place, usual), *shift = vector_of(s, r, shift_place, usual_shift);
        norm_stream(s->model, s->work.x + (int64_t)r * hidden, weight, shift, s->work.normed.values + (int64_t)r * hidden);
        if (is_rounded) quantise_row(&s->work.normed, r, hidden, 0, hidden / BLOCK);
    }
}

/* What some architectures do with all heads of this member's rows together, before any is looked at alone. */
static void shape_projections(Step *s, int id, int layer) {
    const Model *m = s->model;
    const Layer *l = &m->layers[layer];
    int place = layer * NUM_VECTORS, q_size = l->heads.heads * l->heads.dim, kv_size = l->heads.kv_heads * l->heads.dim;
    if (!l->q_whole && !l->k_whole && m->clip <= 0) return;
    for (int r = id; r < s->rows->num_rows; r += s->team.count) {
        float *parts[] = {s->work.q + (int64_t)r * q_size, s->work.k + (int64_t)r * kv_size, s->work.v + (int64_t)r * kv_size};
        if (l->q_whole) normalise(parts[0], vector_of(s, r, place + Q_WHOLE, l->q_whole), parts[0], q_size, m);
        if (l->k_whole) normalise(parts[1], vector_of(s, r, place + K_WHOLE, l->k_whole), parts[1], kv_size, m);
        for (int part = 0; m->clip > 0 && part < 3; part++)
            for (int i = 0; i < (part ? kv_size : q_size); i++) parts[part][i] = fminf(fmaxf(parts[part][i], -m->clip), m->clip);
    }
    meet(&s->team);
}

static void rotate(float *x, const float *cosines, const float *sines, int turned) {
    int half = turned / 2;
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
    int dim = h->dim, half = l->turned / 2, segment = 0, place = layer * NUM_VECTORS, columns = columns_of(dim, m->kv_dtype);
    for (int r = id; r < rows->num_rows; r += s->team.count) {
        while (r >= rows->view.row_starts[segment + 1]) segment++;
        const Noted *noted = noted_of(&rows->view, segment);
        const float *cosines = rows->cosines[l->rope] + (int64_t)r * half;
        const float *sines = rows->sines[l->rope] + (int64_t)r * half;
        const float *q_norm = vector_of(s, r, place + Q_NORM, l->q_norm), *k_norm = vector_of(s, r, place + K_NORM, l->k_norm);
        for (int head = 0; head < h->heads; head++) {
            float *q = s->work.q + ((int64_t)r * h->heads + head) * dim;
            if (q_norm) normalise(q, q_norm, q, dim, m);
            rotate(q, cosines, sines, l->turned);
        }
        for (int head = 0; head < h->kv_heads; head++) {
            const Spot spot = spot_of(&rows->view, h, cache, segment, r, rows->slots[r], head);
            const Cache *to = spot.cache;
            int64_t from = ((int64_t)r * h->kv_heads + head) * dim;
            int64_t plane = spot.plane * m->page_size, at = plane + spot.offset;
            if (k_norm) normalise(s->work.k + from, k_norm, s->work.k + from, dim, m);
            rotate(s->work.k + from, cosines, sines, l->turned);
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
        const float *shift = vector_of(s, rows->wanted[w], m->num_layers * NUM_VECTORS + 1, m->shift);
        norm_stream(m, s->work.x + (int64_t)rows->wanted[w] * hidden, norm, shift, target);
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
        for (int64_t r = id; (part == 2 || part >= 4) == is_turned && r < n; r += s->team.count)
            memcpy(to + r * widths[part], from[part] + r * widths[part], sizeof(float) * (size_t)widths[part]);
}

void walk(Team *team, int id) {
    Step *s = team->job;
    embed(s, id);
    meet(team);
    for (int layer = 0; layer < s->model->num_layers; layer++) {
        const Layer *l = &s->model->layers[layer];
        record_states(s, id, layer);
        enter_branch(s, id, layer, ATTENTION_NORM, is_coded(&l->q) || is_coded(&l->k) || is_coded(&l->v));
        meet(team);
        narrow(s, id, layer, ON_Q, 3, &s->work.normed, l->q.cols);
        project(s, id, layer, ON_Q, &l->q, s->work.q);
        project(s, id, layer, ON_K, &l->k, s->work.k);
        project(s, id, layer, ON_V, &l->v, s->work.v);
        meet(team);
        record_inputs(s, id, layer, 0);
        score_entries(s, id, layer);
        shape_projections(s, id, layer);
        count_queries(s, id, layer);
        place(s, id, layer);
        meet(team);
        record_inputs(s, id, layer, 1);
        attend_all(s, id, layer);
        meet(team);
        if (!s->model->is_parallel) leave_branch(s, id, layer, ON_O, &l->o, &s->work.mixed, l->attention_after);
        int has_codes = is_coded(&l->gate) || is_coded(&l->up) || (l->experts && l->experts->is_rounded);
        enter_branch(s, id, layer, MLP_NORM, has_codes);
        meet(team);
        if (s->model->is_parallel) leave_branch(s, id, layer, ON_O, &l->o, &s->work.mixed, l->attention_after);
        if (l->experts) mix_experts(s, id, layer);
        else {
            run_mlp(s, id, layer);
            meet(team);
            leave_branch(s, id, layer, ON_DOWN, &l->down, &s->work.inner, l->mlp_after);
        }
    }
    record_states(s, id, s->model->num_layers);
    finish(s, id);
}
