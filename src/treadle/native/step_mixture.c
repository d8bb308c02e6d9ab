/* See step_mixture.h, and step_model.h for mix_experts. All numbers of a row follow from the row alone: its experts are
 * chosen from its own probabilities, products have their fixed order, and its experts add up in ascending order. */

#include "step_model.h"

/* What an entry costs beside reading a part of its expert's matrices, as far as sharing the work goes. */
enum { READING = 6 };

/* The likeliest expert of those that were not taken; of equal ones the first. */
static int likeliest(float *probabilities, int count) {
    int best = -1;
    for (int e = 0; e < count; e++)
        if (probabilities[e] != -1.0f && (best < 0 || probabilities[e] > probabilities[best])) best = e;
    return best;
}

static void soften(float *logits, int count) {
    float largest = logits[0], total = 0;
    for (int e = 1; e < count; e++) largest = logits[e] > largest ? logits[e] : largest;
    for (int e = 0; e < count; e++) total += logits[e] = expf(logits[e] - largest);
    for (int e = 0; e < count; e++) logits[e] /= total;
}

static void sort_choice(int32_t *chosen, float *shares, int count) {
    for (int i = 1; i < count; i++)
        for (int j = i; j && chosen[j] < chosen[j - 1]; j--) {
            int32_t expert = chosen[j];
            float share = shares[j];
            chosen[j] = chosen[j - 1];
            shares[j] = shares[j - 1];
            chosen[j - 1] = expert;
            shares[j - 1] = share;
        }
}

/* How much of the shared expert a row gets, to which its adapter may add. */
static float shared_share(const Step *s, int layer, int row, const float *x) {
    const Rows *rows = s->rows;
    int hidden = s->model->hidden;
    float total = dot(s->model->layers[layer].experts->shared_gate, x, hidden);
    for (int i = 0; rows->gates && i < rows->num_runs; i++) {
        const Run *run = &rows->runs[i];
        const float *change = rows->gates[run->adapter * s->model->num_layers + layer];
        if (change && row >= run->first && row < run->first + run->count) total += dot(change, x, hidden);
    }
    return 1.0f / (1.0f + expf(-total));
}

/* Chooses the experts of a row, number `row` among those that are routed together. */
static void choose_experts(const ExpertLayer *own, const Routed *w, int row) {
    float *probabilities = w->probabilities + (int64_t)row * own->num_experts, *shares = w->shares + (int64_t)row * own->top_k;
    int32_t *chosen = w->chosen + (int64_t)row * own->top_k;
    float total = 0;
    soften(probabilities, own->num_experts);
    for (int k = 0; k < own->top_k; k++) {
        chosen[k] = likeliest(probabilities, own->num_experts);
        total += shares[k] = probabilities[chosen[k]];
        probabilities[chosen[k]] = -1.0f;
    }
    for (int k = 0; own->is_normed && k < own->top_k; k++) shares[k] /= total;
    sort_choice(chosen, shares, own->top_k);
}

/* Puts the rows of each expert side by side. */
static void group_entries(const ExpertLayer *own, const Routed *w, int count) {
    int32_t *starts = w->starts;
    int num_entries = count * own->top_k;
    memset(starts, 0, sizeof *starts * (size_t)(own->num_experts + 1));
    for (int i = 0; i < num_entries; i++) starts[w->chosen[i] + 1]++;
    for (int e = 0; e < own->num_experts; e++) starts[e + 1] += starts[e];
    for (int i = 0; i < num_entries; i++) {
        int entry = starts[w->chosen[i]]++;
        w->entries[i] = entry;
        w->rows[entry] = i / own->top_k;
    }
    memmove(starts + 1, starts, sizeof *starts * (size_t)own->num_experts);
    starts[0] = 0;
}

static void route(Step *s, int id, int layer, int first, int count) {
    const Routed *w = &s->work.routed;
    const ExpertLayer *own = s->model->layers[layer].experts;
    int hidden = s->model->hidden, begin, end;
    const Activations x = from_row(&s->work.normed, first, hidden);
    share(own->num_experts, LANES, id, s->team.count, &begin, &end);
    multiply(&own->router, &x, count, begin, end, w->probabilities, own->num_experts, 0);
    meet(&s->team);
    for (int row = id; row < count; row += s->team.count) {
        choose_experts(own, w, row);
        if (own->shared_gate) w->shared_shares[row] = shared_share(s, layer, first + row, x.values + (int64_t)row * hidden);
    }
    meet(&s->team);
    if (!id) group_entries(own, w, count);
    meet(&s->team);
}

static int num_entries_of(const Routed *w, int expert) { return w->starts[expert + 1] - w->starts[expert]; }

/* Copies the inputs of experts that have several: where there is one, it is read where it lies. */
static void gather_inputs(Step *s, int id, const ExpertLayer *own, int first, int count) {
    const Routed *w = &s->work.routed;
    int hidden = s->model->hidden;
    if (count == 1) return;
    for (int i = id; i < count * own->top_k; i += s->team.count) {
        if (num_entries_of(w, w->chosen[i]) == 1) continue;
        const Activations from = from_row(&s->work.normed, first + i / own->top_k, hidden);
        const Activations to = from_row(&w->inputs, w->entries[i], hidden);
        size_t blocks = (size_t)(hidden / BLOCK);
        memcpy(to.values, from.values, 4 * (size_t)hidden);
        if (!own->is_rounded) continue;
        memcpy(to.codes, from.codes, (size_t)hidden);
        memcpy(to.scales, from.scales, 4 * blocks);
        memcpy(to.sums, from.sums, 4 * blocks);
        memcpy(to.totals, from.totals, 4 * blocks);
        memcpy(to.sixteens, from.sixteens, 8 * blocks);
    }
    meet(&s->team);
}

/* Columns [begin, end) of the inner numbers of an expert's entries. */
static void run_first(Step *s, const ExpertLayer *own, int expert, int first, int begin, int end) {
    const Routed *w = &s->work.routed;
    const ExpertMlp *e = &own->experts[expert];
    int hidden = s->model->hidden, inner = e->up.rows, count = num_entries_of(w, expert), entry = w->starts[expert];
    const Activations x = count == 1 ? from_row(&s->work.normed, first + w->rows[entry], hidden) : from_row(&w->inputs, entry, hidden);
    Activations to = from_row(&w->inner, entry, inner);
    float *gate = w->gate + (int64_t)entry * inner;
    multiply(&e->gate, &x, count, begin, end, gate, inner, 0);
    multiply(&e->up, &x, count, begin, end, to.values, inner, 0);
    for (int i = 0; i < count; i++) {
        int64_t at = (int64_t)i * inner + begin;
        activate(gate + at, to.values + at, end - begin, s->model->activation);
        if (is_coded(&e->down)) quantise_row(&to, i, inner, begin / BLOCK, end / BLOCK);
    }
}

/* The first matrices of all experts, of which this member does a share by blocks of columns. */
static void run_firsts(Step *s, int id, const ExpertLayer *own, int first) {
    const Routed *w = &s->work.routed;
    int64_t total = 0, before = 0;
    for (int e = 0; e < own->num_experts; e++) {
        int count = num_entries_of(w, e), blocks = (own->experts[e].up.rows + BLOCK - 1) / BLOCK;
        if (count) total += (int64_t)(READING + count) * blocks;
    }
    int64_t low = total * id / s->team.count, high = total * (id + 1) / s->team.count;
    for (int e = 0; e < own->num_experts; e++) {
        int64_t count = num_entries_of(w, e), inner = own->experts[e].up.rows, blocks = (inner + BLOCK - 1) / BLOCK;
        if (!count) continue;
        int64_t cost = READING + count, begin = (low - before + cost - 1) / cost, end = (high - before + cost - 1) / cost;
        begin = low <= before ? 0 : begin < blocks ? begin : blocks;
        end = high <= before ? 0 : end < blocks ? end : blocks;
        int stop = (int)(end * BLOCK < inner ? end * BLOCK : inner);
        if (begin < end) run_first(s, own, e, first, (int)begin * BLOCK, stop);
        before += cost * blocks;
    }
}

/* x[c] += all parts of a row, for the columns [begin, end). */
static void add_parts(const Step *s, const ExpertLayer *own, int first, int row, int begin, int end) {
    const Routed *w = &s->work.routed;
    int64_t hidden = s->model->hidden;
    const float *shares = w->shares + (int64_t)row * own->top_k, *shared = own->shared_gate ? w->shared + (first + row) * hidden : NULL;
    const int32_t *entries = w->entries + (int64_t)row * own->top_k;
    float *x = s->work.x + (first + row) * hidden;
    int c = begin;
    for (; c + LANES <= end; c += LANES) {
        floats total = {0};
        for (int k = 0; k < own->top_k; k++) total = fused(load(w->out + entries[k] * hidden + c), spread(shares[k]), total);
        if (shared) total = fused(load(shared + c), spread(w->shared_shares[row]), total);
        store(x + c, load(x + c) + total);
    }
    for (; c < end; c++) {
        float total = 0;
        for (int k = 0; k < own->top_k; k++) total = fmaf(w->out[entries[k] * hidden + c], shares[k], total);
        if (shared) total = fmaf(shared[c], w->shared_shares[row], total);
        x[c] += total;
    }
}

/* The last matrices, and the sum of each row, for this member's columns of the residual stream. */
static void run_lasts(Step *s, int id, const ExpertLayer *own, int first, int count) {
    const Routed *w = &s->work.routed;
    int hidden = s->model->hidden, begin, end;
    share(hidden, LANES, id, s->team.count, &begin, &end);
    for (int e = 0; e < own->num_experts; e++) {
        int entry = w->starts[e];
        if (!num_entries_of(w, e)) continue;
        const Activations inner = from_row(&w->inner, entry, own->experts[e].down.cols);
        multiply(&own->experts[e].down, &inner, num_entries_of(w, e), begin, end, w->out + (int64_t)entry * hidden, hidden, 0);
    }
    for (int row = 0; row < count; row++) add_parts(s, own, first, row, begin, end);
}

/* The expert that all rows get, for this member's columns. */
static void run_shared(Step *s, int id, int layer) {
    const Layer *l = &s->model->layers[layer];
    int hidden = s->model->hidden, begin, end;
    run_mlp(s, id, layer);
    meet(&s->team);
    share(hidden, LANES, id, s->team.count, &begin, &end);
    narrow(s, id, layer, ON_DOWN, 1, &s->work.inner, l->down.cols);
    multiply(&l->down, &s->work.inner, s->rows->num_rows, begin, end, s->work.routed.shared, hidden, 0);
    widen(s, layer, ON_DOWN, l->down.cols, begin, end, s->work.routed.shared, hidden);
}

void mix_experts(Step *s, int id, int layer) {
    const ExpertLayer *own = s->model->layers[layer].experts;
    if (own->shared_gate) run_shared(s, id, layer);
    for (int first = 0; first < s->rows->num_rows; first += MOST_ROUTED) {
        int left = s->rows->num_rows - first, count = left < MOST_ROUTED ? left : MOST_ROUTED;
        route(s, id, layer, first, count);
        gather_inputs(s, id, own, first, count);
        run_firsts(s, id, own, first);
        meet(&s->team);
        run_lasts(s, id, own, first, count);
        meet(&s->team);
    }
}
