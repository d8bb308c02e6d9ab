/* See step_likelihood.h. */

#include "step_likelihood.h"

#include <float.h>

int num_tiles(const Model *m) { return (m->head.rows + TILE - 1) / TILE; }

/* LANES numbers, of which those beyond `count` stand for tokens without any probability. */
static floats load_some(const float *from, int count) {
    if (count >= LANES) return load(from);
    float padded[LANES];
    for (int i = 0; i < LANES; i++) padded[i] = i < count ? from[i] : -INFINITY;
    return load(padded);
}

/* A logit that is no number leaves a sum that is none. */
static Part part_of(const float *logits, int count) {
    floats most = spread(-FLT_MAX), total = {0};
    for (int c = 0; c < count; c += LANES) {
        floats v = load_some(logits + c, count - c);
        most = choose(v > most, v, most);
    }
    Part part = {-FLT_MAX, 0};
    for (int lane = 0; lane < LANES; lane++) part.most = most[lane] > part.most ? most[lane] : part.most;
    for (int c = 0; c < count; c += LANES) total += exponential(load_some(logits + c, count - c) - part.most);
    part.total = sum(total);
    return part;
}

void fold_tile(const Rows *rows, const float *logits, int first, int count, Part *parts, int tiles) {
    for (int w = 0; w < rows->num_wanted; w++) {
        const float *own = logits + (int64_t)w * TILE;
        parts[(int64_t)w * tiles + first / TILE] = part_of(own, count);
        for (int t = rows->target_starts[w]; t < rows->target_starts[w + 1]; t++) {
            int at = rows->targets[t] - first;
            if (at >= 0 && at < count) rows->out[t] = own[at];
        }
    }
}

void conclude(const Rows *rows, int wanted, const Part *parts, int tiles) {
    double total = 0;
    float most = -FLT_MAX;
    for (int i = 0; i < tiles; i++) most = parts[i].most > most ? parts[i].most : most;
    for (int i = 0; i < tiles; i++) total += parts[i].total * exp((double)parts[i].most - most);
    double whole = most + log(total);
    for (int t = rows->target_starts[wanted]; t < rows->target_starts[wanted + 1]; t++)
        rows->out[t] = (float)(rows->out[t] - whole);
}
