/* Attention over a cache of float32 numbers. */

#include "step_pages.h"

void score_fp32(const Plane *p, const float *q, int count, int most, float *scores, int64_t row) {
    score(p, q, count, most, FP32, scores, row);
}

void gather_fp32(const Plane *p, const float *weights, int64_t row, int count, int most, float *out) {
    gather(p, weights, row, count, most, FP32, out);
}

static void gather_keys(const Plane *p, int first, int count, float *room) {
    for (int slot = 0; slot < count; slot++)
        for (int c = 0; c < p->dim; c++) {
            int64_t at = key_of(p, first + slot) + (int64_t)c * p->size;
            room[(int64_t)c * SLOTS + slot] = number_of(p->cache->keys, at, p->dtype);
        }
}

void score_gathered(const Plane *p, const float *q, int count, int most, float *room, float *scores, int64_t row) {
    Keys k = {.stride = SLOTS};
    for (int group = 0; group < SLOTS / LANES; group++) k.groups[group] = room + group * LANES;
    for (int slot = 0; slot < most; slot += SLOTS) {
        int n = slots_at(slot, most);
        gather_keys(p, slot, n, room);
        dots(q, count, &k, &k, groups_at(slot, most), p->dim, FP32, scores + slot, row);
        if (p->dtype == INT8) scale_scores(p, slot, n, count, scores, row);
    }
}
